/*-------------------------------------------------------------------------
 *
 * task.c
 *	  One task of the control plane: from its input to its recorded result.
 *
 *		begin (transaction) -> job on the loop -> record (transaction)
 *
 * Between the two transactions nothing is locked. The second one therefore
 * claims the job's row again, and finds out if another attempt was faster.
 *
 * Nor does any of them wait for somebody else's lock, while which the other tasks
 * of the process would stand still: it is rolled back and tried again later.
 *
 * src/task/task.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "lib/ilist.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "base/guarded.h"
#include "base/inventory.h"
#include "base/json.h"
#include "base/limits.h"
#include "job/previewjob.h"
#include "job/testjob.h"
#include "secret/envelope.h"
#include "secret/jwe.h"
#include "source/credential.h"
#include "store/connections.h"
#include "store/egress.h"
#include "store/outbox.h"
#include "store/policy.h"
#include "store/sealing.h"
#include "task/task.h"

/* Pauses after a transaction that met a lock. */
#define PAUSE_MS			20
#define PAUSE_MAX_MS		500
#define UNRECORDED_MAX		200 /* ends of one process that wait to be recorded */

typedef struct Task Task;

/* One type of task. */
typedef struct TaskType
{
	const char *name;
	const char *kind;			/* in opdata.job */
	bool		durable;		/* its effects are waited for to reach the disk */
	int			patience_ms;	/* with locks of others */
	void		(*begin) (Task *task);	/* in a transaction; may finish it */
	void		(*start_job) (Task *task);	/* on the loop; NULL when there is none */
	bool		(*job_done) (Task *task, OpdError **error);	/* why it failed */
	void		(*record) (Task *task); /* in a transaction */
	void		(*record_failure) (Task *task); /* the same, where its failure tells something; or NULL */
} TaskType;

struct Task
{
	OpdTask		public;			/* first: the caller's view */
	MemoryContext context;
	const TaskType *type;
	OpdTaskSpec spec;
	OpdLoop    *loop;
	OpdJobRecord record;
	bool		begun;			/* or tried to */
	bool		job_started;
	bool		claimed;		/* the job's row says that it runs */

	double		patience_ms;	/* that is left, for all transactions */
	double		until_ms;		/* the one that met a lock is tried again */
	double		pause_ms;		/* before it is; 0: none has met one */
	bool		last_try;
	MemoryContext failed_try;	/* its memory */
	OpdError   *failure;		/* to be recorded before it is the answer */

	OpdConnection *connection;	/* of a stored credential */
	OpdConnectionChange change; /* of storing */
	OpdCredential credential;
	char	   *query;
	OpdMask    *mask;			/* of a preview */
	OpdJwk	   *recipient;		/* that it is sealed to; NULL: to nobody */
	OpdTestJob *test;
	OpdPreviewJob *preview;
};

/* ------------------------------------------------------------- the input */

/*
 * A string of the input; NULL when it is absent or null. Raises when it is
 * something else or too long, without repeating it.
 */
static char *
input_string(Task *task, const char *name, int max_chars)
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
	char	   *id = input_string(task, name, OPD_ID_MAX_CHARS);

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
	char	   *id = input_string(task, "connectionId", OPD_ID_MAX_CHARS);
	char	   *type = input_string(task, "type", OPD_ID_MAX_CHARS);
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

/*
 * Claim the job. False when an earlier attempt has done it: its result is the
 * answer.
 */
static bool
claim(Task *task)
{
	Jsonb	   *recorded = opd_jobs_claim(&task->spec.key, &task->record);

	task->claimed = recorded == NULL;
	if (recorded != NULL)
		succeed(task, recorded);
	return task->claimed;
}

/*
 * The row of a job without an effect is written when the connection to the
 * source is under way, so that neither waits for the other.
 */
static void
claim_late(void *arg)
{
	(void) claim(arg);
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
	change->workspace_id = input_string(task, "workspaceId", OPD_ID_MAX_CHARS);
	if (change->workspace_id == NULL || change->workspace_id[0] == '\0')
		change->workspace_id = "default";
	if (strcmp(change->workspace_id, "*") == 0)
		opd_error_throw(opd_error_new(OPD_UNSUPPORTED, "\"*\" is no workspace"));
	task->record.workspace_id = change->workspace_id;
	change->name = input_string(task, "name", OPD_NAME_MAX_CHARS);
	if (change->name != NULL && change->name[0] == '\0')
		change->name = NULL;
	change->type = input_string(task, "type", OPD_ID_MAX_CHARS);
	if (change->type == NULL)
		change->type = "postgres";
	change->status = "connected";
	change->tested = true;
	if (!claim(task))
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

	if (!claim(task))
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
	task->record.connection_id = input_string(task, "connectionId", OPD_ID_MAX_CHARS);
	if (task->spec.by_schedule)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "previews are for people, not for a schedule or cron"),
									   "Start the workflow by itself."));
	task->recipient = find_recipient(task);
	task->query = input_string(task, "sql", 0);
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
	/* the SQLSTATE of a division by a masked column would be its value, in plain */
	if (*error != NULL && task->preview->ran && task->spec.require_sealed_preview())
		*error = opd_error_hint(opd_error_new((*error)->code, "the statement failed on the source; previews leave only sealed, and so why is not told"),
								"Try the statement with psql on the source, or in the agent's database with opdata_preview().");
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
egress_of(Task *task)
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
	refusal = is_still_allowed(task) ? opd_egress_append(&egress) :
		opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "what may leave was changed while the preview ran"),
					   "Ask for it again.");
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
static void
preview_record_failure(Task *task)
{
	OpdEgress	egress = egress_of(task);
	OpdError   *refusal;

	egress.error_code = task->record.canceled ? "canceled" : task->record.error_code;
	opd_egress_hold();
	refusal = opd_egress_append(&egress);
	if (refusal != NULL && !task->record.canceled)
	{
		task->failure = refusal;
		task->record.error_code = opd_error_name(refusal->code);
	}
}

/* ----------------------------------------------------- delete connection */

static void
delete_begin(Task *task)
{
	char	   *id = input_id(task, "connectionId");

	task->record.connection_id = id;
	if (!claim(task))
		return;
	task->record.workspace_id = opd_connections_delete(id, NULL);
	if (task->record.workspace_id != NULL && task->spec.tell)
		opd_outbox_tell_deleted(id, task->record.workspace_id);
	succeed(task, deleted_result(task->record.workspace_id != NULL));
	opd_jobs_finish(&task->spec.key, &task->record, task->public.result);
}

/* --------------------------------------------------------------- the task */

static const TaskType task_types[] = {
	{"storeCreds", "store", true, OPD_ACTIVITY_PATIENCE_MS, store_begin, test_start, store_test_done, store_record, NULL},
	{"testCredentials", "test", false, OPD_PATIENCE_MS, test_begin, test_start, test_done, test_record, NULL},
	{"previewQuery", "preview", true, OPD_PATIENCE_MS, preview_begin, preview_start, preview_done, preview_record, preview_record_failure},
	{"deleteConnection", "delete", true, OPD_ACTIVITY_PATIENCE_MS, delete_begin, NULL, NULL, NULL, NULL},
};

static const TaskType *
find_type(const char *name)
{
	for (int i = 0; i < (int) lengthof(task_types); i++)
	{
		if (strcmp(task_types[i].name, name) == 0)
			return &task_types[i];
	}
	return NULL;
}

bool
opd_task_is_known(const char *type)
{
	return find_type(type) != NULL;
}

OpdTask *
opd_task_start(OpdLoop *loop, const OpdTaskSpec *spec)
{
	Task	   *task = palloc0(sizeof(Task));

	task->context = CurrentMemoryContext;
	task->type = find_type(spec->type);
	task->spec = *spec;
	task->loop = loop;
	task->record = opd_jobs_begin(task->type->kind, NULL, NULL);
	task->patience_ms = task->type->patience_ms;
	task->public.phase = "starting";
	return &task->public;
}

/* In a transaction: is the task for us, and what does it work on? */
static void
begin(void *arg)
{
	Task	   *task = arg;
	char	   *org_id;

	/* those of a try before are gone */
	task->record.connection_id = NULL;
	task->record.workspace_id = NULL;
	org_id = input_string(task, "orgId", 0);
	if (org_id == NULL || strcmp(org_id, task->spec.org_id) != 0)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_TENANT_MISMATCH, "the job is not for the organisation of this agent"),
									   "Compare orgId of the input with the agent's setting opdata.org_id."));
	task->type->begin(task);
}

static void
record(void *arg)
{
	Task	   *task = arg;

	if (task->claimed || claim(task))
		task->type->record(task);
}

/* The end of a task without a result, as it is to be written down. */
typedef struct Ending
{
	dlist_node	node;			/* in "unrecorded" */
	MemoryContext context;		/* holds it there */
	OpdJobKey	key;
	OpdJobRecord record;
	bool		claimed;
} Ending;

static dlist_head unrecorded = DLIST_STATIC_INIT(unrecorded);
static int	n_unrecorded;
static double catch_up_at_ms;

static void
record_ending(void *arg)
{
	Ending	   *ending = arg;

	/* one that was claimed meanwhile by another worker is left to that */
	if (ending->claimed || opd_jobs_claim(&ending->key, &ending->record) == NULL)
		opd_jobs_finish(&ending->key, &ending->record, NULL);
}

/* False: somebody's lock is in the way. */
static bool
write_ending(Ending *ending)
{
	ErrorData  *exception = opd_guarded_transaction(record_ending, ending, false);

	if (exception == NULL)
		return true;
	if (opd_guarded_met_lock(exception))
		return false;
	ereport(LOG,
			(errmsg("opdata could not record the end of a job: %s", exception->message)));
	return true;
}

static void
copy_text(const char **text)
{
	if (*text != NULL)
		*text = pstrdup(*text);
}

/* Keep an end that cannot be written down now; it outlives its task. */
static void
keep_ending(const Ending *ending)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "opdata ended task", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Ending	   *copy = palloc(sizeof(Ending));

	*copy = *ending;
	copy->context = context;
	copy_text(&copy->key.workflow_id);
	copy_text(&copy->key.run_id);
	copy_text(&copy->key.activity_id);
	copy_text(&copy->record.connection_id);
	copy_text(&copy->record.workspace_id);
	copy->record.late = true;
	dlist_push_tail(&unrecorded, &copy->node);
	n_unrecorded++;
	catch_up_at_ms = opd_now_ms() + PAUSE_MAX_MS;
	MemoryContextSwitchTo(old);
}

static void
record_end(Task *task)
{
	Ending		ending = {.key = task->spec.key, .record = task->record, .claimed = task->claimed};

	if (write_ending(&ending))
		return;
	if (n_unrecorded < UNRECORDED_MAX)
		keep_ending(&ending);
	else
		ereport(LOG,
				(errmsg("opdata could not record the end of a job: too many wait for a lock")));
}

double
opd_task_catch_up(void)
{
	while (!dlist_is_empty(&unrecorded))
	{
		Ending	   *ending = dlist_container(Ending, node, dlist_head_node(&unrecorded));

		if (opd_now_ms() < catch_up_at_ms)
			return catch_up_at_ms;
		if (!write_ending(ending))
		{
			catch_up_at_ms = opd_now_ms() + PAUSE_MAX_MS;
			continue;
		}
		dlist_delete(&ending->node);
		n_unrecorded--;
		MemoryContextDelete(ending->context);
	}
	return INFINITY;
}

/* May that it failed depend on rows of the source? */
static bool
failure_tells(const Task *task)
{
	return task->type->record_failure != NULL && task->preview != NULL && task->preview->ran;
}

/* In a transaction: the failure of such a task, which may become another one. */
static void
record_failure(void *arg)
{
	Task	   *task = arg;

	if (!task->claimed && !claim(task))
		return;
	task->type->record_failure(task);
	opd_jobs_finish(&task->spec.key, &task->record, NULL);
	task->public.error = task->failure;
	task->public.done = true;
}

/*
 * The task has failed: write it down, or see to it that it is before anybody hears
 * of it. The error may hold what the source said; nobody sends that on.
 */
static void
fail(Task *task, OpdError *error)
{
	bool		answer = task->failure != NULL || !failure_tells(task);

	task->failure = error;
	task->record.n_rows = -1;
	task->record.n_bytes = -1;
	task->record.error_code = opd_error_name(error->code);
	if (!answer)
		return;
	task->public.result = NULL;
	task->public.error = error;
	task->public.done = true;
	record_end(task);
}

/*
 * A transaction of the task was rolled back, with the claim if it was made in it.
 * What we raised ourselves is the answer; anything else goes to the log, and its words stay here.
 */
static void
fail_by_exception(Task *task, const ErrorData *exception)
{
	OpdError   *error = opd_error_of_exception(exception);

	if (error->code == OPD_INTERNAL)
		ereport(LOG,
				(errmsg("opdata job %s failed: %s", task->type->name, exception->message),
				 errdetail_internal("SQLSTATE %s", error->sqlstate)));
	fail(task, error);
}

static void
wipe_payload(Task *task)
{
	if (task->change.payload != NULL)
		opd_envelope_wipe(unconstify(char *, task->change.payload));
	task->change.payload = NULL;
}

/*
 * A transaction of the task, in memory of its own. False when it is to be tried
 * again, since it has met a lock. Whatever else it raises is the end of the task.
 */
static bool
run_transaction(Task *task, void (*function) (void *arg), bool wait_for_disk)
{
	bool		claimed = task->claimed;	/* what a rollback leaves of it */
	bool		again = task->pause_ms > 0;
	MemoryContext context;
	MemoryContext old;
	ErrorData  *exception;

	if (again && opd_now_ms() < task->public.again_ms)
		return false;
	if (task->failed_try != NULL)
		MemoryContextDelete(task->failed_try);
	task->failed_try = NULL;
	context = AllocSetContextCreate(task->context, "opdata transaction", ALLOCSET_DEFAULT_SIZES);
	task->last_try = again && opd_now_ms() >= task->until_ms;
	old = MemoryContextSwitchTo(context);
	exception = opd_guarded_transaction(function, task, wait_for_disk);
	MemoryContextSwitchTo(old);
	if (exception == NULL)
	{
		if (again)
			task->patience_ms = Max(0, task->until_ms - opd_now_ms());
		task->pause_ms = 0;
		return true;
	}

	task->claimed = claimed;
	task->public.result = NULL;
	task->public.done = false;
	if (task->last_try || !opd_guarded_met_lock(exception))
	{
		if (again)
			task->patience_ms = Max(0, task->until_ms - opd_now_ms());
		task->pause_ms = 0;
		fail_by_exception(task, exception);
		return true;
	}
	task->failed_try = context;
	if (!task->job_started)
		wipe_payload(task);
	if (!again)
		task->until_ms = opd_now_ms() + task->patience_ms;
	task->pause_ms = again ? Min(task->pause_ms * 1.5, PAUSE_MAX_MS) : PAUSE_MS;
	task->public.again_ms = Min(opd_now_ms() + task->pause_ms, task->until_ms);
	return false;
}

static void
advance(Task *task)
{
	OpdError   *error;

	if (!task->job_started)
	{
		task->begun = true;
		if (!run_transaction(task, begin, task->type->durable && task->type->record == NULL) ||
			task->public.done)
			return;
		task->job_started = true;
		task->type->start_job(task);
	}
	else if (!task->claimed)
		(void) run_transaction(task, claim_late, false);
	if (task->public.done || !task->type->job_done(task, &error))
		return;
	task->public.phase = "recording";
	if (task->failure == NULL && error != NULL)
		fail(task, error);
	else if (task->failure == NULL)
		(void) run_transaction(task, record, task->type->durable);
	if (task->failure != NULL && !task->public.done)
		(void) run_transaction(task, record_failure, task->type->durable);
}

bool
opd_task_advance(OpdTask *public)
{
	Task	   *task = (Task *) public;
	MemoryContext caller;

	if (task->public.done)
		return true;
	caller = MemoryContextSwitchTo(task->context);
	advance(task);
	if (task->pause_ms == 0)
		task->public.again_ms = INFINITY;
	if (task->public.done)
		wipe_payload(task);
	MemoryContextSwitchTo(caller);
	return task->public.done;
}

static void
note_end(OpdTask *public, bool canceled)
{
	Task	   *task = (Task *) public;

	if (!task->begun || task->public.done)
		return;
	/* without what a transaction that met a lock has set */
	task->record.n_rows = -1;
	task->record.n_bytes = -1;
	task->record.canceled = canceled;
	task->record.error_code = canceled ? NULL : opd_error_name(OPD_INTERNAL);
	/* with a lock in the way, its record has to do */
	if (!failure_tells(task) || opd_guarded_transaction(record_failure, task, true) != NULL)
		record_end(task);
}

void
opd_task_note_cancel(OpdTask *task)
{
	note_end(task, true);
}

void
opd_task_note_failure(OpdTask *task)
{
	note_end(task, false);
}
