/*-------------------------------------------------------------------------
 *
 * http.h
 *	  HTTP requests on the event loop, by libcurl's multi interface.
 *
 * libcurl tells which sockets and which timeout it waits for; both are
 * registered with the loop, so that requests are waited for together with the
 * latch and with every other socket. Two transfers never share a connection;
 * an idle connection is used again where libcurl can (not for HTTP/2 without
 * TLS, http.c says why).
 *
 * src/wire/http.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_HTTP_H
#define OPD_HTTP_H

#include "wire/loop.h"

typedef struct OpdHttp OpdHttp;
typedef struct OpdHttpCall OpdHttpCall;

/* Called for each header and trailer. Must not raise: libcurl is below it. */
typedef void (*OpdHttpHeaderCallback) (void *arg, const char *name, size_t name_len,
									   const char *value, size_t value_len);

/*
 * The way to a server. NULL, or all members NULL: straight, trusting the
 * system's CAs. Nothing comes from the environment.
 */
typedef struct OpdHttpRoute
{
	const char *connect_to;		/* as libcurl's CURLOPT_CONNECT_TO and CURLOPT_RESOLVE have them: */
	const char *resolved;		/* another host to connect to; addresses of the URL's host */
	const char *ca;				/* PEM texts: trusted CAs, */
	const char *cert;			/* certificate and key of the client */
	const char *key;
	const char *proxy;			/* "http://host:port" of a proxy that knows CONNECT */
	const char *proxy_user;
	const char *proxy_password;
} OpdHttpRoute;

/* What to send. Strings are copied; the body must stay until the call is freed. */
typedef struct OpdHttpRequest
{
	const char *url;
	const OpdHttpRoute *route;	/* read by opd_http_start() only */
	const char *const *headers; /* "name: value", NULL-terminated */
	const void *body;			/* sent by POST */
	size_t		body_len;
	bool		http2;			/* HTTP/2 and nothing else */
	long		timeout_ms;		/* for all of it, connecting included */
	size_t		cap_bytes;		/* of the answer's body */
	OpdHttpHeaderCallback on_header;	/* or NULL */
} OpdHttpRequest;

typedef enum OpdHttpEnd
{
	OPD_HTTP_WHOLE,				/* an answer came to its end */
	OPD_HTTP_TIMED_OUT,
	OPD_HTTP_TOO_LARGE,			/* the body went over the cap */
	OPD_HTTP_BROKEN				/* no connection, or it broke */
} OpdHttpEnd;

typedef struct OpdHttpResult
{
	OpdHttpEnd	end;
	long		status;			/* 0: none came */
	long		proxy_status;	/* the proxy's answer to CONNECT; 0: none came */
	const char *content_type;	/* or NULL */
	const uint8 *body;
	size_t		body_len;
	const char *problem;		/* libcurl's words, for people; "" when whole */
} OpdHttpResult;

/*
 * Called from the loop when the call has ended; "result" stays until the call
 * is freed. May free the call and start others.
 */
typedef void (*OpdHttpDone) (void *arg, const OpdHttpResult *result);

/*
 * Make a client in the current memory context, whose reset frees it. Raises
 * 53200 when libcurl cannot.
 */
extern OpdHttp *opd_http_new(OpdLoop *loop);

/*
 * Begin a request. The call lives in the current memory context, whose reset
 * frees it; "arg" is given to both callbacks. What goes wrong is told by
 * "done".
 */
extern OpdHttpCall *opd_http_start(OpdHttp *http, const OpdHttpRequest *request,
								   OpdHttpDone done, void *arg);

/*
 * Forget a call. One that is under way is given up by closing its connection:
 * before 8.15 libcurl would not tell the server otherwise. Not from on_header.
 */
extern void opd_http_free(OpdHttpCall *call);

/* Version of libcurl, for people. */
extern const char *opd_http_library_version(void);

#endif							/* OPD_HTTP_H */
