/*-------------------------------------------------------------------------
 *
 * fetch.h
 *	  An HTTP request to a host that the host policy allows.
 *
 * The name is resolved here, each address is checked, and libcurl is given
 * those that may be used, so that nothing can change between check and use.
 *
 * src/wire/fetch.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_FETCH_H
#define OPD_FETCH_H

#include "base/error.h"
#include "wire/hostpolicy.h"
#include "wire/http.h"

typedef struct OpdFetch OpdFetch;

/*
 * Called from the loop, with the result of the request, or with NULL and why it
 * was not made (host_not_found, host_not_allowed, unsupported). Both stay
 * until the memory context of opd_fetch_start() is reset.
 */
typedef void (*OpdFetchDone) (void *arg, const OpdHttpResult *result, OpdError *error);

/*
 * Begin. What the request points to must stay until the end; its route must
 * have no "resolved". With a proxy, which resolves by itself, only the host's
 * name is checked. Resetting the current memory context gives up.
 */
extern OpdFetch *opd_fetch_start(OpdLoop *loop, OpdHttp *http, const OpdHttpRequest *request,
								 const OpdHostPolicy *policy, OpdFetchDone done, void *arg);

#endif							/* OPD_FETCH_H */
