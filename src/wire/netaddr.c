/*-------------------------------------------------------------------------
 *
 * netaddr.c
 *	  An IP address as a value.
 *
 * src/wire/netaddr.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>

#include "wire/netaddr.h"

/* ::ffff:a.b.c.d becomes a.b.c.d */
static void
unmap(OpdNetAddr *addr)
{
	static const uint8 mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

	if (addr->family == AF_INET6 && memcmp(addr->bytes, mapped_prefix, 12) == 0)
	{
		addr->family = AF_INET;
		memmove(addr->bytes, addr->bytes + 12, 4);
		memset(addr->bytes + 4, 0, 12);
		addr->scope_id = 0;
	}
}

bool
opd_netaddr_from_sockaddr(OpdNetAddr *addr, const struct sockaddr *sockaddr)
{
	memset(addr, 0, sizeof(*addr));
	addr->family = sockaddr->sa_family;
	if (addr->family == AF_INET)
		memcpy(addr->bytes, &((const struct sockaddr_in *) sockaddr)->sin_addr, 4);
	else if (addr->family == AF_INET6)
	{
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *) sockaddr;

		memcpy(addr->bytes, &in6->sin6_addr, 16);
		addr->scope_id = in6->sin6_scope_id;
	}
	else
		return false;
	unmap(addr);
	return true;
}

bool
opd_netaddr_parse(OpdNetAddr *addr, const char *text)
{
	memset(addr, 0, sizeof(*addr));
	if (inet_pton(AF_INET, text, addr->bytes) == 1)
		addr->family = AF_INET;
	else if (inet_pton(AF_INET6, text, addr->bytes) == 1)
		addr->family = AF_INET6;
	else
		return false;
	unmap(addr);
	return true;
}

void
opd_netaddr_print(const OpdNetAddr *addr, char text[OPD_NETADDR_CHARS])
{
	if (inet_ntop(addr->family, addr->bytes, text, OPD_NETADDR_CHARS) == NULL)
		strlcpy(text, "?", OPD_NETADDR_CHARS);
	else if (addr->scope_id != 0)
		snprintf(text + strlen(text), OPD_NETADDR_CHARS - strlen(text), "%%%u", addr->scope_id);
}

bool
opd_netaddr_in_block(const OpdNetAddr *addr, const OpdNetAddr *block, int n_bits)
{
	int			whole = n_bits / 8;
	int			rest = n_bits % 8;

	if (addr->family != block->family)
		return false;
	if (memcmp(addr->bytes, block->bytes, whole) != 0)
		return false;
	return rest == 0 ||
		((addr->bytes[whole] ^ block->bytes[whole]) >> (8 - rest)) == 0;
}

bool
opd_netaddr_is_link_local(const OpdNetAddr *addr)
{
	if (addr->family == AF_INET)
		return addr->bytes[0] == 169 && addr->bytes[1] == 254;
	return addr->bytes[0] == 0xfe && (addr->bytes[1] & 0xc0) == 0x80;
}

static bool
is_loopback_or_unspecified(const OpdNetAddr *addr)
{
	static const uint8 zeros[16] = {0};

	if (addr->family == AF_INET)
		return addr->bytes[0] == 127 || addr->bytes[0] == 0;
	return memcmp(addr->bytes, zeros, 15) == 0 && addr->bytes[15] <= 1;
}

bool
opd_netaddr_is_own(const OpdNetAddr *addr)
{
	struct ifaddrs *interfaces;
	bool		found = false;

	if (is_loopback_or_unspecified(addr))
		return true;

	/* cannot tell: the careful answer is the one that checks more */
	if (getifaddrs(&interfaces) != 0)
		return true;
	for (struct ifaddrs *i = interfaces; i != NULL && !found; i = i->ifa_next)
	{
		OpdNetAddr	own;

		found = i->ifa_addr != NULL &&
			opd_netaddr_from_sockaddr(&own, i->ifa_addr) &&
			own.family == addr->family &&
			memcmp(own.bytes, addr->bytes, sizeof(own.bytes)) == 0;
	}
	freeifaddrs(interfaces);
	return found;
}
