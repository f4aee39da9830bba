/*-------------------------------------------------------------------------
 *
 * history.h
 *	  What a workflow's history tells, gathered event by event.
 *
 * A history may have tens of thousands of events. Kept of them are the
 * commands that the workflow once gave, each with its outcome, the workflow
 * tasks, and a few facts; signals and foreign events only pass by.
 *
 * src/temporal/history.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_HISTORY_H
#define OPD_HISTORY_H

#include "temporal/temporal.pb-c.h"

/* A command that stands in the history. */
typedef enum OpdPastKind
{
	OPD_PAST_ACTIVITY,			/* id, type */
	OPD_PAST_TIMER,				/* id */
	OPD_PAST_MARKER,			/* id, type: the marker's name */
	OPD_PAST_CANCEL_ACTIVITY,	/* of_event_id */
	OPD_PAST_CANCEL_TIMER,		/* id */
	OPD_PAST_OTHER				/* a command that we never give; type says which */
} OpdPastKind;

typedef enum OpdOutcome
{
	OPD_OUTCOME_NONE,			/* not yet */
	OPD_OUTCOME_COMPLETED,		/* result; a timer has fired */
	OPD_OUTCOME_FAILED,			/* failure; a timeout too */
	OPD_OUTCOME_CANCELED
} OpdOutcome;

typedef struct OpdPastCommand
{
	int64		event_id;
	OpdPastKind kind;
	const char *id;
	const char *type;
	int64		of_event_id;
	int64		task_completed_id;	/* event id of the task's completion that gave it */
	OpdOutcome	outcome;
	int64		outcome_event_id;
	Tp__Payloads *result;
	Tp__Failure *failure;
} OpdPastCommand;

/* A workflow task that was started and not lost. */
typedef struct OpdPastTask
{
	int64		started_id;
	int64		completed_id;	/* 0: the one that is to be answered now */
} OpdPastTask;

typedef struct OpdHistory
{
	MemoryContext context;		/* where all of this lives */
	int64		last_event_id;
	size_t		kept_bytes;
	bool		odd;			/* something could not be kept */

	const char *workflow_type;
	Tp__Payloads *input;
	int64		task_timeout_ms;
	const char *identity;		/* of the client that started it */
	bool		by_schedule;	/* started by a schedule or as a cron job */
	int64		started_at_ms;	/* since 1970 */
	int64		cancel_requested_id;	/* 0: not */
	Tp__EventType closed_by;	/* UNSPECIFIED: still running */

	OpdPastCommand *commands;	/* in the order of the history */
	int			n_commands;
	int			max_commands;
	OpdPastTask *tasks;
	int			n_tasks;
	int			max_tasks;
} OpdHistory;

/* An empty history in the current memory context. */
extern OpdHistory *opd_history_new(void);

/*
 * Add events in their order. Returns NULL, or in words (for people) why they
 * do not fit: a gap, or more than we take.
 */
extern const char *opd_history_add(OpdHistory *history, const Tp__History *events);

/* Name of the state that a closed or running workflow is in, as in "running". */
extern const char *opd_history_state(const OpdHistory *history);

#endif							/* OPD_HISTORY_H */
