/*-------------------------------------------------------------------------
 *
 * grpc.c
 *	  One unary gRPC call: a message there, a message or a status back.
 *
 * The status comes as a trailer behind the message, or, in an answer that is
 * nothing but a status, among the headers: both are looked for at any time,
 * and the last one counts.
 *
 * src/temporal/grpc.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "port/pg_bswap.h"

#include "base/limits.h"
#include "base/text.h"
#include "temporal/grpc.h"

/* A connection that breaks within this has perhaps never been taken. */
#define HANDSHAKE_MS	2000

struct OpdGrpcCall
{
	OpdHttpCall *http_call;
	OpdGrpcDone done;
	void	   *arg;
	double		started_ms;
	long		deadline_ms;
	bool		tls;
	bool		has_status;		/* filled by on_header, which may not raise */
	int			status;
	char		raw_message[OPD_GRPC_MESSAGE_MAX_BYTES];	/* percent-encoded */
	OpdGrpcReply reply;
};

static bool
is_header(const char *name, size_t len, const char *wanted)
{
	return len == strlen(wanted) && pg_strncasecmp(name, wanted, len) == 0;
}

static void
on_header(void *arg, const char *name, size_t name_len, const char *value, size_t value_len)
{
	OpdGrpcCall *call = arg;

	if (is_header(name, name_len, "grpc-status"))
	{
		int			status = 0;

		/* what is no number is a status that nobody knows */
		for (size_t i = 0; i < value_len; i++)
		{
			if (value[i] < '0' || value[i] > '9' || status > 1000)
			{
				status = OPD_GRPC_UNKNOWN;
				break;
			}
			status = status * 10 + (value[i] - '0');
		}
		call->has_status = true;
		call->status = value_len > 0 ? status : OPD_GRPC_UNKNOWN;
	}
	else if (is_header(name, name_len, "grpc-message"))
	{
		size_t		len = Min(value_len, sizeof(call->raw_message) - 1);

		memcpy(call->raw_message, value, len);
		call->raw_message[len] = '\0';
	}
}

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* The server's text, percent-decoded and made fit to be shown. */
static char *
decode_message(const char *raw)
{
	char	   *text = palloc(strlen(raw) + 1);
	int			len = 0;

	for (const char *p = raw; *p != '\0'; p++)
	{
		if (p[0] == '%' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0)
		{
			text[len++] = (char) (hex_digit(p[1]) * 16 + hex_digit(p[2]));
			p += 2;
		}
		else
			text[len++] = *p;
	}
	return opd_text_clean(text, len, OPD_GRPC_MESSAGE_MAX_BYTES, NULL);
}

/* An answer without grpc-status, from something between us and the server. */
static int
status_of_http(long http_status)
{
	switch (http_status)
	{
		case 401:
			return OPD_GRPC_UNAUTHENTICATED;
		case 403:
			return OPD_GRPC_PERMISSION_DENIED;
		case 404:
			return OPD_GRPC_UNIMPLEMENTED;
		case 429:
		case 502:
		case 503:
		case 504:
			return OPD_GRPC_UNAVAILABLE;
		default:
			return OPD_GRPC_UNKNOWN;
	}
}

static bool
is_grpc(const char *content_type)
{
	return content_type != NULL && pg_strncasecmp(content_type, "application/grpc", 16) == 0;
}

static void
fail(OpdGrpcReply *reply, int status, const char *message)
{
	reply->status = status;
	reply->message = message;
}

/* Does the body hold exactly one whole, uncompressed message? */
static bool
take_message(OpdGrpcReply *reply, const OpdHttpResult *result)
{
	uint32		len;

	if (result->body_len < OPD_GRPC_PREFIX_BYTES || result->body[0] != 0)
		return false;
	memcpy(&len, result->body + 1, sizeof(len));
	if (pg_ntoh32(len) != result->body_len - OPD_GRPC_PREFIX_BYTES)
		return false;
	reply->data = result->body + OPD_GRPC_PREFIX_BYTES;
	reply->len = result->body_len - OPD_GRPC_PREFIX_BYTES;
	return true;
}

/*
 * What libcurl and OpenSSL say of a connection that failed, with what it means
 * for the settings. A server that refuses our certificate does so when we
 * believe the handshake to be over (TLS 1.3), and its reason is lost if the
 * connection is reset before we have read it.
 */
static const char *
explain(const OpdGrpcCall *call, const char *problem)
{
	static const struct
	{
		const char *part;
		const char *meaning;
	}			known[] = {
		{"wrong version number", "the server does not speak TLS"},
		{"certificate required", "the server demands a client certificate, see opdata.temporal_tls_cert"},
		{"alert certificate", "the server refuses our client certificate"},
		{"alert bad certificate", "the server refuses our client certificate"},
		{"alert unknown ca", "the server refuses our client certificate"},
		{"alert protocol version", "the server wants another version of TLS"},
		{"alert handshake failure", "the server finds nothing in common, or wants a client certificate"},
		{"SSL certificate problem", "the server's certificate is not trusted, see opdata.temporal_tls_ca"},
		{"subject name", "see opdata.temporal_tls_server_name"},
	};
	const char *meaning = NULL;

	for (int i = 0; i < (int) lengthof(known) && meaning == NULL; i++)
	{
		if (strstr(problem, known[i].part) != NULL)
			meaning = known[i].meaning;
	}
	/* not where somebody has listened for a while */
	if (meaning == NULL && opd_now_ms() - call->started_ms < HANDSHAKE_MS &&
		(strstr(problem, "reset") != NULL || strstr(problem, "Broken pipe") != NULL ||
		 strstr(problem, "not closed cleanly") != NULL))
		meaning = call->tls ? "the server hung up; perhaps it refuses our client certificate" :
			"the server hung up; perhaps it wants TLS";
	return meaning != NULL ? psprintf("%s (%s)", meaning, problem) : problem;
}

static void
on_done(void *arg, const OpdHttpResult *result)
{
	OpdGrpcCall *call = arg;
	OpdGrpcReply *reply = &call->reply;

	reply->message = "";
	if (call->has_status && call->status != OPD_GRPC_OK)
		fail(reply, call->status, decode_message(call->raw_message));
	else if (result->proxy_status == 401 || result->proxy_status == 403 || result->proxy_status == 407)
		fail(reply, OPD_GRPC_FAILED_PRECONDITION,
			 psprintf("the proxy refused CONNECT with HTTP status %ld; check opdata.proxy and opdata.proxy_password_file",
					  result->proxy_status));
	else if (result->end == OPD_HTTP_TOO_LARGE)
	{
		reply->too_large = true;
		fail(reply, OPD_GRPC_RESOURCE_EXHAUSTED, "the answer is larger than we take");
	}
	else if (result->end != OPD_HTTP_WHOLE && opd_now_ms() - call->started_ms >= call->deadline_ms)
	{
		/* at the deadline the server resets the stream, without a status */
		fail(reply, OPD_GRPC_DEADLINE_EXCEEDED, "no answer in time");
	}
	else if (result->end == OPD_HTTP_TIMED_OUT)
		fail(reply, OPD_GRPC_UNAVAILABLE, "no connection in time");
	else if (result->end == OPD_HTTP_BROKEN)
		fail(reply, OPD_GRPC_UNAVAILABLE,
			 explain(call, opd_text_clean(result->problem, strlen(result->problem), OPD_GRPC_MESSAGE_MAX_BYTES, NULL)));
	else if (result->status != 200 && !call->has_status)
		fail(reply, status_of_http(result->status),
			 psprintf("HTTP status %ld, from something that is no gRPC server", result->status));
	else if (!is_grpc(result->content_type))
		fail(reply, OPD_GRPC_UNKNOWN, "an answer that is not gRPC");

	/*
	 * libcurl 7.88 loses the trailers of a stream that outlives the server's
	 * GOAWAY. A whole message without a status must therefore count, or each
	 * such poll would lose the task it brought.
	 */
	else if (take_message(reply, result))
		reply->status = OPD_GRPC_OK;
	else if (call->has_status)
		fail(reply, OPD_GRPC_INTERNAL, "an answer without exactly one message");
	else
		fail(reply, OPD_GRPC_UNAVAILABLE, "the answer broke off");
	call->done(call->arg, reply);
}

OpdGrpcCall *
opd_grpc_start(const OpdGrpcChannel *channel, const char *method,
			   uint8 *frame, size_t message_len, long deadline_ms,
			   OpdGrpcDone done, void *arg)
{
	OpdGrpcCall *call = palloc0(sizeof(OpdGrpcCall));
	uint32		len = pg_hton32((uint32) message_len);
	const char *headers[] = {
		"content-type: application/grpc",
		"te: trailers",
		"client-name: opdata-agent",
		"client-version: " OPD_VERSION,
		psprintf("temporal-namespace: %s", channel->namespace),
		psprintf("grpc-timeout: %ldm", deadline_ms),
		"accept:",
		"expect:",
		channel->bearer ? psprintf("authorization: Bearer %s", channel->bearer) : NULL,
		NULL
	};
	OpdHttpRequest request = {
		.url = psprintf("%s%s", channel->base_url, method),
		.route = &channel->route,
		.headers = headers,
		.body = frame,
		.body_len = message_len + OPD_GRPC_PREFIX_BYTES,
		.http2 = true,
		/* a little later than the server, which then has the say */
		.timeout_ms = deadline_ms + 1000,
		.cap_bytes = OPD_GRPC_RECEIVE_MAX_BYTES,
		.on_header = on_header
	};

	frame[0] = 0;
	memcpy(frame + 1, &len, sizeof(len));
	call->done = done;
	call->arg = arg;
	call->tls = strncmp(channel->base_url, "https:", 6) == 0;
	call->started_ms = opd_now_ms();
	call->deadline_ms = deadline_ms;
	call->http_call = opd_http_start(channel->http, &request, on_done, call);
	return call;
}

void
opd_grpc_free(OpdGrpcCall *call)
{
	opd_http_free(call->http_call);
}

const char *
opd_grpc_status_name(int status)
{
	static const char *const names[] = {
		"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED",
		"NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
		"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
		"INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"
	};

	return status >= 0 && status < (int) lengthof(names) ? names[status] : "UNKNOWN";
}
