/*-------------------------------------------------------------------------
 *
 * convex.h
 *	  A call of a Convex function by its HTTP API.
 *
 * https://docs.convex.dev/http-api
 *
 * src/control/convex.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CONVEX_H
#define OPD_CONVEX_H

#include "utils/jsonb.h"

#include "wire/http.h"

typedef enum OpdConvexEnd
{
	OPD_CONVEX_DONE,			/* the function has succeeded */
	OPD_CONVEX_FAILED,			/* it ran and failed, or was not understood */
	OPD_CONVEX_REFUSED,			/* we are not wanted, or our token is not */
	OPD_CONVEX_AWAY				/* nobody there, or not able to answer now */
} OpdConvexEnd;

typedef struct OpdConvexReply
{
	OpdConvexEnd end;
	char	   *message;		/* for people, when it is not done */
} OpdConvexReply;

typedef struct OpdConvexCall OpdConvexCall;

/*
 * Begin to call a mutation, "module:name", with an object. "bearer" may be
 * NULL. The call lives in the current memory context, whose reset gives up.
 */
extern OpdConvexCall *opd_convex_start(OpdHttp *http, const OpdHttpRoute *route, const char *url,
									   const char *bearer, const char *function, const Jsonb *args);

/* Has the answer come? */
extern bool opd_convex_answered(const OpdConvexCall *call);

/* The answer, in the current memory context. Not from a callback. Raises only 53200. */
extern OpdConvexReply opd_convex_take(const OpdConvexCall *call);

#endif							/* OPD_CONVEX_H */
