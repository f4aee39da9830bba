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
 * section 5). Plain digits and few of them: libpq reads a long into an int, so
 * that a sign or more digits become any number.
 */
static OpdSignInVerdict
look_at_challenge(OpdSignIn *signin, const char *challenge, size_t length)
{
	char		text[OPD_SIGNIN_MAX_BYTES + 1];
	const char *iterations;
	size_t		n_digits;
	OpdError   *error;

	memcpy(text, challenge, length);
	text[length] = '\0';
	iterations = strstr(text, ",i=");
	if (iterations == NULL)
		return OPD_SIGNIN_FINE; /* libpq refuses it as malformed */
	iterations += 3;
	n_digits = strspn(iterations, "0123456789");
	if (n_digits > 0 && n_digits <= 9 &&
		(iterations[n_digits] == '\0' || iterations[n_digits] == ',') &&
		atoi(iterations) <= OPD_SCRAM_MAX_ITERATIONS)
		return OPD_SIGNIN_FINE;
	error = opd_error_new(OPD_AUTHENTICATION_FAILED,
						  "the source asks for more than %d password iterations", OPD_SCRAM_MAX_ITERATIONS);
	return refuse(signin, opd_error_hint(error, "Lower scram_iterations on the source and set the role's password again."));
}

/* A list of names, each ended by a NUL, and one NUL more exactly at the end. */
static bool
is_name_list(const char *list, size_t length)
{
	while (length > 0)
	{
		size_t		name_length = strnlen(list, length);

		if (name_length == length)
			return false;
		if (name_length == 0)
			return length == 1;
		list += name_length + 1;
		length -= name_length + 1;
	}
	return false;
}

/* May this request come now, and is its body what the protocol says? */
static bool
request_fits(OpdSignIn *signin, uint32 request, const char *data, size_t length)
{
	switch (request)
	{
		case AUTH_REQ_OK:
			return length == 0;
		case AUTH_REQ_PASSWORD:
		case AUTH_REQ_MD5:
			if (signin->sasl_begun || signin->password_asked ||
				length != (request == AUTH_REQ_MD5 ? 4 : 0))
				return false;
			signin->password_asked = true;
			return true;
		case AUTH_REQ_SASL:
			if (signin->sasl_begun || signin->password_asked || !is_name_list(data, length))
				return false;
			signin->sasl_begun = true;
			return true;
		case AUTH_REQ_SASL_CONT:
		case AUTH_REQ_SASL_FIN:
			return signin->sasl_begun;
		default:
			return false;
	}
}

static OpdSignInVerdict
look_at_request(OpdSignIn *signin, const char *body, size_t length)
{
	uint32		request = read_uint32(body);
	OpdError   *error;

	if (!request_fits(signin, request, body + 4, length - 4))
	{
		error = opd_error_new(OPD_AUTHENTICATION_FAILED,
							  "the source asks for a way to sign in that the agent does not take");
		return refuse(signin, opd_error_hint(error, "Let the role sign in by scram-sha-256, md5, password or a client certificate in the source's pg_hba.conf."));
	}
	if (request == AUTH_REQ_SASL_CONT)
		return look_at_challenge(signin, body + 4, length - 4);
	return OPD_SIGNIN_FINE;
}

static OpdSignInVerdict
look_at_messages(OpdSignIn *signin, const char *bytes, size_t length)
{
	/* "v" is NegotiateProtocolVersion, after which requests may follow */
	while (length > 0 && (bytes[0] == 'R' || bytes[0] == 'v'))
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
		if (bytes[0] == 'R')
		{
			verdict = look_at_request(signin, bytes + HEADER_BYTES, message_length - 4);
			if (verdict != OPD_SIGNIN_FINE)
				return verdict;
		}
		bytes += message_length + 1;
		length -= message_length + 1;
	}
	return OPD_SIGNIN_FINE;
}

OpdSignInVerdict
opd_signin_look(OpdSignIn *signin, const char *bytes, size_t length)
{
	OpdSignIn	seen = *signin;
	OpdSignInVerdict verdict = look_at_messages(&seen, bytes, length);

	if (verdict == OPD_SIGNIN_FINE)
		*signin = seen;
	signin->error = seen.error;
	return verdict;
}
