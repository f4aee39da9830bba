/*-------------------------------------------------------------------------
 *
 * thread.c
 *	  Run one blocking C function beside the event loop.
 *
 * src/wire/thread.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "port/atomics.h"
#include "utils/memutils.h"

#include "wire/thread.h"

/* Enough for the name-service modules that getaddrinfo() may load. */
#define THREAD_STACK_BYTES (1024 * 1024)

/* The part that both threads hold; malloc'd, freed by the last to let go. */
typedef struct Shared
{
	pg_atomic_uint32 holders;
	int			done_fd;		/* eventfd, readable when the work is done */
	OpdThreadWork work;
	OpdThreadFree free_data;
	void	   *data;
} Shared;

struct OpdThread
{
	Shared	   *shared;
	OpdWatch   *watch;
	OpdThreadDone done;
	void	   *arg;
};

static void
let_go(Shared *shared)
{
	if (pg_atomic_sub_fetch_u32(&shared->holders, 1) > 0)
		return;
	shared->free_data(shared->data);
	close(shared->done_fd);
	free(shared);
}

static void *
thread_main(void *arg)
{
	Shared	   *shared = arg;
	uint64_t	one = 1;

	shared->work(shared->data);
	if (write(shared->done_fd, &one, sizeof(one)) < 0)
	{
		/* cannot fail on an eventfd that counts to one */
	}
	let_go(shared);
	return NULL;
}

/*
 * Make the thread, detached and with every signal blocked: PostgreSQL's
 * handlers must run in the main thread only. NULL when that fails.
 */
static Shared *
start(OpdThreadWork work, OpdThreadFree free_data, void *data)
{
	Shared	   *shared = malloc(sizeof(Shared));
	pthread_attr_t attr;
	pthread_t	thread;
	sigset_t	all;
	sigset_t	saved;
	int			rc;

	if (shared == NULL)
	{
		free_data(data);
		return NULL;
	}
	shared->work = work;
	shared->free_data = free_data;
	shared->data = data;
	shared->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (shared->done_fd < 0)
	{
		free_data(data);
		free(shared);
		return NULL;
	}
	pg_atomic_init_u32(&shared->holders, 2);

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	rc = pthread_create(&thread, &attr, thread_main, shared);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &saved, NULL);

	if (rc != 0)
	{
		pg_atomic_write_u32(&shared->holders, 1);
		let_go(shared);
		return NULL;
	}
	return shared;
}

static void
work_done(void *arg, int events)
{
	OpdThread  *thread = arg;

	opd_watch_stop(thread->watch);
	thread->done(thread->arg);
}

OpdThread *
opd_thread_start(OpdLoop *loop, OpdThreadWork work, OpdThreadFree free_data,
				 void *data, OpdThreadDone done, void *arg)
{
	OpdThread  *thread = NULL;
	Shared	   *shared;

	/* allocate first: after the start nothing may raise */
	if (loop != NULL)
	{
		thread = palloc0(sizeof(OpdThread));
		thread->done = done;
		thread->arg = arg;
		thread->watch = opd_watch_new(loop, work_done, thread);
	}
	shared = start(work, free_data, data);
	if (loop == NULL)
	{
		if (shared != NULL)
			let_go(shared);
		return NULL;
	}
	if (shared == NULL)
	{
		opd_watch_free(thread->watch);
		pfree(thread);
		return NULL;
	}
	thread->shared = shared;
	opd_watch_set(thread->watch, shared->done_fd, OPD_READABLE);
	return thread;
}

void
opd_thread_release(OpdThread *thread)
{
	opd_watch_free(thread->watch);
	let_go(thread->shared);
	pfree(thread);
}
