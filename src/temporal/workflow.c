/*-------------------------------------------------------------------------
 *
 * workflow.c
 *	  Workflows as C functions that are replayed over their history.
 *
 * Replay walks the history's commands with a cursor: each step takes the next
 * one, or, when there is none left, gives a new command. "task" says in which
 * workflow task the function is at that point: it starts in the first, and a
 * step that waited goes on in the first task after its outcome. A new command
 * can be given in the last task only; in an earlier one it would be missing in
 * the history. What the function can observe besides its steps (a patch, a
 * cancel request) is decided by that position too, and so comes out the same
 * in each replay.
 *
 * A local step spans workflow tasks that were answered with nothing while it
 * ran. Its marker is left out when the workflow closes in the same answer.
 *
 * src/temporal/workflow.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/text.h"
#include "temporal/payload.h"
#include "temporal/workflow.h"

#define MISFIT_NAME_CHARS 100

struct OpdWorkflow
{
	const OpdHistory *history;
	const OpdLocalOutcome *local;
	const char *queue;
	const char *bulk_queue;
	int			cursor;			/* next command of the history */
	int			task;			/* index of the task that the function is in */
	bool		stopped;		/* a step waits, or the workflow is closed */
	bool		local_marker_last;	/* the last command given is a local step's marker */
	int			max_commands;
	OpdDecision *decision;
};

/* ------------------------------------------------------------ position */

static bool
in_last_task(OpdWorkflow *workflow)
{
	return workflow->task == workflow->history->n_tasks - 1;
}

/* Go on in the first task that began after an event. */
static void
go_on_after(OpdWorkflow *workflow, int64 event_id)
{
	const OpdHistory *history = workflow->history;

	while (workflow->task < history->n_tasks - 1 &&
		   history->tasks[workflow->task].started_id < event_id)
		workflow->task++;
}

static void
misfit(OpdWorkflow *workflow, const char *message)
{
	if (workflow->decision->misfit == NULL)
		workflow->decision->misfit = message;
	workflow->stopped = true;
}

static const OpdPastCommand *
next_command(OpdWorkflow *workflow)
{
	return workflow->cursor < workflow->history->n_commands ?
		&workflow->history->commands[workflow->cursor] : NULL;
}

/* A name in the history, for one line of the log. */
static const char *
shown(const char *name)
{
	char	   *clean = opd_text_clean(name, Min(strlen(name), 4 * MISFIT_NAME_CHARS), MISFIT_NAME_CHARS, NULL);

	for (char *p = clean; *p != '\0'; p++)
	{
		if (*p == '\n' || *p == '\t')
			*p = ' ';
	}
	return clean;
}

/*
 * Take the next command of the history when it is of this kind; NULL when a
 * new one is to be given. Anything else does not fit.
 */
static const OpdPastCommand *
take(OpdWorkflow *workflow, OpdPastKind kind, const char *id, const char *type)
{
	const OpdPastCommand *command = next_command(workflow);

	if (command == NULL)
	{
		if (!in_last_task(workflow))
			misfit(workflow, psprintf("step \"%s\" does not stand in the history, which ends its workflow task with event " INT64_FORMAT,
									  id, workflow->history->tasks[workflow->task].completed_id));
		return NULL;
	}
	if (command->kind != kind || strcmp(command->id, id) != 0 || strcmp(command->type, type) != 0)
	{
		misfit(workflow, psprintf("step \"%s\" meets event " INT64_FORMAT " of the history, which is of %s \"%s\" (%s)",
								  id, command->event_id,
								  command->kind == OPD_PAST_ACTIVITY ? "activity" :
								  command->kind == OPD_PAST_TIMER ? "timer" :
								  command->kind == OPD_PAST_MARKER ? "marker" : "another command",
								  shown(command->id), shown(command->type)));
		return NULL;
	}
	workflow->cursor++;
	return command;
}

/* ------------------------------------------------------------ commands */

static Tp__Command *
give(OpdWorkflow *workflow, Tp__CommandType type, Tp__Command__AttributesCase attributes_case)
{
	OpdDecision *decision = workflow->decision;
	Tp__Command *command = palloc(sizeof(Tp__Command));

	tp__command__init(command);
	command->command_type = type;
	command->attributes_case = attributes_case;
	if (decision->n_commands == workflow->max_commands)
	{
		workflow->max_commands = Max(8, workflow->max_commands * 2);
		decision->commands = decision->commands ?
			repalloc(decision->commands, workflow->max_commands * sizeof(Tp__Command *)) :
			palloc(workflow->max_commands * sizeof(Tp__Command *));
	}
	decision->commands[decision->n_commands++] = command;
	workflow->local_marker_last = false;
	return command;
}

static Tp__Duration *
duration(int64 ms)
{
	Tp__Duration *duration = palloc(sizeof(Tp__Duration));

	tp__duration__init(duration);
	duration->seconds = ms / 1000;
	duration->nanos = ms % 1000 * 1000000;
	return duration;
}

/* A closing command: nothing of the history may be left over. */
static Tp__Command *
close_with(OpdWorkflow *workflow, Tp__CommandType type, Tp__Command__AttributesCase attributes_case)
{
	const OpdPastCommand *left = next_command(workflow);

	workflow->stopped = true;
	if (left != NULL)
	{
		misfit(workflow, psprintf("the workflow ends where event " INT64_FORMAT " of the history goes on",
								  left->event_id));
		return NULL;
	}
	if (workflow->local_marker_last)
		workflow->decision->n_commands--;
	workflow->decision->closed = true;
	return give(workflow, type, attributes_case);
}

static void
close_canceled(OpdWorkflow *workflow)
{
	Tp__Command *command = close_with(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_CANCEL_WORKFLOW_EXECUTION,
									  TP__COMMAND__ATTRIBUTES_CANCEL_WORKFLOW_EXECUTION_COMMAND_ATTRIBUTES);
	Tp__CancelWorkflowExecutionCommandAttributes *a = palloc(sizeof(*a));

	if (command == NULL)
		return;
	tp__cancel_workflow_execution_command_attributes__init(a);
	command->cancel_workflow_execution_command_attributes = a;
}

static void
close_failed(OpdWorkflow *workflow, Tp__Failure *failure)
{
	Tp__Command *command = close_with(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_FAIL_WORKFLOW_EXECUTION,
									  TP__COMMAND__ATTRIBUTES_FAIL_WORKFLOW_EXECUTION_COMMAND_ATTRIBUTES);
	Tp__FailWorkflowExecutionCommandAttributes *a = palloc(sizeof(*a));

	if (command == NULL)
		return;
	tp__fail_workflow_execution_command_attributes__init(a);
	a->failure = failure;
	command->fail_workflow_execution_command_attributes = a;
}

void
opd_workflow_complete(OpdWorkflow *workflow, Tp__Payloads *result)
{
	Tp__Command *command;
	Tp__CompleteWorkflowExecutionCommandAttributes *a;

	if (workflow->stopped)
		return;
	command = close_with(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_COMPLETE_WORKFLOW_EXECUTION,
						 TP__COMMAND__ATTRIBUTES_COMPLETE_WORKFLOW_EXECUTION_COMMAND_ATTRIBUTES);
	if (command == NULL)
		return;
	a = palloc(sizeof(*a));
	tp__complete_workflow_execution_command_attributes__init(a);
	a->result = result;
	command->complete_workflow_execution_command_attributes = a;
}

static void
give_marker(OpdWorkflow *workflow, const char *name, const char *id,
			Tp__Payloads *result, Tp__Failure *failure)
{
	Tp__Command *command = give(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_RECORD_MARKER,
								TP__COMMAND__ATTRIBUTES_RECORD_MARKER_COMMAND_ATTRIBUTES);
	Tp__RecordMarkerCommandAttributes *a = palloc(sizeof(*a));
	Tp__MarkerDetailsEntry *entries = palloc(2 * sizeof(*entries));

	tp__record_marker_command_attributes__init(a);
	a->marker_name = unconstify(char *, name);
	a->details = palloc(2 * sizeof(*a->details));
	tp__marker_details_entry__init(&entries[0]);
	entries[0].key = OPD_MARKER_ID;
	entries[0].value = opd_payload_of_bytes(id, strlen(id));
	a->details[a->n_details++] = &entries[0];
	if (result != NULL)
	{
		tp__marker_details_entry__init(&entries[1]);
		entries[1].key = OPD_MARKER_RESULT;
		entries[1].value = result;
		a->details[a->n_details++] = &entries[1];
	}
	a->failure = failure;
	command->record_marker_command_attributes = a;
}

/* --------------------------------------------------------------- steps */

Tp__Payloads *
opd_workflow_input(OpdWorkflow *workflow)
{
	return workflow->history->input;
}

/* Is a cancel request seen in this task? */
static bool
cancelled_in(OpdWorkflow *workflow, int task)
{
	const OpdHistory *history = workflow->history;

	return history->cancel_requested_id != 0 &&
		history->cancel_requested_id < history->tasks[task].started_id;
}

bool
opd_workflow_cancelled(OpdWorkflow *workflow)
{
	return cancelled_in(workflow, workflow->task);
}

/*
 * A step that has ended: true with its result, or the workflow is closed by
 * what became of it.
 */
static bool
conclude(OpdWorkflow *workflow, OpdOutcome outcome, Tp__Payloads *step_result,
		 Tp__Failure *failure, Tp__Payloads **result)
{
	switch (outcome)
	{
		case OPD_OUTCOME_COMPLETED:
			if (result != NULL)
				*result = step_result;
			return true;
		case OPD_OUTCOME_CANCELED:
			close_canceled(workflow);
			return false;
		default:
			/* one failure, in the same form wherever the step ran */
			if (failure == NULL)
				failure = opd_failure_new("internal", "the activity failed without saying why", false);
			else if (failure->failure_info_case == TP__FAILURE__FAILURE_INFO_TIMEOUT_FAILURE_INFO)
				failure = opd_failure_new("timeout",
										  failure->timeout_failure_info->timeout_type == TP__TIMEOUT_TYPE__TIMEOUT_TYPE_HEARTBEAT ?
										  "the agent stopped working on it" : "the agent did not end it in time",
										  false);
			close_failed(workflow, failure);
			return false;
	}
}

static void
schedule_activity(OpdWorkflow *workflow, const OpdActivityOptions *options, Tp__Payloads *input)
{
	Tp__Command *command = give(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK,
								TP__COMMAND__ATTRIBUTES_SCHEDULE_ACTIVITY_TASK_COMMAND_ATTRIBUTES);
	Tp__ScheduleActivityTaskCommandAttributes *a = palloc(sizeof(*a));
	Tp__RetryPolicy *retry = palloc(sizeof(*retry));

	tp__schedule_activity_task_command_attributes__init(a);
	a->activity_id = unconstify(char *, options->id);
	a->activity_type = palloc(sizeof(Tp__ActivityType));
	tp__activity_type__init(a->activity_type);
	a->activity_type->name = unconstify(char *, options->type);
	a->task_queue = palloc(sizeof(Tp__TaskQueue));
	tp__task_queue__init(a->task_queue);
	a->task_queue->name = unconstify(char *, options->bulk ? workflow->bulk_queue : workflow->queue);
	a->task_queue->kind = TP__TASK_QUEUE_KIND__TASK_QUEUE_KIND_NORMAL;
	a->input = input;
	a->start_to_close_timeout = duration(options->start_to_close_ms);
	a->heartbeat_timeout = duration(options->heartbeat_ms);

	tp__retry_policy__init(retry);
	retry->initial_interval = duration(1000);
	retry->backoff_coefficient = 2;
	retry->maximum_attempts = options->max_attempts;
	a->retry_policy = retry;
	command->schedule_activity_task_command_attributes = a;
}

/* Ask the server to cancel an activity, unless the history says we did. */
static void
cancel_activity(OpdWorkflow *workflow, const OpdPastCommand *activity)
{
	Tp__RequestCancelActivityTaskCommandAttributes *a;

	if (!cancelled_in(workflow, workflow->history->n_tasks - 1))
		return;
	a = palloc(sizeof(*a));
	tp__request_cancel_activity_task_command_attributes__init(a);
	a->scheduled_event_id = activity->event_id;
	give(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_REQUEST_CANCEL_ACTIVITY_TASK,
		 TP__COMMAND__ATTRIBUTES_REQUEST_CANCEL_ACTIVITY_TASK_COMMAND_ATTRIBUTES)
		->request_cancel_activity_task_command_attributes = a;
}

bool
opd_workflow_activity(OpdWorkflow *workflow, const OpdActivityOptions *options,
					  Tp__Payloads *input, Tp__Payloads **result)
{
	const OpdPastCommand *activity;
	const OpdPastCommand *next;
	bool		cancel_sent;

	if (workflow->stopped)
		return false;
	activity = take(workflow, OPD_PAST_ACTIVITY, options->id, options->type);
	if (workflow->stopped)
		return false;
	if (activity == NULL)
	{
		if (opd_workflow_cancelled(workflow))
			close_canceled(workflow);
		else
			schedule_activity(workflow, options, input);
		workflow->stopped = true;
		return false;
	}

	next = next_command(workflow);
	cancel_sent = next != NULL && next->kind == OPD_PAST_CANCEL_ACTIVITY &&
		next->of_event_id == activity->event_id;
	if (cancel_sent)
		workflow->cursor++;
	if (activity->outcome == OPD_OUTCOME_NONE)
	{
		if (!cancel_sent)
			cancel_activity(workflow, activity);
		workflow->stopped = true;
		return false;
	}
	go_on_after(workflow, activity->outcome_event_id);
	return conclude(workflow, activity->outcome, activity->result, activity->failure, result);
}

bool
opd_workflow_local(OpdWorkflow *workflow, const char *id, const char *type,
				   Tp__Payloads *input, Tp__Payloads **result)
{
	const OpdLocalOutcome *local = workflow->local;
	const OpdPastCommand *marker = NULL;

	if (workflow->stopped)
		return false;
	/* it may have run over several tasks, of which only the last tells */
	if (next_command(workflow) == NULL)
		workflow->task = workflow->history->n_tasks - 1;
	else
		marker = take(workflow, OPD_PAST_MARKER, id, OPD_MARKER_STEP);
	if (workflow->stopped)
		return false;
	if (marker != NULL)
	{
		while (!in_last_task(workflow) &&
			   workflow->history->tasks[workflow->task].completed_id < marker->task_completed_id)
			workflow->task++;
		return conclude(workflow, marker->outcome, marker->result, marker->failure, result);
	}
	if (local != NULL && strcmp(local->id, id) == 0)
	{
		give_marker(workflow, OPD_MARKER_STEP, id, local->result, local->failure);
		workflow->local_marker_last = true;
		return conclude(workflow, local->failure ? OPD_OUTCOME_FAILED : OPD_OUTCOME_COMPLETED,
						local->result, local->failure, result);
	}
	if (opd_workflow_cancelled(workflow))
	{
		close_canceled(workflow);
		return false;
	}
	workflow->decision->local_id = id;
	workflow->decision->local_type = type;
	workflow->decision->local_input = input;
	workflow->stopped = true;
	return false;
}

bool
opd_workflow_timer(OpdWorkflow *workflow, const char *id, int64 ms)
{
	const OpdPastCommand *timer;

	if (workflow->stopped)
		return false;
	timer = take(workflow, OPD_PAST_TIMER, id, "");
	if (workflow->stopped)
		return false;
	if (timer == NULL)
	{
		if (opd_workflow_cancelled(workflow))
			close_canceled(workflow);
		else
		{
			Tp__StartTimerCommandAttributes *a = palloc(sizeof(*a));

			tp__start_timer_command_attributes__init(a);
			a->timer_id = unconstify(char *, id);
			a->start_to_fire_timeout = duration(ms);
			give(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_START_TIMER,
				 TP__COMMAND__ATTRIBUTES_START_TIMER_COMMAND_ATTRIBUTES)->start_timer_command_attributes = a;
		}
		workflow->stopped = true;
		return false;
	}
	if (timer->outcome == OPD_OUTCOME_COMPLETED)
	{
		go_on_after(workflow, timer->outcome_event_id);
		return true;
	}
	if (timer->outcome == OPD_OUTCOME_NONE && cancelled_in(workflow, workflow->history->n_tasks - 1))
	{
		Tp__CancelTimerCommandAttributes *a = palloc(sizeof(*a));

		tp__cancel_timer_command_attributes__init(a);
		a->timer_id = unconstify(char *, id);
		give(workflow, TP__COMMAND_TYPE__COMMAND_TYPE_CANCEL_TIMER,
			 TP__COMMAND__ATTRIBUTES_CANCEL_TIMER_COMMAND_ATTRIBUTES)->cancel_timer_command_attributes = a;
		close_canceled(workflow);
	}
	else if (timer->outcome == OPD_OUTCOME_CANCELED)
	{
		if (take(workflow, OPD_PAST_CANCEL_TIMER, id, "") != NULL)
			close_canceled(workflow);
	}
	workflow->stopped = true;
	return false;
}

bool
opd_workflow_patched(OpdWorkflow *workflow, const char *id)
{
	const OpdPastCommand *next = next_command(workflow);

	if (workflow->stopped)
		return false;
	if (next != NULL)
	{
		if (next->kind != OPD_PAST_MARKER || strcmp(next->type, OPD_MARKER_PATCH) != 0 ||
			strcmp(next->id, id) != 0)
			return false;
		workflow->cursor++;
		return true;
	}
	if (!in_last_task(workflow))
		return false;
	give_marker(workflow, OPD_MARKER_PATCH, id, NULL, NULL);
	return true;
}

/* -------------------------------------------------------------- replay */

OpdDecision *
opd_workflow_replay(OpdWorkflowFunction function, const OpdHistory *history,
					const OpdLocalOutcome *local, const char *queue, const char *bulk_queue)
{
	OpdWorkflow workflow = {
		.history = history,
		.local = local,
		.queue = queue,
		.bulk_queue = bulk_queue,
		.decision = palloc0(sizeof(OpdDecision))
	};
	const OpdPastCommand *left;

	if (history->n_tasks == 0)
		misfit(&workflow, "the history has no workflow task");
	else
		function(&workflow);

	left = next_command(&workflow);
	if (left != NULL && !workflow.decision->closed)
		misfit(&workflow, psprintf("the workflow waits before event " INT64_FORMAT " of the history",
								   left->event_id));
	else if (!workflow.stopped)
		misfit(&workflow, "the workflow returned without an end");
	return workflow.decision;
}
