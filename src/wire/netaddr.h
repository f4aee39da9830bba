/*-------------------------------------------------------------------------
 *
 * netaddr.h
 *	  An IP address as a value: read, print, compare, classify.
 *
 * An IPv4-mapped IPv6 address (::ffff:a.b.c.d) reaches the IPv4 host, so it is
 * turned into the IPv4 address on the way in; no rule can be dodged by writing
 * it the other way.
 *
 * src/wire/netaddr.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_NETADDR_H
#define OPD_NETADDR_H

#include <sys/socket.h>

#define OPD_NETADDR_CHARS 64	/* printed, with a scope id */

typedef struct OpdNetAddr
{
	int			family;			/* AF_INET or AF_INET6 */
	uint8		bytes[16];		/* 4 or 16 used, network order */
	uint32		scope_id;		/* of a link-local IPv6 address, else 0 */
} OpdNetAddr;

/* From a socket address; false for other families. */
extern bool opd_netaddr_from_sockaddr(OpdNetAddr *addr, const struct sockaddr *sockaddr);

/* From a literal such as "10.1.2.3" or "fd00::1"; false when it is none. */
extern bool opd_netaddr_parse(OpdNetAddr *addr, const char *text);

/* As a literal that libpq's hostaddr takes. */
extern void opd_netaddr_print(const OpdNetAddr *addr, char text[OPD_NETADDR_CHARS]);

/* Do the first n_bits agree? False for different families. */
extern bool opd_netaddr_in_block(const OpdNetAddr *addr, const OpdNetAddr *block, int n_bits);

/* 169.254.0.0/16, fe80::/10 */
extern bool opd_netaddr_is_link_local(const OpdNetAddr *addr);

/*
 * Does it reach the machine that we run on? Loopback, the unspecified address,
 * or an address of one of its interfaces.
 */
extern bool opd_netaddr_is_own(const OpdNetAddr *addr);

#endif							/* OPD_NETADDR_H */
