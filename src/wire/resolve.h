/*-------------------------------------------------------------------------
 *
 * resolve.h
 *	  Host name to addresses, without blocking.
 *
 * libpq's asynchronous connect still blocks in the resolver, so names are
 * resolved here first, by the system's own getaddrinfo() and in the order it
 * prefers, and libpq is given the address.
 *
 * src/wire/resolve.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_RESOLVE_H
#define OPD_RESOLVE_H

#include "base/error.h"
#include "wire/loop.h"
#include "wire/netaddr.h"

typedef struct OpdResolve OpdResolve;

/*
 * Called with the addresses (at least one), or with none and an error
 * (host_not_found; internal when no thread could be made). Both live in the
 * memory context that was current at opd_resolve_start().
 */
typedef void (*OpdResolveCallback) (void *arg, const OpdNetAddr *addresses,
									int n_addresses, OpdError *error);

/*
 * Begin to resolve. The callback comes from the loop, also for a literal
 * address, which needs no thread. Free with opd_resolve_free() in or after the
 * callback, or earlier to give up; resetting the memory context frees too.
 */
extern OpdResolve *opd_resolve_start(OpdLoop *loop, const char *host,
									 OpdResolveCallback callback, void *arg);
extern void opd_resolve_free(OpdResolve *resolve);

#endif							/* OPD_RESOLVE_H */
