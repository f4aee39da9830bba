/*-------------------------------------------------------------------------
 *
 * activitytask.c
 *	  An activity task from its input to the answer.
 *
 *		TAKEN -> [LOOKING] -> WORKING -> ANSWERING
 *
 * While it works, heartbeats tell the server how far it is and bring back a
 * cancel request, which ends the work on the source too. The answer is
 * repeated until the server has taken it; should it be lost all the same, the
 * next attempt finds the recorded result (task/task.c).
 *
 * A preview must not leave when a schedule started its workflow. A workflow
 * task shows that in its history; for an activity the first event is asked
 * for (LOOKING).
 *
 * src/worker/activitytask.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "utils/memutils.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "temporal/payload.h"
#include "worker/agent.h"
#include "worker/work.h"

#define HEARTBEAT_MS		700
#define HEARTBEAT_MIN_MS	100
#define HEARTBEAT_DEADLINE_MS 2000
#define HEARTBEAT_SHARE		0.4 /* of a shorter heartbeat timeout */
#define ANSWER_MS			60000	/* an answer is repeated for so long */

typedef enum ActivityState
{
	ACTIVITY_TAKEN,				/* nothing was done yet */
	ACTIVITY_LOOKING,			/* at the first event of the workflow */
	ACTIVITY_WORKING,
	ACTIVITY_ANSWERING,
	ACTIVITY_OVER
} ActivityState;

typedef struct Activity
{
	dlist_node	node;			/* in agent->activities */
	OpdAgent   *agent;
	MemoryContext context;		/* holds "task" too */
	ActivityState state;
	const Tp__PollActivityTaskQueueResponse *task;
	double		taken_ms;
	double		heartbeat_ms;	/* between two */
	double		heartbeat_at_ms;

	OpdWork    *work;			/* WORKING */

	/* LOOKING and ANSWERING */
	MemoryContext call_context;
	bool		replied;
	OpdRpcReply reply;

	/* the heartbeat under way */
	MemoryContext heartbeat_context;
	bool		heartbeat_replied;
	OpdRpcReply heartbeat_reply;
} Activity;

static void
on_reply(void *arg, const OpdRpcReply *reply)
{
	Activity   *activity = arg;

	activity->replied = true;
	activity->reply = *reply;
}

static void
on_heartbeat_reply(void *arg, const OpdRpcReply *reply)
{
	Activity   *activity = arg;

	activity->heartbeat_replied = true;
	activity->heartbeat_reply = *reply;
}

static void
drop_context(MemoryContext *context)
{
	if (*context != NULL)
		MemoryContextDelete(*context);
	*context = NULL;
}

/* ------------------------------------------------------------- the answer */

static MemoryContext
enter_answer(Activity *activity)
{
	drop_context(&activity->heartbeat_context);
	activity->heartbeat_replied = false;
	drop_context(&activity->call_context);
	activity->call_context = AllocSetContextCreate(activity->context, "opdata call", ALLOCSET_DEFAULT_SIZES);
	activity->replied = false;
	activity->state = ACTIVITY_ANSWERING;
	return MemoryContextSwitchTo(activity->call_context);
}

static void
answer_completed(Activity *activity, Tp__Payloads *result)
{
	OpdClient  *client = activity->agent->client;
	Tp__RespondActivityTaskCompletedRequest request = TP__RESPOND_ACTIVITY_TASK_COMPLETED_REQUEST__INIT;
	MemoryContext old = enter_answer(activity);

	request.task_token = activity->task->task_token;
	request.result = result;
	request.identity = client->identity;
	request.namespace_ = client->namespace;
	opd_client_answer(client, OPD_RPC_ACTIVITY_COMPLETED, &request.base,
					  opd_now_ms() + ANSWER_MS, on_reply, activity);
	MemoryContextSwitchTo(old);
}

static void
answer_failed(Activity *activity, Tp__Failure *failure)
{
	OpdClient  *client = activity->agent->client;
	Tp__RespondActivityTaskFailedRequest request = TP__RESPOND_ACTIVITY_TASK_FAILED_REQUEST__INIT;
	MemoryContext old = enter_answer(activity);

	request.task_token = activity->task->task_token;
	request.failure = failure;
	request.identity = client->identity;
	request.namespace_ = client->namespace;
	opd_client_answer(client, OPD_RPC_ACTIVITY_FAILED, &request.base,
					  opd_now_ms() + ANSWER_MS, on_reply, activity);
	MemoryContextSwitchTo(old);
}

static void
answer_canceled(Activity *activity)
{
	OpdClient  *client = activity->agent->client;
	Tp__RespondActivityTaskCanceledRequest request = TP__RESPOND_ACTIVITY_TASK_CANCELED_REQUEST__INIT;
	MemoryContext old = enter_answer(activity);

	request.task_token = activity->task->task_token;
	request.identity = client->identity;
	request.namespace_ = client->namespace;
	opd_client_answer(client, OPD_RPC_ACTIVITY_CANCELED, &request.base,
					  opd_now_ms() + ANSWER_MS, on_reply, activity);
	MemoryContextSwitchTo(old);
}

/* --------------------------------------------------------------- the work */

static void
stop_work(Activity *activity)
{
	if (activity->work != NULL)
		opd_work_cancel(activity->work);
	activity->work = NULL;
}

static void
start_work(Activity *activity, bool by_schedule, const char *requested_by)
{
	const Tp__PollActivityTaskQueueResponse *task = activity->task;
	OpdWorkOrder order = {
		.type = task->activity_type->name,
		.input = task->input,
		.workflow_id = task->workflow_execution->workflow_id,
		.run_id = task->workflow_execution->run_id,
		.activity_id = task->activity_id,
		.attempt = task->attempt,
		.by_schedule = by_schedule,
		.requested_by = requested_by
	};

	activity->state = ACTIVITY_WORKING;
	activity->work = opd_work_start(activity->agent, activity->context, &order);
}

/* The work has ended, and is freed: that is the answer. */
static void
answer_end(Activity *activity, const OpdWorkEnd *end)
{
	activity->work = NULL;
	if (end->failure != NULL)
		answer_failed(activity, end->failure);
	else
		answer_completed(activity, end->result);
}

static void
advance_work(Activity *activity)
{
	MemoryContext old = MemoryContextSwitchTo(activity->context);
	OpdWorkEnd	end;

	if (opd_work_advance(activity->work, &end))
		answer_end(activity, &end);
	MemoryContextSwitchTo(old);
}

/* ------------------------------------------------------------- heartbeats */

static void
send_heartbeat(Activity *activity)
{
	OpdClient  *client = activity->agent->client;
	Tp__RecordActivityTaskHeartbeatRequest request = TP__RECORD_ACTIVITY_TASK_HEARTBEAT_REQUEST__INIT;
	MemoryContext old;
	OpdJson		json;

	activity->heartbeat_at_ms = opd_now_ms() + activity->heartbeat_ms;
	if (activity->heartbeat_context != NULL || activity->work == NULL)
		return;					/* the last one is still under way */
	activity->heartbeat_context = AllocSetContextCreate(activity->context, "opdata heartbeat", ALLOCSET_DEFAULT_SIZES);
	activity->heartbeat_replied = false;
	old = MemoryContextSwitchTo(activity->heartbeat_context);

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "phase", opd_work_phase(activity->work));
	opd_json_add_int(&json, "elapsedMs", (int64) (opd_now_ms() - activity->taken_ms));
	request.task_token = activity->task->task_token;
	request.details = opd_payload_of_json("heartbeat details", opd_json_end_object(&json));
	request.identity = client->identity;
	request.namespace_ = client->namespace;
	/* one that gets lost must not keep the next ones back for long */
	opd_client_call(client, OPD_RPC_ACTIVITY_HEARTBEAT, &request.base,
					(long) Max(HEARTBEAT_DEADLINE_MS, 3 * activity->heartbeat_ms),
					on_heartbeat_reply, activity);
	MemoryContextSwitchTo(old);
}

static void
take_heartbeat_reply(Activity *activity)
{
	const Tp__RecordActivityTaskHeartbeatResponse *response =
		(const Tp__RecordActivityTaskHeartbeatResponse *) activity->heartbeat_reply.response;
	int			status = activity->heartbeat_reply.status;
	bool		cancel_requested = response != NULL && response->cancel_requested;
	bool		interrupted = response != NULL && (response->activity_paused || response->activity_reset);

	drop_context(&activity->heartbeat_context);
	activity->heartbeat_replied = false;
	if (activity->state != ACTIVITY_WORKING)
		return;
	if (cancel_requested)
	{
		stop_work(activity);
		answer_canceled(activity);
	}
	else if (interrupted)
	{
		stop_work(activity);
		answer_failed(activity, opd_failure_new("ActivityPaused", "the activity was paused or reset", false));
	}
	else if (status == OPD_GRPC_NOT_FOUND)
	{
		/* the workflow is over, or another attempt runs: nobody waits for us */
		stop_work(activity);
		activity->state = ACTIVITY_OVER;
	}
}

/* --------------------------------------------------------------- the task */

/* Who started the workflow, and that it was no schedule; in *identity, if it is known. */
static bool
started_by_schedule(const OpdRpcReply *reply, const char **identity)
{
	const Tp__GetWorkflowExecutionHistoryResponse *response = (const Tp__GetWorkflowExecutionHistoryResponse *) reply->response;
	OpdHistory *history = opd_history_new();

	/* what cannot be looked at is taken for one */
	if (opd_history_add(history, response->history) != NULL || history->last_event_id == 0)
		return true;
	*identity = history->identity;
	return history->by_schedule;
}

static void
look_at_workflow(Activity *activity)
{
	OpdClient  *client = activity->agent->client;
	Tp__GetWorkflowExecutionHistoryRequest request = TP__GET_WORKFLOW_EXECUTION_HISTORY_REQUEST__INIT;
	MemoryContext old = enter_answer(activity);

	activity->state = ACTIVITY_LOOKING;
	request.namespace_ = client->namespace;
	request.execution = activity->task->workflow_execution;
	request.maximum_page_size = 1;
	opd_client_answer(client, OPD_RPC_HISTORY, &request.base,
					  opd_now_ms() + OPD_RPC_DEADLINE_MS, on_reply, activity);
	MemoryContextSwitchTo(old);
}

static void
begin(Activity *activity)
{
	const Tp__PollActivityTaskQueueResponse *task = activity->task;
	const char *type = task->activity_type ? task->activity_type->name : "";

	if (task->activity_type == NULL || task->workflow_execution == NULL || !opd_task_is_known(type))
		answer_failed(activity,
					  opd_failure_new("NotFoundError",
									  psprintf("this agent (opdata %s) does not know activity type \"%s\"",
											   OPD_VERSION, opd_text_clean(type, strlen(type), 128, NULL)),
									  false));
	else if (strcmp(type, "previewQuery") == 0)
		look_at_workflow(activity);
	else
		start_work(activity, false, NULL);
}

void
opd_activitytask_take(OpdAgent *agent, MemoryContext context,
					  const Tp__PollActivityTaskQueueResponse *task)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Activity   *activity = palloc0(sizeof(Activity));

	activity->agent = agent;
	activity->context = context;
	activity->task = task;
	activity->taken_ms = opd_now_ms();
	activity->heartbeat_ms = HEARTBEAT_MS;
	if (task->heartbeat_timeout != NULL && task->heartbeat_timeout->seconds * 1000 +
		task->heartbeat_timeout->nanos / 1000000 > 0)
		activity->heartbeat_ms = Min(HEARTBEAT_MS, HEARTBEAT_SHARE *
									 (task->heartbeat_timeout->seconds * 1000 +
									  task->heartbeat_timeout->nanos / 1000000));
	activity->heartbeat_ms = Max(activity->heartbeat_ms, HEARTBEAT_MIN_MS);
	activity->heartbeat_at_ms = activity->taken_ms + activity->heartbeat_ms;
	dlist_push_tail(&agent->activities, &activity->node);
	agent->n_running++;

	MemoryContextSwitchTo(old);
}

static void
take_reply(Activity *activity)
{
	bool		by_schedule;
	const char *identity = NULL;
	MemoryContext old;

	activity->replied = false;
	if (activity->state == ACTIVITY_ANSWERING)
	{
		/* taken, or nobody wants it any more */
		activity->state = ACTIVITY_OVER;
		return;
	}
	if (activity->reply.status != OPD_GRPC_OK)
	{
		answer_failed(activity, opd_failure_new("internal", "the workflow could not be looked at", false));
		return;
	}
	old = MemoryContextSwitchTo(activity->call_context);
	by_schedule = started_by_schedule(&activity->reply, &identity);
	MemoryContextSwitchTo(old);
	/* copies what it is told */
	start_work(activity, by_schedule, identity);
	drop_context(&activity->call_context);
}

/* The work ended in an error of our own. */
static void
break_work(void *arg)
{
	Activity   *activity = arg;
	MemoryContext old = MemoryContextSwitchTo(activity->context);
	OpdWorkEnd	end;

	opd_work_break(activity->work, &end);
	answer_end(activity, &end);
	MemoryContextSwitchTo(old);
}

bool
opd_activitytask_break(OpdAgent *agent, MemoryContext owner)
{
	dlist_iter	iter;

	dlist_foreach(iter, &agent->activities)
	{
		Activity   *activity = dlist_container(Activity, node, iter.cur);

		if (!opd_agent_context_in(owner, activity->context))
			continue;
		if (activity->work == NULL || !opd_work_owns(activity->work, owner) ||
			!opd_agent_guard(break_work, activity))
			activity->state = ACTIVITY_OVER;	/* it times out and is retried */
		return true;
	}
	return false;
}

static double
advance(Activity *activity)
{
	if (activity->state == ACTIVITY_TAKEN)
		begin(activity);
	if (activity->replied)
		take_reply(activity);
	if (activity->heartbeat_replied)
		take_heartbeat_reply(activity);
	if (activity->work != NULL)
		advance_work(activity);
	if (activity->state != ACTIVITY_WORKING)
		return INFINITY;
	if (opd_now_ms() >= activity->heartbeat_at_ms)
		send_heartbeat(activity);
	return Min(activity->heartbeat_at_ms, opd_work_again_ms(activity->work));
}

/* advance() under opd_agent_guard(). */
typedef struct Advance
{
	Activity   *activity;
	double		next;
} Advance;

static void
advance_guarded(void *arg)
{
	Advance    *a = arg;

	a->next = advance(a->activity);
}

double
opd_activitytask_advance(OpdAgent *agent)
{
	double		next = INFINITY;
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &agent->activities)
	{
		Activity   *activity = dlist_container(Activity, node, iter.cur);
		Advance		a = {activity, INFINITY};

		if (!opd_agent_guard(advance_guarded, &a) &&
			(activity->work == NULL || !opd_agent_guard(break_work, activity)))
			activity->state = ACTIVITY_OVER;
		if (activity->state == ACTIVITY_OVER)
		{
			agent->n_running--;
			dlist_delete(&activity->node);
			MemoryContextDelete(activity->context);
		}
		else
			next = Min(next, a.next);
	}
	return next;
}

bool
opd_activitytask_give_back(OpdAgent *agent)
{
	bool		waits = false;
	dlist_iter	iter;

	dlist_foreach(iter, &agent->activities)
	{
		Activity   *activity = dlist_container(Activity, node, iter.cur);

		if (activity->state == ACTIVITY_OVER)
			continue;
		waits = true;
		if (activity->state == ACTIVITY_ANSWERING)
			continue;
		stop_work(activity);
		answer_failed(activity, opd_failure_new("WorkerShutdown", "the agent is being shut down", false));
	}
	return waits;
}
