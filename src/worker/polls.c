/*-------------------------------------------------------------------------
 *
 * polls.c
 *	  Asks for tasks, as many as there is room for.
 *
 * Every poll has a connection of its own, on which nothing else is said. A
 * poll that has been answered with a task becomes a running task, so that open
 * polls and running tasks together never exceed the slots. When there is
 * little room left, the two kinds of polls take turns.
 *
 * src/worker/polls.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "utils/memutils.h"

#include "base/limits.h"
#include "worker/agent.h"
#include "worker/state.h"

/* Pauses after a failed poll. */
#define PAUSE_MS			200
#define EXHAUSTED_PAUSE_MS	1000
#define PAUSE_MAX_MS		10000
#define SETTLED_MS			1000
#define REFUSED_PAUSE_MS	10000
#define REFUSED_PAUSE_MAX_MS 60000

/*
 * A proxy that ends a poll after this long, in whatever way, has done nothing
 * wrong, and a server need not have answered one by its deadline.
 */
#define LONG_POLL_MS		20000

typedef enum PollKind
{
	WORKFLOW_POLL,
	ACTIVITY_POLL,
	PROBE						/* GetSystemInfo: is somebody there? */
} PollKind;

typedef struct Poll
{
	struct OpdPolls *polls;
	PollKind	kind;
	MemoryContext context;		/* of the call under way; NULL: none */
	double		begun_ms;
	bool		replied;
	OpdRpcReply reply;
} Poll;

typedef struct OpdPolls
{
	OpdAgent   *agent;
	bool		found;			/* the probe was answered, and no poll failed since */
	double		settled_at_ms;	/* after a failure: in contact if none follows until then */
	double		not_before_ms;	/* pause after a failure */
	double		pause_ms;		/* the next one, 0: none before */
	PollKind	last_kind;
	int			n_polls;
	Poll	   *polls;			/* polls[0] is the probe */
} OpdPolls;

static void
on_reply(void *arg, const OpdRpcReply *reply)
{
	Poll	   *poll = arg;

	poll->replied = true;
	poll->reply = *reply;
}

static void
begin_poll(Poll *poll)
{
	OpdAgent   *agent = poll->polls->agent;
	OpdClient  *client = agent->client;
	Tp__TaskQueue queue = TP__TASK_QUEUE__INIT;
	MemoryContext old;

	poll->context = AllocSetContextCreate(agent->context, "opdata poll", ALLOCSET_DEFAULT_SIZES);
	poll->replied = false;
	poll->begun_ms = opd_now_ms();
	if (poll->kind != PROBE)
	{
		agent->n_polls++;
		poll->polls->last_kind = poll->kind;
	}
	old = MemoryContextSwitchTo(poll->context);
	queue.name = agent->bulk ? agent->bulk_queue : agent->queue;
	queue.kind = TP__TASK_QUEUE_KIND__TASK_QUEUE_KIND_NORMAL;
	if (poll->kind == PROBE)
	{
		Tp__GetSystemInfoRequest request = TP__GET_SYSTEM_INFO_REQUEST__INIT;

		opd_client_call(client, OPD_RPC_SYSTEM_INFO, &request.base, OPD_RPC_DEADLINE_MS, on_reply, poll);
	}
	else if (poll->kind == WORKFLOW_POLL)
	{
		Tp__PollWorkflowTaskQueueRequest request = TP__POLL_WORKFLOW_TASK_QUEUE_REQUEST__INIT;

		request.namespace_ = client->namespace;
		request.task_queue = &queue;
		request.identity = client->identity;
		request.worker_instance_key = client->instance_key;
		opd_client_call(client, OPD_RPC_POLL_WORKFLOW, &request.base, OPD_POLL_DEADLINE_MS, on_reply, poll);
	}
	else
	{
		Tp__PollActivityTaskQueueRequest request = TP__POLL_ACTIVITY_TASK_QUEUE_REQUEST__INIT;

		request.namespace_ = client->namespace;
		request.task_queue = &queue;
		request.identity = client->identity;
		request.worker_instance_key = client->instance_key;
		opd_client_call(client, OPD_RPC_POLL_ACTIVITY, &request.base, OPD_POLL_DEADLINE_MS, on_reply, poll);
	}
	MemoryContextSwitchTo(old);
}

static void
end_poll(Poll *poll, bool keep_context)
{
	if (poll->kind != PROBE)
		poll->polls->agent->n_polls--;
	if (!keep_context)
		MemoryContextDelete(poll->context);
	poll->context = NULL;
	poll->replied = false;
}

/* An answer came, be it without a task. */
static void
note_good(OpdPolls *polls, const char *server_version)
{
	if (polls->pause_ms > 0)
		ereport(LOG,
				(errmsg("opdata worker \"%s\" is in contact with Temporal at %s again",
						polls->agent->name, polls->agent->conf->temporal_address)));
	polls->pause_ms = 0;
	polls->not_before_ms = 0;
	polls->settled_at_ms = 0;
	opd_state_note_poll(server_version);
	if (!polls->agent->stopping)
		opd_state_set(OPD_WORKER_POLLING);
}

static void
note_failure(Poll *poll)
{
	OpdPolls   *polls = poll->polls;
	int			status = poll->reply.status;
	OpdWorkerState state = OPD_WORKER_UNREACHABLE;
	double		first_ms = PAUSE_MS;
	double		max_ms = PAUSE_MAX_MS;
	bool		first = polls->pause_ms == 0;
	double		pause_ms;

	switch (status)
	{
		case OPD_GRPC_INVALID_ARGUMENT:
		case OPD_GRPC_NOT_FOUND:
		case OPD_GRPC_ALREADY_EXISTS:
		case OPD_GRPC_PERMISSION_DENIED:
		case OPD_GRPC_FAILED_PRECONDITION:
		case OPD_GRPC_UNIMPLEMENTED:
		case OPD_GRPC_UNAUTHENTICATED:
			state = OPD_WORKER_REFUSED;
			first_ms = REFUSED_PAUSE_MS;
			max_ms = REFUSED_PAUSE_MAX_MS;
			break;
		case OPD_GRPC_RESOURCE_EXHAUSTED:
			first_ms = EXHAUSTED_PAUSE_MS;
			break;
		default:
			break;
	}
	polls->found = false;
	polls->settled_at_ms = 0;
	opd_state_note_error(opd_grpc_status_name(status), poll->reply.message);
	opd_state_set(state);

	/* one pause for all polls, which mostly fail together */
	if (polls->not_before_ms > poll->begun_ms)
		return;
	pause_ms = Max(polls->pause_ms, first_ms);
	polls->not_before_ms = opd_now_ms() + opd_client_jitter(pause_ms);
	polls->pause_ms = Min(pause_ms * 2, max_ms);
	if (first)
		ereport(LOG,
				(errmsg("opdata worker \"%s\" gets no tasks from Temporal at %s: %s %s",
						polls->agent->name, polls->agent->conf->temporal_address,
						opd_grpc_status_name(status), poll->reply.message),
				 status == OPD_GRPC_NOT_FOUND ?
				 errhint("Check opdata.temporal_namespace.") :
				 errhint("It goes on trying; opdata_status() tells when it succeeds.")));
}

/*
 * The server has taken the token of a poll. An answer to the probe tells
 * nothing about it, nor does one to a poll that was begun with another.
 */
static void
note_taken(Poll *poll)
{
	OpdAgent   *agent = poll->polls->agent;

	if (poll->reply.bearer_number == agent->client->bearer_number)
		opd_signin_accepted(agent);
}

static void
take_reply(Poll *poll)
{
	OpdPolls   *polls = poll->polls;
	OpdAgent   *agent = polls->agent;
	bool		keep = false;

	if (poll->reply.status != OPD_GRPC_OK)
	{
		bool		denied = poll->reply.status == OPD_GRPC_UNAUTHENTICATED ||
			poll->reply.status == OPD_GRPC_PERMISSION_DENIED;
		bool		is_long = poll->kind != PROBE && opd_now_ms() - poll->begun_ms >= LONG_POLL_MS;

		/* one task that is too large says nothing about the server */
		if (poll->reply.too_large)
			opd_state_note_error(opd_grpc_status_name(poll->reply.status), poll->reply.message);
		/* nor a token that has been replaced, or will be now */
		else if (denied && (poll->reply.bearer_number != agent->client->bearer_number ||
							(agent->conf->temporal_auth == OPD_AUTH_TOKEN && opd_signin_refused(agent))))
			polls->found = false;
		/* nor does a long poll that something between us and it has cut; but look */
		else if (is_long)
			polls->found = false;
		else
			note_failure(poll);
		end_poll(poll, false);
		return;
	}
	if (poll->kind == PROBE)
	{
		const Tp__GetSystemInfoResponse *response = (const Tp__GetSystemInfoResponse *) poll->reply.response;

		/*
		 * An answer to the probe is not yet one to a poll, which may stay open
		 * for a minute: after a failure wait if it fails again.
		 */
		polls->found = true;
		if (polls->pause_ms == 0)
			note_good(polls, response->server_version);
		else
			polls->settled_at_ms = opd_now_ms() + SETTLED_MS;
	}
	else if (poll->kind == WORKFLOW_POLL)
	{
		const Tp__PollWorkflowTaskQueueResponse *response = (const Tp__PollWorkflowTaskQueueResponse *) poll->reply.response;

		note_taken(poll);
		note_good(polls, NULL);
		keep = response->task_token.len > 0;
		if (keep)
			opd_workflowtask_take(agent, poll->context, response);
	}
	else
	{
		const Tp__PollActivityTaskQueueResponse *response = (const Tp__PollActivityTaskQueueResponse *) poll->reply.response;

		note_taken(poll);
		note_good(polls, NULL);
		keep = response->task_token.len > 0;
		if (keep)
			opd_activitytask_take(agent, poll->context, response);
	}
	end_poll(poll, keep);
}

/* Which poll to begin: of the kind with fewer open ones, else in turns. */
static Poll *
choose_poll(OpdPolls *polls)
{
	Poll	   *idle[2] = {NULL, NULL};
	int			n_open[2] = {0, 0};

	for (int i = 1; i < polls->n_polls; i++)
	{
		Poll	   *poll = &polls->polls[i];

		if (poll->context != NULL)
			n_open[poll->kind]++;
		else
			idle[poll->kind] = poll;
	}
	if (idle[WORKFLOW_POLL] == NULL || idle[ACTIVITY_POLL] == NULL)
		return idle[WORKFLOW_POLL] ? idle[WORKFLOW_POLL] : idle[ACTIVITY_POLL];
	if (n_open[WORKFLOW_POLL] != n_open[ACTIVITY_POLL])
		return idle[n_open[WORKFLOW_POLL] < n_open[ACTIVITY_POLL] ? WORKFLOW_POLL : ACTIVITY_POLL];
	return idle[polls->last_kind == WORKFLOW_POLL ? ACTIVITY_POLL : WORKFLOW_POLL];
}

/* What keeps this process from asking; OPD_WORKER_STOPPED: nothing. */
static OpdWorkerState
reason_to_hold(const OpdAgent *agent)
{
	if (agent->suspended)
		return OPD_WORKER_SUSPENDED;
	if (agent->is_copy)
		return OPD_WORKER_COPY;
	if (agent->agent_id == NULL)
		return OPD_WORKER_CONNECTING;
	if (agent->route_problem || agent->lacks_key)
		return OPD_WORKER_MISCONFIGURED;
	if (!opd_signin_has_token(agent))
		return OPD_WORKER_NO_TOKEN;
	return OPD_WORKER_STOPPED;
}

double
opd_polls_advance(OpdAgent *agent)
{
	OpdPolls   *polls = agent->polls;
	Poll	   *poll;
	bool		replied = false;
	OpdWorkerState reason;

	if (polls == NULL)
		return INFINITY;
	for (int i = 0; i < polls->n_polls; i++)
	{
		if (!polls->polls[i].replied)
			continue;
		take_reply(&polls->polls[i]);
		replied = true;
	}
	/* a task that came is to begin before the poll that takes its place */
	if (replied)
		return 0;
	if (agent->stopping)
		return INFINITY;
	if ((reason = reason_to_hold(agent)) != OPD_WORKER_STOPPED)
	{
		bool		stopped = agent->n_polls > 0;

		opd_polls_stop(agent);
		opd_state_set(reason);
		polls->found = false;
		return stopped ? 0 : INFINITY;
	}
	/* another token is coming: what is open may go on */
	if (!opd_signin_ready(agent))
	{
		if (agent->n_polls == 0)
			opd_state_set(OPD_WORKER_NO_TOKEN);
		return INFINITY;
	}
	if (opd_now_ms() < polls->not_before_ms)
		return polls->not_before_ms;

	if (!polls->found)
	{
		if (polls->polls[0].context == NULL)
			begin_poll(&polls->polls[0]);
		return INFINITY;
	}
	while (agent->n_running + agent->n_polls < OPD_WORKER_SLOTS &&
		   (poll = choose_poll(polls)) != NULL)
		begin_poll(poll);
	if (polls->settled_at_ms == 0)
		return INFINITY;
	if (opd_now_ms() < polls->settled_at_ms)
		return polls->settled_at_ms;
	note_good(polls, NULL);
	return INFINITY;
}

void
opd_polls_start(OpdAgent *agent)
{
	OpdPolls   *polls = MemoryContextAllocZero(agent->context, sizeof(OpdPolls));
	int			n_workers = agent->bulk ? opd_conf_bulk_workers() : opd_conf_interactive_workers();
	int			n_of_kind = (OPD_QUEUE_POLLERS + n_workers - 1) / n_workers;

	/* the queue of long jobs has activities only */
	polls->agent = agent;
	polls->n_polls = 1 + (agent->bulk ? n_of_kind : 2 * n_of_kind);
	polls->polls = MemoryContextAllocZero(agent->context, sizeof(Poll) * polls->n_polls);
	for (int i = 0; i < polls->n_polls; i++)
	{
		polls->polls[i].polls = polls;
		polls->polls[i].kind = i == 0 ? PROBE :
			(agent->bulk || i > n_of_kind) ? ACTIVITY_POLL : WORKFLOW_POLL;
	}
	agent->polls = polls;
}

void
opd_polls_try_again(OpdAgent *agent)
{
	if (agent->polls != NULL)
		agent->polls->not_before_ms = 0;
	agent->advance_at_ms = 0;
}

static void
on_goodbye(void *arg, const OpdRpcReply *reply)
{
	*(bool *) arg = true;
}

/*
 * Tell the server that this process polls no more. A newer server then ends
 * the polls itself, so that none takes a task with it; an older one does
 * nothing, or does not know the call.
 */
void
opd_polls_say_goodbye(OpdAgent *agent, bool *answered)
{
	OpdClient  *client = agent->client;
	Tp__ShutdownWorkerRequest request = TP__SHUTDOWN_WORKER_REQUEST__INIT;
	Tp__TaskQueueType types[] = {
		TP__TASK_QUEUE_TYPE__TASK_QUEUE_TYPE_WORKFLOW, TP__TASK_QUEUE_TYPE__TASK_QUEUE_TYPE_ACTIVITY
	};

	*answered = false;
	request.namespace_ = client->namespace;
	request.sticky_task_queue = "";
	request.identity = client->identity;
	request.reason = "the agent stops";
	request.worker_instance_key = client->instance_key;
	request.task_queue = agent->bulk ? agent->bulk_queue : agent->queue;
	request.task_queue_types = types;
	request.n_task_queue_types = lengthof(types);
	MemoryContextSwitchTo(agent->context);
	opd_client_call(client, OPD_RPC_SHUTDOWN_WORKER, &request.base, OPD_RPC_DEADLINE_MS, on_goodbye, answered);
}

void
opd_polls_stop(OpdAgent *agent)
{
	OpdPolls   *polls = agent->polls;

	if (polls == NULL)
		return;
	for (int i = 0; i < polls->n_polls; i++)
	{
		/* what has come already is not to be lost */
		if (polls->polls[i].replied)
			take_reply(&polls->polls[i]);
		if (polls->polls[i].context != NULL)
			end_poll(&polls->polls[i], false);
	}
}
