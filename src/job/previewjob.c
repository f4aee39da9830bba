/*-------------------------------------------------------------------------
 *
 * previewjob.c
 *	  Preview of a query: a bounded look at a source's rows.
 *
 *		opd_previewjob_start	first fence: our own grammar
 *		on_open -> on_described	second fence: the source's parser
 *		on_rows					third fence: a read-only transaction
 *
 * Two round trips after the sign-in: one begins the transaction and describes
 * the bare statement, one runs it wrapped and rolls back.
 *
 * src/job/previewjob.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "utils/builtins.h"

#include "base/guarded.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "guard/guard.h"
#include "job/previewjob.h"
#include "job/previewrows.h"
#include "job/previewsql.h"
#include "source/session.h"

typedef struct PreviewJob
{
	OpdPreviewJob public;		/* first: the caller's view */
	const OpdCredential *credential;
	const OpdMask *mask;
	const char *query;
	OpdGuardVerdict verdict;
	OpdSession *session;
	double		started_ms;

	OpdError   *description_error;	/* found while looking at the description */
	OpdError   *failure;		/* kept while the transaction is rolled back */
	int			n_columns;
	PGresult   *description;	/* copy; freed by free_description */
	MemoryContextCallback free_description;
	char	   *type_query;		/* what to ask the source for their names */
	char	  **type_names;		/* NULL until known */
	bool	   *masked;			/* columns whose values are not shown */
	OpdPreviewRows *rows;		/* NULL until the type names are known */
	bool		not_as_described;	/* other columns than the source had said */
} PreviewJob;

static void
finish(PreviewJob *job, OpdError *error)
{
	double		duration_ms = opd_now_ms() - job->started_ms;

	if (job->session != NULL)
		opd_session_close(job->session);
	if (error != NULL)
		job->public.error = error;
	else
	{
		job->public.result = opd_previewrows_finish(job->rows, duration_ms);
		job->public.n_rows = opd_previewrows_count(job->rows);
		job->public.n_bytes = opd_previewrows_bytes(job->rows);
	}
	job->public.done = true;
}

/*
 * What the user should do about an error of the query, where the source's
 * answer alone does not tell.
 */
static OpdError *
explain(PreviewJob *job, OpdError *error)
{
	const char *user = quote_identifier(job->credential->username);
	const char *schema = job->credential->schema ? quote_identifier(job->credential->schema) : "public";

	if (error->code == OPD_TIMEOUT &&
		opd_now_ms() - job->started_ms >= OPD_PREVIEW_TIMEOUT_MS)
	{
		/*
		 * One limit for all of it: the promise is query_timeout. (A
		 * credential's own connect_timeout can end it before.)
		 */
		error->code = OPD_QUERY_TIMEOUT;
		strlcpy(error->sqlstate, "57014", sizeof(error->sqlstate));
	}
	else if (error->code == OPD_PERMISSION_DENIED && error->hint == NULL)
		opd_error_hint(error, "Run on the source, for each schema that is to be read: GRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT ON ALL TABLES IN SCHEMA %s TO %s; ALTER DEFAULT PRIVILEGES IN SCHEMA %s GRANT SELECT ON TABLES TO %s;",
					   schema, user, schema, user, schema, user);
	else if (strcmp(error->sqlstate, "42P01") == 0)
		opd_error_hint(error, "Check the name; qualify it with its schema, or set \"schema\" in the credentials.");
	else if (strcmp(error->sqlstate, "22021") == 0)
		opd_error_hint(error, "The source holds bytes that are no UTF-8, as a SQL_ASCII database can; select such a column as encode(convert_to(column, 'SQL_ASCII'), 'hex').");
	else if (error->code == OPD_QUERY_FAILED && error->hint == NULL)
		opd_error_hint(error, "Try the statement with psql on the source, as role %s.", user);
	else if (error->code == OPD_SYNTAX_ERROR && error->hint == NULL)
		opd_error_hint(error, "Correct the statement, or check it with psql on the source.");
	return error;
}

static void
on_rolled_back(void *arg, OpdError *error)
{
	PreviewJob *job = arg;

	finish(job, job->failure);
}

/*
 * The statement failed. A source that still listens gets its ROLLBACK, so that
 * a pooler can go on using the server connection.
 */
static void
fail(PreviewJob *job, OpdError *error)
{
	job->failure = explain(job, error);
	if (strncmp(error->sqlstate, "08", 2) == 0 || error->code == OPD_QUERY_TIMEOUT)
	{
		finish(job, job->failure);
		return;
	}
	opd_pgconn_add(opd_session_conn(job->session), "ROLLBACK", 0, NULL, NULL, NULL);
	opd_session_run(job->session, on_rolled_back, job);
}

/* Which columns are masked, as far as that is known without their types. */
static void
find_masked(PreviewJob *job)
{
	if (job->masked == NULL)
		job->masked = palloc0(sizeof(bool) * Max(job->n_columns, 1));
	job->public.n_masked = 0;
	for (int i = 0; i < job->n_columns; i++)
	{
		job->masked[i] = opd_mask_covers(job->mask, PQfname(job->description, i),
										 job->type_names != NULL ? job->type_names[i] : NULL);
		job->public.n_masked += job->masked[i];
	}
}

static void
begin_rows(PreviewJob *job)
{
	find_masked(job);
	job->rows = opd_previewrows_new(job->description, job->type_names, job->masked);
}

static bool
on_row(void *arg, const PGresult *result)
{
	PreviewJob *job = arg;

	if (job->rows == NULL || PQnfields(result) != job->n_columns ||
		PQresultStatus(result) == PGRES_COMMAND_OK)
	{
		job->not_as_described = true;
		return false;
	}
	return opd_previewrows_add(job->rows, result);
}

static void
on_rows(void *arg, OpdError *error)
{
	PreviewJob *job = arg;

	/* the statement was parsed before: what cannot be is made at run time */
	if (error != NULL && error->code == OPD_SYNTAX_ERROR)
	{
		error->code = OPD_QUERY_FAILED;
		error->message = psprintf("the statement failed on the source (SQLSTATE %s)", error->sqlstate);
	}
	if (error == NULL && (job->rows == NULL || job->not_as_described))
	{
		error = opd_error_new(OPD_QUERY_FAILED, "the source did not keep to its own description of the statement");
		finish(job, error);
		return;
	}
	if (error != NULL)
		fail(job, error);
	else
		finish(job, NULL);
}

/* The source's names of the types, one row of them. */
static bool
on_type_names(void *arg, const PGresult *result)
{
	PreviewJob *job = arg;

	if (PQntuples(result) != 1 || PQnfields(result) != job->n_columns)
		return true;
	job->type_names = palloc(sizeof(char *) * job->n_columns);
	for (int i = 0; i < job->n_columns; i++)
		job->type_names[i] = opd_text_clean(PQgetvalue(result, 0, i), PQgetlength(result, 0, i),
											OPD_CELL_MAX_CHARS, NULL);
	begin_rows(job);
	return true;
}

static void
release_description(void *arg)
{
	PreviewJob *job = arg;

	PQclear(job->description);
	job->description = NULL;
}

/* The statement stood the source's own parser: look at what it found. */
static bool
on_description(void *arg, const PGresult *description)
{
	PreviewJob *job = arg;

	if (PQnparams(description) > 0)
	{
		job->description_error = opd_error_new(OPD_STATEMENT_NOT_ALLOWED,
											   "the statement has a parameter, and there is no value for it");
		return true;
	}
	job->n_columns = PQnfields(description);
	if (job->n_columns > OPD_PREVIEW_MAX_COLUMNS)
	{
		job->description_error = opd_error_new(OPD_QUERY_FAILED, "the source describes more than %d columns",
											   OPD_PREVIEW_MAX_COLUMNS);
		return true;
	}
	job->free_description.func = release_description;
	job->free_description.arg = job;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &job->free_description);
	job->description = PQcopyResult(description, PG_COPYRES_ATTRS);
	if (job->description == NULL)
		job->description_error = opd_error_new(OPD_INTERNAL, "out of memory");
	return true;
}

/*
 * Names of the types: from our own catalogs where they know them all, else by
 * a statement to be run on the source.
 */
static void
name_types(void *arg)
{
	PreviewJob *job = arg;

	job->type_query = opd_previewsql_type_names(job->description);
	if (job->type_query != NULL)
		return;
	job->type_names = palloc(sizeof(char *) * Max(job->n_columns, 1));
	for (int i = 0; i < job->n_columns; i++)
		job->type_names[i] = opd_previewsql_builtin_type_name(PQftype(job->description, i),
															  PQfmod(job->description, i));
}

static void
on_described(void *arg, OpdError *error)
{
	PreviewJob *job = arg;
	OpdPgConn  *conn = opd_session_conn(job->session);

	/* where neither grammar knows the statement, ours says more exactly why */
	if (error != NULL && error->code == OPD_SYNTAX_ERROR && job->verdict.unknown_to_us != NULL)
		error = job->verdict.unknown_to_us;
	if (error == NULL)
		error = job->description_error;
	if (error == NULL && job->description == NULL)
		error = opd_error_new(OPD_QUERY_FAILED, "the source did not describe the statement");
	if (error == NULL && !opd_guarded_catalog(name_types, job))
		error = opd_error_new(OPD_INTERNAL, "the agent's catalogs could not be read");
	if (error != NULL)
	{
		fail(job, error);
		return;
	}

	if (job->type_names != NULL)
		begin_rows(job);
	else
	{
		find_masked(job);
		opd_pgconn_add(conn, job->type_query, 0, NULL, on_type_names, job);
	}
	if (opd_previewsql_may_print_bytea(job->description))
		opd_pgconn_add(conn, "SET LOCAL bytea_output = 'hex'", 0, NULL, NULL, NULL);
	opd_pgconn_add_streamed(conn, opd_previewsql_wrap(job->verdict.statement, job->description, job->masked),
							on_row, job);
	opd_pgconn_add(conn, "ROLLBACK", 0, NULL, NULL, NULL);
	job->public.ran = true;
	opd_session_run(job->session, on_rows, job);
}

static void
on_open(void *arg, OpdError *error)
{
	PreviewJob *job = arg;
	const char *schema = job->credential->schema;

	if (error != NULL)
	{
		finish(job, explain(job, error));
		return;
	}
	opd_session_add_begin(job->session, schema != NULL ? quote_identifier(schema) : NULL);
	opd_pgconn_add_describe(opd_session_conn(job->session), job->verdict.statement,
							on_description, job);
	opd_session_run(job->session, on_described, job);
}

/* The guard sets parameters for its own use, which needs a transaction. */
static void
judge(void *arg)
{
	PreviewJob *job = arg;

	job->verdict = opd_guard_judge(job->query, job->mask);
}

OpdPreviewJob *
opd_previewjob_start(OpdLoop *loop, const OpdCredential *credential,
					 const OpdHostPolicy *policy, const OpdMask *mask, const char *query)
{
	PreviewJob *job = palloc0(sizeof(PreviewJob));

	job->credential = credential;
	job->started_ms = opd_now_ms();
	job->mask = mask;
	job->query = query;
	if (!opd_guarded_catalog(judge, job))
		finish(job, opd_error_new(OPD_INTERNAL, "the statement could not be looked at"));
	else if (job->verdict.error != NULL)
		finish(job, job->verdict.error);
	else
		job->session = opd_session_open(loop, credential, policy,
										job->started_ms + OPD_PREVIEW_TIMEOUT_MS, false,
										on_open, job);
	return &job->public;
}
