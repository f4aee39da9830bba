/*-------------------------------------------------------------------------
 *
 * route.h
 *	  The way from this process to the control plane: certificates, proxy, API key.
 *
 * src/worker/route.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ROUTE_H
#define OPD_ROUTE_H

#include "worker/agent.h"

/*
 * Read the files that the settings name, and make agent->route, the way to
 * Temporal, and agent->web, that to all other servers. What is wrong with them
 * is in agent->route_problem.
 */
extern void opd_route_start(OpdAgent *agent);

/* Look at the files again; what has changed is used for what begins after. */
extern void opd_route_look(OpdAgent *agent);

#endif							/* OPD_ROUTE_H */
