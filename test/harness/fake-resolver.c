/*
 * fake-resolver.c
 *	  A name service and a network made of a table, for the tests.
 *
 * Compiled by a test into its scratch folder and put before the C library of a
 * server by LD_PRELOAD. The table is the file that the environment variable
 * FAKE_RESOLVER_TABLE names; it is read anew for each question. Its lines:
 *
 *		NAME ADDRESS...		the name has these addresses, in this order
 *		NAME silent			the name service never answers for this name
 *		NAME unknown		there is no such name
 *		route FROM TO		who connects to address FROM gets to TO
 *		route FROM refused	nothing listens at FROM
 *
 * Names are compared without case and without a final dot. What the table does
 * not hold goes to the C library.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024
#define BLANKS " \t\n"

/*
 * The rest of the table's line that begins with these one or two words. False
 * when there is none.
 */
static int
find_line(const char *first, const char *second, char rest[LINE_MAX_BYTES])
{
	const char *path = getenv("FAKE_RESOLVER_TABLE");
	FILE	   *table = path ? fopen(path, "re") : NULL;
	char		line[LINE_MAX_BYTES];
	int			found = 0;

	while (table != NULL && !found && fgets(line, sizeof(line), table) != NULL)
	{
		char	   *left;
		char	   *word = strtok_r(line, BLANKS, &left);

		if (word == NULL || strcasecmp(word, first) != 0)
			continue;
		if (second != NULL)
		{
			word = strtok_r(NULL, BLANKS, &left);
			if (word == NULL || strcasecmp(word, second) != 0)
				continue;
		}
		strcpy(rest, left);
		found = 1;
	}
	if (table != NULL)
		fclose(table);
	return found;
}

int
getaddrinfo(const char *node, const char *service,
			const struct addrinfo *hints, struct addrinfo **found)
{
	int			(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **);
	char		name[LINE_MAX_BYTES];
	char		rest[LINE_MAX_BYTES];
	char	   *left;
	struct addrinfo **tail = found;

	*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	if (node == NULL || node[0] == '\0' || strlen(node) >= sizeof(name))
		return real(node, service, hints, found);
	strcpy(name, node);
	if (name[strlen(name) - 1] == '.')
		name[strlen(name) - 1] = '\0';
	if (!find_line(name, NULL, rest))
		return real(node, service, hints, found);

	*found = NULL;
	for (char *word = strtok_r(rest, BLANKS, &left); word != NULL;
		 word = strtok_r(NULL, BLANKS, &left))
	{
		int			rc;

		if (strcmp(word, "unknown") == 0)
			return EAI_NONAME;
		while (strcmp(word, "silent") == 0)
			pause();
		/* the C library frees a chain node by node */
		rc = real(word, service, hints, tail);
		if (rc != 0)
			return rc;
		while (*tail != NULL)
			tail = &(*tail)->ai_next;
	}
	return 0;
}

int
connect(int fd, const struct sockaddr *address, socklen_t length)
{
	int			(*real) (int, const struct sockaddr *, socklen_t);
	char		from[INET6_ADDRSTRLEN];
	char		rest[LINE_MAX_BYTES];
	struct sockaddr_storage to = {0};
	const void *from_bytes;
	void	   *to_bytes;
	char	   *left;
	char	   *word;

	*(void **) &real = dlsym(RTLD_NEXT, "connect");
	if (address->sa_family == AF_INET && length == sizeof(struct sockaddr_in))
	{
		from_bytes = &((const struct sockaddr_in *) address)->sin_addr;
		to_bytes = &((struct sockaddr_in *) &to)->sin_addr;
	}
	else if (address->sa_family == AF_INET6 && length == sizeof(struct sockaddr_in6))
	{
		from_bytes = &((const struct sockaddr_in6 *) address)->sin6_addr;
		to_bytes = &((struct sockaddr_in6 *) &to)->sin6_addr;
	}
	else
		return real(fd, address, length);

	if (inet_ntop(address->sa_family, from_bytes, from, sizeof(from)) == NULL ||
		!find_line("route", from, rest))
		return real(fd, address, length);
	memcpy(&to, address, length);
	word = strtok_r(rest, BLANKS, &left);
	if (word == NULL || inet_pton(address->sa_family, word, to_bytes) != 1)
	{
		errno = ECONNREFUSED;	/* "refused", no address */
		return -1;
	}
	return real(fd, (struct sockaddr *) &to, length);
}
