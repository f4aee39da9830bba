/*-------------------------------------------------------------------------
 *
 * hostpolicy.h
 *	  Which hosts a connection may reach.
 *
 * The rules are the customer's own (opdata.allowed_hosts), written in
 * postgresql.conf by a superuser. They are applied to the host as it was given
 * and to the very address that is about to be used, after name resolution, so
 * that a name cannot be pointed elsewhere between check and use.
 *
 * src/wire/hostpolicy.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_HOSTPOLICY_H
#define OPD_HOSTPOLICY_H

#include "base/error.h"
#include "wire/netaddr.h"

typedef struct OpdHostPolicy
{
	const char *allowed_hosts;	/* list: "*", name, "*.suffix", address, block */
	bool		allow_local_sockets;	/* may a host be a socket directory? */
} OpdHostPolicy;

/*
 * Read a list; returns a copy of its first malformed entry, or NULL. Raises
 * nothing but out of memory.
 */
extern char *opd_hostpolicy_check(const char *allowed_hosts);

/*
 * May this address be used for this host? NULL when it may, else the error
 * (host_not_allowed) in the current memory context.
 *
 * An entry "*" allows every host, a name or "*.suffix" whatever the name
 * resolves to, an address or block the addresses in it. A link-local address
 * (where cloud metadata services live) needs an entry of its own: its block,
 * its address, or the exact name. "address" may be NULL when somebody else
 * resolves the name, such as a proxy: then only names count.
 */
extern OpdError *opd_hostpolicy_refusal(const OpdHostPolicy *policy, const char *host,
										const OpdNetAddr *address);

#endif							/* OPD_HOSTPOLICY_H */
