/*-------------------------------------------------------------------------
 *
 * workflowanswer.c
 *	  What a workflow task's answer holds besides commands.
 *
 * src/worker/workflowanswer.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/json.h"
#include "base/text.h"
#include "temporal/decode.h"
#include "temporal/payload.h"
#include "worker/workflowanswer.h"

#define STATUS_QUERY "status"
#define UPDATE_REQUEST_TYPE "temporal.api.update.v1.Request"
#define UPDATE_REJECTION_URL "type.googleapis.com/temporal.api.update.v1.Rejection"

static char *
shown(const char *text)
{
	return opd_text_clean(text, strlen(text), 128, NULL);
}

static Tp__Payloads *
status(const OpdQueryFacts *facts)
{
	const OpdHistory *history = facts->history;
	const OpdPastCommand *last = history->n_commands > 0 ? &history->commands[history->n_commands - 1] : NULL;
	const char *step = facts->step;
	const char *phase = facts->phase;
	OpdJson		json;

	if (step == NULL && last != NULL && last->kind == OPD_PAST_ACTIVITY)
	{
		step = shown(last->id);
		phase = last->outcome == OPD_OUTCOME_NONE ? "scheduled" :
			last->outcome == OPD_OUTCOME_COMPLETED ? "completed" :
			last->outcome == OPD_OUTCOME_CANCELED ? "canceled" : "failed";
	}
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "workflowType", shown(history->workflow_type));
	opd_json_add_string(&json, "state", opd_history_state(history));
	opd_json_add_string(&json, "step", step);
	opd_json_add_string(&json, "phase", phase);
	opd_json_add_int(&json, "startedAtMs", history->started_at_ms);
	opd_json_add_string(&json, "agent", "opdata-" OPD_VERSION);
	return opd_payload_of_json("status answer", opd_json_end_object(&json));
}

Tp__WorkflowQueryResult *
opd_workflowanswer_query(const Tp__WorkflowQuery *query, const OpdQueryFacts *facts)
{
	Tp__WorkflowQueryResult *result = palloc(sizeof(Tp__WorkflowQueryResult));

	tp__workflow_query_result__init(result);
	if (query != NULL && strcmp(query->query_type, STATUS_QUERY) == 0)
	{
		result->result_type = TP__QUERY_RESULT_TYPE__QUERY_RESULT_TYPE_ANSWERED;
		result->answer = status(facts);
	}
	else
	{
		result->result_type = TP__QUERY_RESULT_TYPE__QUERY_RESULT_TYPE_FAILED;
		result->error_message = psprintf("unknown query type \"%s\"; this agent answers \"" STATUS_QUERY "\"",
										 query != NULL ? shown(query->query_type) : "");
	}
	return result;
}

Tp__Message *
opd_workflowanswer_reject(const Tp__Message *message)
{
	Tp__Message *answer = palloc(sizeof(*answer));
	Tp__Rejection *rejection = palloc(sizeof(*rejection));
	Tp__Any    *body = palloc(sizeof(*body));
	const char *type = message->body != NULL ? strrchr(message->body->type_url, '/') : NULL;

	if (type == NULL || strcmp(type + 1, UPDATE_REQUEST_TYPE) != 0)
		return NULL;
	tp__rejection__init(rejection);
	rejection->rejected_request_message_id = message->id;
	rejection->rejected_request_sequencing_event_id = message->event_id;
	rejection->rejected_request = (Tp__Request *) opd_decode(&tp__request__descriptor,
															 message->body->value.data,
															 message->body->value.len);
	rejection->failure = opd_failure_new("unsupported", "workflows of this agent take no updates", true);

	tp__any__init(body);
	body->type_url = UPDATE_REJECTION_URL;
	body->value.len = tp__rejection__get_packed_size(rejection);
	body->value.data = palloc(body->value.len);
	tp__rejection__pack(rejection, body->value.data);

	tp__message__init(answer);
	answer->id = psprintf("%s/reject", message->protocol_instance_id);
	answer->protocol_instance_id = message->protocol_instance_id;
	answer->body = body;
	return answer;
}
