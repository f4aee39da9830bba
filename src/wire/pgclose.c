/*-------------------------------------------------------------------------
 *
 * pgclose.c
 *	  Cancelling and closing: no query of ours goes on at a source after we
 *	  lost interest in it.
 *
 * Closing a socket does not stop a query: a server notices only when it next
 * writes. So whoever closes a connection with a command under way sends a
 * cancel request first. PQcancel() blocks while it connects, so it runs in a
 * thread. A process that is being terminated gives its threads no time; it
 * cancels before it exits, for a bounded while.
 *
 * libpq 17 can encrypt a cancel request. We stay with the plain one: a thread
 * that is inside OpenSSL while its process exits would crash, and with it the
 * customer's server; one that is in connect() or recv() does no harm. What
 * goes over the wire is a key that can cancel this one query.
 *
 * src/wire/pgclose.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "port/atomics.h"
#include "storage/fd.h"
#include "storage/ipc.h"

#include "base/limits.h"
#include "wire/pgconn_private.h"
#include "wire/thread.h"

/* Connections of this process that are not closed yet. */
static dlist_head open_connections = DLIST_STATIC_INIT(open_connections);

/*
 * Cancel threads that have not ended. A source need not answer a cancel
 * request, and PQcancel() waits for the answer for ever, so there may be only
 * so many; when they are used up, the source's statement_timeout has to do.
 */
static pg_atomic_uint32 cancels_under_way = {0};

static void
send_cancel(void *handle)
{
	char		unread[256];

	(void) PQcancel(handle, unread, sizeof(unread));
}

static void
free_cancel(void *handle)
{
	PQfreeCancel(handle);
	pg_atomic_sub_fetch_u32(&cancels_under_way, 1);
}

void
opd_pgconn_cancel(OpdPgConn *conn)
{
	PGcancel   *handle;

	if (conn->pg == NULL || !conn->in_batch ||
		pg_atomic_read_u32(&cancels_under_way) >= OPD_CANCELS_MAX)
		return;
	handle = PQgetCancel(conn->pg);
	if (handle == NULL)
		return;
	pg_atomic_add_fetch_u32(&cancels_under_way, 1);
	(void) opd_thread_start(NULL, send_cancel, free_cancel, handle, NULL, NULL);
}

/*
 * Runs before the exit of a process, also when it is terminated mid-query.
 * Waits a while for the requests to leave, those of connections that were
 * closed a moment ago included.
 */
static void
cancel_at_exit(int code, Datum arg)
{
	double		until_ms = opd_now_ms() + OPD_EXIT_CANCEL_MS;
	dlist_iter	iter;

	dlist_foreach(iter, &open_connections)
	{
		OpdPgConn  *conn = dlist_container(OpdPgConn, node, iter.cur);

		opd_pgconn_cancel(conn);
		conn->in_batch = false; /* so that closing does not repeat it */
	}
	while (pg_atomic_read_u32(&cancels_under_way) > 0 && opd_now_ms() < until_ms)
		pg_usleep(1000);
}

void
opd_pgconn_close(OpdPgConn *conn)
{
	if (conn->node.next == NULL)
		return;					/* closed already */
	opd_pgconn_cancel(conn);
	conn->in_batch = false;
	dlist_delete(&conn->node);
	conn->node.next = NULL;
	if (conn->watch != NULL)
		opd_watch_free(conn->watch);
	if (conn->failed_at_once != NULL)
		opd_timer_free(conn->failed_at_once);
	opd_tlswatch_detach(&conn->tls);
	PQclear(conn->result);
	conn->result = NULL;
	if (conn->pg != NULL)
		PQfinish(conn->pg);
	conn->pg = NULL;
	if (conn->relay != NULL)
		opd_relay_close(conn->relay);
	conn->relay = NULL;
	ReleaseExternalFD();
}

static void
close_at_reset(void *arg)
{
	opd_pgconn_close(arg);
}

void
opd_pgclose_register(OpdPgConn *conn)
{
	static bool exit_hook_installed = false;

	if (!exit_hook_installed)
	{
		before_shmem_exit(cancel_at_exit, (Datum) 0);
		exit_hook_installed = true;
	}
	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open a connection: %m")));
	dlist_push_tail(&open_connections, &conn->node);
	conn->on_reset.func = close_at_reset;
	conn->on_reset.arg = conn;
	MemoryContextRegisterResetCallback(conn->context, &conn->on_reset);
}
