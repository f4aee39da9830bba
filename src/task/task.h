/*-------------------------------------------------------------------------
 *
 * task.h
 *	  One task of the control plane: from its input to its recorded result.
 *
 * The same work as the SQL function of that name, for a worker that has many
 * under way: nothing waits, transactions are short and never open while
 * something is on the network, and every end is written to opdata.job. Who
 * brought the task (an activity, or a step inside a workflow task) is not
 * known here.
 *
 *		type				effect		recorded result
 *		storeCreds			yes			yes
 *		testCredentials		(status)	no
 *		previewQuery		(egress)	no: no row of a source is ever stored
 *		deleteConnection	yes			yes
 *
 * src/task/task.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_TASK_H
#define OPD_TASK_H

#include "base/error.h"
#include "secret/masterkey.h"
#include "store/jobs.h"
#include "wire/hostpolicy.h"
#include "wire/loop.h"

/* What is to be done. All of it must stay until the task is over. */
typedef struct OpdTaskSpec
{
	const char *type;			/* "storeCreds", ... */
	const Jsonb *input;			/* one object */
	OpdJobKey	key;
	bool		by_schedule;	/* its workflow was started by a schedule or cron */
	const char *requested_by;	/* identity of the client that started it; NULL: not known */
	bool		require_sealed; /* plaintext credentials are refused */
	bool		(*require_sealed_preview) (void);	/* previews leave sealed to a trusted recipient, or not at
												 * all; asked again before one does */
	const char *org_id;			/* the agent's */
	OpdKeySource keys;
	OpdHostPolicy policy;
	bool		tell;			/* the control plane's HTTP API about connections */
} OpdTaskSpec;

typedef struct OpdTask
{
	bool		done;
	Jsonb	   *result;			/* or */
	OpdError   *error;
	const char *phase;			/* "starting", "testing", "querying", "recording" */
	double		again_ms;		/* when to go on at the latest (opd_now_ms() scale): INFINITY, or a lock is in the way */
} OpdTask;

/* Is there such a task? */
extern bool opd_task_is_known(const char *type);

/*
 * Begin a task in the current memory context, whose reset ends it and stops
 * what it does at the source. Raises nothing but out of memory.
 */
extern OpdTask *opd_task_start(OpdLoop *loop, const OpdTaskSpec *spec);

/*
 * Go on as far as possible without waiting; to be called after each turn of
 * the loop, and never from a callback of it. Returns "done". A transaction that
 * meets somebody's lock is rolled back and tried again at "again_ms".
 */
extern bool opd_task_advance(OpdTask *task);

/*
 * Write down that it was canceled, or failed by an error of our own; its memory
 * context is to be reset next.
 */
extern void opd_task_note_cancel(OpdTask *task);
extern void opd_task_note_failure(OpdTask *task);

#endif							/* OPD_TASK_H */
