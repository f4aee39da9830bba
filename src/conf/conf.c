/*-------------------------------------------------------------------------
 *
 * conf.c
 *	  Settings: variables, one table, check hooks.
 *
 * All are set in postgresql.conf or on the command line, and take effect on
 * reload or, where they decide which processes there are, at the start; those
 * that name files or decide which hosts may be reached are shown to superusers
 * only.
 *
 * src/conf/conf.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "base/limits.h"
#include "conf/conf.h"
#include "wire/url.h"

static char *conf_allowed_hosts;
static bool conf_allow_local_sockets;
static char *conf_key_file;
static char *conf_key_command;
static bool conf_require_sealed;
static bool conf_require_sealed_preview;
static bool conf_enabled;
static char *conf_database;
static char *conf_worker_role;
static int	conf_interactive_workers;
static int	conf_bulk_workers;
static bool conf_temporal_tls;
static int	conf_temporal_auth;
static int	conf_job_retention;

static const struct config_enum_entry temporal_auth_options[] = {
	{"none", OPD_AUTH_NONE, false},
	{"token", OPD_AUTH_TOKEN, false},
	{"api_key", OPD_AUTH_API_KEY, false},
	{NULL, 0, false}
};

/* Settings of which a check hook refused a value; NULL: none. */
static const char *refused;

/* Was a name refused, in whose place nothing else will do? */
static bool refused_name;

static bool
check_allowed_hosts(char **newval, void **extra, GucSource source)
{
	char	   *bad = opd_hostpolicy_check(*newval);

	if (bad == NULL)
		return true;
	refused = "opdata.allowed_hosts";
	GUC_check_errdetail("\"%s\" is no host name, \"*.suffix\", address or CIDR block.", bad);
	GUC_check_errhint("Separate entries by commas, as in: *.db.example, 10.0.0.0/8, fd00::/8");
	return false;
}

static bool
check_key_file(char **newval, void **extra, GucSource source)
{
	if ((*newval)[0] != '\0')
		return true;
	GUC_check_errdetail("The name of the master key file may not be empty.");
	return false;
}

/*
 * Names that go into protocol headers and queue names: printable ASCII without
 * space, as long as Temporal takes ids. The longest suffix is ours.
 */
static bool
check_name(char **newval, void **extra, GucSource source)
{
	size_t		len = strlen(*newval);

	for (size_t i = 0; i < len; i++)
	{
		if ((*newval)[i] <= ' ' || (*newval)[i] > '~')
		{
			refused_name = true;
			GUC_check_errdetail("Only printable ASCII characters other than space are allowed.");
			return false;
		}
	}
	if (len <= OPD_CONF_NAME_MAX_CHARS)
		return true;
	refused_name = true;
	GUC_check_errdetail("The name is longer than %d characters.", OPD_CONF_NAME_MAX_CHARS);
	return false;
}

/* A name, or an IPv4 address; it will stand in a URL. */
static bool
check_server_name(char **newval, void **extra, GucSource source)
{
	if (strspn(*newval, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == strlen(*newval))
		return true;
	GUC_check_errdetail("\"%s\" is no host name.", *newval);
	return false;
}

/* host:port, where an IPv6 address stands in brackets. */
static bool
check_address(char **newval, void **extra, GucSource source)
{
	const char *address = *newval;
	const char *colon = strrchr(address, ':');
	char	   *end;
	long		port;

	if (address[0] == '\0')
		return true;
	if (colon != NULL && colon > address && colon[1] >= '0' && colon[1] <= '9' &&
		strcspn(address, "/@?#\\ \t\r\n") == strlen(address) &&
		(address[0] == '[' ? colon[-1] == ']' : memchr(address, ':', colon - address) == NULL))
	{
		port = strtol(colon + 1, &end, 10);
		if (*end == '\0' && port >= 1 && port <= 65535)
			return true;
	}
	refused_name = true;
	GUC_check_errdetail("\"%s\" is no host:port.", address);
	GUC_check_errhint("Write it like temporal.example:7233, without \"https://\".");
	return false;
}

static bool
is_printable(const char *text)
{
	for (; *text != '\0'; text++)
	{
		if (*text <= ' ' || *text > '~')
			return false;
	}
	return true;
}

/*
 * Note that a value was refused. PostgreSQL's own message would repeat it, and a
 * password in it.
 */
static void
refuse(const char *name, const char *value)
{
	refused = name;
	if (strchr(value, '@') != NULL)
		GUC_check_errmsg("invalid value for %s, which is not repeated since it may hold a password", name);
}

/* Only to ourselves may a secret be sent in the clear. */
static bool
is_loopback(const char *host)
{
	struct in_addr address;

	return strcmp(host, "localhost") == 0 || strcmp(host, "[::1]") == 0 ||
		(inet_pton(AF_INET, host, &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

#define HTTPS_URLS "opdata.auth_token_url or opdata.convex_url"

static bool
check_https_url(char **newval, void **extra, GucSource source)
{
	const char *url = *newval;
	char	   *scheme;
	char	   *host;

	if (url[0] == '\0')
		return true;
	scheme = opd_url_part(url, CURLUPART_SCHEME, 0);
	host = opd_url_part(url, CURLUPART_HOST, 0);
	if (!is_printable(url) || strstr(url, "://") == NULL || scheme == NULL || host == NULL ||
		opd_url_part(url, CURLUPART_USER, 0) != NULL || opd_url_part(url, CURLUPART_FRAGMENT, 0) != NULL)
	{
		refuse(HTTPS_URLS, url);
		GUC_check_errdetail("It is no URL, or has a user name or a fragment.");
		GUC_check_errhint("Write it like https://example.com/path.");
		return false;
	}
	if (strcmp(scheme, "https") == 0 || (strcmp(scheme, "http") == 0 && is_loopback(host)))
		return true;
	refuse(HTTPS_URLS, url);
	GUC_check_errdetail("Secrets are sent there, and only https:// keeps them.");
	GUC_check_errhint("http:// is taken for localhost only.");
	return false;
}

/* One that paths are put behind. */
static bool
check_base_url(char **newval, void **extra, GucSource source)
{
	if (!check_https_url(newval, extra, source))
		return false;
	if ((*newval)[0] == '\0' || opd_url_part(*newval, CURLUPART_QUERY, 0) == NULL)
		return true;
	refuse(HTTPS_URLS, *newval);
	GUC_check_errdetail("It has a query.");
	GUC_check_errhint("Write it like https://example.com.");
	return false;
}

/* http://[user@]host:port, with or without the scheme */
static bool
check_proxy(char **newval, void **extra, GucSource source)
{
	const char *proxy = *newval;
	char	   *url;
	char	   *path;

	if (proxy[0] == '\0')
		return true;
	url = strstr(proxy, "://") != NULL ? pstrdup(proxy) : psprintf("http://%s", proxy);
	path = opd_url_part(url, CURLUPART_PATH, 0);
	if (opd_url_part(url, CURLUPART_PASSWORD, 0) != NULL)
	{
		refuse("opdata.proxy", proxy);
		GUC_check_errdetail("A setting is no place for a password.");
		GUC_check_errhint("Put it into a file and name that in opdata.proxy_password_file.");
		return false;
	}
	if (is_printable(proxy) && strncmp(url, "http://", 7) == 0 &&
		opd_url_part(url, CURLUPART_HOST, 0) != NULL && opd_url_part(url, CURLUPART_PORT, 0) != NULL &&
		(path == NULL || strcmp(path, "/") == 0) && opd_url_part(url, CURLUPART_QUERY, 0) == NULL)
		return true;
	refuse("opdata.proxy", proxy);
	GUC_check_errdetail("It is no http://host:port.");
	GUC_check_errhint("Write it like http://proxy.example:3128, or http://user@proxy.example:3128.");
	return false;
}

/*
 * Settings of the workers that are texts: all take effect on reload, and a
 * worker that runs by other ones starts anew.
 */
static const struct
{
	const char *name;
	const char *description;
	const char *more;
	const char *boot;
	int			flags;
	bool		(*check) (char **newval, void **extra, GucSource source);
	size_t		offset;			/* in OpdWorkerConf */
}			texts[] = {
#define AT(member) offsetof(OpdWorkerConf, member)
	{"opdata.org_id", "Organisation that this agent serves.",
		"Its task queues are tenant-{orgId} and tenant-{orgId}-bulk. Empty: the workers are idle.",
	"", 0, check_name, AT(org_id)},
	{"opdata.temporal_address", "Frontend of the Temporal cluster, as host:port.",
	"Empty: the workers do not poll.", "", 0, check_address, AT(temporal_address)},
	{"opdata.temporal_namespace", "Namespace of the Temporal cluster.",
	NULL, "default", 0, check_name, AT(temporal_namespace)},
	{"opdata.temporal_tls_ca", "File with the CA certificates to trust for the Temporal cluster.",
	"Empty: those of the system.", "", GUC_SUPERUSER_ONLY, NULL, AT(temporal_tls_ca)},
	{"opdata.temporal_tls_cert", "File with the client certificate for the Temporal cluster.",
	"Empty: what the environment variable OP_TEMPORAL_TLS_CERT names.", "", GUC_SUPERUSER_ONLY, NULL, AT(temporal_tls_cert)},
	{"opdata.temporal_tls_key", "File with the key of the client certificate.",
	"Empty: what the environment variable OP_TEMPORAL_TLS_KEY names.", "", GUC_SUPERUSER_ONLY, NULL, AT(temporal_tls_key)},
	{"opdata.temporal_tls_server_name", "Name that the certificate of the Temporal cluster must have.",
	"Empty: the host of opdata.temporal_address.", "", 0, check_server_name, AT(temporal_tls_server_name)},
	{"opdata.temporal_api_key_file", "File with the API key for the Temporal cluster.",
	"Used with opdata.temporal_auth = api_key.", "", GUC_SUPERUSER_ONLY, NULL, AT(temporal_api_key_file)},
	{"opdata.auth_token_url", "OAuth 2.0 token endpoint.",
	"Empty: the agent has no token.", "", 0, check_https_url, AT(auth_token_url)},
	{"opdata.auth_client_id", "Client of the agent at the token endpoint.",
	NULL, "", 0, NULL, AT(auth_client_id)},
	{"opdata.auth_client_secret_file", "File with the secret of that client.",
	NULL, "", GUC_SUPERUSER_ONLY, NULL, AT(auth_client_secret_file)},
	{"opdata.auth_scope", "Scope to ask the token endpoint for.",
	NULL, "", 0, NULL, AT(auth_scope)},
	{"opdata.auth_audience", "Audience to ask the token endpoint for.",
	NULL, "", 0, NULL, AT(auth_audience)},
	{"opdata.convex_url", "Convex deployment of the control plane.",
	"Empty: nothing is told to it.", "", 0, check_base_url, AT(convex_url)},
	{"opdata.proxy", "HTTP proxy for what goes to the control plane, as http://[user@]host:port.",
	"Its CONNECT method is used. Empty: straight.", "", 0, check_proxy, AT(proxy)},
	{"opdata.proxy_password_file", "File with the password for the proxy.",
	NULL, "", GUC_SUPERUSER_ONLY, NULL, AT(proxy_password_file)},
#undef AT
};

static char *conf_texts[lengthof(texts)];

/*
 * The text that was malformed when the server started, so that it has its
 * default, which looks as if nobody wanted the agent to work; -1: none.
 */
static int	malformed = -1;

static const char *
text_of(size_t offset)
{
	for (int i = 0; i < (int) lengthof(texts); i++)
	{
		if (texts[i].offset == offset)
			return conf_texts[i];
	}
	return "";
}

static void
define_worker_settings(void)
{
	DefineCustomBoolVariable("opdata.enabled",
							 "Lets the background workers work.",
							 "When off they hold no database connection, so that the database can be renamed or dropped.",
							 &conf_enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("opdata.database",
							   "Database that the background workers connect to.",
							   NULL,
							   &conf_database, "postgres",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("opdata.worker_role",
							   "Role that the background workers run as.",
							   "Empty: the bootstrap superuser.",
							   &conf_worker_role, "",
							   PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("opdata.interactive_workers",
							"Worker processes for short jobs.",
							NULL,
							&conf_interactive_workers, 2, 0, OPD_WORKERS_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("opdata.bulk_workers",
							"Worker processes for syncs and refreshes.",
							NULL,
							&conf_bulk_workers, 1, 0, OPD_WORKERS_MAX,
							PGC_POSTMASTER, 0, NULL, NULL, NULL);
	for (int i = 0; i < (int) lengthof(texts); i++)
	{
		DefineCustomStringVariable(texts[i].name, texts[i].description, texts[i].more,
								   &conf_texts[i], texts[i].boot,
								   PGC_SIGHUP, texts[i].flags, texts[i].check, NULL, NULL);
		if (refused_name)
			malformed = i;
		refused_name = false;
	}
	DefineCustomBoolVariable("opdata.temporal_tls",
							 "Uses TLS to the Temporal cluster.",
							 "Off only for a trusted link or a development server.",
							 &conf_temporal_tls, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomEnumVariable("opdata.temporal_auth",
							 "How the agent signs in to the Temporal cluster.",
							 "A client certificate is used in any case when there is one.",
							 &conf_temporal_auth, OPD_AUTH_NONE, temporal_auth_options,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("opdata.job_retention",
							"How long finished jobs are kept.",
							NULL,
							&conf_job_retention, 30 * 24 * 3600, 60, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
}

void
opd_conf_define(void)
{
	DefineCustomStringVariable("opdata.allowed_hosts",
							   "Hosts that connections may reach.",
							   "Comma-separated host names, *.suffix patterns, addresses or CIDR blocks; * allows all but link-local addresses.",
							   &conf_allowed_hosts,
							   "*",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   check_allowed_hosts, NULL, NULL);

	DefineCustomBoolVariable("opdata.allow_local_sockets",
							 "Allows a connection's host to be a Unix-socket directory.",
							 NULL,
							 &conf_allow_local_sockets,
							 false,
							 PGC_SIGHUP,
							 GUC_SUPERUSER_ONLY,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("opdata.key_file",
							   "File that holds the master key.",
							   "A relative name is relative to the data directory.",
							   &conf_key_file,
							   "opdata.key",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   check_key_file, NULL, NULL);

	DefineCustomStringVariable("opdata.key_command",
							   "Command that prints the master key.",
							   "Instead of the file. It gets the id of the key in OPDATA_KEY_ID, empty for the current one, and ten seconds.",
							   &conf_key_command,
							   "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY,
							   NULL, NULL, NULL);

	DefineCustomBoolVariable("opdata.require_sealed",
							 "Takes credentials only if they are encrypted to opdata_public_key().",
							 NULL,
							 &conf_require_sealed,
							 false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomBoolVariable("opdata.require_sealed_preview",
							 "Lets previews leave only if they are encrypted to a trusted recipient.",
							 NULL,
							 &conf_require_sealed_preview,
							 false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	define_worker_settings();
	/*
	 * A value that stood in postgresql.conf before we were loaded is only
	 * warned about and replaced by the default, which would be more than was
	 * allowed, or a way around a proxy or a token.
	 */
	if (refused != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("%s is malformed", refused),
				 errhint("The warning before this names the entry. Correct it and start the server again.")));

	opd_mark_guc_prefix("opdata");
}

/*
 * The file that a link leads to: what an exchange of the key makes lies beside it, and
 * the link stays. A link that leads nowhere is left, so that no key is made behind it.
 */
static char *
follow_link(char *path)
{
	char		real_path[PATH_MAX];
	struct stat st;

	if (lstat(path, &st) != 0 || !S_ISLNK(st.st_mode) || realpath(path, real_path) == NULL)
		return path;
	return pstrdup(real_path);
}

OpdKeySource
opd_conf_keys(void)
{
	OpdKeySource keys;
	char	   *path = is_absolute_path(conf_key_file) ? pstrdup(conf_key_file) :
		psprintf("%s/%s", DataDir, conf_key_file);

	/* in one spelling, so that it can be compared with the data directory */
	canonicalize_path(path);
	keys.file = follow_link(path);
	keys.command = pstrdup(conf_key_command);
	return keys;
}

bool
opd_conf_require_sealed(void)
{
	return conf_require_sealed;
}

bool
opd_conf_require_sealed_preview(void)
{
	return conf_require_sealed_preview;
}

OpdHostPolicy
opd_conf_host_policy(void)
{
	OpdHostPolicy policy;

	policy.allowed_hosts = conf_allowed_hosts;
	policy.allow_local_sockets = conf_allow_local_sockets;
	return policy;
}

/* In place of a setting that is empty. */
static void
fall_back(char **value, const char *variable)
{
	const char *environment = getenv(variable);

	if ((*value)[0] == '\0' && environment != NULL)
		*value = pstrdup(environment);
}

OpdWorkerConf *
opd_conf_worker(void)
{
	OpdWorkerConf *conf = palloc0(sizeof(OpdWorkerConf));

	for (int i = 0; i < (int) lengthof(texts); i++)
		*(char **) ((char *) conf + texts[i].offset) = pstrdup(conf_texts[i]);
	fall_back(&conf->temporal_tls_cert, "OP_TEMPORAL_TLS_CERT");
	fall_back(&conf->temporal_tls_key, "OP_TEMPORAL_TLS_KEY");
	conf->enabled = conf_enabled;
	conf->database = pstrdup(conf_database);
	conf->role = conf_worker_role[0] != '\0' ? pstrdup(conf_worker_role) : NULL;
	conf->temporal_tls = conf_temporal_tls;
	conf->temporal_auth = conf_temporal_auth;
	return conf;
}

/* The settings that need no restart: may a worker go on as it is? */
bool
opd_conf_worker_equal(const OpdWorkerConf *a, const OpdWorkerConf *b)
{
	for (int i = 0; i < (int) lengthof(texts); i++)
	{
		if (strcmp(*(char *const *) ((const char *) a + texts[i].offset),
				   *(char *const *) ((const char *) b + texts[i].offset)) != 0)
			return false;
	}
	return a->enabled == b->enabled &&
		a->temporal_tls == b->temporal_tls &&
		a->temporal_auth == b->temporal_auth;
}

int
opd_conf_interactive_workers(void)
{
	return conf_interactive_workers;
}

int
opd_conf_bulk_workers(void)
{
	return conf_bulk_workers;
}

const char *
opd_conf_database(void)
{
	return conf_database;
}

bool
opd_conf_is_worker_role(const char *role)
{
	return role != NULL && conf_worker_role[0] != '\0' && strcmp(role, conf_worker_role) == 0;
}

bool
opd_conf_enabled(void)
{
	return conf_enabled;
}

const char *
opd_conf_malformed(void)
{
	if (malformed < 0 || strcmp(conf_texts[malformed], texts[malformed].boot) != 0)
		return NULL;
	return texts[malformed].name;
}

const char *
opd_conf_org_id(void)
{
	return text_of(offsetof(OpdWorkerConf, org_id));
}

const char *
opd_conf_temporal_address(void)
{
	return text_of(offsetof(OpdWorkerConf, temporal_address));
}

int
opd_conf_job_retention_s(void)
{
	return conf_job_retention;
}

const char *
opd_conf_convex_url(void)
{
	return text_of(offsetof(OpdWorkerConf, convex_url));
}

bool
opd_conf_wants_token(void)
{
	return conf_temporal_auth == OPD_AUTH_TOKEN ||
		text_of(offsetof(OpdWorkerConf, auth_token_url))[0] != '\0';
}
