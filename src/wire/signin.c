/*-------------------------------------------------------------------------
 *
 * signin.c
 *	  What a server asks for during sign-in, looked at before libpq obeys.
 *
 * src/wire/signin.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "libpq/pqcomm.h"
#include "port/pg_bswap.h"

#include "base/limits.h"
#include "wire/signin.h"

/* type byte and length word of a message */
#define HEADER_BYTES 5

static uint32
read_uint32(const char *bytes)
{
	uint32		value;

	memcpy(&value, bytes, sizeof(value));
	return pg_ntoh32(value);
}

static OpdSignInVerdict
refuse(OpdSignIn *signin, OpdError *error)
{
	signin->error = error;
	return OPD_SIGNIN_REFUSED;
}

/*
 * The iteration count of a SCRAM challenge, "r=...,s=...,i=4096" (RFC 5802,
 * section 5). What is malformed is for libpq to refuse.
 */
static OpdSignInVerdict
look_at_challenge(OpdSignIn *signin, const char *challenge, size_t length)
{
	char		text[OPD_SIGNIN_MAX_BYTES + 1];
	const char *iterations;
	OpdError   *error;

	memcpy(text, challenge, length);
	text[length] = '\0';
	iterations = strstr(text, ",i=");
	if (iterations == NULL || strtod(iterations + 3, NULL) <= OPD_SCRAM_MAX_ITERATIONS)
		return OPD_SIGNIN_FINE;
	error = opd_error_new(OPD_AUTHENTICATION_FAILED,
						  "the source asks for more than %d password iterations", OPD_SCRAM_MAX_ITERATIONS);
	return refuse(signin, opd_error_hint(error, "Lower scram_iterations on the source and set the role's password again."));
}

static OpdSignInVerdict
look_at_request(OpdSignIn *signin, const char *body, size_t length)
{
	uint32		request = read_uint32(body);
	OpdError   *error;

	switch (request)
	{
		case AUTH_REQ_OK:
		case AUTH_REQ_SASL_FIN:
			return OPD_SIGNIN_FINE;
		case AUTH_REQ_SASL:
			signin->sasl_begun = true;
			return OPD_SIGNIN_FINE;
		case AUTH_REQ_SASL_CONT:
			return look_at_challenge(signin, body + 4, length - 4);
		case AUTH_REQ_PASSWORD:
		case AUTH_REQ_MD5:
			if (!signin->sasl_begun)
				return OPD_SIGNIN_FINE;
			break;
		default:
			break;
	}
	error = opd_error_new(OPD_AUTHENTICATION_FAILED,
						  "the source asks for a way to sign in that the agent does not take");
	return refuse(signin, opd_error_hint(error, "Let the role sign in by scram-sha-256, md5, password or a client certificate in the source's pg_hba.conf."));
}

OpdSignInVerdict
opd_signin_look(OpdSignIn *signin, const char *bytes, size_t length)
{
	while (length > 0 && bytes[0] == 'R')
	{
		uint32		message_length;
		OpdSignInVerdict verdict;

		if (length < HEADER_BYTES)
			return OPD_SIGNIN_INCOMPLETE;
		message_length = read_uint32(bytes + 1);
		if (message_length < 8 || message_length > OPD_SIGNIN_MAX_BYTES)
			return OPD_SIGNIN_FINE; /* libpq refuses it as malformed */
		if (length < message_length + 1)
			return OPD_SIGNIN_INCOMPLETE;
		verdict = look_at_request(signin, bytes + HEADER_BYTES, message_length - 4);
		if (verdict != OPD_SIGNIN_FINE)
			return verdict;
		bytes += message_length + 1;
		length -= message_length + 1;
	}
	return OPD_SIGNIN_FINE;
}
