/*-------------------------------------------------------------------------
 *
 * workflow.h
 *	  Workflows as C functions that are replayed over their history.
 *
 * A workflow is a list of steps:
 *
 *		static void
 *		nightly(OpdWorkflow *workflow)
 *		{
 *			Tp__Payloads *rows;
 *
 *			if (!opd_workflow_timer(workflow, "pause", 60000))
 *				return;
 *			if (!opd_workflow_activity(workflow, &count, input, &rows))
 *				return;
 *			opd_workflow_complete(workflow, rows);
 *		}
 *
 * It runs from the start at each workflow task. A step whose outcome stands in
 * the history returns true at once; one that is to begin, or has not ended,
 * returns false, and so the function returns and is called again at the next
 * task. A step that failed or was canceled has closed the workflow and
 * returns false, too, so that there is nothing to tell apart.
 *
 * The function must be deterministic: it may look at its arguments and at the
 * outcome of its steps, and at nothing else. Steps are matched with the
 * history by their order, kind, id and type. A history that does not fit fails
 * the workflow task, never the workflow, so that a corrected library goes on
 * with it. To change a workflow of which runs are under way, ask
 * opd_workflow_patched().
 *
 * src/temporal/workflow.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_WORKFLOW_H
#define OPD_WORKFLOW_H

#include "temporal/history.h"

/* Markers of ours, and the keys of their details. */
#define OPD_MARKER_STEP		"opdata_step"
#define OPD_MARKER_PATCH	"opdata_patch"
#define OPD_MARKER_ID		"id"
#define OPD_MARKER_RESULT	"result"

typedef struct OpdWorkflow OpdWorkflow;
typedef void (*OpdWorkflowFunction) (OpdWorkflow *workflow);

/* How an activity is scheduled. */
typedef struct OpdActivityOptions
{
	const char *id;				/* once in a workflow */
	const char *type;
	bool		bulk;			/* on the queue of long jobs */
	int			max_attempts;	/* 0: no limit */
	int64		start_to_close_ms;
	int64		heartbeat_ms;
} OpdActivityOptions;

/* ------------------------------------------- for workflow functions */

extern Tp__Payloads *opd_workflow_input(OpdWorkflow *workflow);

/* Run an activity; waits for its end also when the workflow is canceled. */
extern bool opd_workflow_activity(OpdWorkflow *workflow, const OpdActivityOptions *options,
								  Tp__Payloads *input, Tp__Payloads **result);

/*
 * Run a step inside the workflow task: for what has no effect and ends within
 * seconds, since it runs again when the worker is lost.
 */
extern bool opd_workflow_local(OpdWorkflow *workflow, const char *id, const char *type,
							   Tp__Payloads *input, Tp__Payloads **result);

extern bool opd_workflow_timer(OpdWorkflow *workflow, const char *id, int64 ms);

/* False for runs that passed this point before the patch was there. */
extern bool opd_workflow_patched(OpdWorkflow *workflow, const char *id);

/* Had the workflow been asked to cancel when it was at this point? */
extern bool opd_workflow_cancelled(OpdWorkflow *workflow);

extern void opd_workflow_complete(OpdWorkflow *workflow, Tp__Payloads *result);

/* ------------------------------------------------ for the worker */

/* Outcome of a local step that this process ran. */
typedef struct OpdLocalOutcome
{
	const char *id;
	Tp__Payloads *result;		/* or */
	Tp__Failure *failure;
} OpdLocalOutcome;

typedef struct OpdDecision
{
	Tp__Command **commands;		/* to be sent */
	int			n_commands;
	bool		closed;			/* the last of them closes the workflow */
	const char *local_id;		/* step to be run, or NULL */
	const char *local_type;
	Tp__Payloads *local_input;
	const char *misfit;			/* why history and function do not fit, or NULL */
} OpdDecision;

/*
 * Replay "function" over the history, whose last workflow task is the one to be
 * answered. "local" is the outcome of a local step, or NULL. The queues are
 * names. All of the result lives in the current memory context.
 */
extern OpdDecision *opd_workflow_replay(OpdWorkflowFunction function, const OpdHistory *history,
										const OpdLocalOutcome *local,
										const char *queue, const char *bulk_queue);

#endif							/* OPD_WORKFLOW_H */
