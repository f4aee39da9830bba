/*-------------------------------------------------------------------------
 *
 * history.c
 *	  What a workflow's history tells, gathered event by event.
 *
 * https://github.com/temporalio/api/blob/master/temporal/api/history/v1/message.proto
 *
 * src/temporal/history.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "utils/memutils.h"

#include "base/limits.h"
#include "temporal/decode.h"
#include "temporal/history.h"
#include "temporal/workflow.h"

OpdHistory *
opd_history_new(void)
{
	OpdHistory *history = palloc0(sizeof(OpdHistory));

	history->context = CurrentMemoryContext;
	history->workflow_type = "";
	history->identity = "";
	return history;
}

/* Room for one more element of an array that doubles. */
static void *
grow(void *array, int n, int *max, size_t element_size)
{
	if (n < *max)
		return array;
	*max = Max(8, *max * 2);
	if (array == NULL)
		return palloc0(*max * element_size);
	return repalloc_huge(array, *max * element_size);
}

static OpdPastCommand *
add_command(OpdHistory *history, const Tp__HistoryEvent *event, OpdPastKind kind,
			const char *id, const char *type, int64 task_completed_id)
{
	OpdPastCommand *command;

	history->commands = grow(history->commands, history->n_commands, &history->max_commands,
							 sizeof(OpdPastCommand));
	command = &history->commands[history->n_commands++];
	memset(command, 0, sizeof(*command));
	command->event_id = event->event_id;
	command->kind = kind;
	command->id = pstrdup(id);
	command->type = pstrdup(type);
	command->task_completed_id = task_completed_id;
	return command;
}

/* The command that stands in the event of this id; NULL when there is none. */
static OpdPastCommand *
find_command(OpdHistory *history, int64 event_id)
{
	int			low = 0;
	int			high = history->n_commands - 1;

	while (low <= high)
	{
		int			middle = (low + high) / 2;
		OpdPastCommand *command = &history->commands[middle];

		if (command->event_id == event_id)
			return command;
		if (command->event_id < event_id)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

static ProtobufCMessage *
keep(OpdHistory *history, const ProtobufCMessage *message)
{
	ProtobufCMessage *copy = opd_decode_try_copy(message);

	history->kept_bytes += protobuf_c_message_get_packed_size(message);
	if (copy == NULL)
		history->odd = true;
	return copy;
}

static Tp__Payloads *
keep_payloads(OpdHistory *history, const Tp__Payloads *payloads)
{
	return payloads ? (Tp__Payloads *) keep(history, &payloads->base) : NULL;
}

static Tp__Failure *
keep_failure(OpdHistory *history, const Tp__Failure *failure)
{
	return failure ? (Tp__Failure *) keep(history, &failure->base) : NULL;
}

static void
settle(OpdHistory *history, const Tp__HistoryEvent *event, int64 command_event_id,
	   OpdOutcome outcome, const Tp__Payloads *result, const Tp__Failure *failure)
{
	OpdPastCommand *command = find_command(history, command_event_id);

	if (command == NULL || command->outcome != OPD_OUTCOME_NONE)
		return;
	command->outcome = outcome;
	command->outcome_event_id = event->event_id;
	command->result = keep_payloads(history, result);
	command->failure = keep_failure(history, failure);
}

static bool
is_scheduled(const Tp__WorkflowExecutionStartedEventAttributes *started)
{
	if (started->cron_schedule[0] != '\0')
		return true;
	if (started->search_attributes == NULL)
		return false;
	for (size_t i = 0; i < started->search_attributes->n_indexed_fields; i++)
	{
		if (strcmp(started->search_attributes->indexed_fields[i]->key, "TemporalScheduledById") == 0)
			return true;
	}
	return false;
}

static void
add_started(OpdHistory *history, const Tp__HistoryEvent *event)
{
	Tp__WorkflowExecutionStartedEventAttributes *started = event->workflow_execution_started_event_attributes;

	history->workflow_type = pstrdup(started->workflow_type ? started->workflow_type->name : "");
	history->input = keep_payloads(history, started->input);
	history->identity = pstrdup(started->identity);
	history->by_schedule = is_scheduled(started);
	if (started->workflow_task_timeout != NULL)
		history->task_timeout_ms = started->workflow_task_timeout->seconds * 1000 +
			started->workflow_task_timeout->nanos / 1000000;
	if (event->event_time != NULL)
		history->started_at_ms = event->event_time->seconds * 1000 + event->event_time->nanos / 1000000;
}

static void
add_task(OpdHistory *history, int64 started_id)
{
	/* one that was not completed has failed or timed out: nothing came of it */
	if (history->n_tasks > 0 && history->tasks[history->n_tasks - 1].completed_id == 0)
		history->n_tasks--;
	history->tasks = grow(history->tasks, history->n_tasks, &history->max_tasks, sizeof(OpdPastTask));
	history->tasks[history->n_tasks].started_id = started_id;
	history->tasks[history->n_tasks].completed_id = 0;
	history->n_tasks++;
}

static void
add_marker(OpdHistory *history, const Tp__HistoryEvent *event)
{
	Tp__MarkerRecordedEventAttributes *marker = event->marker_recorded_event_attributes;
	OpdPastCommand *command;
	const char *id = "";
	Tp__Payloads *result = NULL;

	/* markers of other workers say nothing to us */
	if (strcmp(marker->marker_name, OPD_MARKER_STEP) != 0 &&
		strcmp(marker->marker_name, OPD_MARKER_PATCH) != 0)
		return;
	for (size_t i = 0; i < marker->n_details; i++)
	{
		Tp__DetailsEntry *entry = marker->details[i];

		if (entry->value == NULL)
			continue;
		if (strcmp(entry->key, OPD_MARKER_ID) == 0 && entry->value->n_payloads == 1)
			id = pnstrdup((char *) entry->value->payloads[0]->data.data,
						  entry->value->payloads[0]->data.len);
		else if (strcmp(entry->key, OPD_MARKER_RESULT) == 0)
			result = entry->value;
	}
	command = add_command(history, event, OPD_PAST_MARKER, id, marker->marker_name,
						  marker->workflow_task_completed_event_id);
	command->outcome = marker->failure ? OPD_OUTCOME_FAILED : OPD_OUTCOME_COMPLETED;
	command->outcome_event_id = event->event_id;
	command->result = keep_payloads(history, result);
	command->failure = keep_failure(history, marker->failure);
}

/* The attributes that an event of this type must have. */
static Tp__HistoryEvent__AttributesCase
wanted_attributes(Tp__EventType type)
{
	switch (type)
	{
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
			return TP__HISTORY_EVENT__ATTRIBUTES_WORKFLOW_EXECUTION_STARTED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
			return TP__HISTORY_EVENT__ATTRIBUTES_WORKFLOW_TASK_COMPLETED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			return TP__HISTORY_EVENT__ATTRIBUTES_ACTIVITY_TASK_SCHEDULED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			return TP__HISTORY_EVENT__ATTRIBUTES_ACTIVITY_TASK_COMPLETED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_FAILED:
			return TP__HISTORY_EVENT__ATTRIBUTES_ACTIVITY_TASK_FAILED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
			return TP__HISTORY_EVENT__ATTRIBUTES_ACTIVITY_TASK_TIMED_OUT_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
			return TP__HISTORY_EVENT__ATTRIBUTES_ACTIVITY_TASK_CANCEL_REQUESTED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_CANCELED:
			return TP__HISTORY_EVENT__ATTRIBUTES_ACTIVITY_TASK_CANCELED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_TIMER_STARTED:
			return TP__HISTORY_EVENT__ATTRIBUTES_TIMER_STARTED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_TIMER_FIRED:
			return TP__HISTORY_EVENT__ATTRIBUTES_TIMER_FIRED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_TIMER_CANCELED:
			return TP__HISTORY_EVENT__ATTRIBUTES_TIMER_CANCELED_EVENT_ATTRIBUTES;
		case TP__EVENT_TYPE__EVENT_TYPE_MARKER_RECORDED:
			return TP__HISTORY_EVENT__ATTRIBUTES_MARKER_RECORDED_EVENT_ATTRIBUTES;
		default:
			return TP__HISTORY_EVENT__ATTRIBUTES__NOT_SET;
	}
}

/* Ends of a workflow; commands that we never give; anything else. */
static void
add_other(OpdHistory *history, const Tp__HistoryEvent *event)
{
	switch (event->event_type)
	{
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
			history->closed_by = event->event_type;
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
		case TP__EVENT_TYPE__EVENT_TYPE_REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
		case TP__EVENT_TYPE__EVENT_TYPE_SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED:
		case TP__EVENT_TYPE__EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_PROPERTIES_MODIFIED:
		case TP__EVENT_TYPE__EVENT_TYPE_NEXUS_OPERATION_SCHEDULED:
			add_command(history, event, OPD_PAST_OTHER, "",
						psprintf("command of event type %d", (int) event->event_type), 0);
			break;
		default:
			break;
	}
}

static void
add_event(OpdHistory *history, const Tp__HistoryEvent *event)
{
	OpdPastCommand *command;

	switch (event->event_type)
	{
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
			add_started(history, event);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_TASK_STARTED:
			add_task(history, event->event_id);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
			if (history->n_tasks > 0)
				history->tasks[history->n_tasks - 1].completed_id = event->event_id;
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_TASK_FAILED:
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_TASK_TIMED_OUT:
			if (history->n_tasks > 0 && history->tasks[history->n_tasks - 1].completed_id == 0)
				history->n_tasks--;
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
			{
				Tp__ActivityTaskScheduledEventAttributes *a = event->activity_task_scheduled_event_attributes;

				add_command(history, event, OPD_PAST_ACTIVITY, a->activity_id,
							a->activity_type ? a->activity_type->name : "",
							a->workflow_task_completed_event_id);
				break;
			}
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
			settle(history, event, event->activity_task_completed_event_attributes->scheduled_event_id,
				   OPD_OUTCOME_COMPLETED, event->activity_task_completed_event_attributes->result, NULL);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_FAILED:
			settle(history, event, event->activity_task_failed_event_attributes->scheduled_event_id,
				   OPD_OUTCOME_FAILED, NULL, event->activity_task_failed_event_attributes->failure);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
			settle(history, event, event->activity_task_timed_out_event_attributes->scheduled_event_id,
				   OPD_OUTCOME_FAILED, NULL, event->activity_task_timed_out_event_attributes->failure);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_CANCELED:
			settle(history, event, event->activity_task_canceled_event_attributes->scheduled_event_id,
				   OPD_OUTCOME_CANCELED, NULL, NULL);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
			{
				Tp__ActivityTaskCancelRequestedEventAttributes *a = event->activity_task_cancel_requested_event_attributes;

				command = add_command(history, event, OPD_PAST_CANCEL_ACTIVITY, "", "",
									  a->workflow_task_completed_event_id);
				command->of_event_id = a->scheduled_event_id;
				break;
			}
		case TP__EVENT_TYPE__EVENT_TYPE_TIMER_STARTED:
			{
				Tp__TimerStartedEventAttributes *a = event->timer_started_event_attributes;

				add_command(history, event, OPD_PAST_TIMER, a->timer_id, "",
							a->workflow_task_completed_event_id);
				break;
			}
		case TP__EVENT_TYPE__EVENT_TYPE_TIMER_FIRED:
			settle(history, event, event->timer_fired_event_attributes->started_event_id,
				   OPD_OUTCOME_COMPLETED, NULL, NULL);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_TIMER_CANCELED:
			{
				Tp__TimerCanceledEventAttributes *a = event->timer_canceled_event_attributes;

				settle(history, event, a->started_event_id, OPD_OUTCOME_CANCELED, NULL, NULL);
				add_command(history, event, OPD_PAST_CANCEL_TIMER, a->timer_id, "",
							a->workflow_task_completed_event_id);
				break;
			}
		case TP__EVENT_TYPE__EVENT_TYPE_MARKER_RECORDED:
			add_marker(history, event);
			break;
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
			if (history->cancel_requested_id == 0)
				history->cancel_requested_id = event->event_id;
			break;
		default:
			add_other(history, event);
			break;
	}
}

/*
 * More than we take? Few bytes on the wire can take much memory, of which an
 * honest history, with what the allocator adds, takes twice its bytes.
 */
static bool
is_too_long(const OpdHistory *history, const Tp__HistoryEvent *event)
{
	return event->event_id > OPD_HISTORY_MAX_EVENTS ||
		history->kept_bytes > OPD_HISTORY_MAX_BYTES ||
		MemoryContextMemAllocated(history->context, true) > 2 * OPD_HISTORY_MAX_BYTES;
}

const char *
opd_history_add(OpdHistory *history, const Tp__History *events)
{
	MemoryContext old = MemoryContextSwitchTo(history->context);
	const char *problem = NULL;

	for (size_t i = 0; events != NULL && i < events->n_events && problem == NULL; i++)
	{
		Tp__HistoryEvent *event = events->events[i];
		Tp__HistoryEvent__AttributesCase wanted = wanted_attributes(event->event_type);

		if (event->event_id != history->last_event_id + 1)
			problem = psprintf("event " INT64_FORMAT " follows event " INT64_FORMAT,
							   event->event_id, history->last_event_id);
		else if (wanted != TP__HISTORY_EVENT__ATTRIBUTES__NOT_SET && event->attributes_case != wanted)
			problem = psprintf("event " INT64_FORMAT " lacks its attributes", event->event_id);
		else if (is_too_long(history, event))
			problem = "the history is longer than we take";
		else
		{
			add_event(history, event);
			history->last_event_id = event->event_id;
			if (history->odd)
				problem = psprintf("event " INT64_FORMAT " cannot be kept", event->event_id);
		}
	}
	MemoryContextSwitchTo(old);
	return problem;
}

const char *
opd_history_state(const OpdHistory *history)
{
	switch (history->closed_by)
	{
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
			return "completed";
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
			return "failed";
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
			return "timed_out";
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
			return "canceled";
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
			return "terminated";
		case TP__EVENT_TYPE__EVENT_TYPE_WORKFLOW_EXECUTION_CONTINUED_AS_NEW:
			return "continued_as_new";
		default:
			return history->cancel_requested_id != 0 ? "cancel_requested" : "running";
	}
}
