/*-------------------------------------------------------------------------
 *
 * conf.c
 *	  Settings: variables, one table, check hooks.
 *
 * All are set in postgresql.conf or on the command line, and take effect on
 * reload or, where they decide which processes there are, at the start; those that name files or decide which hosts may be reached are shown
 * to superusers only.
 *
 * src/conf/conf.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <limits.h>
#include <stdlib.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "base/limits.h"
#include "conf/conf.h"

static char *conf_allowed_hosts;
static bool conf_allow_local_sockets;
static char *conf_key_file;
static bool conf_enabled;
static char *conf_database;
static char *conf_worker_role;
static int	conf_interactive_workers;
static int	conf_bulk_workers;
static char *conf_org_id;
static char *conf_temporal_address;
static char *conf_temporal_namespace;
static bool conf_temporal_tls;
static int	conf_job_retention;

/* Did a check hook refuse a value while the settings were being defined? */
static bool refused_a_value;

static bool
check_allowed_hosts(char **newval, void **extra, GucSource source)
{
	char	   *bad = opd_hostpolicy_check(*newval);

	if (bad == NULL)
		return true;
	refused_a_value = true;
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
			GUC_check_errdetail("Only printable ASCII characters other than space are allowed.");
			return false;
		}
	}
	if (len <= OPD_CONF_NAME_MAX_CHARS)
		return true;
	GUC_check_errdetail("The name is longer than %d characters.", OPD_CONF_NAME_MAX_CHARS);
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
	GUC_check_errdetail("\"%s\" is no host:port.", address);
	GUC_check_errhint("Write it like temporal.example:7233, without \"https://\".");
	return false;
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
	DefineCustomStringVariable("opdata.org_id",
							   "Organisation that this agent serves.",
							   "Its task queues are tenant-{orgId} and tenant-{orgId}-bulk. Empty: the workers are idle.",
							   &conf_org_id, "",
							   PGC_SIGHUP, 0, check_name, NULL, NULL);
	DefineCustomStringVariable("opdata.temporal_address",
							   "Frontend of the Temporal cluster, as host:port.",
							   "Empty: the workers do not poll.",
							   &conf_temporal_address, "",
							   PGC_SIGHUP, 0, check_address, NULL, NULL);
	DefineCustomStringVariable("opdata.temporal_namespace",
							   "Namespace of the Temporal cluster.",
							   NULL,
							   &conf_temporal_namespace, "default",
							   PGC_SIGHUP, 0, check_name, NULL, NULL);
	DefineCustomBoolVariable("opdata.temporal_tls",
							 "Uses TLS to the Temporal cluster.",
							 "Off only for a trusted link or a development server.",
							 &conf_temporal_tls, true,
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

	/*
	 * A value that stood in postgresql.conf before we were loaded is only
	 * warned about and replaced by the default, which allows everything.
	 */
	if (refused_a_value)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIG_FILE_ERROR),
				 errmsg("opdata.allowed_hosts is malformed"),
				 errhint("The warning before this names the entry. Correct it and start the server again.")));

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

	define_worker_settings();
	opd_mark_guc_prefix("opdata");
}

char *
opd_conf_key_file(void)
{
	char	   *path = is_absolute_path(conf_key_file) ? pstrdup(conf_key_file) :
		psprintf("%s/%s", DataDir, conf_key_file);

	/* in one spelling, so that it can be compared with the data directory */
	canonicalize_path(path);
	return path;
}

OpdHostPolicy
opd_conf_host_policy(void)
{
	OpdHostPolicy policy;

	policy.allowed_hosts = conf_allowed_hosts;
	policy.allow_local_sockets = conf_allow_local_sockets;
	return policy;
}

OpdWorkerConf *
opd_conf_worker(void)
{
	OpdWorkerConf *conf = palloc(sizeof(OpdWorkerConf));

	conf->enabled = conf_enabled;
	conf->database = pstrdup(conf_database);
	conf->role = conf_worker_role[0] != '\0' ? pstrdup(conf_worker_role) : NULL;
	conf->org_id = pstrdup(conf_org_id);
	conf->temporal_address = pstrdup(conf_temporal_address);
	conf->temporal_namespace = pstrdup(conf_temporal_namespace);
	conf->temporal_tls = conf_temporal_tls;
	return conf;
}

/* The settings that need no restart: may a worker go on as it is? */
bool
opd_conf_worker_equal(const OpdWorkerConf *a, const OpdWorkerConf *b)
{
	return a->enabled == b->enabled &&
		strcmp(a->org_id, b->org_id) == 0 &&
		strcmp(a->temporal_address, b->temporal_address) == 0 &&
		strcmp(a->temporal_namespace, b->temporal_namespace) == 0 &&
		a->temporal_tls == b->temporal_tls;
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
opd_conf_org_id(void)
{
	return conf_org_id;
}

const char *
opd_conf_temporal_address(void)
{
	return conf_temporal_address;
}

int
opd_conf_job_retention_s(void)
{
	return conf_job_retention;
}
