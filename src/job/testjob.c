/*-------------------------------------------------------------------------
 *
 * testjob.c
 *	  Test of a credential against its source.
 *
 *		opd_testjob_start -> on_open -> on_audited -> finish
 *
 * src/job/testjob.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/json.h"
#include "base/limits.h"
#include "job/testjob.h"
#include "source/audit.h"
#include "source/session.h"

typedef struct TestJob
{
	OpdTestJob	public;			/* first: the caller's view */
	OpdSession *session;
	OpdAudit   *audit;
	double		started_ms;
	double		latency_ms;		/* until the source had let us in */
} TestJob;

static Jsonb *
tls_facts(OpdPgConn *conn)
{
	OpdJson		json;

	if (!opd_pgconn_tls_in_use(conn))
		return NULL;
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "version", opd_pgconn_tls_version(conn));
	opd_json_add_string(&json, "cipher", opd_pgconn_tls_cipher(conn));
	return opd_json_end_object(&json);
}

static void
finish(TestJob *job, OpdError *error)
{
	bool		ok = error == NULL;
	OpdPgConn  *conn = ok ? opd_session_conn(job->session) : NULL;
	OpdJson		json;

	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "ok", ok);
	opd_json_add_ms(&json, "latencyMs", ok ? job->latency_ms : opd_now_ms() - job->started_ms);
	opd_json_add_string(&json, "server", ok ? opd_session_product(job->session) : NULL);
	opd_json_add_string(&json, "serverVersion", ok ? opd_session_product_version(job->session) : NULL);
	opd_json_add_value(&json, "tls", ok ? tls_facts(conn) : NULL);
	opd_json_add_bool(&json, "readOnly", ok && opd_audit_read_only(job->audit));
	opd_json_add_value(&json, "warnings", opd_audit_warnings(job->audit));
	opd_json_add_value(&json, "error", opd_error_to_jsonb(error));
	job->public.result = opd_json_end_object(&json);
	job->public.error = error;
	opd_session_close(job->session);
	job->public.done = true;
}

static void
on_audited(void *arg, OpdError *error)
{
	TestJob    *job = arg;

	if (error != NULL && error->code == OPD_QUERY_TIMEOUT)
	{
		error = opd_error_new(OPD_TIMEOUT, "the source let us in, but did not answer in time");
		finish(job, opd_error_hint(error, "Look at the load of the source and at the network between."));
		return;
	}
	/* the connection was lost, or the source is going down (57P01, ...) */
	if (error != NULL && (strncmp(error->sqlstate, "08", 2) == 0 ||
						  strncmp(error->sqlstate, "57P", 3) == 0))
	{
		finish(job, error);
		return;
	}
	/* a source that lets us in but cannot be audited is still a good source */
	if (error != NULL)
		opd_audit_failed(job->audit, error);
	finish(job, NULL);
}

static void
on_open(void *arg, OpdError *error)
{
	TestJob    *job = arg;
	OpdPgConn  *conn;

	if (error != NULL)
	{
		finish(job, error);
		return;
	}
	job->latency_ms = opd_now_ms() - job->started_ms;
	if (opd_session_credential_unchecked(job->session))
		opd_audit_warn(job->audit, opd_error_name(OPD_CREDENTIAL_NOT_CHECKED),
					   "the source let the role in without checking the credential; use scram-sha-256 instead of trust in its pg_hba.conf");

	conn = opd_session_conn(job->session);
	opd_session_add_begin(job->session, "pg_catalog, pg_temp");
	opd_audit_add_queries(job->audit, conn);
	opd_pgconn_add(conn, "ROLLBACK", 0, NULL, NULL, NULL);
	opd_session_run(job->session, on_audited, job);
}

OpdTestJob *
opd_testjob_start(OpdLoop *loop, const OpdCredential *credential,
				  const OpdHostPolicy *policy)
{
	TestJob    *job = palloc0(sizeof(TestJob));

	job->started_ms = opd_now_ms();
	job->audit = opd_audit_new();
	job->session = opd_session_open(loop, credential, policy,
									job->started_ms + OPD_TEST_TIMEOUT_MS, true,
									on_open, job);
	return &job->public;
}
