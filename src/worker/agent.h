/*-------------------------------------------------------------------------
 *
 * agent.h
 *	  One worker process at work: what its parts share.
 *
 *		worker.c	the process: when it works, and when it leaves
 *		polls.c		asks for tasks, as many as there is room for
 *		route.c		the way to the control plane: certificates, proxy, API key
 *		signin.c	the token of the agent
 *		keyring.c	the master keys, where a command gives them
 *		courier.c	tells the control plane's HTTP API
 *		health.c	tells the customer
 *		workflowtask.c	a workflow task from its history to the answer
 *		activitytask.c	an activity task from its input to the answer
 *		work.c		what either of them has done
 *		workflows.c	the workflows, as lists of steps
 *
 * Nothing acts in a callback of the loop: callbacks note what has come, and
 * after each turn worker.c lets every part go on ("advance"). Memory contexts
 * are therefore deleted and transactions run outside of the loop only.
 *
 * src/worker/agent.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_AGENT_H
#define OPD_AGENT_H

#include "lib/ilist.h"

#include "conf/conf.h"
#include "task/task.h"
#include "temporal/client.h"
#include "temporal/workflow.h"

typedef struct OpdAgent
{
	MemoryContext context;		/* lives as long as the process */
	OpdLoop    *loop;
	OpdWorkerConf *conf;
	OpdHttp    *http;
	OpdClient  *client;
	struct OpdRoute *route;		/* route.c */
	OpdHttpRoute web;			/* to token endpoint and HTTP API */
	bool		route_problem;	/* a file that is needed cannot be used */
	struct OpdSignin *signin;	/* signin.c; NULL: no token is needed */
	struct OpdCourier *courier; /* courier.c */
	OpdKeySource keys;			/* where master keys come from, until this process ends */
	struct OpdKeyring *keyring; /* keyring.c */
	bool		lacks_key;		/* the key command has not given the current key */
	bool		suspended;		/* opdata_suspend() was called */
	uint64		generation;		/* of the state of things that was looked at last */
	char	   *agent_id;		/* a UUID; NULL: not known yet */
	bool		is_copy;		/* the database was noted for another cluster */
	const char *name;			/* "interactive 1" */
	bool		bulk;
	char	   *queue;			/* tenant-{orgId} */
	char	   *bulk_queue;
	bool		stopping;		/* no new tasks */
	double		advance_at_ms;	/* when to advance again, should nothing happen */
	int			n_running;		/* slots in use */
	int			n_polls;		/* open polls */
	dlist_head	runs;			/* workflowtask.c */
	dlist_head	activities;		/* activitytask.c */
	struct OpdPolls *polls;		/* polls.c */
} OpdAgent;

/* -------------------------------------------------------------- signin.c */

/* Get a token when the settings ask for one; needs agent->client. */
extern void opd_signin_start(OpdAgent *agent);
extern double opd_signin_advance(OpdAgent *agent);

/* Is there a token, or none needed? And was it not refused by Temporal? */
extern bool opd_signin_has_token(const OpdAgent *agent);
extern bool opd_signin_ready(const OpdAgent *agent);

/*
 * Temporal refused the token of a call: true when another one will come, so
 * that the refusal is not the last word.
 */
extern bool opd_signin_refused(OpdAgent *agent);
extern void opd_signin_accepted(OpdAgent *agent);

/* Somebody else did: get another one, which nobody waits for. */
extern void opd_signin_renew(OpdAgent *agent);

/* The token, or NULL. */
extern const char *opd_signin_bearer(const OpdAgent *agent);

/* ------------------------------------------------------------- courier.c */

extern void opd_courier_start(OpdAgent *agent);
extern double opd_courier_advance(OpdAgent *agent);

/* ------------------------------------------------------------- keyring.c */

extern double opd_keyring_advance(OpdAgent *agent);

/* --------------------------------------------------------------- polls.c */

/* Begin to ask for tasks; needs agent->client. */
extern void opd_polls_start(OpdAgent *agent);

/* Look at what came, and ask again. Returns when to be called next, at the latest. */
extern double opd_polls_advance(OpdAgent *agent);

/* Tell the server that no poll will follow; *answered is set when it knows. */
extern void opd_polls_say_goodbye(OpdAgent *agent, bool *answered);

/* Close the connections of all open polls. */
extern void opd_polls_stop(OpdAgent *agent);

/* The way to the server is another one: end the pause after a failure. */
extern void opd_polls_try_again(OpdAgent *agent);

/* -------------------------------------------------------- workflowtask.c */

/*
 * Take a workflow task that came by a poll. "context" holds the response and is
 * the task's from now on.
 */
extern void opd_workflowtask_take(OpdAgent *agent, MemoryContext context,
								  const Tp__PollWorkflowTaskQueueResponse *response);
extern double opd_workflowtask_advance(OpdAgent *agent);

/* -------------------------------------------------------- activitytask.c */

extern void opd_activitytask_take(OpdAgent *agent, MemoryContext context,
								  const Tp__PollActivityTaskQueueResponse *response);
extern double opd_activitytask_advance(OpdAgent *agent);

/*
 * An error was raised in the loop by what belongs to this memory context. The
 * task that it is part of has failed; false when it is none of ours.
 */
extern bool opd_workflowtask_break(OpdAgent *agent, MemoryContext owner);
extern bool opd_activitytask_break(OpdAgent *agent, MemoryContext owner);

/* Is a memory context the other one, or below it? */
extern bool opd_agent_context_in(MemoryContext context, MemoryContext ancestor);

/* Call function(arg); what it raises goes to the log, and gives false. */
extern bool opd_agent_guard(void (*function) (void *arg), void *arg);

/*
 * Give back to the server what is under way, so that another worker goes on.
 * True as long as there is something to wait for.
 */
extern bool opd_workflowtask_give_back(OpdAgent *agent);
extern bool opd_activitytask_give_back(OpdAgent *agent);

/* ----------------------------------------------------------- workflows.c */

/* The function of a workflow type; NULL when we do not know it. */
extern OpdWorkflowFunction opd_workflows_find(const char *type);

#endif							/* OPD_AGENT_H */
