/*-------------------------------------------------------------------------
 *
 * route.c
 *	  The way from this process to the control plane: certificates, proxy, API key.
 *
 * src/worker/route.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <openssl/crypto.h>

#include "utils/memutils.h"

#include "base/limits.h"
#include "secret/certfiles.h"
#include "wire/url.h"
#include "worker/route.h"
#include "worker/state.h"

/* What may be wrong. */
enum
{
	TLS_FILES,
	PROXY_PASSWORD,
	API_KEY,
	N_PROBLEMS
};

typedef struct OpdRoute
{
	OpdCertFiles *certificates; /* NULL: no TLS */
	char	   *shown[N_PROBLEMS];	/* in the log already; NULL: none */
	bool		changed;		/* what is used, at this look */
	char	   *proxy;			/* without a user */
	char	   *proxy_user;
	char	   *proxy_password; /* read from files, and replaced when those change */
	char	   *api_key;
} OpdRoute;

/*
 * The secret in a file, in *secret; what was there before is wiped. When it
 * cannot be read, the one that was read before stays. Returns why, or NULL.
 */
static char *
read_secret(OpdAgent *agent, const char *setting, const char *path, char **secret)
{
	char	   *problem;
	char	   *text = opd_secretfile_read(path, OPD_TOKEN_MAX_BYTES, &problem);

	if (text == NULL)
		return psprintf("the file that %s names %s", setting, problem);
	if (*secret != NULL && strcmp(*secret, text) == 0)
	{
		OPENSSL_cleanse(text, strlen(text));
		return NULL;
	}
	if (*secret != NULL)
	{
		OPENSSL_cleanse(*secret, strlen(*secret));
		pfree(*secret);
	}
	*secret = MemoryContextStrdup(agent->context, text);
	agent->route->changed = true;
	OPENSSL_cleanse(text, strlen(text));
	return NULL;
}

/* opdata.proxy was checked when it was set. */
static void
take_proxy(OpdRoute *route, const char *setting)
{
	const char *url = strstr(setting, "://") != NULL ? setting : psprintf("http://%s", setting);
	char	   *host = opd_url_part(url, CURLUPART_HOST, CURLU_URLDECODE);
	char	   *port = opd_url_part(url, CURLUPART_PORT, CURLU_URLDECODE);

	if (host == NULL || port == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	route->proxy = psprintf("http://%s:%s", host, port);
	route->proxy_user = opd_url_part(url, CURLUPART_USER, CURLU_URLDECODE);
}

/* Tell libcurl's side of it, after something was read. */
static void
apply(OpdAgent *agent)
{
	OpdRoute   *route = agent->route;
	OpdHttpRoute *temporal = &agent->client->channel.route;

	agent->web.proxy = route->proxy;
	agent->web.proxy_user = route->proxy_user;
	agent->web.proxy_password = route->proxy_password;
	temporal->proxy = route->proxy;
	temporal->proxy_user = route->proxy_user;
	temporal->proxy_password = route->proxy_password;
	if (route->certificates != NULL)
	{
		temporal->ca = route->certificates->ca;
		temporal->cert = route->certificates->cert;
		temporal->key = route->certificates->key;
		opd_state_note_certificate(route->certificates->not_after);
	}
	if (agent->conf->temporal_auth == OPD_AUTH_API_KEY)
		opd_client_set_bearer(agent->client, route->api_key);
}

/*
 * A problem is told once. Polls wait for its end only when there is nothing
 * older that could be used.
 */
static void
note_problem(OpdAgent *agent, int which, const char *problem, bool fatal)
{
	static const char *const codes[] = {"TLS_FILES", "PROXY_PASSWORD_FILE", "API_KEY_FILE"};
	char	  **shown = &agent->route->shown[which];

	if (problem != NULL)
	{
		agent->route_problem |= fatal;
		opd_state_note_error(codes[which], problem);
		if (*shown != NULL && strcmp(*shown, problem) == 0)
			return;
		ereport(LOG,
				(errmsg("opdata worker \"%s\": %s", agent->name, problem),
				 fatal ? errhint("No tasks are asked for until that is mended; the files are looked at every few seconds.") :
				 errhint("What was read before stays in use.")));
	}
	if (*shown != NULL)
		pfree(*shown);
	*shown = problem != NULL ? MemoryContextStrdup(agent->context, problem) : NULL;
}

void
opd_route_look(OpdAgent *agent)
{
	OpdRoute   *route = agent->route;
	const OpdWorkerConf *conf = agent->conf;

	agent->route_problem = false;
	route->changed = false;
	if (route->certificates != NULL)
	{
		route->changed = opd_certfiles_look(route->certificates);
		note_problem(agent, TLS_FILES,
					 route->certificates->problem ?
					 psprintf("the TLS files for Temporal cannot be used: %s", route->certificates->problem) : NULL,
					 !route->certificates->usable);
	}
	if (conf->proxy_password_file[0] != '\0')
		note_problem(agent, PROXY_PASSWORD,
					 read_secret(agent, "opdata.proxy_password_file", conf->proxy_password_file, &route->proxy_password),
					 route->proxy_password == NULL);
	if (conf->temporal_auth == OPD_AUTH_API_KEY)
		note_problem(agent, API_KEY,
					 conf->temporal_api_key_file[0] == '\0' ?
					 "opdata.temporal_auth is api_key, but opdata.temporal_api_key_file is empty" :
					 read_secret(agent, "opdata.temporal_api_key_file", conf->temporal_api_key_file, &route->api_key),
					 route->api_key == NULL);
	apply(agent);
	/* whoever has mended something need not wait for the end of a pause */
	if (route->changed)
		opd_polls_try_again(agent);
}

void
opd_route_start(OpdAgent *agent)
{
	const OpdWorkerConf *conf = agent->conf;
	OpdHttpRoute *temporal = &agent->client->channel.route;
	const char *address = conf->temporal_address;

	agent->route = palloc0(sizeof(OpdRoute));
	if (conf->proxy[0] != '\0')
		take_proxy(agent->route, conf->proxy);
	if (conf->temporal_tls)
		agent->route->certificates = opd_certfiles_new(&(OpdCertPaths) {
			conf->temporal_tls_ca, conf->temporal_tls_cert, conf->temporal_tls_key
		});

	/* the URL has the name that the certificate must have */
	if (conf->temporal_tls && conf->temporal_tls_server_name[0] != '\0')
		temporal->connect_to = psprintf("%s%s:%s", conf->temporal_tls_server_name, strrchr(address, ':'), address);
	opd_route_look(agent);
}
