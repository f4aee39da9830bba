/*-------------------------------------------------------------------------
 *
 * conf.c
 *	  Settings: variables, one table, check hooks.
 *
 * All are set in postgresql.conf or on the command line and take effect on
 * reload; those that name files or decide which hosts may be reached are shown
 * to superusers only.
 *
 * src/conf/conf.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "miscadmin.h"
#include "utils/guc.h"

#include "conf/conf.h"

static char *conf_allowed_hosts;
static bool conf_allow_local_sockets;
static char *conf_key_file;

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
