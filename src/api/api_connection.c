/*-------------------------------------------------------------------------
 *
 * api_connection.c
 *	  SQL functions about connections: store, test, preview, delete.
 *
 * A SQL call is one job that drives an event loop of its own until it is done.
 * Everything that the job holds (sockets, memory files, threads) belongs to
 * its memory context, so that an error or a cancel at any point lets go of it.
 *
 * src/api/api_connection.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "api/arguments.h"
#include "api/caller.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/sql.h"
#include "conf/conf.h"
#include "job/previewjob.h"
#include "job/testjob.h"
#include "secret/envelope.h"
#include "secret/redact.h"
#include "store/connections.h"
#include "store/jobs.h"
#include "store/keys.h"
#include "store/outbox.h"
#include "store/policy.h"
#include "store/sealing.h"

PG_FUNCTION_INFO_V1(opdata_store_creds);
PG_FUNCTION_INFO_V1(opdata_test_stored);
PG_FUNCTION_INFO_V1(opdata_test_payload);
PG_FUNCTION_INFO_V1(opdata_preview);
PG_FUNCTION_INFO_V1(opdata_delete);

extern PGDLLEXPORT Datum opdata_store_creds(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_test_stored(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_test_payload(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_preview(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_delete(PG_FUNCTION_ARGS);

/* Read a payload, or raise what is wrong with it. */
static void
read_credential(const char *type, const Jsonb *payload, OpdCredential *credential)
{
	OpdError   *error = opd_credential_read(type, payload, credential);

	if (error != NULL)
		opd_error_throw(error);
}

/* The credential of a stored connection, decrypted and checked. */
static void
open_credential(const OpdConnection *connection, OpdCredential *credential)
{
	OpdKeySource keys = opd_caller_keys(connection->key_id);
	char	   *payload = opd_connections_payload(connection, &keys);
	Jsonb	   *json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(payload)));

	opd_envelope_wipe(payload);
	read_credential(connection->type, json, credential);
}

/* The payload that was given, opened if it is sealed; NULL for "use": to test it. */
static Jsonb *
take_payload(Jsonb *given, const OpdSealedUse *use)
{
	JsonbValue	v;
	OpdKeySource keys = opd_json_find(given, "sealed", &v) ? opd_caller_keys(NULL) : opd_conf_keys();
	Jsonb	   *payload;
	OpdError   *error = opd_sealing_take(given, opd_conf_require_sealed(), &keys, use, &payload);

	if (error != NULL)
		opd_error_throw(error);
	return payload;
}

/*
 * Make the memory context of one job and enter it; deleting it frees all that
 * the job holds. After an error, the end of the calling statement does.
 */
static MemoryContext
enter_job_context(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "opdata job",
												  ALLOCSET_DEFAULT_SIZES);

	MemoryContextSwitchTo(context);
	return context;
}

static Jsonb *
copy_json(const Jsonb *json)
{
	return memcpy(palloc(VARSIZE(json)), json, VARSIZE(json));
}

/*
 * Test a credential. Returns {"ok",...} and, when the test failed, its error,
 * both in the current memory context.
 */
static Jsonb *
run_test(const OpdCredential *credential, OpdError **error)
{
	OpdHostPolicy policy = opd_conf_host_policy();
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext job_context = enter_job_context();
	OpdLoop    *loop = opd_loop_new();
	OpdTestJob *job = opd_testjob_start(loop, credential, &policy);
	Jsonb	   *result;

	opd_caller_run(loop, &job->done);
	MemoryContextSwitchTo(caller);
	result = copy_json(job->result);
	*error = job->error ? opd_error_copy(job->error) : NULL;
	MemoryContextDelete(job_context);
	return result;
}

/*
 * opdata_store_creds(id, payload, name, type, workspace_id, test) -> jsonb
 *
 * Raises the test's error when the test fails, 42501 (workspace_denied) for an
 * id of another workspace, 22023 (invalid_credentials) for a malformed payload,
 * 55000 (secret_unavailable) when the master key cannot be used. Nothing is
 * changed then.
 */
Datum
opdata_store_creds(PG_FUNCTION_ARGS)
{
	OpdConnectionChange change = {0};
	OpdConnection *existing;
	OpdCredential credential;
	OpdJobRecord record;
	OpdKeySource keys;
	OpdError   *error = NULL;
	Jsonb	   *payload;
	Jsonb	   *test_result = NULL;
	char	   *name;
	OpdJson		json;

	opd_redact_statement();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(3) || PG_ARGISNULL(4) || PG_ARGISNULL(5))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("id, type, workspace_id and test must not be null"),
				 errdetail_internal("invalid_credentials")));
	opd_caller_require_writing();
	change.id = opd_argument_id("id", PG_GETARG_TEXT_PP(0));
	change.name = opd_argument_name(PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2));
	change.type = text_to_cstring(PG_GETARG_TEXT_PP(3));
	change.workspace_id = opd_argument_workspace(PG_GETARG_TEXT_PP(4));
	change.tested = PG_GETARG_BOOL(5);
	if (PG_ARGISNULL(1))
		opd_error_throw(opd_error_hint(opd_error_new(OPD_UNSUPPORTED, "this version of opdata has no default credentials"),
									   "Give the payload."));
	opd_caller_require(change.workspace_id, OPD_DEVELOPER);
	opd_caller_require_not_suspended();
	payload = take_payload(PG_GETARG_JSONB_P(1), &(OpdSealedUse) {change.workspace_id, change.id});

	/* an error below says the same for a missing key, before anything is sent */
	record = opd_jobs_begin("store", change.id, change.workspace_id);
	read_credential(change.type, payload, &credential);
	change.safe_metadata = opd_credential_safe_metadata(&credential);
	change.status = change.tested ? "connected" : "pending";

	existing = opd_connections_find(change.id);
	if (existing != NULL && strcmp(existing->workspace_id, change.workspace_id) != 0)
		error = opd_error_hint(opd_error_new(OPD_WORKSPACE_DENIED, "connection id belongs to another workspace"),
							   "Choose another id, or name the workspace that the connection is in.");
	if (error == NULL && change.tested)
		test_result = run_test(&credential, &error);
	if (error != NULL)
		opd_error_throw(error);

	change.payload = JsonbToCString(NULL, &payload->root, VARSIZE(payload));
	/* before the command is asked which key is the current one */
	keys = opd_conf_keys();
	opd_keys_lock_out_exchange(&keys);
	keys = opd_caller_keys(NULL);
	name = opd_connections_put(&change, &keys);
	opd_envelope_wipe(unconstify(char *, change.payload));
	if (name == NULL)
		opd_error_throw(opd_error_new(OPD_WORKSPACE_DENIED, "connection id belongs to another workspace"));
	opd_jobs_write(&record);
	if (opd_conf_convex_url()[0] != '\0')
		opd_outbox_tell_connection(change.id);

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "connectionId", change.id);
	opd_json_add_string(&json, "name", name);
	opd_json_add_string(&json, "type", change.type);
	opd_json_add_string(&json, "workspaceId", change.workspace_id);
	opd_json_add_string(&json, "status", change.status);
	opd_json_add_value(&json, "safeMetadata", change.safe_metadata);
	opd_json_add_value(&json, "test", test_result);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/*
 * opdata_test(id) -> jsonb
 *
 * Raises 42704 (connection_not_found) and 55000 (secret_unavailable); a bad
 * source is told in the result.
 */
Datum
opdata_test_stored(PG_FUNCTION_ARGS)
{
	char	   *id;
	OpdConnection *connection;
	OpdCredential credential;
	OpdJobRecord record;
	OpdError   *error;
	Jsonb	   *result;

	opd_redact_statement();
	id = opd_argument_id_not_payload(PG_GETARG_TEXT_PP(0));
	connection = opd_caller_connection(id, OPD_DEVELOPER);
	opd_caller_require_not_suspended();
	record = opd_jobs_begin("test", id, connection->workspace_id);
	open_credential(connection, &credential);
	result = run_test(&credential, &error);

	record.error_code = error ? opd_error_name(error->code) : NULL;
	if (opd_sql_may_write())
		opd_connections_note_test(connection, record.error_code);
	opd_jobs_write(&record);
	if (opd_sql_may_write() && opd_conf_convex_url()[0] != '\0')
		opd_outbox_tell_connection(id);
	PG_RETURN_JSONB_P(result);
}

/*
 * opdata_test(payload, type) -> jsonb
 *
 * Raises 22023 (invalid_credentials) for a malformed payload; a bad source is
 * told in the result.
 */
Datum
opdata_test_payload(PG_FUNCTION_ARGS)
{
	OpdCredential credential;
	OpdJobRecord record;
	OpdError   *error;
	Jsonb	   *result;

	opd_redact_statement();
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("payload and type must not be null"),
				 errdetail_internal("invalid_credentials")));
	opd_caller_require(NULL, OPD_DEVELOPER);
	opd_caller_require_not_suspended();
	record = opd_jobs_begin("test", NULL, NULL);
	read_credential(text_to_cstring(PG_GETARG_TEXT_PP(1)), take_payload(PG_GETARG_JSONB_P(0), NULL), &credential);
	result = run_test(&credential, &error);
	record.error_code = error ? opd_error_name(error->code) : NULL;
	opd_jobs_write(&record);
	PG_RETURN_JSONB_P(result);
}

/*
 * opdata_preview(id, query) -> jsonb
 *
 * Raises 42704 (connection_not_found), 55000 (secret_unavailable), the
 * guard's errors, and whatever the source answers.
 */
Datum
opdata_preview(PG_FUNCTION_ARGS)
{
	char	   *id = opd_argument_id("id", PG_GETARG_TEXT_PP(0));
	char	   *query = text_to_cstring(PG_GETARG_TEXT_PP(1));
	OpdHostPolicy policy = opd_conf_host_policy();
	OpdConnection *connection = opd_caller_connection(id, OPD_DEVELOPER);
	OpdJobRecord record = opd_jobs_begin("preview", id, connection->workspace_id);
	OpdMask    *mask;
	OpdCredential credential;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext job_context;
	OpdLoop    *loop;
	OpdPreviewJob *job;
	Jsonb	   *result;

	opd_caller_require_not_suspended();
	open_credential(connection, &credential);
	mask = opd_policy_mask_of(connection->workspace_id, connection->id);

	job_context = enter_job_context();
	loop = opd_loop_new();
	job = opd_previewjob_start(loop, &credential, &policy, mask, query);
	opd_caller_run(loop, &job->done);
	if (job->error != NULL)
		opd_error_throw(job->error);
	MemoryContextSwitchTo(caller);
	result = copy_json(job->result);
	record.n_rows = job->n_rows;
	record.n_bytes = job->n_bytes;
	MemoryContextDelete(job_context);

	opd_jobs_write(&record);
	PG_RETURN_JSONB_P(result);
}

/* opdata_delete(id) -> {"deleted": boolean} */
Datum
opdata_delete(PG_FUNCTION_ARGS)
{
	char	   *id = opd_argument_id("id", PG_GETARG_TEXT_PP(0));
	OpdJobRecord record = opd_jobs_begin("delete", id, NULL);
	OpdConnection *connection;
	bool		deleted = false;
	OpdJson		json;

	opd_caller_require_writing();
	opd_caller_require(NULL, OPD_DEVELOPER);
	opd_caller_require_not_suspended();
	/* one that the caller may not see is unknown */
	connection = opd_connections_find(id);
	if (connection != NULL && opd_access_has(connection->workspace_id, OPD_READER))
	{
		opd_caller_require(connection->workspace_id, OPD_DEVELOPER);
		record.workspace_id = connection->workspace_id;
		deleted = opd_connections_delete(id, connection->workspace_id) != NULL;
	}
	if (deleted)
		opd_jobs_write(&record);
	if (deleted && opd_conf_convex_url()[0] != '\0')
		opd_outbox_tell_deleted(id, record.workspace_id);

	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "deleted", deleted);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}
