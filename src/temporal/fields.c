/*-------------------------------------------------------------------------
 *
 * fields.c
 *	  Every field of every request to Temporal, for the inventory of what leaves.
 *
 * The fields come from the descriptors that the requests are packed by, so that
 * none can be forgotten; only their meanings are written down here.
 *
 * src/temporal/fields.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "nodes/pg_list.h"

#include "temporal/fields.h"
#include "temporal/temporal.pb-c.h"

static const ProtobufCMessageDescriptor *const requests[] = {
	&tp__get_system_info_request__descriptor,
	&tp__poll_workflow_task_queue_request__descriptor,
	&tp__poll_activity_task_queue_request__descriptor,
	&tp__respond_workflow_task_completed_request__descriptor,
	&tp__respond_workflow_task_failed_request__descriptor,
	&tp__respond_query_task_completed_request__descriptor,
	&tp__respond_activity_task_completed_request__descriptor,
	&tp__respond_activity_task_failed_request__descriptor,
	&tp__respond_activity_task_canceled_request__descriptor,
	&tp__record_activity_task_heartbeat_request__descriptor,
	&tp__get_workflow_execution_history_request__descriptor,
	&tp__shutdown_worker_request__descriptor,
};

static const struct
{
	const char *field;
	const char *meaning;
}			meanings[] = {
	{"*.namespace", "as set in opdata.temporal_namespace"},
	{"*.identity", "process id, host name and version of the agent"},
	{"*.task_token", "what the server gave with the task"},
	{"PollWorkflowTaskQueueRequest.task_queue", "the queue that is asked, which has the organisation in its name"},
	{"PollWorkflowTaskQueueRequest.worker_instance_key", "a random UUID of the process"},
	{"PollActivityTaskQueueRequest.task_queue", "the queue that is asked"},
	{"PollActivityTaskQueueRequest.worker_instance_key", "a random UUID of the process"},
	{"TaskQueue.name", "tenant-ORGANISATION or tenant-ORGANISATION-bulk"},
	{"TaskQueue.kind", "normal"},
	{"RespondWorkflowTaskCompletedRequest.commands", "what the workflow does next"},
	{"RespondWorkflowTaskCompletedRequest.return_new_workflow_task", "whether the next task is wanted in the answer"},
	{"RespondWorkflowTaskCompletedRequest.force_create_new_workflow_task", "whether a next task is wanted at all"},
	{"RespondWorkflowTaskCompletedRequest.query_results", "answers to queries"},
	{"RespondWorkflowTaskCompletedRequest.messages", "refusals of updates"},
	{"RespondWorkflowTaskCompletedRequest.sdk_metadata", "opdata and its version"},
	{"RespondWorkflowTaskCompletedRequest.capabilities", "what the agent can do"},
	{"Command.command_type", "kind of command"},
	{"Command.schedule_activity_task_command_attributes", "an activity to run"},
	{"Command.start_timer_command_attributes", "a timer to start"},
	{"Command.complete_workflow_execution_command_attributes", "the workflow has its result"},
	{"Command.fail_workflow_execution_command_attributes", "the workflow has failed"},
	{"Command.request_cancel_activity_task_command_attributes", "an activity to cancel"},
	{"Command.cancel_timer_command_attributes", "a timer to cancel"},
	{"Command.cancel_workflow_execution_command_attributes", "the workflow was canceled"},
	{"Command.record_marker_command_attributes", "a mark in the history: a local step, or a version"},
	{"ScheduleActivityTaskCommandAttributes.activity_id", "id within the workflow"},
	{"ScheduleActivityTaskCommandAttributes.activity_type", "storeCreds, deleteConnection"},
	{"ScheduleActivityTaskCommandAttributes.task_queue", "queue of the agent"},
	{"ScheduleActivityTaskCommandAttributes.input", "the workflow's own input, as the control plane gave it"},
	{"ScheduleActivityTaskCommandAttributes.schedule_to_close_timeout", "limits of the activity"},
	{"ScheduleActivityTaskCommandAttributes.schedule_to_start_timeout", "limits of the activity"},
	{"ScheduleActivityTaskCommandAttributes.start_to_close_timeout", "limits of the activity"},
	{"ScheduleActivityTaskCommandAttributes.heartbeat_timeout", "limits of the activity"},
	{"ScheduleActivityTaskCommandAttributes.retry_policy", "how often it is tried"},
	{"ActivityType.name", "name of the activity"},
	{"Payloads.payloads", "JSON messages, which are listed under their own names"},
	{"Payload.metadata", "encoding of a message"},
	{"Payload.data", "a JSON message, which is listed under its own name"},
	{"MetadataEntry.key", "encoding"},
	{"MetadataEntry.value", "json/plain or binary/plain"},
	{"Duration.seconds", "of a limit"},
	{"Duration.nanos", "of a limit"},
	{"RetryPolicy.initial_interval", "pause before the second try"},
	{"RetryPolicy.backoff_coefficient", "how the pauses grow"},
	{"RetryPolicy.maximum_interval", "longest pause"},
	{"RetryPolicy.maximum_attempts", "number of tries"},
	{"RetryPolicy.non_retryable_error_types", "error codes after which there is no other try"},
	{"StartTimerCommandAttributes.timer_id", "id within the workflow"},
	{"StartTimerCommandAttributes.start_to_fire_timeout", "how long it runs"},
	{"CompleteWorkflowExecutionCommandAttributes.result", "a result message"},
	{"FailWorkflowExecutionCommandAttributes.failure", "a failure"},
	{"Failure.message", "our own words and the SQLSTATE"},
	{"Failure.source", "opdata"},
	{"Failure.encoded_attributes", "not used"},
	{"Failure.application_failure_info", "error code and details"},
	{"Failure.timeout_failure_info", "that an activity took too long"},
	{"Failure.canceled_failure_info", "that it was canceled"},
	{"Failure.terminated_failure_info", "that it was terminated"},
	{"Failure.server_failure_info", "that the server failed it"},
	{"ApplicationFailureInfo.type", "error code"},
	{"ApplicationFailureInfo.non_retryable", "whether another try could help"},
	{"ApplicationFailureInfo.details", "a message of failure details"},
	{"TimeoutFailureInfo.timeout_type", "which limit it was"},
	{"CanceledFailureInfo.details", "not used"},
	{"ServerFailureInfo.non_retryable", "whether another try could help"},
	{"RequestCancelActivityTaskCommandAttributes.scheduled_event_id", "number of the event in the history"},
	{"CancelTimerCommandAttributes.timer_id", "id within the workflow"},
	{"CancelWorkflowExecutionCommandAttributes.details", "not used"},
	{"RecordMarkerCommandAttributes.marker_name", "kind of mark"},
	{"RecordMarkerCommandAttributes.details", "id of a step or version, never a result"},
	{"RecordMarkerCommandAttributes.failure", "not used"},
	{"MarkerDetailsEntry.key", "name of a detail"},
	{"MarkerDetailsEntry.value", "a detail"},
	{"QueryResultsEntry.key", "which query, as the server named it"},
	{"QueryResultsEntry.value", "its answer"},
	{"WorkflowQueryResult.result_type", "answered or failed"},
	{"WorkflowQueryResult.answer", "a message of the status answer"},
	{"WorkflowQueryResult.error_message", "which queries there are"},
	{"Message.id", "id of a refusal"},
	{"Message.protocol_instance_id", "which update it is about"},
	{"Message.event_id", "number of an event in the history"},
	{"Message.body", "the refusal"},
	{"Any.type_url", "kind of the refusal"},
	{"Any.value", "the refusal"},
	{"WorkflowTaskCompletedMetadata.sdk_name", "opdata"},
	{"WorkflowTaskCompletedMetadata.sdk_version", "version of opdata"},
	{"CompletedCapabilities.discard_speculative_workflow_task_with_events", "what the agent can do"},
	{"RespondWorkflowTaskFailedRequest.cause", "kind of failure of the task"},
	{"RespondWorkflowTaskFailedRequest.failure", "why, in our own words"},
	{"RespondQueryTaskCompletedRequest.completed_type", "answered or failed"},
	{"RespondQueryTaskCompletedRequest.query_result", "a message of the status answer"},
	{"RespondQueryTaskCompletedRequest.error_message", "which queries there are"},
	{"RespondActivityTaskCompletedRequest.result", "a result message"},
	{"RespondActivityTaskFailedRequest.failure", "a failure"},
	{"RespondActivityTaskCanceledRequest.details", "not used"},
	{"RecordActivityTaskHeartbeatRequest.details", "a message of heartbeat details"},
	{"GetWorkflowExecutionHistoryRequest.execution", "whose history is read"},
	{"GetWorkflowExecutionHistoryRequest.maximum_page_size", "how much of it"},
	{"GetWorkflowExecutionHistoryRequest.next_page_token", "where it goes on"},
	{"WorkflowExecution.workflow_id", "id of a workflow, as the control plane chose it"},
	{"WorkflowExecution.run_id", "id of its run"},
	{"ShutdownWorkerRequest.sticky_task_queue", "not used"},
	{"ShutdownWorkerRequest.reason", "that the process ends"},
	{"ShutdownWorkerRequest.worker_instance_key", "the random UUID of the process"},
	{"ShutdownWorkerRequest.task_queue", "its queue"},
	{"ShutdownWorkerRequest.task_queue_types", "kinds of tasks that it asked for"},
};

static const char *
meaning_of(const char *message, const char *field)
{
	const char *name = psprintf("%s.%s", message, field);
	const char *any = psprintf("*.%s", field);

	for (int i = 0; i < (int) lengthof(meanings); i++)
	{
		if (strcmp(meanings[i].field, name) == 0 || strcmp(meanings[i].field, any) == 0)
			return meanings[i].meaning;
	}
	return NULL;
}

/* The messages that this one is made of, each once, the outer ones first. */
static void
collect(List **messages, const ProtobufCMessageDescriptor *message)
{
	if (list_member_ptr(*messages, message))
		return;
	*messages = lappend(*messages, unconstify(ProtobufCMessageDescriptor *, message));
	for (unsigned int i = 0; i < message->n_fields; i++)
	{
		if (message->fields[i].type == PROTOBUF_C_TYPE_MESSAGE)
			collect(messages, message->fields[i].descriptor);
	}
}

OpdField *
opd_fields_list(int *n)
{
	List	   *messages = NIL;
	ListCell   *cell;
	OpdField   *fields;
	int			max = 0;

	for (int i = 0; i < (int) lengthof(requests); i++)
		collect(&messages, requests[i]);
	foreach(cell, messages)
		max += ((const ProtobufCMessageDescriptor *) lfirst(cell))->n_fields;
	fields = palloc(sizeof(OpdField) * Max(max, 1));
	*n = 0;
	foreach(cell, messages)
	{
		const ProtobufCMessageDescriptor *message = lfirst(cell);

		for (unsigned int i = 0; i < message->n_fields; i++)
		{
			OpdField   *field = &fields[(*n)++];

			field->message = message->short_name;
			field->field = message->fields[i].name;
			field->meaning = meaning_of(field->message, field->field);
		}
	}
	return fields;
}
