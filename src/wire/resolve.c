/*-------------------------------------------------------------------------
 *
 * resolve.c
 *	  Host name to addresses, without blocking.
 *
 * src/wire/resolve.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <netdb.h>

#include "utils/memutils.h"

#include "base/limits.h"
#include "wire/resolve.h"
#include "wire/thread.h"

/* What the thread works on: malloc'd, no pointers into PostgreSQL's memory. */
typedef struct Lookup
{
	char	   *host;
	int			rc;				/* of getaddrinfo() */
	struct addrinfo *found;
} Lookup;

struct OpdResolve
{
	OpdTimer   *at_once;		/* tells an outcome that needs no waiting */
	OpdNetAddr	literal;		/* outcome for a literal address */
	OpdThread  *thread;			/* NULL for a literal, or when none could start */
	Lookup	   *lookup;			/* the thread's; readable until release */
	OpdResolveCallback callback;
	void	   *arg;
	MemoryContext context;
	MemoryContextCallback on_reset;
};

static void
look_up(void *data)
{
	Lookup	   *lookup = data;
	struct addrinfo hints = {0};

	hints.ai_family = AF_UNSPEC;
	hints.ai_socktype = SOCK_STREAM;
	lookup->rc = getaddrinfo(lookup->host, NULL, &hints, &lookup->found);
}

static void
free_lookup(void *data)
{
	Lookup	   *lookup = data;

	if (lookup->found != NULL)
		freeaddrinfo(lookup->found);
	free(lookup->host);
	free(lookup);
}

static void
look_up_done(void *arg)
{
	OpdResolve *resolve = arg;
	MemoryContext old = MemoryContextSwitchTo(resolve->context);
	OpdNetAddr *addresses = palloc(OPD_ADDRESSES_MAX * sizeof(OpdNetAddr));
	int			n = 0;
	OpdError   *error = NULL;

	if (resolve->lookup->rc == 0)
	{
		for (struct addrinfo *ai = resolve->lookup->found;
			 ai != NULL && n < OPD_ADDRESSES_MAX; ai = ai->ai_next)
		{
			if (opd_netaddr_from_sockaddr(&addresses[n], ai->ai_addr))
				n++;
		}
	}
	if (n == 0)
	{
		error = opd_error_new(OPD_HOST_NOT_FOUND,
							  "host name \"%s\" could not be resolved",
							  resolve->lookup->host);
		opd_error_hint(error, "Check the name, and the name service on the agent's host: getent hosts %s",
					   resolve->lookup->host);
	}
	resolve->callback(resolve->arg, addresses, n, error);
	MemoryContextSwitchTo(old);
}

/* Give up; safe to call twice, since the context's reset calls it too. */
static void
stop_resolve(void *arg)
{
	OpdResolve *resolve = arg;

	if (resolve->thread != NULL)
		opd_thread_release(resolve->thread);
	if (resolve->at_once != NULL)
		opd_timer_free(resolve->at_once);
	resolve->thread = NULL;
	resolve->lookup = NULL;
	resolve->at_once = NULL;
}

static void
tell_at_once(void *arg)
{
	OpdResolve *resolve = arg;
	MemoryContext old = MemoryContextSwitchTo(resolve->context);

	if (resolve->literal.family != 0)
		resolve->callback(resolve->arg, &resolve->literal, 1, NULL);
	else
		resolve->callback(resolve->arg, NULL, 0,
						  opd_error_new(OPD_INTERNAL, "could not start a thread to resolve a host name"));
	MemoryContextSwitchTo(old);
}

static void
start_thread(OpdResolve *resolve, OpdLoop *loop, const char *host)
{
	Lookup	   *lookup = calloc(1, sizeof(Lookup));

	if (lookup != NULL && (lookup->host = strdup(host)) == NULL)
	{
		free(lookup);
		lookup = NULL;
	}
	if (lookup != NULL)
	{
		resolve->lookup = lookup;
		resolve->thread = opd_thread_start(loop, look_up, free_lookup, lookup,
										   look_up_done, resolve);
	}
}

OpdResolve *
opd_resolve_start(OpdLoop *loop, const char *host,
				  OpdResolveCallback callback, void *arg)
{
	OpdResolve *resolve = palloc0(sizeof(OpdResolve));

	resolve->callback = callback;
	resolve->arg = arg;
	resolve->context = CurrentMemoryContext;
	resolve->on_reset.func = stop_resolve;
	resolve->on_reset.arg = resolve;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &resolve->on_reset);

	resolve->at_once = opd_timer_new(loop, tell_at_once, resolve);

	if (!opd_netaddr_parse(&resolve->literal, host))
	{
		memset(&resolve->literal, 0, sizeof(resolve->literal));
		start_thread(resolve, loop, host);
	}
	if (resolve->thread == NULL)
		opd_timer_set(resolve->at_once, opd_now_ms());
	return resolve;
}

void
opd_resolve_free(OpdResolve *resolve)
{
	/* the struct stays until its context goes, for the reset callback */
	stop_resolve(resolve);
}
