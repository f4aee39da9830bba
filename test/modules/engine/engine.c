/*-------------------------------------------------------------------------
 *
 * engine.c
 *	  SQL functions around the replay of workflows and the decoders.
 *
 *		engine_replay(workflow text, pieces bytea[], outcome jsonb) returns jsonb
 *		engine_decode(message text, bytes bytea) returns jsonb
 *		engine_limits() returns jsonb
 *
 * engine_replay() decodes serialized temporal.api.history.v1.History messages,
 * adds them one by one, as a worker adds pages, and decides. The workflow is one
 * of testflows.c or of the library. "outcome" is that of a local step:
 * {"id", "result"} with any JSON, {"id", "text"} with the same as its text, or
 * {"id", "failure", "message"}, the type and words of a failure.
 *
 * engine_decode() takes bytes of a PollWorkflowTaskQueueResponse, a
 * PollActivityTaskQueueResponse or a History, does with them all that needs no
 * server, and tells what became of them and how much memory decoding took.
 *
 * test/modules/engine/engine.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "temporal/decode.h"
#include "temporal/payload.h"
#include "temporal/workflow.h"
#include "worker/agent.h"
#include "testflows.h"

PG_MODULE_MAGIC;

/* before 16 the macro does not export the function itself */
PGDLLEXPORT Datum engine_replay(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum engine_decode(PG_FUNCTION_ARGS);
PGDLLEXPORT Datum engine_limits(PG_FUNCTION_ARGS);

PG_FUNCTION_INFO_V1(engine_replay);
PG_FUNCTION_INFO_V1(engine_decode);
PG_FUNCTION_INFO_V1(engine_limits);

#define QUEUE		"tenant-acme"
#define BULK_QUEUE	"tenant-acme-bulk"

/* Of a payload, a reason or an id, this much is shown. */
#define SHOWN_CHARS (4 * 1024 * 1024)
#define SHOWN_ID_CHARS 200
#define SHOWN_REASON_BYTES 2048

/* ------------------------------------------------------------- showing */

static void
add_text(OpdJson *json, const char *key, const char *text, int max_chars)
{
	opd_json_add_string(json, key, text == NULL ? NULL :
						opd_text_clean(text, strlen(text), max_chars, NULL));
}

/* May it be logged as it is? */
static bool
is_fit(const char *text)
{
	return strlen(text) <= SHOWN_REASON_BYTES &&
		strcmp(text, opd_text_clean(text, strlen(text), SHOWN_REASON_BYTES, NULL)) == 0 &&
		strpbrk(text, "\r\n") == NULL;
}

/* What the first payload holds. */
static void
add_payloads(OpdJson *json, const char *key, const Tp__Payloads *payloads)
{
	const Tp__Payload *payload = payloads != NULL && payloads->n_payloads > 0 ? payloads->payloads[0] : NULL;

	opd_json_add_string(json, key, payload == NULL ? NULL :
						opd_text_clean((char *) payload->data.data, payload->data.len, SHOWN_CHARS, NULL));
}

static void
add_failure(OpdJson *json, const char *key, const Tp__Failure *failure)
{
	OpdJson		shown;

	if (failure == NULL)
	{
		opd_json_add_value(json, key, NULL);
		return;
	}
	opd_json_begin_object(&shown);
	add_text(&shown, "message", failure->message, SHOWN_CHARS);
	add_text(&shown, "source", failure->source, SHOWN_ID_CHARS);
	if (failure->failure_info_case == TP__FAILURE__FAILURE_INFO_APPLICATION_FAILURE_INFO)
	{
		add_text(&shown, "type", failure->application_failure_info->type, SHOWN_ID_CHARS);
		opd_json_add_bool(&shown, "nonRetryable", failure->application_failure_info->non_retryable);
		add_payloads(&shown, "details", failure->application_failure_info->details);
	}
	opd_json_add_value(json, key, opd_json_end_object(&shown));
}

static void
add_duration(OpdJson *json, const char *key, const Tp__Duration *duration)
{
	if (duration != NULL)
		opd_json_add_int(json, key, duration->seconds * 1000 + duration->nanos / 1000000);
}

static Tp__Payloads *
detail(const Tp__RecordMarkerCommandAttributes *marker, const char *key)
{
	for (size_t i = 0; i < marker->n_details; i++)
	{
		if (strcmp(marker->details[i]->key, key) == 0)
			return marker->details[i]->value;
	}
	return NULL;
}

static Jsonb *
show_command(const Tp__Command *command)
{
	OpdJson		json;
	const ProtobufCEnumValue *type = protobuf_c_enum_descriptor_get_value(&tp__command_type__descriptor,
																		  command->command_type);

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "type", type->name + strlen("COMMAND_TYPE_"));
	switch (command->attributes_case)
	{
		case TP__COMMAND__ATTRIBUTES_SCHEDULE_ACTIVITY_TASK_COMMAND_ATTRIBUTES:
			{
				const Tp__ScheduleActivityTaskCommandAttributes *a = command->schedule_activity_task_command_attributes;

				opd_json_add_string(&json, "id", a->activity_id);
				opd_json_add_string(&json, "activityType", a->activity_type->name);
				opd_json_add_string(&json, "queue", a->task_queue->name);
				add_payloads(&json, "input", a->input);
				add_duration(&json, "startToCloseMs", a->start_to_close_timeout);
				add_duration(&json, "heartbeatMs", a->heartbeat_timeout);
				add_duration(&json, "retryAfterMs", a->retry_policy->initial_interval);
				opd_json_add_int(&json, "backoff", (int64) a->retry_policy->backoff_coefficient);
				opd_json_add_int(&json, "maxAttempts", a->retry_policy->maximum_attempts);
				break;
			}
		case TP__COMMAND__ATTRIBUTES_REQUEST_CANCEL_ACTIVITY_TASK_COMMAND_ATTRIBUTES:
			opd_json_add_int(&json, "scheduledEventId",
							 command->request_cancel_activity_task_command_attributes->scheduled_event_id);
			break;
		case TP__COMMAND__ATTRIBUTES_START_TIMER_COMMAND_ATTRIBUTES:
			opd_json_add_string(&json, "id", command->start_timer_command_attributes->timer_id);
			add_duration(&json, "afterMs", command->start_timer_command_attributes->start_to_fire_timeout);
			break;
		case TP__COMMAND__ATTRIBUTES_CANCEL_TIMER_COMMAND_ATTRIBUTES:
			opd_json_add_string(&json, "id", command->cancel_timer_command_attributes->timer_id);
			break;
		case TP__COMMAND__ATTRIBUTES_RECORD_MARKER_COMMAND_ATTRIBUTES:
			{
				const Tp__RecordMarkerCommandAttributes *a = command->record_marker_command_attributes;

				opd_json_add_string(&json, "name", a->marker_name);
				add_payloads(&json, "id", detail(a, OPD_MARKER_ID));
				add_payloads(&json, "result", detail(a, OPD_MARKER_RESULT));
				add_failure(&json, "failure", a->failure);
				break;
			}
		case TP__COMMAND__ATTRIBUTES_COMPLETE_WORKFLOW_EXECUTION_COMMAND_ATTRIBUTES:
			add_payloads(&json, "result", command->complete_workflow_execution_command_attributes->result);
			break;
		case TP__COMMAND__ATTRIBUTES_FAIL_WORKFLOW_EXECUTION_COMMAND_ATTRIBUTES:
			add_failure(&json, "failure", command->fail_workflow_execution_command_attributes->failure);
			break;
		default:
			break;
	}
	return opd_json_end_object(&json);
}

static Jsonb *
show_commands(const OpdDecision *decision)
{
	OpdJson		json;

	opd_json_begin_array(&json);
	for (int i = 0; i < decision->n_commands; i++)
		opd_json_push_value(&json, show_command(decision->commands[i]));
	return opd_json_end_array(&json);
}

static Jsonb *
show_local(const OpdDecision *decision)
{
	OpdJson		json;

	if (decision->local_id == NULL)
		return NULL;
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "id", decision->local_id);
	opd_json_add_string(&json, "type", decision->local_type);
	add_payloads(&json, "input", decision->local_input);
	return opd_json_end_object(&json);
}

static Jsonb *
show_history(const OpdHistory *history)
{
	OpdJson		json;

	opd_json_begin_object(&json);
	add_text(&json, "type", history->workflow_type, SHOWN_ID_CHARS);
	add_text(&json, "identity", history->identity, SHOWN_ID_CHARS);
	add_payloads(&json, "input", history->input);
	opd_json_add_string(&json, "state", opd_history_state(history));
	opd_json_add_bool(&json, "bySchedule", history->by_schedule);
	opd_json_add_int(&json, "taskTimeoutMs", history->task_timeout_ms);
	opd_json_add_int(&json, "startedAtMs", history->started_at_ms);
	opd_json_add_int(&json, "lastEventId", history->last_event_id);
	opd_json_add_int(&json, "tasks", history->n_tasks);
	opd_json_add_int(&json, "commands", history->n_commands);
	return opd_json_end_object(&json);
}

/* ---------------------------------------------------------------- work */

static OpdWorkflowFunction
find_workflow(const char *name)
{
	OpdWorkflowFunction function = testflows_find(name);

	if (function == NULL)
		function = opd_workflows_find(name);
	if (function == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no workflow \"%s\"", name)));
	return function;
}

/*
 * A context that gives everything back to malloc when it is deleted, so that
 * MALLOC_PERTURB_ shows who still uses it. One of the default size would be
 * kept for the next.
 */
static MemoryContext
page_context(void)
{
	return AllocSetContextCreate(CurrentMemoryContext, "page", 0, 2 * 1024, 8 * 1024 * 1024);
}

/* Add a serialized History as a worker adds a page. */
static const char *
add_piece(OpdHistory *history, bytea *piece)
{
	MemoryContext page = page_context();
	MemoryContext old = MemoryContextSwitchTo(page);
	ProtobufCMessage *events = opd_decode(&tp__history__descriptor, (uint8 *) VARDATA(piece),
										  VARSIZE(piece) - VARHDRSZ);
	const char *problem = "these bytes are no history";

	MemoryContextSwitchTo(old);
	if (events != NULL)
		problem = opd_history_add(history, (const Tp__History *) events);
	MemoryContextDelete(page);
	return problem;
}

static const char *
failure_message(const Jsonb *json)
{
	JsonbValue	value;

	if (opd_json_find(json, "message", &value) && value.type == jbvString)
		return opd_json_string(&value);
	return "the step failed";
}

static OpdLocalOutcome *
make_outcome(const Jsonb *json)
{
	OpdLocalOutcome *outcome = palloc0(sizeof(OpdLocalOutcome));
	JsonbValue	value;

	if (!opd_json_is_object(json) || !opd_json_find(json, "id", &value) || value.type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the outcome is no object with an id")));
	outcome->id = opd_json_string(&value);
	if (opd_json_find(json, "failure", &value) && value.type == jbvString)
		outcome->failure = opd_failure_new(opd_json_string(&value), failure_message(json), true);
	else if (opd_json_find(json, "text", &value) && value.type == jbvString)
		outcome->result = opd_payload_of_text(opd_json_string(&value), value.val.string.len);
	else if (opd_json_find(json, "result", &value))
	{
		Jsonb	   *whole = JsonbValueToJsonb(&value);
		char	   *text = JsonbToCString(NULL, &whole->root, VARSIZE(whole));

		outcome->result = opd_payload_of_text(text, strlen(text));
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the outcome has neither result nor failure")));
	return outcome;
}

Datum
engine_replay(PG_FUNCTION_ARGS)
{
	OpdWorkflowFunction function;
	MemoryContext context;
	OpdHistory *history;
	OpdLocalOutcome *outcome = NULL;
	OpdJson		json;
	Datum	   *pieces;
	bool	   *nulls;
	int			n_pieces;
	const char *problem = NULL;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		PG_RETURN_NULL();
	function = find_workflow(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), BYTEAOID, -1, false, TYPALIGN_INT,
					  &pieces, &nulls, &n_pieces);
	if (!PG_ARGISNULL(2))
		outcome = make_outcome(PG_GETARG_JSONB_P(2));

	/* the history has a context of its own, to be measured */
	context = AllocSetContextCreate(CurrentMemoryContext, "history", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	history = opd_history_new();
	MemoryContextSwitchTo(MemoryContextGetParent(context));
	for (int i = 0; i < n_pieces && problem == NULL; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a piece of the history is null")));
		problem = add_piece(history, DatumGetByteaP(pieces[i]));
	}

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "problem", problem);
	opd_json_add_value(&json, "history", show_history(history));
	opd_json_add_int(&json, "allocated", MemoryContextMemAllocated(context, true));
	if (problem == NULL)
	{
		OpdDecision *decision = opd_workflow_replay(function, history, outcome, QUEUE, BULK_QUEUE);

		opd_json_add_value(&json, "commands", show_commands(decision));
		opd_json_add_bool(&json, "closed", decision->closed);
		opd_json_add_value(&json, "local", show_local(decision));
		add_text(&json, "misfit", decision->misfit, SHOWN_CHARS);
		opd_json_add_bool(&json, "misfitIsFit", decision->misfit == NULL || is_fit(decision->misfit));
	}
	PG_RETURN_POINTER(opd_json_end_object(&json));
}

/* Every workflow that there is, over a history. Returns how many it fits. */
static int
replay_all(const OpdHistory *history)
{
	static const char *const types[] = {
		"storeCredsWorkflow", "testCredentialsWorkflow", "previewQueryWorkflow", "deleteConnectionWorkflow"
	};
	int			n = 0;
	OpdWorkflowFunction function;

	for (int i = 0; i < (int) lengthof(types); i++)
		n += opd_workflow_replay(find_workflow(types[i]), history, NULL, QUEUE, BULK_QUEUE)->misfit == NULL;
	for (int i = 0; (function = testflows_each(i)) != NULL; i++)
		n += opd_workflow_replay(function, history, NULL, QUEUE, BULK_QUEUE)->misfit == NULL;
	return n;
}

static void
use_history(OpdJson *json, const Tp__History *events)
{
	OpdHistory *history = opd_history_new();
	const char *problem = opd_history_add(history, events);

	add_text(json, "problem", problem, SHOWN_CHARS);
	(void) show_history(history);
	if (problem == NULL)
		opd_json_add_int(json, "fits", replay_all(history));
}

static void
use_input(OpdJson *json, const Tp__Payloads *payloads)
{
	OpdError   *error = NULL;
	Jsonb	   *input = opd_payload_to_json(payloads, &error);

	if ((input == NULL) != (error != NULL))
		elog(ERROR, "neither input nor error");
	add_text(json, "inputError", error ? error->message : NULL, SHOWN_CHARS);
	(void) opd_payload_size(payloads);
}

Datum
engine_decode(PG_FUNCTION_ARGS)
{
	const char *type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	bytea	   *bytes = PG_GETARG_BYTEA_P(1);
	MemoryContext context = page_context();
	MemoryContext old = MemoryContextSwitchTo(context);
	const ProtobufCMessageDescriptor *descriptor;
	ProtobufCMessage *message;
	OpdJson		json;
	Jsonb	   *shown;

	if (strcmp(type, "PollWorkflowTaskQueueResponse") == 0)
		descriptor = &tp__poll_workflow_task_queue_response__descriptor;
	else if (strcmp(type, "PollActivityTaskQueueResponse") == 0)
		descriptor = &tp__poll_activity_task_queue_response__descriptor;
	else if (strcmp(type, "History") == 0)
		descriptor = &tp__history__descriptor;
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown message \"%s\"", type)));

	message = opd_decode(descriptor, (uint8 *) VARDATA(bytes), VARSIZE(bytes) - VARHDRSZ);

	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "decoded", message != NULL);
	opd_json_add_int(&json, "allocated", MemoryContextMemAllocated(context, true));
	if (message != NULL && descriptor == &tp__history__descriptor)
		use_history(&json, (Tp__History *) message);
	else if (message != NULL && descriptor == &tp__poll_activity_task_queue_response__descriptor)
		use_input(&json, ((Tp__PollActivityTaskQueueResponse *) message)->input);
	else if (message != NULL)
	{
		const Tp__PollWorkflowTaskQueueResponse *task = (Tp__PollWorkflowTaskQueueResponse *) message;

		use_history(&json, task->history);
		if (task->query != NULL)
			use_input(&json, task->query->query_args);
	}
	shown = opd_json_end_object(&json);

	MemoryContextSwitchTo(old);
	shown = (Jsonb *) PG_DETOAST_DATUM_COPY(PointerGetDatum(shown));
	MemoryContextDelete(context);
	PG_RETURN_POINTER(shown);
}

/* What the tests measure against. */
Datum
engine_limits(PG_FUNCTION_ARGS)
{
	OpdJson		json;

	opd_json_begin_object(&json);
	opd_json_add_int(&json, "receiveBytes", OPD_GRPC_RECEIVE_MAX_BYTES);
	opd_json_add_int(&json, "decodedBytes", OPD_DECODED_MAX_BYTES);
	opd_json_add_int(&json, "historyBytes", OPD_HISTORY_MAX_BYTES);
	opd_json_add_int(&json, "historyEvents", OPD_HISTORY_MAX_EVENTS);
	PG_RETURN_POINTER(opd_json_end_object(&json));
}
