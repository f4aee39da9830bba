/*-------------------------------------------------------------------------
 *
 * fetch.c
 *	  An HTTP request to a host that the host policy allows.
 *
 *		resolve -> on_resolved -> request -> on_result
 *
 * src/wire/fetch.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "lib/stringinfo.h"

#include "wire/fetch.h"
#include "wire/resolve.h"
#include "wire/url.h"

struct OpdFetch
{
	OpdHttp    *http;
	OpdHttpRequest request;
	OpdHttpRoute route;
	OpdHostPolicy policy;
	char	   *host;			/* without brackets */
	char	   *port;
	bool		literal;		/* the host is an address */
	OpdTimer   *refused;		/* fires when it could not even begin */
	MemoryContextCallback on_reset;
	OpdError   *error;
	OpdFetchDone done;
	void	   *arg;
};

/* Host and port of the URL; false when it has none. */
static bool
take_url_apart(OpdFetch *fetch)
{
	size_t		len;

	fetch->host = opd_url_part(fetch->request.url, CURLUPART_HOST, CURLU_DEFAULT_PORT);
	fetch->port = opd_url_part(fetch->request.url, CURLUPART_PORT, CURLU_DEFAULT_PORT);
	if (fetch->host == NULL || fetch->port == NULL)
		return false;

	len = strlen(fetch->host);
	if (fetch->host[0] == '[' && fetch->host[len - 1] == ']')
	{
		fetch->host[len - 1] = '\0';
		fetch->host++;
	}
	return true;
}

static void
on_result(void *arg, const OpdHttpResult *result)
{
	OpdFetch   *fetch = arg;

	fetch->done(fetch->arg, result, NULL);
}

static void
on_refused(void *arg)
{
	OpdFetch   *fetch = arg;

	fetch->done(fetch->arg, NULL, fetch->error);
}

static void
free_timer(void *arg)
{
	opd_timer_free(arg);
}

static void
on_resolved(void *arg, const OpdNetAddr *addresses, int n_addresses, OpdError *error)
{
	OpdFetch   *fetch = arg;
	StringInfoData list;
	int			n_allowed = 0;

	initStringInfo(&list);
	/* "+": not for ever */
	appendStringInfo(&list, "+%s:%s:", fetch->host, fetch->port);
	for (int i = 0; i < n_addresses; i++)
	{
		OpdError   *refusal = opd_hostpolicy_refusal(&fetch->policy, fetch->host, &addresses[i]);
		char		printed[OPD_NETADDR_CHARS];

		if (refusal != NULL)
		{
			error = error ? error : refusal;
			continue;
		}
		opd_netaddr_print(&addresses[i], printed);
		appendStringInfo(&list, addresses[i].family == AF_INET6 ? "%s[%s]" : "%s%s",
						 n_allowed++ > 0 ? "," : "", printed);
	}
	if (n_allowed == 0)
	{
		fetch->done(fetch->arg, NULL, error);
		return;
	}
	/* a literal address needs no list, and one of IPv6 cannot be in it */
	fetch->route.resolved = fetch->literal ? NULL : list.data;
	(void) opd_http_start(fetch->http, &fetch->request, on_result, fetch);
}

OpdFetch *
opd_fetch_start(OpdLoop *loop, OpdHttp *http, const OpdHttpRequest *request,
				const OpdHostPolicy *policy, OpdFetchDone done, void *arg)
{
	OpdFetch   *fetch = palloc0(sizeof(OpdFetch));
	OpdNetAddr	address;

	fetch->http = http;
	fetch->request = *request;
	if (request->route != NULL)
		fetch->route = *request->route;
	fetch->request.route = &fetch->route;
	fetch->policy = *policy;
	fetch->done = done;
	fetch->arg = arg;
	if (!take_url_apart(fetch))
		fetch->error = opd_error_new(OPD_UNSUPPORTED, "the address is no URL with a host");
	else
		fetch->literal = opd_netaddr_parse(&address, fetch->host);
	if (fetch->error == NULL && fetch->route.proxy != NULL)
		fetch->error = opd_hostpolicy_refusal(policy, fetch->host, fetch->literal ? &address : NULL);
	if (fetch->error != NULL)
	{
		fetch->refused = opd_timer_new(loop, on_refused, fetch);
		opd_timer_set(fetch->refused, opd_now_ms());
		fetch->on_reset.func = free_timer;
		fetch->on_reset.arg = fetch->refused;
		MemoryContextRegisterResetCallback(CurrentMemoryContext, &fetch->on_reset);
	}
	else if (fetch->route.proxy != NULL)
		(void) opd_http_start(http, &fetch->request, on_result, fetch);
	else
		(void) opd_resolve_start(loop, fetch->host, on_resolved, fetch);
	return fetch;
}
