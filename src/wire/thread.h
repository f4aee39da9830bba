/*-------------------------------------------------------------------------
 *
 * thread.h
 *	  Run one blocking C function beside the event loop.
 *
 * Two calls on the way to a source block and have no other form: getaddrinfo()
 * and PQcancel() (pgclose.c says why also since libpq 17). Each runs in a thread of its own that
 * touches nothing of PostgreSQL: it has every signal blocked, works on
 * malloc'd data alone and tells the loop through an eventfd. libcurl's
 * resolver does the same.
 *
 * src/wire/thread.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_THREAD_H
#define OPD_THREAD_H

#include "wire/loop.h"

typedef struct OpdThread OpdThread;

/*
 * What the thread runs. It must be safe in any thread: no palloc, no ereport,
 * no locale change.
 */
typedef void (*OpdThreadWork) (void *data);

/* Frees "data"; runs in whichever thread lets go of it last. Same rules. */
typedef void (*OpdThreadFree) (void *data);

/* Runs in the loop when the work is done. */
typedef void (*OpdThreadDone) (void *arg);

/*
 * Start the work. "data" is malloc'd and from now on the thread's; it may be
 * read again in "done". Returns NULL, with data freed, when no thread can be
 * made. With loop NULL nobody waits: "done" is not called and NULL is
 * returned; the thread ends by itself.
 */
extern OpdThread *opd_thread_start(OpdLoop *loop, OpdThreadWork work, OpdThreadFree free_data,
								   void *data, OpdThreadDone done, void *arg);

/*
 * Let go: "done" will not be called any more; a thread that still works goes
 * on by itself and cleans up behind it. Must be called for every thread that
 * was returned, in "done" or later, and before the loop is freed.
 */
extern void opd_thread_release(OpdThread *thread);

#endif							/* OPD_THREAD_H */
