/*-------------------------------------------------------------------------
 *
 * tasktype.c
 *	  What each type of task does: storing, testing, previewing, deleting.
 *
 * src/task/tasktype.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "base/inventory.h"
#include "base/json.h"
#include "base/limits.h"
#include "secret/envelope.h"
#include "secret/jwe.h"
#include "store/outbox.h"
#include "store/sealing.h"
#include "task/tasktype.h"

/* ------------------------------------------------------------- the input */

char *
opd_tasktype_input(Task *task, const char *name, int max_chars)
{
	JsonbValue	v;

	if (!opd_json_find(task->spec.input, name, &v) || v.type == jbvNull)
		return NULL;
	if (v.type != jbvString)
		opd_error_throw(opd_error_new(OPD_UNSUPPORTED, "\"%s\" of the input is no string", name));
	if (max_chars > 0 && pg_mbstrlen_with_len(v.val.string.val, v.val.string.len) > max_chars)
		opd_error_throw(opd_error_new(OPD_UNSUPPORTED, "\"%s\" of the input is longer than %d characters",
									  name, max_chars));
	return opd_json_string(&v);
}

/* The same for an id, which must be there and not be empty. */
static char *
input_id(Task *task, const char *name)
{
	char	   *id = opd_tasktype_input(task, name, OPD_ID_MAX_CHARS);

	if (id == NULL || id[0] == '\0')
		opd_error_throw(opd_error_new(OPD_UNSUPPORTED, "the input lacks \"%s\"", name));
	return id;
}

static Jsonb *
input_credentials(Task *task)
{
	JsonbValue	v;

	if (!opd_json_find(task->spec.input, "credentials", &v) || v.type == jbvNull)
		opd_error_throw(opd_error_detail(opd_error_new(OPD_INVALID_CREDENTIALS, "Invalid Postgres credentials."),
										 "The input lacks \"credentials\"."));
	return JsonbValueToJsonb(&v);
}

static void
read_credential(Task *task, const char *type, const Jsonb *payload)
{
	OpdError   *error = opd_credential_read(type, payload, &task->credential);

	if (error != NULL)
		opd_error_throw(error);
}

/* The payload of the input, opened if it is sealed; NULL for "use": to test it. */
static Jsonb *
take_payload(Task *task, const OpdSealedUse *use)
{
	Jsonb	   *payload;
	OpdError   *error = opd_sealing_take(input_credentials(task), task->spec.require_sealed, &task->spec.keys, use, &payload);

	if (error != NULL)
		opd_error_throw(error);
	return payload;
}

/* The credential to work with: of a stored connection, or in the input for this use. */
static void
open_credential(Task *task, const OpdSealedUse *use)
{
	char	   *id = opd_tasktype_input(task, "connectionId", OPD_ID_MAX_CHARS);
	char	   *type = opd_tasktype_input(task, "type", OPD_ID_MAX_CHARS);
	char	   *payload;
	Jsonb	   *json;

	if (id == NULL)
	{
		read_credential(task, type != NULL ? type : "postgres", take_payload(task, use));
		return;
	}
	task->record.connection_id = id;
	task->connection = opd_connections_find(id);
	if (task->connection == NULL)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_CONNECTION_NOT_FOUND,
													 "there is no connection with this id"),
									   "Store the connection first; the agent's view opdata_connections lists what there is."));
	task->record.workspace_id = task->connection->workspace_id;
	payload = opd_connections_payload(task->connection, &task->spec.keys);
	json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(payload)));
	opd_envelope_wipe(payload);
	read_credential(task, task->connection->type, json);
}

/* --------------------------------------------------------------- the end */

/* Raises, which undoes what was done, when there is more in the result than may leave. */
static void
succeed(Task *task, Jsonb *result)
{
	opd_inventory_check(psprintf("%s result", task->type->name), result);
	task->public.result = result;
	task->public.done = true;
}

static Jsonb *
deleted_result(bool deleted)
{
	OpdJson		json;

	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "deleted", deleted);
	return opd_json_end_object(&json);
}

bool
opd_tasktype_claim(Task *task)
{
	Jsonb	   *recorded = opd_jobs_claim(&task->spec.key, &task->record);

	task->claimed = recorded == NULL;
	if (recorded != NULL)
		succeed(task, recorded);
	return task->claimed;
}

/* ----------------------------------------------------------- store creds */

static void
store_begin(Task *task)
{
	OpdConnectionChange *change = &task->change;
	OpdConnection *existing;
	Jsonb	   *payload;

	change->id = input_id(task, "connectionId");
	task->record.connection_id = change->id;
	change->workspace_id = opd_tasktype_input(task, "workspaceId", OPD_ID_MAX_CHARS);
	if (change->workspace_id == NULL || change->workspace_id[0] == '\0')
		change->workspace_id = "default";
	if (strcmp(change->workspace_id, "*") == 0)
		opd_error_throw(opd_error_new(OPD_UNSUPPORTED, "\"*\" is no workspace"));
	task->record.workspace_id = change->workspace_id;
	change->name = opd_tasktype_input(task, "name", OPD_NAME_MAX_CHARS);
	if (change->name != NULL && change->name[0] == '\0')
		change->name = NULL;
	change->type = opd_tasktype_input(task, "type", OPD_ID_MAX_CHARS);
	if (change->type == NULL)
		change->type = "postgres";
	change->status = "connected";
	change->tested = true;
	if (!opd_tasktype_claim(task))
		return;

	payload = take_payload(task, &(OpdSealedUse) {change->workspace_id, change->id});
	read_credential(task, change->type, payload);
	change->safe_metadata = opd_credential_safe_metadata(&task->credential);
	change->payload = JsonbToCString(NULL, &payload->root, VARSIZE(payload));
	existing = opd_connections_find(change->id);
	if (existing != NULL && strcmp(existing->workspace_id, change->workspace_id) != 0)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_WORKSPACE_DENIED, "connection id belongs to another workspace"),
									   "Choose another id, or name the workspace that the connection is in."));
}

static void
test_start(Task *task)
{
	task->public.phase = "testing";
	task->test = opd_testjob_start(task->loop, &task->credential, &task->spec.policy);
}

static bool
store_test_done(Task *task, OpdError **error)
{
	*error = task->test->error;
	return task->test->done;
}

static void
store_record(Task *task)
{
	OpdConnectionChange *change = &task->change;
	char	   *name;
	OpdJson		json;

	if (!opd_tasktype_claim(task))
		return;
	name = opd_connections_put(change, &task->spec.keys);
	if (name == NULL)
		opd_error_throw(opd_error_new(OPD_WORKSPACE_DENIED, "connection id belongs to another workspace"));

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "connectionId", change->id);
	opd_json_add_string(&json, "name", name);
	opd_json_add_string(&json, "type", change->type);
	opd_json_add_string(&json, "workspaceId", change->workspace_id);
	opd_json_add_string(&json, "status", change->status);
	opd_json_add_value(&json, "safeMetadata", change->safe_metadata);
	opd_json_add_value(&json, "test", task->test->result);
	succeed(task, opd_json_end_object(&json));
	opd_jobs_finish(&task->spec.key, &task->record, task->public.result);
	if (task->spec.tell)
		opd_outbox_tell_connection(change->id);
}

/* ------------------------------------------------------ test credentials */

static void
test_begin(Task *task)
{
	open_credential(task, NULL);
}

/* A bad source is the result of a test, not its failure. */
static bool
test_done(Task *task, OpdError **error)
{
	*error = NULL;
	return task->test->done;
}

static void
test_record(Task *task)
{
	if (task->test->error != NULL)
		task->record.error_code = opd_error_name(task->test->error->code);
	/* that is not worth failing for a lock that somebody keeps */
	if (task->connection != NULL && !task->last_try)
	{
		opd_connections_note_test(task->connection, task->record.error_code);
		if (task->spec.tell)
			opd_outbox_tell_connection(task->record.connection_id);
	}
	opd_jobs_finish(&task->spec.key, &task->record, NULL);
	succeed(task, task->test->result);
}

/* --------------------------------------------------------- preview query */

/* Whom the result is for; NULL when it may leave as it is. */
static OpdJwk *
find_recipient(Task *task)
{
	OpdJwk	   *recipient = palloc(sizeof(OpdJwk));
	const char *problem;
	JsonbValue	v;
	Jsonb	   *jwk;

	if (!opd_json_find(task->spec.input, "sealTo", &v) || v.type == jbvNull)
	{
		if (!task->spec.require_sealed_preview())
			return NULL;
		opd_error_throw(opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "previews leave only sealed, and the input lacks \"sealTo\""),
									   "Give the public key of a recipient that was registered with opdata_trust_recipient()."));
	}
	jwk = JsonbValueToJsonb(&v);
	if (!opd_jwk_check_recipient(JsonbToCString(NULL, &jwk->root, VARSIZE(jwk)), recipient, &problem))
		opd_error_throw(opd_error_hint(opd_error_new(OPD_UNSUPPORTED, "the preview cannot be sealed to \"sealTo\": %s", problem),
									   "Give a public JWK: {\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": ..., \"y\": ...}"));
	if (task->spec.require_sealed_preview() && !opd_policy_trusts(recipient->kid))
		opd_error_throw(opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "previews are only sealed to registered recipients"),
									   "Run in the agent's database: SELECT opdata_trust_recipient('<the public key>', '<a name>');"));
	return recipient;
}

static void
preview_begin(Task *task)
{
	OpdError   *refusal;

	/* named in the job's record also when it is refused */
	task->record.connection_id = opd_tasktype_input(task, "connectionId", OPD_ID_MAX_CHARS);
	if (task->spec.by_schedule)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "previews are for people, not for a schedule or cron"),
									   "Start the workflow by itself."));
	task->recipient = find_recipient(task);
	task->query = opd_tasktype_input(task, "sql", 0);
	if (task->query == NULL)
		opd_error_throw(opd_error_new(OPD_STATEMENT_NOT_ALLOWED, "the input lacks \"sql\""));
	open_credential(task, &(OpdSealedUse) {NULL, NULL});
	refusal = opd_policy_refusal(task->record.workspace_id, 0);
	if (refusal != NULL)
		opd_error_throw(refusal);
	task->mask = opd_policy_mask_of(task->record.workspace_id, task->record.connection_id);
}

static void
preview_start(Task *task)
{
	task->public.phase = "querying";
	task->preview = opd_previewjob_start(task->loop, &task->credential, &task->spec.policy, task->mask, task->query);
}

static bool
preview_done(Task *task, OpdError **error)
{
	*error = task->preview->error;
	return task->preview->done;
}

/* {"sealed": "<compact JWE>"} */
static Jsonb *
seal_result(const Jsonb *result, const OpdJwk *recipient)
{
	StringInfoData text;
	OpdJson		json;

	initStringInfo(&text);
	(void) JsonbToCString(&text, unconstify(JsonbContainer *, &result->root), VARSIZE(result));
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "sealed", opd_jwe_seal(recipient, text.data, text.len));
	return opd_json_end_object(&json);
}

/* Would it be begun so under the rules of now? */
static bool
is_still_allowed(Task *task)
{
	if (!opd_mask_equal(task->mask, opd_policy_mask_of(task->record.workspace_id, task->record.connection_id)))
		return false;
	return !task->spec.require_sealed_preview() ||
		(task->recipient != NULL && opd_policy_trusts(task->recipient->kid));
}

static OpdEgress
egress_of(const Task *task)
{
	return (OpdEgress) {
		.workspace_id = task->record.workspace_id,
		.connection_id = task->record.connection_id,
		.host = task->credential.host,
		.requested_by = task->spec.requested_by,
		.workflow_id = task->spec.key.workflow_id,
		.run_id = task->spec.key.run_id,
		.activity_id = task->spec.key.activity_id,
		.query = task->query
	};
}

static OpdError *
rules_changed(void)
{
	return opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "what may leave was changed while the preview ran"),
						  "Ask for it again.");
}

/* It leaves if the log has it. */
static void
preview_record(Task *task)
{
	OpdEgress	egress = egress_of(task);
	/* before the end of the log is locked */
	Jsonb	   *result = task->recipient != NULL ? seal_result(task->preview->result, task->recipient) : task->preview->result;
	OpdError   *refusal;

	egress.n_rows = task->preview->n_rows;
	egress.n_bytes = task->preview->n_bytes;
	egress.n_masked = task->preview->n_masked;
	egress.sealed_to = task->recipient != NULL ? task->recipient->kid : NULL;
	opd_egress_hold();
	refusal = is_still_allowed(task) ? opd_egress_append(&egress) : rules_changed();
	if (refusal != NULL)
		opd_error_throw(refusal);
	task->record.n_rows = task->preview->n_rows;
	task->record.n_bytes = task->preview->n_bytes;
	opd_jobs_finish(&task->spec.key, &task->record, NULL);
	succeed(task, result);
}

/*
 * No rows leave, but that it failed may tell something of them: the log has it too,
 * and it counts.
 */
static bool
preview_failure_tells(const Task *task, OpdEgress *egress)
{
	if (task->preview == NULL || !task->preview->ran)
		return false;
	*egress = egress_of(task);
	egress->error_code = task->record.canceled ? "canceled" : task->record.error_code;
	return true;
}

static OpdError *
preview_record_failure(Task *task)
{
	OpdEgress	egress = egress_of(task);
	OpdError   *answer;
	OpdError   *refusal;

	opd_egress_hold();
	answer = is_still_allowed(task) ? opd_policy_refusal(task->record.workspace_id, 0) : rules_changed();
	/* the SQLSTATE of a division by a masked column would be its value, in plain */
	if (answer == NULL && task->failure == task->preview->error && task->spec.require_sealed_preview())
		answer = opd_error_hint(opd_error_new(task->failure->code, "the statement failed on the source; previews leave only sealed, and so why is not told"),
								"Try the statement with psql on the source, or in the agent's database with opdata_preview().");
	if (answer == NULL)
		answer = task->failure;
	egress.error_code = opd_error_name(answer->code);
	refusal = opd_egress_append(&egress);
	return refusal != NULL ? refusal : answer;
}

/* ----------------------------------------------------- delete connection */

static void
delete_begin(Task *task)
{
	char	   *id = input_id(task, "connectionId");

	task->record.connection_id = id;
	if (!opd_tasktype_claim(task))
		return;
	task->record.workspace_id = opd_connections_delete(id, NULL);
	if (task->record.workspace_id != NULL && task->spec.tell)
		opd_outbox_tell_deleted(id, task->record.workspace_id);
	succeed(task, deleted_result(task->record.workspace_id != NULL));
	opd_jobs_finish(&task->spec.key, &task->record, task->public.result);
}

/* --------------------------------------------------------------- the types */

static const TaskType task_types[] = {
	{"storeCreds", "store", true, OPD_ACTIVITY_PATIENCE_MS, store_begin, test_start, store_test_done, store_record, NULL, NULL},
	{"testCredentials", "test", false, OPD_PATIENCE_MS, test_begin, test_start, test_done, test_record, NULL, NULL},
	{"previewQuery", "preview", true, OPD_PATIENCE_MS, preview_begin, preview_start, preview_done, preview_record,
	preview_failure_tells, preview_record_failure},
	{"deleteConnection", "delete", true, OPD_ACTIVITY_PATIENCE_MS, delete_begin, NULL, NULL, NULL, NULL, NULL},
};

const TaskType *
opd_tasktype_find(const char *name)
{
	for (int i = 0; i < (int) lengthof(task_types); i++)
	{
		if (strcmp(task_types[i].name, name) == 0)
			return &task_types[i];
	}
	return NULL;
}
