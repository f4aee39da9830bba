/*-------------------------------------------------------------------------
 *
 * loop.c
 *	  The one place where the library waits.
 *
 * src/wire/loop.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/ilist.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

#include "wire/loop.h"

/* Events fetched at once; more than that waits for the next turn. */
#define EVENTS_PER_TURN 32

struct OpdWatch
{
	dlist_node	node;			/* in loop->dead after opd_watch_free() */
	OpdLoop    *loop;
	MemoryContext owner;		/* current while the callback runs */
	OpdWatchCallback callback;
	void	   *arg;
	int			fd;				/* registered descriptor, or -1 */
	int			events;			/* what it is registered for */
	bool		freed;
};

struct OpdTimer
{
	dlist_node	node;			/* in loop->timers */
	OpdLoop    *loop;
	MemoryContext owner;		/* current while the callback runs */
	OpdTimerCallback callback;
	void	   *arg;
	double		at_ms;			/* when it fires; infinite while not set */
	bool		freed;
};

struct OpdLoop
{
	MemoryContext context;		/* where watches and timers are allocated */
	MemoryContextCallback on_reset;
	int			epoll_fd;
	WaitEventSet *wait_set;		/* latch, postmaster death, epoll_fd */
	dlist_head	timers;
	dlist_head	dead;			/* freed watches that a turn may still meet */
	bool		turning;		/* inside opd_loop_turn() */
	MemoryContext owner;		/* of the callback that runs, or ran last */
};

double
opd_now_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return INSTR_TIME_GET_MILLISEC(now);
}

static void
close_loop(void *arg)
{
	OpdLoop    *loop = arg;

	if (loop->wait_set != NULL)
		FreeWaitEventSet(loop->wait_set);
	if (loop->epoll_fd >= 0)
	{
		close(loop->epoll_fd);
		ReleaseExternalFD();
	}
}

OpdLoop *
opd_loop_new(void)
{
	OpdLoop    *loop = palloc0(sizeof(OpdLoop));

	loop->context = CurrentMemoryContext;
	loop->epoll_fd = -1;
	dlist_init(&loop->timers);
	dlist_init(&loop->dead);
	loop->on_reset.func = close_loop;
	loop->on_reset.arg = loop;
	MemoryContextRegisterResetCallback(loop->context, &loop->on_reset);

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create an event loop: %m")));
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create an event loop: %m")));
	}

	/*
	 * The set outlives this function but not its memory context: TopMemory-
	 * Context, because the reset callback must find it whole.
	 */
	loop->wait_set = opd_create_wait_event_set(TopMemoryContext, 3);
	AddWaitEventToSet(loop->wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(loop->wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(loop->wait_set, WL_SOCKET_READABLE, loop->epoll_fd, NULL, NULL);
	return loop;
}

/* How long may the wait last, given the timers? -1: for ever. */
static long
wait_limit_ms(OpdLoop *loop, long max_ms)
{
	double		next = INFINITY;
	dlist_iter	iter;
	double		left;

	dlist_foreach(iter, &loop->timers)
	{
		OpdTimer   *timer = dlist_container(OpdTimer, node, iter.cur);

		if (!timer->freed && timer->at_ms < next)
			next = timer->at_ms;
	}
	if (isinf(next))
		return max_ms;
	left = ceil(next - opd_now_ms());
	if (left < 0)
		left = 0;
	/* a timer far away needs no exact wait: the turn after looks again */
	if (left > 60000)
		left = 60000;
	return (max_ms >= 0 && max_ms < left) ? max_ms : (long) left;
}

static void
run_watches(struct epoll_event *events, int n_events)
{
	for (int i = 0; i < n_events; i++)
	{
		OpdWatch   *watch = events[i].data.ptr;
		int			what = 0;

		if (watch->freed || watch->fd < 0)
			continue;			/* an earlier callback of this turn did that */
		if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
			what |= OPD_READABLE;
		if (events[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
			what |= OPD_WRITABLE;
		opd_loop_set_owner(watch->loop, watch->owner);
		watch->callback(watch->arg, what & (watch->events | OPD_READABLE));
	}
}

/*
 * Fire the timers that were due when this began. A callback may set, add or
 * free timers, its own included, so the list is walked anew after each.
 */
static void
run_timers(OpdLoop *loop)
{
	double		now = opd_now_ms();
	bool		fired;

	do
	{
		dlist_mutable_iter iter;

		fired = false;
		dlist_foreach_modify(iter, &loop->timers)
		{
			OpdTimer   *timer = dlist_container(OpdTimer, node, iter.cur);

			if (timer->freed)
			{
				dlist_delete(&timer->node);
				pfree(timer);
			}
			else if (timer->at_ms <= now)
			{
				timer->at_ms = INFINITY;
				opd_loop_set_owner(loop, timer->owner);
				timer->callback(timer->arg);
				fired = true;
				break;
			}
		}
	} while (fired);
}

static void
free_dead_watches(OpdLoop *loop)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &loop->dead)
	{
		OpdWatch   *watch = dlist_container(OpdWatch, node, iter.cur);

		dlist_delete(&watch->node);
		pfree(watch);
	}
}

void
opd_loop_turn(OpdLoop *loop, long max_ms)
{
	MemoryContext caller = CurrentMemoryContext;
	struct epoll_event events[EVENTS_PER_TURN];
	WaitEvent	occurred;
	int			n_events;

	Assert(!loop->turning);

	if (WaitEventSetWait(loop->wait_set, wait_limit_ms(loop, max_ms),
						 &occurred, 1, PG_WAIT_EXTENSION) > 0 &&
		(occurred.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();

	loop->owner = NULL;
	n_events = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, 0);
	if (n_events < 0 && errno != EINTR)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not wait for sockets: %m")));

	loop->turning = true;
	run_watches(events, n_events);
	run_timers(loop);
	loop->turning = false;
	MemoryContextSwitchTo(caller);
	free_dead_watches(loop);
}

void
opd_loop_set_owner(OpdLoop *loop, MemoryContext owner)
{
	loop->owner = owner;
	MemoryContextSwitchTo(owner);
}

MemoryContext
opd_loop_recover(OpdLoop *loop)
{
	loop->turning = false;
	free_dead_watches(loop);
	return loop->owner;
}

void
opd_loop_run(OpdLoop *loop, const bool *done)
{
	while (!*done)
		opd_loop_turn(loop, -1);
}

OpdWatch *
opd_watch_new(OpdLoop *loop, OpdWatchCallback callback, void *arg)
{
	OpdWatch   *watch = MemoryContextAllocZero(loop->context, sizeof(OpdWatch));

	watch->loop = loop;
	watch->owner = CurrentMemoryContext;
	watch->callback = callback;
	watch->arg = arg;
	watch->fd = -1;
	return watch;
}

void
opd_watch_set(OpdWatch *watch, int fd, int events)
{
	struct epoll_event event = {0};

	if (watch->fd >= 0 && fd != watch->fd)
		opd_watch_stop(watch);

	event.data.ptr = watch;
	if (events & OPD_READABLE)
		event.events |= EPOLLIN;
	if (events & OPD_WRITABLE)
		event.events |= EPOLLOUT;

	/*
	 * The same number may be another socket than last time: libpq closes and
	 * opens sockets as it goes. Only the kernel knows, so ask it.
	 */
	if (epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0)
	{
		if (errno != ENOENT ||
			epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
			ereport(ERROR,
					(errcode_for_socket_access(),
					 errmsg("could not watch a socket: %m")));
	}
	watch->fd = fd;
	watch->events = events;
}

void
opd_watch_stop(OpdWatch *watch)
{
	if (watch->fd < 0)
		return;
	/* fails harmlessly when the descriptor is closed already */
	(void) epoll_ctl(watch->loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
	watch->events = 0;
}

void
opd_watch_free(OpdWatch *watch)
{
	opd_watch_stop(watch);
	watch->freed = true;
	if (watch->loop->turning)
		dlist_push_tail(&watch->loop->dead, &watch->node);
	else
		pfree(watch);
}

OpdTimer *
opd_timer_new(OpdLoop *loop, OpdTimerCallback callback, void *arg)
{
	OpdTimer   *timer = MemoryContextAllocZero(loop->context, sizeof(OpdTimer));

	timer->loop = loop;
	timer->owner = CurrentMemoryContext;
	timer->callback = callback;
	timer->arg = arg;
	timer->at_ms = INFINITY;
	dlist_push_tail(&loop->timers, &timer->node);
	return timer;
}

void
opd_timer_set(OpdTimer *timer, double at_ms)
{
	timer->at_ms = at_ms;
}

void
opd_timer_stop(OpdTimer *timer)
{
	timer->at_ms = INFINITY;
}

void
opd_timer_free(OpdTimer *timer)
{
	/* run_timers() may be walking the list: it removes what is marked */
	timer->freed = true;
	timer->at_ms = INFINITY;
	if (!timer->loop->turning)
	{
		dlist_delete(&timer->node);
		pfree(timer);
	}
}
