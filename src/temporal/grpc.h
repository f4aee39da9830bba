/*-------------------------------------------------------------------------
 *
 * grpc.h
 *	  One unary gRPC call: a message there, a message or a status back.
 *
 * https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
 *
 * src/temporal/grpc.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_GRPC_H
#define OPD_GRPC_H

#include "wire/http.h"

/* https://github.com/grpc/grpc/blob/master/doc/statuscodes.md */
typedef enum OpdGrpcStatus
{
	OPD_GRPC_OK = 0,
	OPD_GRPC_CANCELLED = 1,
	OPD_GRPC_UNKNOWN = 2,
	OPD_GRPC_INVALID_ARGUMENT = 3,
	OPD_GRPC_DEADLINE_EXCEEDED = 4,
	OPD_GRPC_NOT_FOUND = 5,
	OPD_GRPC_ALREADY_EXISTS = 6,
	OPD_GRPC_PERMISSION_DENIED = 7,
	OPD_GRPC_RESOURCE_EXHAUSTED = 8,
	OPD_GRPC_FAILED_PRECONDITION = 9,
	OPD_GRPC_ABORTED = 10,
	OPD_GRPC_OUT_OF_RANGE = 11,
	OPD_GRPC_UNIMPLEMENTED = 12,
	OPD_GRPC_INTERNAL = 13,
	OPD_GRPC_UNAVAILABLE = 14,
	OPD_GRPC_DATA_LOSS = 15,
	OPD_GRPC_UNAUTHENTICATED = 16
} OpdGrpcStatus;

/* Where calls go. */
typedef struct OpdGrpcChannel
{
	OpdHttp    *http;
	const char *base_url;		/* "http://host:port" or "https://host:port" */
	const char *namespace;		/* sent as metadata, for proxies */
	OpdHttpRoute route;
	const char *bearer;			/* sent as "authorization: Bearer ..."; or NULL */
} OpdGrpcChannel;

typedef struct OpdGrpcReply
{
	int			status;			/* OPD_GRPC_...; others a server may send */
	const char *message;		/* for people; printable, never NULL */
	bool		too_large;		/* RESOURCE_EXHAUSTED, by our own cap */
	const uint8 *data;			/* with OPD_GRPC_OK: the one message */
	size_t		len;
} OpdGrpcReply;

typedef struct OpdGrpcCall OpdGrpcCall;

/* Called from the loop; the reply stays until the call is freed. */
typedef void (*OpdGrpcDone) (void *arg, const OpdGrpcReply *reply);

/* Bytes in front of a message on the wire. */
#define OPD_GRPC_PREFIX_BYTES 5

/*
 * Begin a call of "method", a path such as "/package.Service/Method". "frame"
 * holds OPD_GRPC_PREFIX_BYTES bytes to be filled in here, then the message of
 * message_len bytes; it must stay until the call is freed. The call lives in
 * the current memory context, whose reset gives it up by closing its
 * connection.
 */
extern OpdGrpcCall *opd_grpc_start(const OpdGrpcChannel *channel, const char *method,
								   uint8 *frame, size_t message_len, long deadline_ms,
								   OpdGrpcDone done, void *arg);
extern void opd_grpc_free(OpdGrpcCall *call);

/* Name of a status, such as "UNAVAILABLE". */
extern const char *opd_grpc_status_name(int status);

#endif							/* OPD_GRPC_H */
