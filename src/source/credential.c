/*-------------------------------------------------------------------------
 *
 * credential.c
 *	  A credential payload, checked.
 *
 * src/source/credential.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <ctype.h>

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "secret/pem.h"
#include "source/credential.h"
#include "source/dsn.h"

/* Longest key of a payload that an error repeats. */
#define KEY_MAX_CHARS 64

typedef struct TypeDefaults
{
	const char *type;
	int			port;
	const char *ssl_mode;
} TypeDefaults;

static const TypeDefaults types[] = {
	{"postgres", 5432, "require"},
	{"cockroachdb", 26257, "verify-full"},
};

/* What a payload of each mode may hold. */
static const char *const fields_keys[] = {
	"mode", "host", "port", "database", "username", "password", "sslMode",
	"schema", "sslRootCert", "sslCert", "sslKey", NULL
};
static const char *const dsn_keys[] = {
	"mode", "dsn", "schema", "sslRootCert", "sslCert", "sslKey", NULL
};

static const TypeDefaults *
find_type(const char *type)
{
	for (size_t i = 0; i < lengthof(types); i++)
	{
		if (strcmp(types[i].type, type) == 0)
			return &types[i];
	}
	return NULL;
}

/* The documented text, whatever is wrong; the detail names the key. */
static OpdError *
invalid_payload(void)
{
	OpdError   *error = opd_error_new(OPD_INVALID_CREDENTIALS, "Invalid Postgres credentials.");

	return opd_error_hint(error, "Correct the payload and store it again; README.md lists the keys of each connection type.");
}

OpdError *
opd_credential_invalid(const char *key, const char *fmt,...)
{
	OpdError   *error = invalid_payload();
	StringInfoData rest;
	va_list		args;
	int			needed;

	initStringInfo(&rest);
	do
	{
		va_start(args, fmt);
		needed = appendStringInfoVA(&rest, fmt, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&rest, needed);
	} while (needed > 0);
	return opd_error_detail(error, "Key \"%s\" %s", key, rest.data);
}

OpdError *
opd_credential_set_host(OpdCredential *credential, const char *key, const char *value)
{
	size_t		length = strlen(value);

	/* [::1], as in a URL */
	if (value[0] == '[' && value[length - 1] == ']')
	{
		value++;
		length -= 2;
	}
	if (length == 0 || length > 1024)
		return opd_credential_invalid(key, "holds no usable host.");

	if (value[0] == '/')
	{
		for (size_t i = 0; i < length; i++)
		{
			if (iscntrl((unsigned char) value[i]) || value[i] == ',')
				return opd_credential_invalid(key, "holds a socket directory with a comma or a control character.");
		}
	}

	/* a list, or an abstract socket, would reach what the rules did not see */
	else if (strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_%-") < length)
		return opd_credential_invalid(key, "holds a host with a character that no host name or address has.");
	credential->host = pnstrdup(value, length);
	return NULL;
}

OpdError *
opd_credential_set_port(OpdCredential *credential, const char *key, const char *value)
{
	char	   *end;
	long		port;

	errno = 0;
	port = strtol(value, &end, 10);
	if (!isdigit((unsigned char) value[0]) || *end != '\0' || errno != 0 ||
		port < 1 || port > 65535)
		return opd_credential_invalid(key, "holds no port number from 1 to 65535.");
	credential->port = port;
	return NULL;
}

OpdError *
opd_credential_set_ssl_mode(OpdCredential *credential, const char *key, const char *value)
{
	static const char *const modes[] = {"disable", "require", "verify-ca", "verify-full"};

	for (size_t i = 0; i < lengthof(modes); i++)
	{
		if (strcmp(value, modes[i]) == 0)
		{
			credential->ssl_mode = modes[i];
			return NULL;
		}
	}
	return opd_credential_invalid(key, "holds an SSL mode other than disable, require, verify-ca and verify-full.");
}

bool
opd_credential_is_socket(const OpdCredential *credential)
{
	return credential->host[0] == '/';
}

/* {"secretRef": ...} */
static bool
is_secret_reference(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsObject(value->val.binary.data) &&
		getKeyJsonValueFromContainer(value->val.binary.data, "secretRef", strlen("secretRef"), NULL) != NULL;
}

/*
 * Text of a member, or NULL with *error NULL when there is none (a JSON null
 * or an empty string counts as none).
 */
static char *
get_text(const Jsonb *payload, const char *key, OpdError **error)
{
	JsonbValue	value;

	*error = NULL;
	if (!opd_json_find(payload, key, &value) || value.type == jbvNull)
		return NULL;
	if (is_secret_reference(&value))
	{
		*error = opd_error_new(OPD_UNSUPPORTED, "this version of opdata takes no secret references");
		opd_error_detail(*error, "Key \"%s\" holds an object.", key);
		opd_error_hint(*error, "Give the value itself.");
		return NULL;
	}
	if (value.type != jbvString)
	{
		*error = opd_credential_invalid(key, "is not a string.");
		return NULL;
	}
	if (value.val.string.len > OPD_PAYLOAD_VALUE_MAX_BYTES)
	{
		*error = opd_credential_invalid(key, "is longer than %d bytes.", OPD_PAYLOAD_VALUE_MAX_BYTES);
		return NULL;
	}
	return value.val.string.len > 0 ? opd_json_string(&value) : NULL;
}

/* Text of a member that must be there; NULL with *error set otherwise. */
static char *
require_text(const Jsonb *payload, const char *key, OpdError **error)
{
	char	   *value = get_text(payload, key, error);

	if (value == NULL && *error == NULL)
		*error = opd_credential_invalid(key, "is missing.");
	return value;
}

/* Refuse what this mode does not know, by name. */
static OpdError *
check_keys(const Jsonb *payload, const char *const *known)
{
	JsonbIterator *it = JsonbIteratorInit(unconstify(JsonbContainer *, &payload->root));
	JsonbIteratorToken token;
	JsonbValue	v;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		const char *const *k;

		if (token != WJB_KEY)
			continue;
		for (k = known; *k != NULL; k++)
		{
			if ((int) strlen(*k) == v.val.string.len &&
				memcmp(*k, v.val.string.val, v.val.string.len) == 0)
				break;
		}
		if (*k == NULL)
			return opd_credential_invalid(opd_text_clean(v.val.string.val, v.val.string.len,
														 KEY_MAX_CHARS, NULL),
										  "is not known.");
	}
	return NULL;
}

/* A number, or a string that holds one. */
static OpdError *
read_port(const Jsonb *payload, OpdCredential *credential)
{
	JsonbValue	value;
	OpdError   *error = NULL;
	char	   *text;

	if (opd_json_find(payload, "port", &value) && value.type == jbvNumeric)
		text = DatumGetCString(DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value.val.numeric)));
	else
		text = get_text(payload, "port", &error);
	if (error != NULL)
		return opd_credential_invalid("port", "is neither a number nor a string.");
	if (text == NULL)
		return NULL;
	return opd_credential_set_port(credential, "port", text);
}

static OpdError *
read_fields(const Jsonb *payload, OpdCredential *credential)
{
	OpdError   *error;
	char	   *text;

	if ((error = check_keys(payload, fields_keys)) != NULL)
		return error;

	if ((text = require_text(payload, "host", &error)) == NULL ||
		(error = opd_credential_set_host(credential, "host", text)) != NULL ||
		(error = read_port(payload, credential)) != NULL)
		return error;
	if ((credential->database = require_text(payload, "database", &error)) == NULL ||
		(credential->username = require_text(payload, "username", &error)) == NULL)
		return error;

	credential->password = get_text(payload, "password", &error);
	if (error != NULL)
		return error;
	text = get_text(payload, "sslMode", &error);
	if (text != NULL)
		error = opd_credential_set_ssl_mode(credential, "sslMode", text);
	return error;
}

static OpdError *
read_dsn(const Jsonb *payload, OpdCredential *credential)
{
	OpdError   *error;
	char	   *dsn;

	if ((error = check_keys(payload, dsn_keys)) != NULL)
		return error;
	if ((dsn = require_text(payload, "dsn", &error)) == NULL ||
		(error = opd_dsn_read(dsn, credential)) != NULL)
		return error;
	if (credential->host == NULL)
		return opd_credential_invalid("dsn", "names no host.");
	if (credential->database == NULL)
		return opd_credential_invalid("dsn", "names no database.");
	if (credential->username == NULL)
		return opd_credential_invalid("dsn", "names no user.");
	return NULL;
}

/* Certificates, the same in every mode. */
static OpdError *
read_certificates(const Jsonb *payload, OpdCredential *credential)
{
	OpdError   *error;
	const char *problem;

	credential->ssl_root_cert = get_text(payload, "sslRootCert", &error);
	if (error == NULL)
		credential->ssl_cert = get_text(payload, "sslCert", &error);
	if (error == NULL)
		credential->ssl_key = get_text(payload, "sslKey", &error);
	if (error != NULL)
		return error;

	if (credential->ssl_root_cert != NULL &&
		(problem = opd_pem_certificate_problem(credential->ssl_root_cert)) != NULL)
		return opd_credential_invalid("sslRootCert", "%s.", problem);
	if (credential->ssl_cert == NULL && credential->ssl_key == NULL)
		return NULL;
	if (credential->ssl_cert == NULL)
		return opd_credential_invalid("sslCert", "is missing beside sslKey.");
	if (credential->ssl_key == NULL)
		return opd_credential_invalid("sslKey", "is missing beside sslCert.");
	if ((problem = opd_pem_certificate_problem(credential->ssl_cert)) != NULL)
		return opd_credential_invalid("sslCert", "%s.", problem);
	if ((problem = opd_pem_key_problem(credential->ssl_key, credential->ssl_cert,
										   "the certificate in sslCert")) != NULL)
		return opd_credential_invalid("sslKey", "%s.", problem);
	return NULL;
}

/* "mode", or what the members tell when it is not given. */
static OpdError *
read_mode(const Jsonb *payload, const char **mode)
{
	OpdError   *error;
	JsonbValue	value;
	char	   *text = get_text(payload, "mode", &error);

	if (error != NULL)
		return error;
	if (text == NULL)
		*mode = opd_json_find(payload, "dsn", &value) ? "dsn" : "fields";
	else if (strcmp(text, "fields") == 0 || strcmp(text, "dsn") == 0)
		*mode = text;
	else if (strcmp(text, "jwt") == 0)
		return opd_error_hint(opd_error_new(OPD_UNSUPPORTED, "this version of opdata takes no credentials of mode \"jwt\""),
							  "Use a password or a client certificate.");
	else
		return opd_credential_invalid("mode", "is neither fields nor dsn.");
	return NULL;
}

OpdError *
opd_credential_read(const char *type, const Jsonb *payload, OpdCredential *credential)
{
	const TypeDefaults *defaults = find_type(type);
	OpdError   *error;

	memset(credential, 0, sizeof(*credential));
	if (defaults == NULL)
		return opd_error_hint(opd_error_new(OPD_UNSUPPORTED, "connection type is not known to this version of opdata"),
							  "Use type postgres or cockroachdb.");
	credential->type = defaults->type;
	credential->port = defaults->port;
	credential->ssl_mode = defaults->ssl_mode;

	if (VARSIZE(payload) > OPD_PAYLOAD_MAX_BYTES)
		return opd_error_detail(invalid_payload(), "The payload is larger than %d bytes.", OPD_PAYLOAD_MAX_BYTES);
	if (!opd_json_is_object(payload))
		return opd_error_detail(invalid_payload(), "The payload is not a JSON object.");

	if ((error = read_mode(payload, &credential->mode)) != NULL)
		return error;
	error = strcmp(credential->mode, "dsn") == 0 ?
		read_dsn(payload, credential) : read_fields(payload, credential);
	if (error != NULL)
		return error;
	credential->schema = get_text(payload, "schema", &error);
	if (error != NULL)
		return error;
	return read_certificates(payload, credential);
}

Jsonb *
opd_credential_safe_metadata(const OpdCredential *credential)
{
	OpdJson		json;

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "host", credential->host);
	opd_json_add_int(&json, "port", credential->port);
	opd_json_add_string(&json, "database", credential->database);
	if (credential->schema != NULL)
		opd_json_add_string(&json, "schema", credential->schema);
	opd_json_add_string(&json, "sslMode", credential->ssl_mode);
	opd_json_add_string(&json, "mode", credential->mode);
	return opd_json_end_object(&json);
}
