/*-------------------------------------------------------------------------
 *
 * work.h
 *	  The work of a workflow's local step or of an activity.
 *
 * Joins the two sides that do not know each other: payloads and failures of
 * the protocol there, a task with its JSON input and its errors here.
 *
 * src/worker/work.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_WORK_H
#define OPD_WORK_H

#include "worker/agent.h"

typedef struct OpdWork OpdWork;

/* What is to be done, and for whom; copied. */
typedef struct OpdWorkOrder
{
	const char *type;			/* of the activity */
	const Tp__Payloads *input;
	const char *workflow_id;
	const char *run_id;
	const char *activity_id;
	int			attempt;
	bool		by_schedule;
	const char *requested_by;	/* identity of who started the workflow; NULL: not known */
} OpdWorkOrder;

/* How it ended: one of the two. */
typedef struct OpdWorkEnd
{
	Tp__Payloads *result;
	Tp__Failure *failure;
} OpdWorkEnd;

/* Begin. The work has a memory context of its own, below "parent". */
extern OpdWork *opd_work_start(OpdAgent *agent, MemoryContext parent, const OpdWorkOrder *order);

/*
 * Go on; true when it has ended. Its end is then in *end, in the current memory
 * context, and the work is freed.
 */
extern bool opd_work_advance(OpdWork *work, OpdWorkEnd *end);

/* When it wants to go on, should nothing happen; INFINITY: not before something does. */
extern double opd_work_again_ms(const OpdWork *work);

/* What it does now, for people. */
extern const char *opd_work_phase(const OpdWork *work);

/* Stop what is done at the source, record that it was canceled, and free it. */
extern void opd_work_cancel(OpdWork *work);

/* Is a memory context, such as that of a callback that raised, this work's? */
extern bool opd_work_owns(const OpdWork *work, MemoryContext context);

/* It met an error of our own: record that. Its end is in *end, and it is freed. */
extern void opd_work_break(OpdWork *work, OpdWorkEnd *end);

#endif							/* OPD_WORK_H */
