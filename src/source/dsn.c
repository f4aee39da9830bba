/*-------------------------------------------------------------------------
 *
 * dsn.c
 *	  Connection strings: postgresql:// URLs and key/value strings.
 *
 * src/source/dsn.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <libpq-fe.h>

#include "source/dsn.h"

#define DSN_KEY "dsn"

/*
 * CockroachDB's cloud routes by "--cluster=<name>" in the startup options
 * (https://www.cockroachlabs.com/docs/stable/connection-parameters). Nothing
 * else is taken: options can set any server parameter.
 */
static OpdError *
set_options(OpdCredential *credential, const char *value)
{
	static const char prefix[] = "--cluster=";
	const char *name = value + strlen(prefix);

	if (strcmp(credential->type, "cockroachdb") != 0)
		return opd_credential_invalid(DSN_KEY, "holds the parameter options, which only connections of type cockroachdb take.");
	if (strncmp(value, prefix, strlen(prefix)) != 0 || name[0] == '\0' ||
		strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != strlen(name))
		return opd_credential_invalid(DSN_KEY, "holds the parameter options with something else than --cluster=<name>.");
	credential->options = pstrdup(value);
	return NULL;
}

static OpdError *
set_connect_timeout(OpdCredential *credential, const char *value)
{
	char	   *end;
	long		seconds = strtol(value, &end, 10);

	if (end == value || *end != '\0' || seconds < 0 || seconds > 3600)
		return opd_credential_invalid(DSN_KEY, "holds a connect_timeout that is no number of seconds.");
	credential->connect_timeout_s = seconds;
	return NULL;
}

/*
 * "system" stands for the system's trust store, and for a server whose name
 * was verified: libpq takes it with verify-full alone, which is its default
 * then. Any other value is the name of a file here.
 */
static OpdError *
set_root_cert(OpdCredential *credential, const char *value, const char *ssl_mode)
{
	if (strcmp(value, "system") == 0)
	{
		if (ssl_mode != NULL && strcmp(ssl_mode, "verify-full") != 0)
			return opd_credential_invalid(DSN_KEY, "holds sslrootcert=system, which goes with sslmode=verify-full only.");
		credential->ssl_mode = "verify-full";
		return NULL;
	}
	return opd_credential_invalid(DSN_KEY, "names a certificate file; give the certificate itself (PEM) as sslRootCert beside the dsn.");
}

static OpdError *
set_parameter(OpdCredential *credential, const char *keyword, const char *value,
			  const char *ssl_mode)
{
	if (strcmp(keyword, "host") == 0)
		return opd_credential_set_host(credential, DSN_KEY, value);
	if (strcmp(keyword, "port") == 0)
		return opd_credential_set_port(credential, DSN_KEY, value);
	if (strcmp(keyword, "sslmode") == 0)
		return opd_credential_set_ssl_mode(credential, DSN_KEY, value);
	if (strcmp(keyword, "sslrootcert") == 0)
		return set_root_cert(credential, value, ssl_mode);
	if (strcmp(keyword, "options") == 0)
		return set_options(credential, value);
	if (strcmp(keyword, "connect_timeout") == 0)
		return set_connect_timeout(credential, value);

	if (strcmp(keyword, "dbname") == 0)
		credential->database = pstrdup(value);
	else if (strcmp(keyword, "user") == 0)
		credential->username = pstrdup(value);
	else if (strcmp(keyword, "password") == 0)
		credential->password = pstrdup(value);
	else if (strcmp(keyword, "application_name") == 0)
		credential->application_name = pstrdup(value);
	else
		return opd_credential_invalid(DSN_KEY, "holds the parameter %s, which is not taken.", keyword);
	return NULL;
}

OpdError *
opd_dsn_read(const char *dsn, OpdCredential *credential)
{
	char	   *unread = NULL;
	PQconninfoOption *options = PQconninfoParse(dsn, &unread);
	const char *ssl_mode = NULL;	/* as given */
	OpdError   *error = NULL;

	PQfreemem(unread);
	if (options == NULL)
		return opd_credential_invalid(DSN_KEY, "is neither a postgresql:// URL nor a key/value connection string.");

	for (PQconninfoOption *o = options; o->keyword != NULL; o++)
	{
		if (strcmp(o->keyword, "sslmode") == 0)
			ssl_mode = o->val;
	}

	/*
	 * Nothing below raises but for want of memory, which costs the options
	 * array: it is small, and the process is in trouble anyway.
	 */
	for (PQconninfoOption *o = options; o->keyword != NULL && error == NULL; o++)
	{
		if (o->val != NULL && o->val[0] != '\0')
			error = set_parameter(credential, o->keyword, o->val, ssl_mode);
	}
	PQconninfoFree(options);
	return error;
}
