/*-------------------------------------------------------------------------
 *
 * loop.h
 *	  The one place where the library waits.
 *
 * An event loop: sockets and timers on one side, the process latch on the
 * other. Everything that talks to a peer registers a watch or a timer and
 * returns; whoever owns the loop drives it: a SQL call until its one job is
 * done, a worker for as long as it lives. Nothing else in the library blocks.
 *
 * All sockets are gathered in one epoll descriptor, and that one descriptor is
 * waited for together with the latch, so that the set that PostgreSQL waits
 * for never has to be rebuilt. Linux only.
 *
 * src/wire/loop.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_LOOP_H
#define OPD_LOOP_H

#include "portability/instr_time.h"

typedef struct OpdLoop OpdLoop;
typedef struct OpdWatch OpdWatch;
typedef struct OpdTimer OpdTimer;

#define OPD_READABLE	(1 << 0)
#define OPD_WRITABLE	(1 << 1)

/*
 * Called from opd_loop_turn() with the events that arrived (an error on the
 * socket shows as both), in the memory context that was current when the watch
 * or timer was made: that of the job which it works for. May raise, set, stop
 * or free any watch or timer.
 */
typedef void (*OpdWatchCallback) (void *arg, int events);
typedef void (*OpdTimerCallback) (void *arg);

/*
 * Make a loop in the current memory context; it is freed with that context.
 * Raises 53000-class errors when descriptors run out.
 */
extern OpdLoop *opd_loop_new(void);

/*
 * Wait until something happens, at most max_ms (-1: no limit), and run the
 * callbacks of what happened. Handles the latch and interrupts: a cancel or a
 * termination of this process is raised from here.
 */
extern void opd_loop_turn(OpdLoop *loop, long max_ms);

/*
 * For a callback that acts for others: what it does next belongs to "owner",
 * which becomes the current memory context.
 */
extern void opd_loop_set_owner(OpdLoop *loop, MemoryContext owner);

/*
 * To be called when an error was caught that came from opd_loop_turn(): makes
 * the loop fit for the next turn, which finds again the events that were not
 * seen to. Returns the memory context of the callback that raised, NULL when
 * none did.
 */
extern MemoryContext opd_loop_recover(OpdLoop *loop);

/* Turn until *done. */
extern void opd_loop_run(OpdLoop *loop, const bool *done);

/*
 * A watch for one descriptor at a time, not yet set. It belongs to the loop
 * and must be freed before the loop. opd_watch_set() may be called again at
 * any time, also with another descriptor; the descriptor must be taken out
 * with opd_watch_stop() before it is closed, unless the watch is set to
 * another one next.
 */
extern OpdWatch *opd_watch_new(OpdLoop *loop, OpdWatchCallback callback, void *arg);
extern void opd_watch_set(OpdWatch *watch, int fd, int events);
extern void opd_watch_stop(OpdWatch *watch);
extern void opd_watch_free(OpdWatch *watch);

/* A timer, not yet set. It fires once each time it is set. */
extern OpdTimer *opd_timer_new(OpdLoop *loop, OpdTimerCallback callback, void *arg);
extern void opd_timer_set(OpdTimer *timer, double at_ms);	/* opd_now_ms() scale */
extern void opd_timer_stop(OpdTimer *timer);
extern void opd_timer_free(OpdTimer *timer);

/* Monotonic time in milliseconds; only differences mean something. */
extern double opd_now_ms(void);

#endif							/* OPD_LOOP_H */
