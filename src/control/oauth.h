/*-------------------------------------------------------------------------
 *
 * oauth.h
 *	  A token by OAuth 2.0 client credentials.
 *
 * RFC 6749, section 4.4, https://www.rfc-editor.org/rfc/rfc6749#section-4.4,
 * with client_secret_post (section 2.3.1), which WorkOS Connect and most other
 * issuers take. What the token says about itself (RFC 9068) is read but not
 * verified: whoever it is shown to does that.
 *
 * src/control/oauth.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_OAUTH_H
#define OPD_OAUTH_H

#include "wire/fetch.h"

/* Strings are copied; "" is none. */
typedef struct OpdOauthRequest
{
	const char *token_url;
	const char *client_id;
	const char *client_secret;
	const char *scope;
	const char *audience;
	const OpdHttpRoute *route;
	const OpdHostPolicy *policy;
} OpdOauthRequest;

typedef struct OpdOauthToken
{
	char	   *token;
	double		lifetime_s;		/* from when the answer came */
	char	   *issuer;			/* claims, fit to be shown; NULL: it has none such */
	char	   *audience;
	char	   *client_id;
	char	   *org_id;			/* as it is, to be compared */
	bool		org_unclear;	/* there is one, but not as a string */
} OpdOauthToken;

/* Why there is none. */
typedef struct OpdOauthFailure
{
	char		code[32];		/* the issuer's error, such as "invalid_client", or a word of ours */
	char	   *message;		/* for people, without secrets */
	bool		refused;		/* the issuer does not want us: others will not help soon */
} OpdOauthFailure;

typedef struct OpdOauthCall OpdOauthCall;

/*
 * Ask for a token. The call lives in the current memory context, whose reset
 * gives up and wipes what it holds.
 */
extern OpdOauthCall *opd_oauth_start(OpdLoop *loop, OpdHttp *http, const OpdOauthRequest *request);

/* Has the answer come? */
extern bool opd_oauth_answered(const OpdOauthCall *call);

/*
 * The answer, in the current memory context: a token, or NULL and why. Not from
 * a callback. Raises only 53200.
 */
extern OpdOauthToken *opd_oauth_take(OpdOauthCall *call, OpdOauthFailure *failure);

#endif							/* OPD_OAUTH_H */
