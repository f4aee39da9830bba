/*-------------------------------------------------------------------------
 *
 * oauth.c
 *	  A token by OAuth 2.0 client credentials.
 *
 * src/control/oauth.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>
#include <openssl/crypto.h>

#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "control/answer.h"
#include "control/oauth.h"
#include "secret/base64url.h"

/* A token that does not say how long it lasts. */
#define DEFAULT_LIFETIME_S	300
#define MIN_LIFETIME_S		1
#define MAX_LIFETIME_S		86400	/* looked at again after this in any case */

struct OpdOauthCall
{
	StringInfoData form;
	const OpdHttpResult *result;	/* when it has come, */
	OpdError   *error;			/* or this */
	MemoryContextCallback wipe;
};

/* ------------------------------------------------------------ the request */

/* application/x-www-form-urlencoded */
static void
append_encoded(StringInfo form, const char *value)
{
	for (const unsigned char *p = (const unsigned char *) value; *p != '\0'; p++)
	{
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
			strchr("-._~", *p) != NULL)
			appendStringInfoChar(form, *p);
		else
			appendStringInfo(form, "%%%02X", *p);
	}
}

static void
append_field(StringInfo form, const char *name, const char *value)
{
	if (value[0] == '\0')
		return;
	appendStringInfo(form, "%s%s=", form->len > 0 ? "&" : "", name);
	append_encoded(form, value);
}

static void
on_done(void *arg, const OpdHttpResult *result, OpdError *error)
{
	OpdOauthCall *call = arg;

	call->result = result;
	call->error = error;
}

/* The secret that was sent, and the token that came. */
static void
wipe(void *arg)
{
	OpdOauthCall *call = arg;

	OPENSSL_cleanse(call->form.data, call->form.maxlen);
}

OpdOauthCall *
opd_oauth_start(OpdLoop *loop, OpdHttp *http, const OpdOauthRequest *request)
{
	static const char *const headers[] = {
		"content-type: application/x-www-form-urlencoded",
		"accept: application/json",
		"expect:",
		NULL
	};
	OpdOauthCall *call = palloc0(sizeof(OpdOauthCall));
	OpdHttpRequest http_request = {
		.url = pstrdup(request->token_url),
		.headers = headers,
		.route = request->route,
		.timeout_ms = OPD_CONTROL_TIMEOUT_MS,
		.cap_bytes = OPD_CONTROL_ANSWER_MAX_BYTES
	};

	initStringInfo(&call->form);
	/* room for all of it at once, so that no copy of the secret is left behind */
	enlargeStringInfo(&call->form, 1024 + 3 * (strlen(request->client_secret) + strlen(request->client_id) +
											   strlen(request->scope) + strlen(request->audience)));
	append_field(&call->form, "grant_type", "client_credentials");
	append_field(&call->form, "client_id", request->client_id);
	append_field(&call->form, "client_secret", request->client_secret);
	append_field(&call->form, "scope", request->scope);
	append_field(&call->form, "audience", request->audience);
	call->wipe.func = wipe;
	call->wipe.arg = call;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &call->wipe);
	http_request.body = call->form.data;
	http_request.body_len = call->form.len;
	(void) opd_fetch_start(loop, http, &http_request, request->policy, on_done, call);
	return call;
}

bool
opd_oauth_answered(const OpdOauthCall *call)
{
	return call->result != NULL || call->error != NULL;
}

/* ------------------------------------------------------------- the answer */

static double
number_member(const Jsonb *object, const char *name)
{
	JsonbValue	v;
	char	   *text;
	char	   *end;
	double		number;

	if (object == NULL || !opd_json_find(object, name, &v))
		return NAN;
	/* some issuers send expires_in as a string */
	if (v.type == jbvString)
	{
		text = opd_json_string(&v);
		number = strtod(text, &end);
		return end != text && *end == '\0' ? number : NAN;
	}
	if (v.type != jbvNumeric)
		return NAN;
	return strtod(DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(v.val.numeric))), NULL);
}

/*
 * The claims of a token that is a JWT (RFC 7519); NULL for any other. The
 * signature is not looked at.
 */
static Jsonb *
claims_of(const char *token)
{
	const char *begin = strchr(token, '.');
	const char *end = begin ? strchr(begin + 1, '.') : NULL;
	size_t		len = end ? end - begin - 1 : 0;
	uint8	   *decoded;

	if (len == 0)
		return NULL;
	decoded = opd_base64url_decode(pnstrdup(begin + 1, len), &len);
	return decoded != NULL ? opd_json_parse_object(decoded, len) : NULL;
}

/* Three parts, of which the first is a JSON object in base64url. */
static bool
looks_like_jwt(const char *token)
{
	const char *dot = strchr(token, '.');

	return strncmp(token, "ey", 2) == 0 && dot != NULL && strchr(dot + 1, '.') != NULL;
}

static void
set_failure(OpdOauthFailure *failure, const char *code, bool refused, char *message)
{
	strlcpy(failure->code, code, sizeof(failure->code));
	failure->refused = refused;
	failure->message = message;
}

/* Is it an error of RFC 6749, section 5.2, that a second try will not mend? */
static bool
is_refusal(const char *error)
{
	static const char *const errors[] = {
		"invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
		"invalid_scope", "invalid_target", "access_denied", "invalid_request"
	};

	for (int i = 0; i < (int) lengthof(errors); i++)
	{
		if (strcmp(error, errors[i]) == 0)
			return true;
	}
	return false;
}

static void
tell_http_failure(const OpdHttpResult *result, OpdOauthFailure *failure)
{
	Jsonb	   *json = opd_json_parse_object(result->body, result->body_len);
	char	   *error = opd_answer_text(json, "error", OPD_CLAIM_MAX_CHARS);
	bool		client_error = result->status >= 400 && result->status < 500 &&
		result->status != 408 && result->status != 429;

	/* other words than those of the standard may be anything, the form included */
	if (error != NULL && is_refusal(error))
		set_failure(failure, error, true,
					psprintf("the token endpoint refuses this client: %s (HTTP %ld)", error, result->status));
	else
		set_failure(failure, psprintf("http_%ld", result->status), client_error,
					psprintf("the token endpoint answers with HTTP status %ld", result->status));
}

OpdOauthToken *
opd_oauth_take(OpdOauthCall *call, OpdOauthFailure *failure)
{
	const OpdHttpResult *result = call->result;
	OpdOauthToken *token = palloc0(sizeof(OpdOauthToken));
	Jsonb	   *json;
	Jsonb	   *claims;
	JsonbValue	v;
	char	   *type;

	if (call->error != NULL)
	{
		set_failure(failure, opd_error_name(call->error->code), false, call->error->message);
		return NULL;
	}
	if (result->proxy_status >= 300)
	{
		set_failure(failure, "proxy_refused", false,
					psprintf("the proxy refused CONNECT with HTTP status %ld", result->proxy_status));
		return NULL;
	}
	if (result->end == OPD_HTTP_TOO_LARGE)
	{
		set_failure(failure, "malformed", false,
					psprintf("the token endpoint answers with what is too large: more than %d bytes", OPD_CONTROL_ANSWER_MAX_BYTES));
		return NULL;
	}
	if (result->end != OPD_HTTP_WHOLE)
	{
		set_failure(failure, "unreachable", false,
					psprintf("the token endpoint cannot be reached: %s",
							 opd_text_clean(result->problem, strlen(result->problem), 200, NULL)));
		return NULL;
	}
	if (result->status != 200)
	{
		tell_http_failure(result, failure);
		return NULL;
	}

	json = opd_json_parse_object(result->body, result->body_len);
	type = opd_answer_text(json, "token_type", OPD_CLAIM_MAX_CHARS);
	if (json == NULL || !opd_json_find(json, "access_token", &v) || v.type != jbvString ||
		v.val.string.len == 0 || v.val.string.len > OPD_TOKEN_MAX_BYTES ||
		type == NULL || pg_strcasecmp(type, "bearer") != 0)
	{
		set_failure(failure, "malformed", false,
					pstrdup("the token endpoint answers without a bearer token, or with one that is too long"));
		return NULL;
	}
	token->token = opd_json_string(&v);
	for (const char *p = token->token; *p != '\0'; p++)
	{
		/* b64token of RFC 6750; nothing that could end a header */
		if (*p <= ' ' || *p > '~')
		{
			set_failure(failure, "malformed", false, pstrdup("the token endpoint answers with a malformed token"));
			return NULL;
		}
	}

	claims = claims_of(token->token);
	token->issuer = opd_answer_text(claims, "iss", OPD_CLAIM_MAX_CHARS);
	token->audience = opd_answer_text(claims, "aud", OPD_CLAIM_MAX_CHARS);
	if (claims != NULL && opd_json_find(claims, "org_id", &v))
	{
		token->org_id = v.type == jbvString ? opd_json_string(&v) : NULL;
		token->org_unclear = v.type != jbvString;
	}
	else
		token->org_unclear = claims == NULL && looks_like_jwt(token->token);
	token->client_id = opd_answer_text(claims, "client_id", OPD_CLAIM_MAX_CHARS);
	if (token->client_id == NULL)
		token->client_id = opd_answer_text(claims, "sub", OPD_CLAIM_MAX_CHARS);

	/* not "exp": our clock may be wrong, and the issuer's too */
	token->lifetime_s = number_member(json, "expires_in");
	if (isnan(token->lifetime_s))
		token->lifetime_s = number_member(claims, "exp") - number_member(claims, "iat");
	if (isnan(token->lifetime_s) || token->lifetime_s < 0)
		token->lifetime_s = DEFAULT_LIFETIME_S;
	if (token->lifetime_s < MIN_LIFETIME_S)
	{
		set_failure(failure, "malformed", false, pstrdup("the token endpoint answers with a token that has ended"));
		return NULL;
	}
	token->lifetime_s = Min(token->lifetime_s, MAX_LIFETIME_S);
	return token;
}
