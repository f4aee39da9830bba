/*-------------------------------------------------------------------------
 *
 * workflowanswer.h
 *	  What a workflow task's answer holds besides commands.
 *
 * All of it is made in the current memory context and may point into what it
 * was made from.
 *
 * src/worker/workflowanswer.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_WORKFLOWANSWER_H
#define OPD_WORKFLOWANSWER_H

#include "temporal/history.h"

/* What a query is answered from. */
typedef struct OpdQueryFacts
{
	const OpdHistory *history;
	const char *step;			/* local step, or NULL */
	const char *phase;			/* of it */
} OpdQueryFacts;

/*
 * Answer a query: "status" by what is known of the run, any other by an error
 * that says so.
 */
extern Tp__WorkflowQueryResult *opd_workflowanswer_query(const Tp__WorkflowQuery *query,
														 const OpdQueryFacts *facts);

/*
 * The rejection of an update request: nobody here handles updates, and its
 * caller need not wait. NULL when the message is none.
 */
extern Tp__Message *opd_workflowanswer_reject(const Tp__Message *message);

#endif							/* OPD_WORKFLOWANSWER_H */
