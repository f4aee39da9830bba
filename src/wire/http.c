/*-------------------------------------------------------------------------
 *
 * http.c
 *	  HTTP requests on the event loop, by libcurl's multi interface.
 *
 * libcurl's callbacks run below its own frames, over which nothing may be
 * raised. They therefore only write down what libcurl wants, in malloc'd
 * memory; apply_wishes() does it when libcurl has returned.
 *
 * Every call of libcurl runs with all signals blocked, because it may make a
 * thread (its resolver), which inherits the mask: a signal for PostgreSQL must
 * never be handled in a foreign thread.
 *
 * Five faults of libcurl 7.88 are met here:
 *
 *	- The second request on a plaintext HTTP/2 connection fails, so that without
 *	  TLS each request has a connection of its own.
 *	- Removing a transfer, or its timeout, does not reset its stream at the
 *	  server, which would go on to hand work to a poll that nobody reads. The
 *	  connection is closed instead (CURLOPT_FORBID_REUSE just before the removal),
 *	  and timeouts are ours.
 *	- An answer that takes several reads is lost now and then when the server
 *	  says GOAWAY before it is whole. Servers do so to connections of a certain
 *	  age, so that none is used again that is nearly that old.
 *	- It may keep a part of a long HTTP/2 body to itself, and ask for nothing
 *	  until the socket has more, which may be never. As long as a body comes in,
 *	  all transfers are asked to go on.
 *	- A multi handle's cleanup waits for a name being resolved
 *	  (CURLOPT_QUICK_EXIT is against that).
 *
 * src/wire/http.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "utils/memutils.h"

#include "base/limits.h"
#include "wire/http.h"

/* certificates from memory */
#if LIBCURL_VERSION_NUM < 0x074d00
#error "opdata needs libcurl 7.77 or later"
#endif

/* A socket that libcurl wants to be watched, or not any more. */
typedef struct Wish
{
	curl_socket_t fd;
	int			what;			/* CURL_POLL_... */
} Wish;

struct OpdHttp
{
	OpdLoop    *loop;
	MemoryContext context;
	MemoryContextCallback on_reset;
	CURLM	   *multi;
	OpdTimer   *timer;

	Wish	   *wishes;			/* malloc'd */
	int			n_wishes;
	int			max_wishes;
	bool		lost_wish;		/* no memory for one: nothing is sure any more */

	size_t		body_bytes;		/* allocated for bodies, of all calls */
	int			n_receiving;	/* calls in the middle of a body */
	bool		received;		/* something of a body came just now */
	struct Socket *sockets;		/* what is watched now */
	int			n_sockets;
	int			max_sockets;
};

typedef struct Socket
{
	OpdHttp    *http;
	curl_socket_t fd;
	OpdWatch   *watch;			/* NULL: entry not in use */
} Socket;

struct OpdHttpCall
{
	OpdHttp    *http;			/* NULL once freed */
	MemoryContextCallback on_reset;
	CURL	   *easy;
	struct curl_slist *headers;
	struct curl_slist *connect_to;
	struct curl_slist *resolved;
	bool		added;			/* to the multi handle */
	bool		receiving;		/* counted in http->n_receiving */
	OpdTimer   *timer;			/* fires at its deadline, or when it could not even begin */
	OpdHttpHeaderCallback on_header;
	OpdHttpDone done;
	void	   *arg;
	char	   *body;			/* malloc'd */
	size_t		body_len;
	size_t		body_max;
	size_t		cap_bytes;
	bool		too_large;
	char		problem[CURL_ERROR_SIZE];
	OpdHttpResult result;
};

static void on_socket(void *arg, int events);

/* ---------------------------------------------- calls into libcurl */

static void
block_signals(sigset_t *before)
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, before);
}

static void
restore_signals(const sigset_t *before)
{
	pthread_sigmask(SIG_SETMASK, before, NULL);
}

/* ------------------------------------------ callbacks from libcurl */

static int
note_wish(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	OpdHttp    *http = arg;

	/* the last wish about a descriptor counts: it may have been closed since */
	for (int i = 0; i < http->n_wishes; i++)
	{
		if (http->wishes[i].fd == fd)
		{
			http->wishes[i].what = what;
			return 0;
		}
	}
	if (http->n_wishes == http->max_wishes)
	{
		int			max = http->max_wishes ? http->max_wishes * 2 : 16;
		Wish	   *wishes = realloc(http->wishes, max * sizeof(Wish));

		if (wishes == NULL)
		{
			http->lost_wish = true;
			return 0;
		}
		http->wishes = wishes;
		http->max_wishes = max;
	}
	http->wishes[http->n_wishes].fd = fd;
	http->wishes[http->n_wishes].what = what;
	http->n_wishes++;
	return 0;
}

static int
note_timeout(CURLM *multi, long timeout_ms, void *arg)
{
	OpdHttp    *http = arg;

	if (timeout_ms < 0)
		opd_timer_stop(http->timer);
	else
		opd_timer_set(http->timer, opd_now_ms() + timeout_ms);
	return 0;
}

/* The server is not told, and would go on: its connection is not used again. */
static size_t
refuse_body(OpdHttpCall *call)
{
	call->too_large = true;
	curl_easy_setopt(call->easy, CURLOPT_FORBID_REUSE, 1L);
	return 0;
}

static size_t
take_body(char *data, size_t size, size_t n, void *arg)
{
	OpdHttpCall *call = arg;
	size_t		len = size * n;

	if (len > call->cap_bytes - call->body_len)
		return refuse_body(call);
	if (call->body_len + len > call->body_max)
	{
		size_t		max = Max(call->body_max * 2, call->body_len + len);
		char	   *body;

		max = Min(Max(max, 1024), call->cap_bytes);
		if (call->http->body_bytes + max - call->body_max > OPD_HTTP_BODIES_MAX_BYTES)
			return refuse_body(call);
		body = realloc(call->body, max);
		if (body == NULL)
			return 0;
		call->http->body_bytes += max - call->body_max;
		call->body = body;
		call->body_max = max;
	}
	memcpy(call->body + call->body_len, data, len);
	call->body_len += len;
	if (!call->receiving)
		call->http->n_receiving++;
	call->receiving = true;
	call->http->received = true;
	return len;
}

static size_t
take_header(char *line, size_t size, size_t n, void *arg)
{
	OpdHttpCall *call = arg;
	size_t		len = size * n;
	size_t		line_len = len;
	const char *colon = memchr(line, ':', len);
	const char *value;

	if (call->on_header == NULL || colon == NULL)
		return len;
	while (line_len > 0 && (line[line_len - 1] == '\r' || line[line_len - 1] == '\n'))
		line_len--;
	value = colon + 1;
	while (value < line + line_len && *value == ' ')
		value++;
	call->on_header(call->arg, line, colon - line, value,
					value < line + line_len ? line + line_len - value : 0);
	return len;
}

/* ------------------------------------------------ sockets and results */

static Socket *
find_socket(OpdHttp *http, curl_socket_t fd)
{
	Socket	   *unused = NULL;

	for (int i = 0; i < http->n_sockets; i++)
	{
		Socket	   *s = &http->sockets[i];

		if (s->watch != NULL && s->fd == fd)
			return s;
		if (s->watch == NULL)
			unused = s;
	}
	return unused;
}

static void
apply_wish(OpdHttp *http, const Wish *wish)
{
	Socket	   *s = find_socket(http, wish->fd);
	int			events = 0;

	if (wish->what == CURL_POLL_REMOVE)
	{
		if (s != NULL && s->watch != NULL)
		{
			opd_watch_free(s->watch);
			s->watch = NULL;
		}
		return;
	}
	if (s == NULL)
	{
		if (http->n_sockets == http->max_sockets)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("more than %d HTTP connections", http->max_sockets)));
		s = &http->sockets[http->n_sockets++];
	}
	if (s->watch == NULL)
	{
		s->http = http;
		s->fd = wish->fd;
		s->watch = opd_watch_new(http->loop, on_socket, s);
	}
	if (wish->what & CURL_POLL_IN)
		events |= OPD_READABLE;
	if (wish->what & CURL_POLL_OUT)
		events |= OPD_WRITABLE;
	opd_watch_set(s->watch, wish->fd, events);
}

static void
apply_wishes(OpdHttp *http)
{
	int			n = http->n_wishes;

	http->n_wishes = 0;
	if (http->lost_wish)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	/* raised again each time should one fail, since others are lost with it */
	http->lost_wish = true;
	for (int i = 0; i < n; i++)
		apply_wish(http, &http->wishes[i]);
	http->lost_wish = false;
}

/*
 * Stop watching what libcurl has closed, and leave other wishes for the next
 * turn: nothing here may raise, since memory contexts are being reset.
 */
static void
apply_removals(OpdHttp *http)
{
	int			n_left = 0;

	for (int i = 0; i < http->n_wishes; i++)
	{
		if (http->wishes[i].what == CURL_POLL_REMOVE)
			apply_wish(http, &http->wishes[i]);
		else
			http->wishes[n_left++] = http->wishes[i];
	}
	http->n_wishes = n_left;
	if (n_left > 0)
		opd_timer_set(http->timer, opd_now_ms());
}

static void
take_easy_out(OpdHttpCall *call)
{
	sigset_t	before;

	if (call->timer != NULL)
		opd_timer_free(call->timer);
	call->timer = NULL;
	if (call->receiving)
		call->http->n_receiving--;
	call->receiving = false;

	block_signals(&before);
	if (call->added)
		curl_multi_remove_handle(call->http->multi, call->easy);
	call->added = false;
	curl_easy_cleanup(call->easy);
	call->easy = NULL;
	restore_signals(&before);
}

static void
end_call(OpdHttpCall *call, CURLcode code)
{
	OpdHttpResult *result = &call->result;
	char	   *content_type = NULL;

	if (call->too_large)
		result->end = OPD_HTTP_TOO_LARGE;
	else if (code == CURLE_OK)
		result->end = OPD_HTTP_WHOLE;
	else if (code == CURLE_OPERATION_TIMEDOUT)
		result->end = OPD_HTTP_TIMED_OUT;
	else
		result->end = OPD_HTTP_BROKEN;
	if (call->easy != NULL)
	{
		curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &result->status);
		curl_easy_getinfo(call->easy, CURLINFO_HTTP_CONNECTCODE, &result->proxy_status);
		curl_easy_getinfo(call->easy, CURLINFO_CONTENT_TYPE, &content_type);
	}
	if (content_type != NULL)
		result->content_type = MemoryContextStrdup(GetMemoryChunkContext(call), content_type);
	result->body = (const uint8 *) call->body;
	result->body_len = call->body_len;
	if (code != CURLE_OK && call->problem[0] == '\0')
		strlcpy(call->problem, curl_easy_strerror(code), sizeof(call->problem));
	result->problem = call->problem;

	if (call->easy != NULL)
		take_easy_out(call);
	apply_wishes(call->http);
	opd_loop_set_owner(call->http->loop, GetMemoryChunkContext(call));
	call->done(call->arg, result);
}

/* Tell those whose transfers are over. */
static void
collect(OpdHttp *http)
{
	CURLMsg    *message;
	int			n_left;

	apply_wishes(http);
	while ((message = curl_multi_info_read(http->multi, &n_left)) != NULL)
	{
		OpdHttpCall *call = NULL;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **) &call);
		/* should this one raise, the others are told at the next turn */
		if (n_left > 0)
			opd_timer_set(http->timer, opd_now_ms());
		end_call(call, message->data.result);
	}
}

static void
act(OpdHttp *http, curl_socket_t fd, int mask)
{
	sigset_t	before;
	int			n_running;

	block_signals(&before);
	http->received = false;
	curl_multi_socket_action(http->multi, fd, mask, &n_running);
	restore_signals(&before);
	collect(http);

	/* see the file header: what libcurl has taken from the socket is taken from it */
	while (http->n_receiving > 0 && http->received)
	{
		http->received = false;
		block_signals(&before);
		curl_multi_perform(http->multi, &n_running);
		restore_signals(&before);
		collect(http);
	}
}

static void
on_socket(void *arg, int events)
{
	Socket	   *s = arg;

	act(s->http, s->fd,
		((events & OPD_READABLE) ? CURL_CSELECT_IN : 0) |
		((events & OPD_WRITABLE) ? CURL_CSELECT_OUT : 0));
}

static void
on_timeout(void *arg)
{
	act(arg, CURL_SOCKET_TIMEOUT, 0);
}

/* --------------------------------------------------------- the client */

static void
close_client(void *arg)
{
	OpdHttp    *http = arg;
	sigset_t	before;

	block_signals(&before);
	if (http->multi != NULL)
		curl_multi_cleanup(http->multi);
	restore_signals(&before);
	/* sockets are closed now; the loop may be gone before us, so leave it be */
	free(http->wishes);
}

OpdHttp *
opd_http_new(OpdLoop *loop)
{
	static bool initialised = false;
	OpdHttp    *http = palloc0(sizeof(OpdHttp));
	sigset_t	before;

	http->loop = loop;
	http->context = CurrentMemoryContext;
	http->max_sockets = OPD_HTTP_MAX_CONNECTIONS;
	http->sockets = palloc0(sizeof(Socket) * http->max_sockets);
	http->timer = opd_timer_new(loop, on_timeout, http);

	block_signals(&before);
	if (!initialised)
		initialised = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
	if (initialised)
		http->multi = curl_multi_init();
	restore_signals(&before);
	if (http->multi == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not initialize libcurl")));

	http->on_reset.func = close_client;
	http->on_reset.arg = http;
	MemoryContextRegisterResetCallback(http->context, &http->on_reset);

	curl_multi_setopt(http->multi, CURLMOPT_SOCKETFUNCTION, note_wish);
	curl_multi_setopt(http->multi, CURLMOPT_SOCKETDATA, http);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERFUNCTION, note_timeout);
	curl_multi_setopt(http->multi, CURLMOPT_TIMERDATA, http);
	/* a long poll must not share its connection with an answer */
	curl_multi_setopt(http->multi, CURLMOPT_PIPELINING, (long) CURLPIPE_NOTHING);
	curl_multi_setopt(http->multi, CURLMOPT_MAXCONNECTS, (long) OPD_HTTP_KEPT_CONNECTIONS);
	return http;
}

/* ----------------------------------------------------------- one call */

/*
 * Nothing was heard for so long, three keepalives and data of ours included: the
 * connection is gone.
 */
static int
set_up_socket(void *arg, curl_socket_t fd, curlsocktype purpose)
{
	unsigned int timeout_ms = 4 * 1000 * OPD_HTTP_KEEPALIVE_S;

	(void) setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
	return CURL_SOCKOPT_OK;
}


static bool
set_blob(CURL *easy, CURLoption option, const char *text)
{
	struct curl_blob blob = {unconstify(char *, text), text ? strlen(text) : 0, CURL_BLOB_COPY};

	return text == NULL || curl_easy_setopt(easy, option, &blob) == CURLE_OK;
}

static bool
set_route(OpdHttpCall *call, const OpdHttpRoute *route)
{
	CURL	   *easy = call->easy;
	bool		ok = true;

#define SET(option, value) \
	(ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK)

	/* the postmaster's environment says nothing about our proxies */
	SET(CURLOPT_PROXY, route->proxy ? route->proxy : "");
	SET(CURLOPT_NOPROXY, "");
	if (route->proxy != NULL)
	{
		SET(CURLOPT_HTTPPROXYTUNNEL, 1L);
		SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
		SET(CURLOPT_PROXYAUTH, (long) CURLAUTH_BASIC);
		SET(CURLOPT_PROXYUSERNAME, route->proxy_user);
		SET(CURLOPT_PROXYPASSWORD, route->proxy_password);
	}
	/* what is meant for the server is not for the proxy */
	SET(CURLOPT_HEADEROPT, (long) CURLHEADER_SEPARATE);

	SET(CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2);
	/* a passphrase is never asked for on a terminal */
	SET(CURLOPT_KEYPASSWD, "");
	/* else the system's CAs would count besides */
	if (route->ca != NULL)
		SET(CURLOPT_CAPATH, NULL);
	ok = ok && set_blob(easy, CURLOPT_CAINFO_BLOB, route->ca) &&
		set_blob(easy, CURLOPT_SSLCERT_BLOB, route->cert) &&
		set_blob(easy, CURLOPT_SSLKEY_BLOB, route->key);

	if (route->connect_to != NULL)
		ok = ok && (call->connect_to = curl_slist_append(NULL, route->connect_to)) != NULL;
	if (route->resolved != NULL)
		ok = ok && (call->resolved = curl_slist_append(NULL, route->resolved)) != NULL;
	SET(CURLOPT_CONNECT_TO, call->connect_to);
	SET(CURLOPT_RESOLVE, call->resolved);
#undef SET
	return ok;
}

static bool
set_options(OpdHttpCall *call, const OpdHttpRequest *request)
{
	CURL	   *easy = call->easy;
	bool		plain = strncmp(request->url, "http://", 7) == 0;
	bool		ok = true;

#define SET(option, value) \
	(ok = ok && curl_easy_setopt(easy, option, value) == CURLE_OK)

	SET(CURLOPT_URL, request->url);
#if LIBCURL_VERSION_NUM >= 0x075500
	SET(CURLOPT_PROTOCOLS_STR, "http,https");
#else
	SET(CURLOPT_PROTOCOLS, (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
#if LIBCURL_VERSION_NUM >= 0x075700
	SET(CURLOPT_QUICK_EXIT, 1L);
#endif
	SET(CURLOPT_PRIVATE, call);
	SET(CURLOPT_NOSIGNAL, 1L);
	SET(CURLOPT_ERRORBUFFER, call->problem);
	SET(CURLOPT_USERAGENT, "opdata/" OPD_VERSION);
	SET(CURLOPT_HTTPHEADER, call->headers);
	SET(CURLOPT_POST, 1L);
	SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body_len);
	SET(CURLOPT_POSTFIELDS, request->body);
	SET(CURLOPT_WRITEFUNCTION, take_body);
	SET(CURLOPT_WRITEDATA, call);
	SET(CURLOPT_HEADERFUNCTION, take_header);
	SET(CURLOPT_HEADERDATA, call);
	SET(CURLOPT_CONNECTTIMEOUT_MS, (long) OPD_HTTP_CONNECT_TIMEOUT_MS);
	/* what is between us and the server forgets silent connections */
	SET(CURLOPT_TCP_KEEPALIVE, 1L);
	SET(CURLOPT_TCP_KEEPIDLE, (long) OPD_HTTP_KEEPALIVE_S);
	SET(CURLOPT_TCP_KEEPINTVL, (long) OPD_HTTP_KEEPALIVE_S);
	SET(CURLOPT_SOCKOPTFUNCTION, set_up_socket);
	if (request->http2)
		SET(CURLOPT_HTTP_VERSION, (long) (plain ? CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE :
										  CURL_HTTP_VERSION_2TLS));
	if (request->http2 && plain)
	{
		SET(CURLOPT_FRESH_CONNECT, 1L);
		SET(CURLOPT_FORBID_REUSE, 1L);
	}
#if LIBCURL_VERSION_NUM >= 0x075000
	SET(CURLOPT_MAXLIFETIME_CONN, (long) OPD_HTTP_REUSE_S);
#endif
#undef SET
	return ok && set_route(call, request->route ? request->route : &(OpdHttpRoute) {0});
}

static void
free_call(void *arg)
{
	OpdHttpCall *call = arg;
	OpdHttp    *http = call->http;

	if (http == NULL)
		return;
	if (call->easy != NULL)
	{
		if (call->added)
			curl_easy_setopt(call->easy, CURLOPT_FORBID_REUSE, 1L);
		take_easy_out(call);
	}
	curl_slist_free_all(call->headers);
	curl_slist_free_all(call->connect_to);
	curl_slist_free_all(call->resolved);
	free(call->body);
	http->body_bytes -= call->body_max;
	call->body = NULL;
	call->body_max = 0;
	if (call->timer != NULL)
		opd_timer_free(call->timer);
	call->timer = NULL;
	call->http = NULL;
	apply_removals(http);
}

void
opd_http_free(OpdHttpCall *call)
{
	free_call(call);
}

/*
 * libcurl's own timeout would keep the connection, with a stream on it that the
 * server does not know to be dead.
 */
static void
on_timer(void *arg)
{
	OpdHttpCall *call = arg;

	if (call->added)
		curl_easy_setopt(call->easy, CURLOPT_FORBID_REUSE, 1L);
	end_call(call, call->added ? CURLE_OPERATION_TIMEDOUT : CURLE_OUT_OF_MEMORY);
}

OpdHttpCall *
opd_http_start(OpdHttp *http, const OpdHttpRequest *request, OpdHttpDone done, void *arg)
{
	OpdHttpCall *call = palloc0(sizeof(OpdHttpCall));
	bool		ok = true;
	sigset_t	before;

	call->done = done;
	call->arg = arg;
	call->on_header = request->on_header;
	call->cap_bytes = request->cap_bytes;
	call->http = http;
	call->on_reset.func = free_call;
	call->on_reset.arg = call;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &call->on_reset);

	block_signals(&before);
	call->easy = curl_easy_init();
	ok = call->easy != NULL;
	for (const char *const *header = request->headers; ok && *header != NULL; header++)
	{
		struct curl_slist *list = curl_slist_append(call->headers, *header);

		ok = list != NULL;
		if (ok)
			call->headers = list;
	}
	ok = ok && set_options(call, request) &&
		curl_multi_add_handle(http->multi, call->easy) == CURLM_OK;
	call->added = ok;
	restore_signals(&before);

	call->timer = opd_timer_new(http->loop, on_timer, call);
	opd_timer_set(call->timer, opd_now_ms() + (ok ? request->timeout_ms : 0));
	apply_wishes(http);
	return call;
}

const char *
opd_http_library_version(void)
{
	return curl_version_info(CURLVERSION_NOW)->version;
}
