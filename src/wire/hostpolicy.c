/*-------------------------------------------------------------------------
 *
 * hostpolicy.c
 *	  Which hosts a connection may reach.
 *
 * src/wire/hostpolicy.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <ctype.h>

#include "wire/hostpolicy.h"

/* Longest host name, RFC 1035 section 2.3.4, and room for a prefix length. */
#define ENTRY_MAX_CHARS 260

typedef enum EntryKind
{
	ENTRY_ANY,
	ENTRY_NAME,
	ENTRY_SUFFIX,				/* text holds ".suffix" */
	ENTRY_BLOCK,
	ENTRY_BAD
} EntryKind;

typedef struct Entry
{
	EntryKind	kind;
	char		text[ENTRY_MAX_CHARS + 1];
	OpdNetAddr	block;
	int			n_bits;
} Entry;

/*
 * A host name, perhaps with a final dot. One whose last label is a number is a
 * mistyped address: no domain ends so (RFC 3696 section 2).
 */
static bool
is_name(const char *text)
{
	static const char others[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
	size_t		length = strlen(text);
	const char *label = text;

	if (length > 0 && text[length - 1] == '.')
		length--;
	for (const char *p = text; p < text + length; p++)
	{
		if (*p == '.' && p == label)
			return false;
		if (*p == '.')
			label = p + 1;
		else if (*p != '.' && strchr(others, *p) == NULL)
			return false;
	}
	return label < text + length &&
		strspn(label, "0123456789") < (size_t) (text + length - label);
}

/* An address, or an address and a prefix length. */
static bool
read_block(Entry *entry)
{
	char		text[ENTRY_MAX_CHARS + 1];
	char	   *slash;
	char	   *end;
	long		bits;
	bool		written_as_ipv6;

	strlcpy(text, entry->text, sizeof(text));
	slash = strchr(text, '/');
	if (slash != NULL)
		*slash = '\0';
	written_as_ipv6 = strchr(text, ':') != NULL;
	if (!opd_netaddr_parse(&entry->block, text))
		return false;
	entry->n_bits = entry->block.family == AF_INET ? 32 : 128;
	if (slash == NULL)
		return true;

	errno = 0;
	bits = strtol(slash + 1, &end, 10);
	if (!isdigit((unsigned char) slash[1]) || *end != '\0' || errno != 0)
		return false;
	/* ::ffff:10.0.0.0/104 is 10.0.0.0/8 */
	if (written_as_ipv6 && entry->block.family == AF_INET)
		bits -= 96;
	if (bits < 0 || bits > entry->n_bits)
		return false;
	entry->n_bits = bits;
	return true;
}

/* Take the next entry off the list; false at its end. */
static bool
next_entry(const char **list, Entry *entry)
{
	const char *p = *list;
	const char *end;
	size_t		length;

	while (isspace((unsigned char) *p) || *p == ',')
		p++;
	if (*p == '\0')
		return false;
	end = p + strcspn(p, ",");
	*list = end;
	while (end > p && isspace((unsigned char) end[-1]))
		end--;
	length = Min(end - p, ENTRY_MAX_CHARS);
	memcpy(entry->text, p, length);
	entry->text[length] = '\0';

	if (end - p > ENTRY_MAX_CHARS)
		entry->kind = ENTRY_BAD;
	else if (strcmp(entry->text, "*") == 0)
		entry->kind = ENTRY_ANY;
	else if (read_block(entry))
		entry->kind = ENTRY_BLOCK;
	else if (strncmp(entry->text, "*.", 2) == 0 && is_name(entry->text + 2))
	{
		entry->kind = ENTRY_SUFFIX;
		memmove(entry->text, entry->text + 1, length);
	}
	else
		entry->kind = is_name(entry->text) ? ENTRY_NAME : ENTRY_BAD;
	return true;
}

char *
opd_hostpolicy_check(const char *allowed_hosts)
{
	Entry		entry;

	while (next_entry(&allowed_hosts, &entry))
	{
		if (entry.kind == ENTRY_BAD)
			return pstrdup(entry.text);
	}
	return NULL;
}

/* Host names differ by case and by a final dot without meaning another host. */
static bool
same_name(const char *a, size_t a_length, const char *b, size_t b_length)
{
	if (a_length > 0 && a[a_length - 1] == '.')
		a_length--;
	if (b_length > 0 && b[b_length - 1] == '.')
		b_length--;
	return a_length == b_length && pg_strncasecmp(a, b, a_length) == 0;
}

static bool
has_suffix(const char *host, const char *suffix)
{
	size_t		host_length = strlen(host);
	size_t		suffix_length = strlen(suffix);

	if (host_length > 0 && host[host_length - 1] == '.')
		host_length--;
	if (suffix_length > 0 && suffix[suffix_length - 1] == '.')
		suffix_length--;
	return host_length > suffix_length &&
		same_name(host + host_length - suffix_length, suffix_length, suffix, suffix_length);
}

static bool
entry_allows(const Entry *entry, const char *host, const OpdNetAddr *address)
{
	bool		link_local = address != NULL && opd_netaddr_is_link_local(address);

	switch (entry->kind)
	{
		case ENTRY_ANY:
			return !link_local;
		case ENTRY_NAME:
			return same_name(host, strlen(host), entry->text, strlen(entry->text));
		case ENTRY_SUFFIX:
			return !link_local && has_suffix(host, entry->text);
		case ENTRY_BLOCK:
			/* a block of everything, or nearly, does not list link-local */
			if (address == NULL || (link_local && !opd_netaddr_is_link_local(&entry->block)))
				return false;
			return opd_netaddr_in_block(address, &entry->block, entry->n_bits);
		case ENTRY_BAD:
			break;
	}
	return false;
}

OpdError *
opd_hostpolicy_refusal(const OpdHostPolicy *policy, const char *host,
					   const OpdNetAddr *address)
{
	const char *list = policy->allowed_hosts;
	Entry		entry;
	char		printed[OPD_NETADDR_CHARS];
	OpdError   *error;

	while (next_entry(&list, &entry))
	{
		if (entry_allows(&entry, host, address))
			return NULL;
	}

	if (address == NULL)
		return opd_error_hint(opd_error_new(OPD_HOST_NOT_ALLOWED, "host \"%s\" may not be reached by this agent", host),
							  "A superuser may add the name to opdata.allowed_hosts and reload; a block of addresses says nothing about what a proxy reaches.");
	opd_netaddr_print(address, printed);
	error = opd_error_new(OPD_HOST_NOT_ALLOWED,
						  "host \"%s\" at address %s may not be reached by this agent",
						  host, printed);
	if (opd_netaddr_is_link_local(address))
		opd_error_hint(error, "Link-local addresses must be listed: a superuser may add %s to opdata.allowed_hosts and reload.", printed);
	else
		opd_error_hint(error, "A superuser may add the host to opdata.allowed_hosts and reload.");
	return error;
}
