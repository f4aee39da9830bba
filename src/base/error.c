/*-------------------------------------------------------------------------
 *
 * error.c
 *	  A failure as a value.
 *
 * src/base/error.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/error.h"
#include "base/json.h"

/*
 * Name and SQLSTATE of each code. The SQLSTATEs are PostgreSQL's own, so that
 * an exception handler written for dblink or postgres_fdw fits.
 */
static const struct
{
	const char *name;
	const char *sqlstate;
}			error_codes[] =
{
	[OPD_CONNECTION_REFUSED] = {"connection_refused", "08001"},
	[OPD_TIMEOUT] = {"timeout", "08001"},
	[OPD_HOST_NOT_FOUND] = {"host_not_found", "08001"},
	[OPD_HOST_NOT_ALLOWED] = {"host_not_allowed", "42501"},
	[OPD_AUTHENTICATION_FAILED] = {"authentication_failed", "28000"},
	[OPD_CREDENTIAL_NOT_CHECKED] = {"credential_not_checked", "28000"},
	[OPD_DATABASE_NOT_FOUND] = {"database_not_found", "3D000"},
	[OPD_TLS_REQUIRED] = {"tls_required", "08004"},
	[OPD_CERTIFICATE_UNTRUSTED] = {"certificate_untrusted", "08001"},
	[OPD_PERMISSION_DENIED] = {"permission_denied", "42501"},
	[OPD_INVALID_CREDENTIALS] = {"invalid_credentials", "22023"},
	[OPD_UNSEALING_FAILED] = {"unsealing_failed", "22023"},
	[OPD_SEALED_REQUIRED] = {"sealed_required", "42501"},
	[OPD_CONNECTION_NOT_FOUND] = {"connection_not_found", "42704"},
	[OPD_WORKSPACE_DENIED] = {"workspace_denied", "42501"},
	[OPD_TENANT_MISMATCH] = {"tenant_mismatch", "42501"},
	[OPD_STATEMENT_NOT_ALLOWED] = {"statement_not_allowed", "25006"},
	[OPD_MULTIPLE_STATEMENTS] = {"multiple_statements", "42601"},
	[OPD_SYNTAX_ERROR] = {"syntax_error", "42601"},
	[OPD_QUERY_FAILED] = {"query_failed", "38000"},
	[OPD_QUERY_TIMEOUT] = {"query_timeout", "57014"},
	[OPD_EGRESS_DENIED] = {"egress_denied", "42501"},
	[OPD_SECRET_UNAVAILABLE] = {"secret_unavailable", "55000"},
	[OPD_SUSPENDED] = {"suspended", "55000"},
	[OPD_UNSUPPORTED] = {"unsupported", "0A000"},
	[OPD_INTERNAL] = {"internal", "XX000"},
};

static char *format_text(const char *fmt, va_list args) pg_attribute_printf(1, 0);

static char *
format_text(const char *fmt, va_list args)
{
	StringInfoData buf;
	int			needed;

	initStringInfo(&buf);
	for (;;)
	{
		va_list		copy;

		va_copy(copy, args);
		needed = appendStringInfoVA(&buf, fmt, copy);
		va_end(copy);
		if (needed == 0)
			return buf.data;
		enlargeStringInfo(&buf, needed);
	}
}

OpdError *
opd_error_new(OpdErrorCode code, const char *fmt,...)
{
	OpdError   *error = palloc0(sizeof(OpdError));
	va_list		args;

	error->code = code;
	strlcpy(error->sqlstate, error_codes[code].sqlstate, sizeof(error->sqlstate));
	va_start(args, fmt);
	error->message = format_text(fmt, args);
	va_end(args);
	return error;
}

OpdError *
opd_error_hint(OpdError *error, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	error->hint = format_text(fmt, args);
	va_end(args);
	return error;
}

OpdError *
opd_error_detail(OpdError *error, const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	error->detail = format_text(fmt, args);
	va_end(args);
	return error;
}

OpdError *
opd_error_copy(const OpdError *error)
{
	OpdError   *copy = palloc(sizeof(OpdError));

	*copy = *error;
	copy->message = pstrdup(error->message);
	if (error->detail)
		copy->detail = pstrdup(error->detail);
	if (error->hint)
		copy->hint = pstrdup(error->hint);
	if (error->source_message)
		copy->source_message = pstrdup(error->source_message);
	return copy;
}

const char *
opd_error_name(OpdErrorCode code)
{
	return error_codes[code].name;
}

void
opd_error_throw(const OpdError *error)
{
	const char *s = error->sqlstate;

	ereport(ERROR,
			(errcode(MAKE_SQLSTATE(s[0], s[1], s[2], s[3], s[4])),
			 error->source_message ?
			 errmsg_internal("%s: %s", error->message, error->source_message) :
			 errmsg_internal("%s", error->message),
			 error->detail ?
			 errdetail_internal("%s %s", opd_error_name(error->code), error->detail) :
			 errdetail_internal("%s", opd_error_name(error->code)),
			 error->hint ? errhint("%s", error->hint) : 0));
	pg_unreachable();
}

OpdError *
opd_error_of_exception(const ErrorData *exception)
{
	const char *sqlstate = unpack_sql_state(exception->sqlerrcode);
	OpdError   *error;

	if (exception->domain != NULL && strncmp(exception->domain, TEXTDOMAIN, strlen(TEXTDOMAIN)) == 0 &&
		exception->detail != NULL)
	{
		size_t		len = strcspn(exception->detail, " ");

		for (int code = 0; code < (int) lengthof(error_codes); code++)
		{
			if (len != strlen(error_codes[code].name) ||
				strncmp(exception->detail, error_codes[code].name, len) != 0)
				continue;
			error = opd_error_new(code, "%s", exception->message);
			strlcpy(error->sqlstate, sqlstate, sizeof(error->sqlstate));
			if (exception->detail[len] == ' ')
				opd_error_detail(error, "%s", exception->detail + len + 1);
			if (exception->hint != NULL)
				opd_error_hint(error, "%s", exception->hint);
			return error;
		}
	}
	error = opd_error_new(OPD_INTERNAL, "the agent database raised an error");
	strlcpy(error->sqlstate, sqlstate, sizeof(error->sqlstate));
	return opd_error_hint(error, "Look into the log of the agent's server.");
}

bool
opd_error_is_permanent(const OpdError *error)
{
	switch (error->code)
	{
		case OPD_CONNECTION_REFUSED:
		case OPD_TIMEOUT:
		case OPD_HOST_NOT_FOUND:
		case OPD_SECRET_UNAVAILABLE:
		case OPD_SUSPENDED:
		case OPD_INTERNAL:
			return false;
		default:
			return true;
	}
}

Jsonb *
opd_error_to_jsonb(const OpdError *error)
{
	OpdJson		json;

	if (error == NULL)
		return NULL;
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "code", opd_error_name(error->code));
	opd_json_add_string(&json, "message", error->message);
	opd_json_add_string(&json, "hint", error->hint);
	return opd_json_end_object(&json);
}
