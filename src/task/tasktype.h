/*-------------------------------------------------------------------------
 *
 * tasktype.h
 *	  What each type of task does. Known in this room only.
 *
 * src/task/tasktype.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_TASKTYPE_H
#define OPD_TASKTYPE_H

#include "job/previewjob.h"
#include "job/testjob.h"
#include "secret/jwk.h"
#include "source/credential.h"
#include "store/connections.h"
#include "store/egress.h"
#include "store/policy.h"
#include "task/task.h"

typedef struct Task Task;

/* One type of task. */
typedef struct TaskType
{
	const char *name;
	const char *kind;			/* in opdata.job */
	bool		durable;		/* its effects are waited for to reach the disk */
	int			patience_ms;	/* with locks of others */
	void		(*begin) (Task *task);	/* in a transaction; may finish it */
	void		(*start_job) (Task *task);	/* on the loop; NULL when there is none */
	bool		(*job_done) (Task *task, OpdError **error);	/* why it failed */
	void		(*record) (Task *task); /* in a transaction */
	/* what its failure leaves in the log of what left: false for nothing; NULL: none does */
	bool		(*failure_tells) (const Task *task, OpdEgress *egress);
	/* in a transaction, if it does: the error to answer with. That of the task, or another one */
	OpdError   *(*record_failure) (Task *task);
} TaskType;

struct Task
{
	OpdTask		public;			/* first: the caller's view */
	MemoryContext context;
	const TaskType *type;
	OpdTaskSpec spec;
	OpdLoop    *loop;
	OpdJobRecord record;
	bool		begun;			/* or tried to */
	bool		job_started;
	bool		claimed;		/* the job's row says that it runs */

	double		patience_ms;	/* that is left, for all transactions */
	double		until_ms;		/* the one that met a lock is tried again */
	double		pause_ms;		/* before it is; 0: none has met one */
	bool		last_try;
	MemoryContext failed_try;	/* its memory */
	OpdError   *failure;		/* to be recorded before it is the answer */

	OpdConnection *connection;	/* of a stored credential */
	OpdConnectionChange change; /* of storing */
	OpdCredential credential;
	char	   *query;
	OpdMask    *mask;			/* of a preview */
	OpdJwk	   *recipient;		/* that it is sealed to; NULL: to nobody */
	OpdTestJob *test;
	OpdPreviewJob *preview;
};

/* The type of this name; NULL: there is none. */
extern const TaskType *opd_tasktype_find(const char *name);

/*
 * A string of the input; NULL when it is absent or null. Raises when it is
 * something else or longer (0: no limit), without repeating it.
 */
extern char *opd_tasktype_input(Task *task, const char *name, int max_chars);

/*
 * Claim the job in this transaction. False when an earlier attempt has done it: its
 * result is the answer. Raises when there is more in that than may leave.
 */
extern bool opd_tasktype_claim(Task *task);

#endif							/* OPD_TASKTYPE_H */
