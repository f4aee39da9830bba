/*-------------------------------------------------------------------------
 *
 * error.h
 *	  A failure as a value: our code, a SQLSTATE, and words that may leave.
 *
 * What goes wrong on the way to a source is found out in the callbacks of an
 * event loop, where nothing can be raised to the job's caller. It is therefore
 * described by an OpdError and handed upwards; the api room raises it, or
 * shows it as the "error" member of a result.
 *
 * Two kinds of words are kept apart. "message", "detail" and "hint" are our
 * own and never quote a source, so that they may leave the customer's network.
 * "source_message" is what the source said; only a SQL caller gets it.
 *
 * src/base/error.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ERROR_H
#define OPD_ERROR_H

#include "utils/jsonb.h"

/* Documented error codes; opd_error_name() gives their public names. */
typedef enum OpdErrorCode
{
	OPD_CONNECTION_REFUSED,
	OPD_TIMEOUT,
	OPD_HOST_NOT_FOUND,
	OPD_HOST_NOT_ALLOWED,
	OPD_AUTHENTICATION_FAILED,
	OPD_CREDENTIAL_NOT_CHECKED,
	OPD_DATABASE_NOT_FOUND,
	OPD_TLS_REQUIRED,
	OPD_CERTIFICATE_UNTRUSTED,
	OPD_PERMISSION_DENIED,
	OPD_INVALID_CREDENTIALS,
	OPD_UNSEALING_FAILED,
	OPD_SEALED_REQUIRED,
	OPD_CONNECTION_NOT_FOUND,
	OPD_WORKSPACE_DENIED,
	OPD_TENANT_MISMATCH,
	OPD_STATEMENT_NOT_ALLOWED,
	OPD_MULTIPLE_STATEMENTS,
	OPD_SYNTAX_ERROR,
	OPD_QUERY_FAILED,
	OPD_QUERY_TIMEOUT,
	OPD_EGRESS_DENIED,
	OPD_SECRET_UNAVAILABLE,
	OPD_SUSPENDED,
	OPD_UNSUPPORTED,
	OPD_INTERNAL
} OpdErrorCode;

typedef struct OpdError
{
	OpdErrorCode code;
	char		sqlstate[6];	/* of the code, or as the source gave it */
	char	   *message;		/* our words, without a final period */
	char	   *detail;			/* our words, a whole sentence; or NULL */
	char	   *hint;			/* the next thing to do; or NULL */
	char	   *source_message; /* the source's primary message; or NULL */
} OpdError;

/*
 * Make an error with the SQLSTATE that goes with its code. The message is a
 * format. Everything is allocated in the current memory context.
 */
extern OpdError *opd_error_new(OpdErrorCode code, const char *fmt,...) pg_attribute_printf(2, 3);

/* Set the hint or the detail (formats); return the error. */
extern OpdError *opd_error_hint(OpdError *error, const char *fmt,...) pg_attribute_printf(2, 3);
extern OpdError *opd_error_detail(OpdError *error, const char *fmt,...) pg_attribute_printf(2, 3);

/* Deep copy into the current memory context. */
extern OpdError *opd_error_copy(const OpdError *error);

/* Public name of a code, such as "connection_refused". */
extern const char *opd_error_name(OpdErrorCode code);

/*
 * Raise the error: its SQLSTATE, the message (followed by what the source
 * said, if it said something), the code as the first word of DETAIL, the hint.
 * Never returns.
 */
opd_noreturn extern void opd_error_throw(const OpdError *error);

/*
 * The error that a caught exception is: opd_error_throw() put the code into
 * its DETAIL. Anything else is "internal", in words that quote nothing.
 */
extern OpdError *opd_error_of_exception(const ErrorData *exception);

/* Would the same job fail again, whatever happens meanwhile? */
extern bool opd_error_is_permanent(const OpdError *error);

/* {"code","message","hint"} as a JSON value; NULL gives the JSON null. */
extern Jsonb *opd_error_to_jsonb(const OpdError *error);

#endif							/* OPD_ERROR_H */
