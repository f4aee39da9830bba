/*-------------------------------------------------------------------------
 *
 * workflowtask.c
 *	  A workflow task from its history to the answer.
 *
 *		TAKEN -> [PAGING] -> decide -> ANSWERING
 *								   -> STEPPING <-> BEATING -> decide
 *								   -> HELD -> ANSWERING
 *		TAKEN -> [PAGING] -> query -> ANSWERING
 *
 * A local step runs while its task is in hand. Once a second, and at once for
 * a query that came with the task, the task is answered with no more than
 * what was decided so far and a new one is asked for in the same call (a
 * "beat"); it brings queries and a cancel request, and keeps the server from
 * giving the task to somebody else. When a beat or an answer is lost, or
 * refused because something has happened meanwhile, the run is kept for a
 * while (LOST): the task comes again, mostly to this process, and finds the
 * step running or its outcome ready.
 *
 * A task that we cannot do (an unknown workflow type, a history that does not
 * fit) is failed, which makes the server give it out again at once. The
 * failure is therefore held back for a growing while, in which it takes up
 * neither a slot nor memory worth mentioning.
 *
 * src/worker/workflowtask.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "utils/memutils.h"

#include "base/limits.h"
#include "base/text.h"
#include "temporal/decode.h"
#include "temporal/payload.h"
#include "worker/agent.h"
#include "worker/state.h"
#include "worker/work.h"
#include "worker/workflowanswer.h"

#define BEAT_MS				1000
#define BEAT_SHARE			0.4 /* of a shorter task timeout */
#define DEFAULT_TASK_TIMEOUT_MS 10000
#define LOST_MS				15000	/* how long a lost run is kept */
#define KEEP_EVENTS_BYTES	(256 * 1024)	/* of a task's memory */
#define VOID_MS				1000	/* the same for one whose task the server does not know */
#define HOLD_FIRST_MS		500
#define HOLD_MAX_MS			8000
#define HELD_MAX			150 /* held failures, well below OPD_HTTP_MAX_CONNECTIONS */
#define LOST_MAX			50	/* runs without a task, of one process */

typedef enum RunState
{
	RUN_TAKEN,					/* a task came, and nothing was done yet */
	RUN_PAGING,					/* the rest of the history is under way */
	RUN_DECIDING,				/* the history is whole */
	RUN_STEPPING,				/* a local step runs */
	RUN_BEATING,				/* the same, and a beat is under way */
	RUN_ANSWERING,				/* the answer is under way */
	RUN_HELD,					/* a failure waits to be sent */
	RUN_LOST,					/* no task in hand */
	RUN_OVER
} RunState;

typedef struct Run
{
	dlist_node	node;			/* in agent->runs */
	OpdAgent   *agent;
	MemoryContext context;		/* the run; parent of the others */
	RunState	state;
	bool		has_slot;
	bool		is_query;		/* nothing but a query, beside the run itself */
	char	   *workflow_id;
	char	   *run_id;

	/* the task in hand */
	MemoryContext task_context; /* holds "task" */
	const Tp__PollWorkflowTaskQueueResponse *task;
	double		taken_ms;
	double		beat_at_ms;
	double		until_ms;		/* HELD: send then; LOST: forget then */

	MemoryContext history_context;
	OpdHistory *history;
	ProtobufCBinaryData page_token; /* of the next page; in history_context */

	/* a call under way, and its reply */
	MemoryContext call_context;
	bool		replied;
	OpdRpcReply reply;

	/* what was decided last */
	OpdDecision *decision;		/* in task_context */
	Tp__WorkflowTaskFailedCause failed_cause;	/* HELD */
	const char *failed_type;
	char	   *failed_message;

	/* the local step */
	OpdWork    *step;			/* running */
	char	   *step_id;
	OpdLocalOutcome *outcome;	/* ended; in context */
} Run;

static void decide(Run *run);

/* A name that the server gave, for people. */
static char *
shown(const char *name)
{
	return opd_text_clean(name, strlen(name), 128, NULL);
}

static void
set_slot(Run *run, bool wanted)
{
	if (run->has_slot != wanted)
		run->agent->n_running += wanted ? 1 : -1;
	run->has_slot = wanted;
}

static double
task_timeout_ms(Run *run)
{
	return run->history != NULL && run->history->task_timeout_ms > 0 ?
		run->history->task_timeout_ms : DEFAULT_TASK_TIMEOUT_MS;
}

/* ----------------------------------------------------------------- calls */

static void
on_reply(void *arg, const OpdRpcReply *reply)
{
	Run		   *run = arg;

	run->replied = true;
	run->reply = *reply;
}

/* Enter the memory of a new call; back with MemoryContextSwitchTo(). */
static MemoryContext
enter_call(Run *run)
{
	Assert(run->call_context == NULL);
	run->call_context = AllocSetContextCreate(run->context, "opdata call", ALLOCSET_DEFAULT_SIZES);
	run->replied = false;
	return MemoryContextSwitchTo(run->call_context);
}

static void
leave_call(Run *run)
{
	if (run->call_context != NULL)
		MemoryContextDelete(run->call_context);
	run->call_context = NULL;
	run->replied = false;
}

static ProtobufCBinaryData
task_token(Run *run)
{
	return run->task->task_token;
}

/* ------------------------------------------------------------- the queries */

static OpdQueryFacts
query_facts(Run *run)
{
	OpdQueryFacts facts = {
		.history = run->history,
		.step = run->step_id,
		.phase = run->step != NULL ? opd_work_phase(run->step) : "answering"
	};

	if (run->step_id == NULL)
		facts.phase = NULL;
	return facts;
}

/*
 * A task that is nothing but a query, of a run that may be closed. A history
 * that we cannot take is the answer, too: nobody but the query waits for it.
 */
static void
answer_query_task(Run *run, const char *problem)
{
	Tp__RespondQueryTaskCompletedRequest request = TP__RESPOND_QUERY_TASK_COMPLETED_REQUEST__INIT;
	MemoryContext old = enter_call(run);
	OpdQueryFacts facts = query_facts(run);
	Tp__WorkflowQueryResult *result = opd_workflowanswer_query(run->task->query, &facts);

	request.task_token = task_token(run);
	request.namespace_ = run->agent->client->namespace;
	request.completed_type = problem ? TP__QUERY_RESULT_TYPE__QUERY_RESULT_TYPE_FAILED : result->result_type;
	request.query_result = problem ? NULL : result->answer;
	request.error_message = problem ? unconstify(char *, problem) : result->error_message;
	opd_client_answer(run->agent->client, OPD_RPC_QUERY_COMPLETED, &request.base,
					  run->taken_ms + OPD_RPC_DEADLINE_MS, on_reply, run);
	run->state = RUN_ANSWERING;
	MemoryContextSwitchTo(old);
}

/* -------------------------------------------------------------- the answer */

static Tp__QueryResultsEntry *
answer_query(Run *run, const Tp__QueriesEntry *entry)
{
	OpdQueryFacts facts = query_facts(run);
	Tp__QueryResultsEntry *result = palloc(sizeof(*result));

	tp__query_results_entry__init(result);
	result->key = entry->key;
	result->value = opd_workflowanswer_query(entry->value, &facts);
	return result;
}

/*
 * Answer the task in hand with the commands of the decision. A beat asks for
 * the next task in the same call.
 */
static void
send_completed(Run *run, bool beat)
{
	OpdClient  *client = run->agent->client;
	const Tp__PollWorkflowTaskQueueResponse *task = run->task;
	Tp__RespondWorkflowTaskCompletedRequest request = TP__RESPOND_WORKFLOW_TASK_COMPLETED_REQUEST__INIT;
	Tp__WorkflowTaskCompletedMetadata metadata = TP__WORKFLOW_TASK_COMPLETED_METADATA__INIT;
	Tp__CompletedCapabilities capabilities = TP__COMPLETED_CAPABILITIES__INIT;
	MemoryContext old = enter_call(run);

	metadata.sdk_name = "opdata";
	metadata.sdk_version = OPD_VERSION;
	capabilities.discard_speculative_workflow_task_with_events = true;
	request.task_token = task_token(run);
	request.identity = client->identity;
	request.namespace_ = client->namespace;
	request.sdk_metadata = &metadata;
	request.capabilities = &capabilities;
	request.commands = run->decision->commands;
	request.n_commands = run->decision->n_commands;
	request.force_create_new_workflow_task = beat;
	request.return_new_workflow_task = beat;

	request.query_results = palloc(sizeof(*request.query_results) * Max(task->n_queries, 1));
	for (size_t i = 0; i < task->n_queries; i++)
		request.query_results[request.n_query_results++] = answer_query(run, task->queries[i]);
	request.messages = palloc(sizeof(*request.messages) * Max(task->n_messages, 1));
	for (size_t i = 0; i < task->n_messages; i++)
	{
		Tp__Message *answer = opd_workflowanswer_reject(task->messages[i]);

		if (answer != NULL)
			request.messages[request.n_messages++] = answer;
	}
	opd_client_answer(client, OPD_RPC_WORKFLOW_COMPLETED, &request.base,
					  run->taken_ms + task_timeout_ms(run), on_reply, run);
	run->state = beat ? RUN_BEATING : RUN_ANSWERING;
	MemoryContextSwitchTo(old);
}

static void
send_failed(Run *run)
{
	OpdClient  *client = run->agent->client;
	Tp__RespondWorkflowTaskFailedRequest request = TP__RESPOND_WORKFLOW_TASK_FAILED_REQUEST__INIT;
	MemoryContext old = enter_call(run);

	request.task_token = task_token(run);
	request.cause = run->failed_cause;
	request.failure = opd_failure_new(run->failed_type, run->failed_message, false);
	request.identity = client->identity;
	request.namespace_ = client->namespace;
	opd_client_answer(client, OPD_RPC_WORKFLOW_FAILED, &request.base,
					  opd_now_ms() + OPD_RPC_DEADLINE_MS, on_reply, run);
	run->state = RUN_ANSWERING;
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------- the local step */

static void
start_step(Run *run)
{
	OpdWorkOrder order = {
		.type = run->decision->local_type,
		.input = run->decision->local_input,
		.workflow_id = run->workflow_id,
		.run_id = run->run_id,
		.activity_id = run->decision->local_id,
		.attempt = run->task->attempt,
		.by_schedule = run->history->by_schedule,
		.requested_by = run->history->identity
	};

	run->outcome = NULL;
	run->step_id = MemoryContextStrdup(run->context, run->decision->local_id);
	run->step = opd_work_start(run->agent, run->context, &order);
}

static void
cancel_step(Run *run)
{
	if (run->step != NULL)
		opd_work_cancel(run->step);
	run->step = NULL;
}

/* The step has ended, and is freed: keep its outcome. */
static void
keep_outcome(Run *run, const OpdWorkEnd *end)
{
	run->outcome = MemoryContextAllocZero(run->context, sizeof(OpdLocalOutcome));
	run->outcome->id = run->step_id;
	run->outcome->result = end->result;
	run->outcome->failure = end->failure;
	run->step = NULL;
}

static void
advance_step(Run *run)
{
	MemoryContext old = MemoryContextSwitchTo(run->context);
	OpdWorkEnd	end;

	if (opd_work_advance(run->step, &end))
		keep_outcome(run, &end);
	MemoryContextSwitchTo(old);
}

/* ------------------------------------------------------------ the decision */

/* Copy the task in hand without its events, to be rid of their memory. */
static void
shed_events(Run *run)
{
	MemoryContext context = AllocSetContextCreate(run->context, "opdata task", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	unconstify(Tp__PollWorkflowTaskQueueResponse *, run->task)->history = NULL;
	run->task = (const Tp__PollWorkflowTaskQueueResponse *) opd_decode_copy(&run->task->base);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(run->task_context);
	run->task_context = context;
}

/*
 * Fail the task, later: the server gives it out again at once, and soon would
 * do nothing else.
 */
static void
hold_failure(Run *run, Tp__WorkflowTaskFailedCause cause, const char *type, const char *message)
{
	int			n_held = 0;
	int			attempt = run->task->attempt;
	dlist_iter	iter;

	cancel_step(run);
	run->failed_cause = cause;
	run->failed_type = type;
	run->failed_message = MemoryContextStrdup(run->context, message);	/* it may lie in the history */
	run->until_ms = run->taken_ms +
		Min(HOLD_MAX_MS, HOLD_FIRST_MS * pow(2, Max(0, Min(attempt, 10) - 1)));
	run->until_ms = Min(run->until_ms, run->taken_ms + 0.8 * task_timeout_ms(run));
	run->state = RUN_HELD;
	shed_events(run);
	if (run->history_context != NULL)
		MemoryContextDelete(run->history_context);
	run->history_context = NULL;
	run->history = NULL;
	set_slot(run, false);

	/* not even a failure for what there is no room for: it will time out */
	dlist_foreach(iter, &run->agent->runs)
		n_held += dlist_container(Run, node, iter.cur)->state == RUN_HELD;
	if (n_held > HELD_MAX)
		run->state = RUN_OVER;
}

static void
decide(Run *run)
{
	OpdAgent   *agent = run->agent;
	OpdWorkflowFunction function = opd_workflows_find(run->history->workflow_type);
	MemoryContext old;

	if (run->is_query)
	{
		answer_query_task(run, NULL);
		return;
	}
	if (function == NULL)
	{
		opd_state_note_unknown_type(run->history->workflow_type);
		hold_failure(run, TP__WORKFLOW_TASK_FAILED_CAUSE__WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
					 "UnknownWorkflowType",
					 psprintf("this agent (opdata %s) does not know workflow type \"%s\"", OPD_VERSION,
							  shown(run->history->workflow_type)));
		return;
	}

	old = MemoryContextSwitchTo(run->task_context);
	run->decision = opd_workflow_replay(function, run->history, run->outcome, agent->queue, agent->bulk_queue);
	MemoryContextSwitchTo(old);
	if (run->decision->misfit != NULL)
	{
		opd_state_note_error("NON_DETERMINISTIC", run->decision->misfit);
		ereport(LOG,
				(errmsg("the history of workflow \"%s\" does not fit this version of opdata: %s",
						shown(run->workflow_id), run->decision->misfit),
				 errdetail("run \"%s\", type \"%s\"", shown(run->run_id), shown(run->history->workflow_type))));
		hold_failure(run, TP__WORKFLOW_TASK_FAILED_CAUSE__WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR,
					 "NonDeterministic", run->decision->misfit);
		return;
	}
	if (run->decision->local_id != NULL)
	{
		if (run->step == NULL && run->outcome != NULL && run->decision->n_commands > 0)
		{
			/* the outcome of the step before goes into the history first */
			send_completed(run, true);
			return;
		}
		if (run->step == NULL)
			start_step(run);
		run->state = RUN_STEPPING;
		run->beat_at_ms = run->task->n_queries > 0 || run->task->n_messages > 0 ? 0 :
			run->taken_ms + Min(BEAT_MS, BEAT_SHARE * task_timeout_ms(run));
		return;
	}
	cancel_step(run);
	send_completed(run, false);
}

/* ------------------------------------------------------------- the history */

/* The task is out of reach: keep what its step has, or forget it. */
static void
lose_task(Run *run)
{
	run->state = run->step != NULL || run->outcome != NULL ? RUN_LOST : RUN_OVER;
	run->until_ms = opd_now_ms() + LOST_MS;
}

static void
fetch_page(Run *run)
{
	OpdClient  *client = run->agent->client;
	Tp__GetWorkflowExecutionHistoryRequest request = TP__GET_WORKFLOW_EXECUTION_HISTORY_REQUEST__INIT;
	Tp__WorkflowExecution execution = TP__WORKFLOW_EXECUTION__INIT;
	MemoryContext old;

	if (opd_now_ms() > run->taken_ms + task_timeout_ms(run))
	{
		lose_task(run);			/* void by now, however many pages there are */
		return;
	}
	old = enter_call(run);

	execution.workflow_id = run->workflow_id;
	execution.run_id = run->run_id;
	request.namespace_ = client->namespace;
	request.execution = &execution;
	request.next_page_token = run->page_token;
	opd_client_answer(client, OPD_RPC_HISTORY, &request.base,
					  run->taken_ms + task_timeout_ms(run), on_reply, run);
	run->state = RUN_PAGING;
	MemoryContextSwitchTo(old);
}

static void
new_history(Run *run)
{
	MemoryContext old;

	if (run->history_context != NULL)
		MemoryContextDelete(run->history_context);
	run->history_context = AllocSetContextCreate(run->context, "opdata history", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(run->history_context);
	run->history = opd_history_new();
	memset(&run->page_token, 0, sizeof(run->page_token));
	MemoryContextSwitchTo(old);
}

/* Take one page, and ask for the next or decide. */
static void
add_page(Run *run, const Tp__History *events, const ProtobufCBinaryData *next_page_token)
{
	const char *problem = opd_history_add(run->history, events);

	if (problem == NULL && next_page_token->len == 0 && run->history->last_event_id == 0)
		problem = "the history is empty";
	if (problem != NULL && run->is_query)
	{
		answer_query_task(run, problem);
		return;
	}
	if (problem != NULL)
	{
		opd_state_note_error("HISTORY", problem);
		hold_failure(run, TP__WORKFLOW_TASK_FAILED_CAUSE__WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE,
					 "History", problem);
		return;
	}
	if (next_page_token->len > 0)
	{
		run->page_token.len = next_page_token->len;
		run->page_token.data = MemoryContextAlloc(run->history_context, next_page_token->len);
		memcpy(run->page_token.data, next_page_token->data, next_page_token->len);
		fetch_page(run);
		return;
	}
	/* what a long history holds has been gathered, and need not stay beside that */
	if (MemoryContextMemAllocated(run->task_context, true) > KEEP_EVENTS_BYTES)
		shed_events(run);
	decide(run);
}

/* -------------------------------------------------------- tasks of a run */

static void
set_task(Run *run, MemoryContext context, const Tp__PollWorkflowTaskQueueResponse *task)
{
	if (run->task_context != NULL)
		MemoryContextDelete(run->task_context);
	run->task_context = context;
	MemoryContextSetParent(context, run->context);
	run->task = task;
	run->decision = NULL;
	run->taken_ms = opd_now_ms();
}

static Run *
find_run(OpdAgent *agent, const char *run_id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &agent->runs)
	{
		Run		   *run = dlist_container(Run, node, iter.cur);

		if (run->state != RUN_OVER && !run->is_query && strcmp(run->run_id, run_id) == 0)
			return run;
	}
	return NULL;
}

static Run *
new_run(OpdAgent *agent, const char *workflow_id, const char *run_id)
{
	MemoryContext context = AllocSetContextCreate(agent->context, "opdata run", ALLOCSET_DEFAULT_SIZES);
	Run		   *run = MemoryContextAllocZero(context, sizeof(Run));

	run->agent = agent;
	run->context = context;
	run->workflow_id = MemoryContextStrdup(context, workflow_id);
	run->run_id = MemoryContextStrdup(context, run_id);
	dlist_push_tail(&agent->runs, &run->node);
	return run;
}

void
opd_workflowtask_take(OpdAgent *agent, MemoryContext context,
					  const Tp__PollWorkflowTaskQueueResponse *response)
{
	const char *workflow_id = response->workflow_execution ? response->workflow_execution->workflow_id : "";
	const char *run_id = response->workflow_execution ? response->workflow_execution->run_id : "";
	Run		   *run = response->query == NULL ? find_run(agent, run_id) : NULL;

	if (run != NULL)
		leave_call(run);		/* the task that was in hand is void */
	else
	{
		run = new_run(agent, workflow_id, run_id);
		run->is_query = response->query != NULL;
	}
	set_slot(run, true);
	set_task(run, context, response);
	run->state = RUN_TAKEN;		/* to be advanced under guard */
}

/* The answer to a beat: the next task, with the events since the last. */
static void
take_beat_reply(Run *run)
{
	const Tp__RespondWorkflowTaskCompletedResponse *response = (const Tp__RespondWorkflowTaskCompletedResponse *) run->reply.response;
	const Tp__PollWorkflowTaskQueueResponse *task = response ? response->workflow_task : NULL;
	MemoryContext context = run->call_context;

	if (run->reply.status != OPD_GRPC_OK || task == NULL || task->task_token.len == 0)
	{
		/* void: timed out, and then it comes again at once; or nobody waits any more */
		run->until_ms = opd_now_ms() + (run->reply.status == OPD_GRPC_NOT_FOUND ? VOID_MS : LOST_MS);
		leave_call(run);
		run->task = NULL;
		run->state = RUN_LOST;
		return;
	}
	run->call_context = NULL;
	run->replied = false;
	set_task(run, context, task);
	if (task->history == NULL || task->history->n_events == 0 ||
		task->history->events[0]->event_id != run->history->last_event_id + 1)
	{
		/* not what follows what we have: read it anew */
		new_history(run);
		if (task->history == NULL || task->history->n_events == 0 ||
			task->history->events[0]->event_id != 1)
		{
			fetch_page(run);
			return;
		}
	}
	add_page(run, task->history, &task->next_page_token);
}

static void
take_answer_reply(Run *run)
{
	int			status = run->reply.status;

	/*
	 * Refused, because a signal or a cancel request came meanwhile, or lost:
	 * the task will come again, and should not repeat the step.
	 */
	if (status != OPD_GRPC_OK && run->outcome != NULL)
	{
		run->state = RUN_LOST;
		run->until_ms = opd_now_ms() + LOST_MS;
	}
	else
		run->state = RUN_OVER;
	leave_call(run);
}

static void
take_page_reply(Run *run)
{
	const Tp__GetWorkflowExecutionHistoryResponse *response = (const Tp__GetWorkflowExecutionHistoryResponse *) run->reply.response;
	MemoryContext context = run->call_context;

	run->call_context = NULL;
	run->replied = false;
	if (run->reply.status != OPD_GRPC_OK)
		lose_task(run);
	else
		add_page(run, response->history, &response->next_page_token);
	MemoryContextDelete(context);
}

static void
take_reply(Run *run)
{
	switch (run->state)
	{
		case RUN_PAGING:
			take_page_reply(run);
			break;
		case RUN_BEATING:
			take_beat_reply(run);
			break;
		case RUN_ANSWERING:
			take_answer_reply(run);
			break;
		default:
			leave_call(run);
			break;
	}
}

static void break_step(void *arg);

bool
opd_workflowtask_break(OpdAgent *agent, MemoryContext owner)
{
	dlist_iter	iter;

	dlist_foreach(iter, &agent->runs)
	{
		Run		   *run = dlist_container(Run, node, iter.cur);

		if (!opd_agent_context_in(owner, run->context))
			continue;
		if (run->step == NULL || !opd_work_owns(run->step, owner) ||
			!opd_agent_guard(break_step, run))
			run->state = RUN_OVER;	/* the task times out and comes again */
		return true;
	}
	return false;
}

/* Let a run go on. Returns when it wants to be called next. */
static double
advance(Run *run)
{
	double		now = opd_now_ms();

	if (run->replied)
		take_reply(run);
	if (run->step != NULL)
		advance_step(run);

	switch (run->state)
	{
		case RUN_TAKEN:
			new_history(run);
			add_page(run, run->task->history, &run->task->next_page_token);
			break;
		case RUN_STEPPING:
			if (run->outcome != NULL)
				decide(run);
			else if (now >= run->beat_at_ms)
				send_completed(run, true);
			else
				return run->beat_at_ms;
			break;
		case RUN_HELD:
			if (now < run->until_ms)
				return run->until_ms;
			send_failed(run);
			break;
		case RUN_LOST:
			set_slot(run, run->step != NULL);
			if (now < run->until_ms)
				return run->until_ms;
			cancel_step(run);
			run->state = RUN_OVER;
			break;
		default:
			break;
	}
	return INFINITY;
}

/* advance() under opd_agent_guard(). */
typedef struct Advance
{
	Run		   *run;
	double		next;
} Advance;

static void
advance_guarded(void *arg)
{
	Advance    *a = arg;

	a->next = advance(a->run);
}

/* The step ended in an error of our own. */
static void
break_step(void *arg)
{
	Run		   *run = arg;
	MemoryContext old = MemoryContextSwitchTo(run->context);
	OpdWorkEnd	end;

	opd_work_break(run->step, &end);
	keep_outcome(run, &end);
	MemoryContextSwitchTo(old);
}

double
opd_workflowtask_advance(OpdAgent *agent)
{
	double		next = INFINITY;
	int			n_lost = 0;
	dlist_iter	look;
	dlist_mutable_iter iter;

	dlist_foreach(look, &agent->runs)
		n_lost += dlist_container(Run, node, look.cur)->state == RUN_LOST;
	dlist_foreach_modify(iter, &agent->runs)
	{
		Run		   *run = dlist_container(Run, node, iter.cur);
		Advance		a = {run, INFINITY};

		/* they hold no slot, so that their number needs a bound of its own */
		if (run->state == RUN_LOST && n_lost > LOST_MAX)
		{
			run->until_ms = 0;
			n_lost--;
		}

		if (!opd_agent_guard(advance_guarded, &a))
		{
			if (run->step == NULL || !opd_agent_guard(break_step, run))
				run->state = RUN_OVER;
			a.next = 0;
		}
		if (run->state == RUN_OVER)
		{
			set_slot(run, false);
			dlist_delete(&run->node);
			MemoryContextDelete(run->context);
		}
		else
		{
			next = Min(next, a.next);
			if (run->step != NULL)
				next = Min(next, opd_work_again_ms(run->step));
		}
	}
	return next;
}

/*
 * The process ends: fail the tasks in hand, which sends them to another worker
 * at once. To be called again until it returns false: a beat that is under way
 * brings a new task.
 */
bool
opd_workflowtask_give_back(OpdAgent *agent)
{
	bool		waits = false;
	dlist_iter	iter;

	dlist_foreach(iter, &agent->runs)
	{
		Run		   *run = dlist_container(Run, node, iter.cur);

		switch (run->state)
		{
			case RUN_TAKEN:
			case RUN_PAGING:
			case RUN_STEPPING:
			case RUN_HELD:
				cancel_step(run);
				leave_call(run);
				if (run->is_query)
				{
					run->state = RUN_OVER;
					break;
				}
				run->failed_cause = TP__WORKFLOW_TASK_FAILED_CAUSE__WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE;
				run->failed_type = "WorkerShutdown";
				run->failed_message = "the agent is being shut down";
				send_failed(run);
				waits = true;
				break;
			case RUN_BEATING:
			case RUN_ANSWERING:
				waits = true;
				break;
			default:
				break;
		}
	}
	return waits;
}
