/*-------------------------------------------------------------------------
 *
 * health.h
 *	  Does the agent do what it is there for? And who is told.
 *
 * src/worker/health.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_HEALTH_H
#define OPD_HEALTH_H

#include "utils/jsonb.h"

/* What is wrong: a set of the bits in health.c; 0 is healthy. */
typedef uint32 OpdHealth;

/*
 * The state of the agent by what its workers have told. An agent that is not
 * configured for a control plane is healthy, and so is a standby.
 */
extern OpdHealth opd_health_now(void);

/* What opd_health_now() says once a worker has noticed that the agent was suspended. */
extern OpdHealth opd_health_suspended(void);

/* Array of the names of what is wrong. */
extern Jsonb *opd_health_reasons(OpdHealth health);

/* The same as text, for a person or a log line: "healthy" or the names. */
extern char *opd_health_text(OpdHealth health);

/*
 * NOTIFY opdata_health when that has changed since the last time; to be called
 * by a worker outside of a transaction, every few seconds.
 */
extern void opd_health_tell(void);

#endif							/* OPD_HEALTH_H */
