/*-------------------------------------------------------------------------
 *
 * pgbatch.c
 *	  Commands on an open connection, in libpq's pipeline mode.
 *
 * src/wire/pgbatch.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/text.h"
#include "wire/pgconn_private.h"

struct OpdPgCommand
{
	dlist_node	node;
	bool		streamed;
	OpdPgResultCallback on_result;	/* or NULL */
	void	   *arg;
};

/* Longest text of a source that we repeat. */
#define SOURCE_MESSAGE_MAX_CHARS 1000

/*
 * Is the error one after which the server closes the connection? Its severity
 * is sent untranslated since PostgreSQL 9.6, and by PgBouncer in English.
 */
static bool
ends_session(const PGresult *result)
{
	const char *severity = PQresultErrorField(result, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (severity == NULL)
		severity = PQresultErrorField(result, PG_DIAG_SEVERITY);
	return severity != NULL && strcmp(severity, "FATAL") == 0;
}

/*
 * What went wrong, from its SQLSTATE. The primary message is kept apart, for
 * SQL callers; DETAIL, which can quote rows, is never looked at.
 */
static OpdError *
result_error(const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	OpdError   *error;

	if (sqlstate == NULL)
	{
		error = opd_error_new(OPD_QUERY_FAILED, "the connection to the source was lost");
		strlcpy(error->sqlstate, "08006", sizeof(error->sqlstate));
		return opd_error_hint(error, "Look at the source's own log for the reason, then try again.");
	}

	/* five digits or letters, and no success */
	if (strlen(sqlstate) != 5 || strncmp(sqlstate, "00", 2) == 0 ||
		strspn(sqlstate, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != 5)
		sqlstate = "XX000";

	if (strncmp(sqlstate, "08", 2) == 0 && ends_session(result))
	{
		/* a pooler takes the sign-in before it has a connection to the source */
		error = opd_error_new(OPD_CONNECTION_REFUSED, "no connection to the source was to be had (SQLSTATE %s)", sqlstate);
		opd_error_hint(error, "Look at the log of the source, or of the pooler before it: its pool may be full, or the server behind it down.");
	}
	else if (strcmp(sqlstate, "42501") == 0)
		error = opd_error_new(OPD_PERMISSION_DENIED, "permission denied by the source");
	else if (strcmp(sqlstate, "25006") == 0)
	{
		error = opd_error_new(OPD_STATEMENT_NOT_ALLOWED, "the statement writes, which a read-only transaction refuses");
		opd_error_hint(error, "Only statements that read can be run.");
	}
	else if (strcmp(sqlstate, "42601") == 0)
		error = opd_error_new(OPD_SYNTAX_ERROR, "the source does not understand the statement");
	else
		error = opd_error_new(OPD_QUERY_FAILED, "the statement failed on the source (SQLSTATE %s)", sqlstate);
	strlcpy(error->sqlstate, sqlstate, sizeof(error->sqlstate));
	if (message != NULL)
		error->source_message = opd_text_clean(message, strlen(message),
											   SOURCE_MESSAGE_MAX_CHARS, NULL);
	return error;
}

static OpdPgCommand *
new_command(OpdPgConn *conn, bool sent, OpdPgResultCallback on_result, void *arg)
{
	OpdPgCommand *command = MemoryContextAllocZero(conn->context, sizeof(OpdPgCommand));

	Assert(!conn->in_batch);
	if (!sent)
		conn->sent_failed = true;
	command->on_result = on_result;
	command->arg = arg;
	dlist_push_tail(&conn->commands, &command->node);
	return command;
}

void
opd_pgconn_add(OpdPgConn *conn, const char *sql, int n_params,
			   const char *const *params,
			   OpdPgResultCallback on_result, void *arg)
{
	bool		sent = PQsendQueryParams(conn->pg, sql, n_params, NULL, params,
										 NULL, NULL, 0) == 1;

	(void) new_command(conn, sent, on_result, arg);
}

void
opd_pgconn_add_streamed(OpdPgConn *conn, const char *sql,
						OpdPgResultCallback on_row, void *arg)
{
	bool		sent = PQsendQueryParams(conn->pg, sql, 0, NULL, NULL, NULL, NULL, 0) == 1;

	new_command(conn, sent, on_row, arg)->streamed = true;
}

void
opd_pgconn_add_describe(OpdPgConn *conn, const char *sql,
						OpdPgResultCallback on_description, void *arg)
{
	bool		sent = PQsendPrepare(conn->pg, "", sql, 0, NULL) == 1;

	(void) new_command(conn, sent, NULL, NULL);
	sent = PQsendDescribePrepared(conn->pg, "") == 1;
	(void) new_command(conn, sent, on_description, arg);
}

static void
finish_batch(OpdPgConn *conn)
{
	OpdPgDoneCallback done = conn->done;
	OpdError   *error = conn->batch_error;

	conn->in_batch = false;
	conn->batch_error = NULL;
	dlist_init(&conn->commands);
	done(conn->done_arg, error);
}

void
opd_pgbatch_lost(OpdPgConn *conn)
{
	opd_watch_stop(conn->watch);
	if (conn->batch_error == NULL)
		conn->batch_error = result_error(NULL);
	finish_batch(conn);
}

/* The first command whose results are due next. */
static OpdPgCommand *
current_command(OpdPgConn *conn)
{
	if (dlist_is_empty(&conn->commands))
		return NULL;
	return dlist_head_element(OpdPgCommand, node, &conn->commands);
}

/* libpq wants to be told of single-row mode when a command becomes current. */
static void
begin_command(OpdPgConn *conn)
{
	OpdPgCommand *command = current_command(conn);

	if (command != NULL && command->streamed)
		(void) PQsetSingleRowMode(conn->pg);
}

static bool
deliver(OpdPgConn *conn, const PGresult *result)
{
	OpdPgCommand *command = current_command(conn);

	if (command == NULL || command->on_result == NULL)
		return true;
	return command->on_result(command->arg, result);
}

typedef enum Progress
{
	GO_ON,
	BATCH_DONE,
	STOPPED,					/* a callback wants no more */
	BROKEN						/* the connection is of no use */
} Progress;

static Progress
take_result(OpdPgConn *conn, const PGresult *result)
{
	switch (PQresultStatus(result))
	{
		case PGRES_PIPELINE_SYNC:
			return BATCH_DONE;

		case PGRES_COMMAND_OK:
		case PGRES_TUPLES_OK:
		case PGRES_SINGLE_TUPLE:
			return deliver(conn, result) ? GO_ON : STOPPED;

		case PGRES_PIPELINE_ABORTED:
			return GO_ON;		/* not run, because of an earlier error */

		case PGRES_FATAL_ERROR:
			if (conn->batch_error == NULL)
				conn->batch_error = result_error(result);
			return PQstatus(conn->pg) == CONNECTION_OK ? GO_ON : BROKEN;

		default:
			/* COPY, or something newer: none of our commands gives that */
			return BROKEN;
	}
}

/* LISTEN is never sent, but a server may send notifications all the same. */
static void
drop_notifications(PGconn *pg)
{
	PGnotify   *notify;

	while ((notify = PQnotifies(pg)) != NULL)
		PQfreemem(notify);
}

/*
 * Take all results that are complete. Stops as soon as a callback closed the
 * connection.
 */
static Progress
take_results(OpdPgConn *conn)
{
	while (conn->pg != NULL && !PQisBusy(conn->pg))
	{
		PGresult   *result = PQgetResult(conn->pg);
		Progress	progress;

		if (result == NULL)
		{
			if (PQstatus(conn->pg) != CONNECTION_OK || current_command(conn) == NULL)
				return BROKEN;
			dlist_pop_head_node(&conn->commands);
			begin_command(conn);
			continue;
		}

		/* kept in the connection: a callback that raises must not leak it */
		conn->result = result;
		progress = take_result(conn, result);
		if (conn->pg == NULL)
			return progress;	/* closed by a callback, the result with it */
		PQclear(conn->result);
		conn->result = NULL;

		if (progress != GO_ON)
			return progress;
		opd_pgconn_mark_received(conn);
	}
	return GO_ON;
}

/*
 * Read what there is. libpq reads once; before its minor versions of 2026 it
 * leaves the rest of a TLS record inside OpenSSL when that is longer than the
 * room in its buffer, and no socket event comes for bytes that have arrived
 * (CockroachDB and several poolers send records of 16 kB).
 */
static bool
consume_input(OpdPgConn *conn)
{
	do
	{
		if (PQconsumeInput(conn->pg) != 1)
			return false;
	} while (opd_tlswatch_pending(&conn->tls));
	return true;
}

void
opd_pgbatch_continue(OpdPgConn *conn, int events)
{
	Progress	progress;
	int			unsent;

	/* nothing is due: it stays in the socket, where the relay bounds it */
	if (!conn->in_batch)
	{
		opd_watch_stop(conn->watch);
		return;
	}
	if (events & OPD_READABLE)
		(void) consume_input(conn); /* a loss shows in the status below */
	drop_notifications(conn->pg);

	progress = take_results(conn);
	if (conn->pg == NULL)
		return;					/* a callback closed it */
	switch (progress)
	{
		case GO_ON:
			break;
		case BATCH_DONE:
			finish_batch(conn);
			return;
		case STOPPED:
			{
				/* the command still runs: closing must cancel it */
				OpdPgDoneCallback done = conn->done;

				opd_watch_stop(conn->watch);
				done(conn->done_arg, NULL);
				return;
			}
		case BROKEN:
			opd_pgbatch_lost(conn);
			return;
	}
	if (PQstatus(conn->pg) != CONNECTION_OK)
	{
		opd_pgbatch_lost(conn);
		return;
	}
	if (opd_pgconn_received_too_much(conn))
	{
		conn->batch_error = opd_error_new(OPD_QUERY_FAILED,
										  "the source sent more at once than the agent takes");
		opd_error_hint(conn->batch_error, "If the rows are that long, select fewer or shorter columns.");
		opd_pgbatch_lost(conn);
		return;
	}
	unsent = PQflush(conn->pg);
	opd_watch_set(conn->watch, PQsocket(conn->pg),
				  unsent == 1 ? (OPD_READABLE | OPD_WRITABLE) : OPD_READABLE);
}

void
opd_pgconn_run(OpdPgConn *conn, OpdPgDoneCallback done, void *arg)
{
	int			unsent;

	Assert(!conn->in_batch);
	conn->in_batch = true;
	conn->done = done;
	conn->done_arg = arg;
	conn->batch_error = NULL;

	if (conn->sent_failed || PQpipelineSync(conn->pg) != 1 ||
		(unsent = PQflush(conn->pg)) < 0)
	{
		opd_timer_set(conn->failed_at_once, opd_now_ms());
		return;
	}
	begin_command(conn);
	opd_watch_set(conn->watch, PQsocket(conn->pg),
				  unsent == 1 ? (OPD_READABLE | OPD_WRITABLE) : OPD_READABLE);
	if (conn->relay != NULL)
		opd_relay_turn(conn->relay, false);
}
