/*-------------------------------------------------------------------------
 *
 * testflows.h
 *	  Workflows that only the tests of the engine know.
 *
 * test/modules/engine/testflows.h
 *-------------------------------------------------------------------------
 */
#ifndef TESTFLOWS_H
#define TESTFLOWS_H

#include "temporal/workflow.h"

/* The function of a test workflow; NULL when there is none of this name. */
extern OpdWorkflowFunction testflows_find(const char *name);

/* One after the other; NULL when there are no more. */
extern OpdWorkflowFunction testflows_each(int i);

#endif							/* TESTFLOWS_H */
