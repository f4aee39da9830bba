/*-------------------------------------------------------------------------
 *
 * client.h
 *	  The calls of Temporal's WorkflowService that a worker makes.
 *
 * https://github.com/temporalio/api/blob/master/temporal/api/workflowservice/v1/service.proto
 *
 * src/temporal/client.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CLIENT_H
#define OPD_CLIENT_H

#include "temporal/grpc.h"
#include "temporal/temporal.pb-c.h"

/* Which call; the comment names request and response. */
typedef enum OpdRpc
{
	OPD_RPC_SYSTEM_INFO,		/* GetSystemInfo */
	OPD_RPC_POLL_WORKFLOW,		/* PollWorkflowTaskQueue */
	OPD_RPC_POLL_ACTIVITY,		/* PollActivityTaskQueue */
	OPD_RPC_WORKFLOW_COMPLETED, /* RespondWorkflowTaskCompleted */
	OPD_RPC_WORKFLOW_FAILED,	/* RespondWorkflowTaskFailed */
	OPD_RPC_QUERY_COMPLETED,	/* RespondQueryTaskCompleted */
	OPD_RPC_ACTIVITY_COMPLETED, /* RespondActivityTaskCompleted */
	OPD_RPC_ACTIVITY_FAILED,	/* RespondActivityTaskFailed */
	OPD_RPC_ACTIVITY_CANCELED,	/* RespondActivityTaskCanceled */
	OPD_RPC_ACTIVITY_HEARTBEAT, /* RecordActivityTaskHeartbeat */
	OPD_RPC_HISTORY,			/* GetWorkflowExecutionHistory */
	OPD_RPC_SHUTDOWN_WORKER		/* ShutdownWorker */
} OpdRpc;

/* One agent process at one server. */
typedef struct OpdClient
{
	OpdLoop    *loop;
	OpdGrpcChannel channel;
	char	   *namespace;
	char	   *identity;		/* "pid@host@opdata-version" */
	char	   *instance_key;	/* a UUID of this process */
	uint64		bearer_number;	/* of the one that is sent */
	bool		bearer_refused; /* set when a call was refused with the present bearer */
	MemoryContextCallback wipe;
} OpdClient;

typedef struct OpdRpcReply
{
	int			status;			/* OPD_GRPC_... */
	const char *message;		/* for people */
	const ProtobufCMessage *response;	/* with OPD_GRPC_OK, else NULL */
	bool		too_large;		/* the answer was larger than we take */
	uint64		bearer_number;	/* of the bearer that it was asked with */
} OpdRpcReply;

/*
 * Called from the loop, in the memory context that the call was begun in,
 * where the response lives too.
 */
typedef void (*OpdRpcDone) (void *arg, const OpdRpcReply *reply);

typedef struct OpdRpcCall OpdRpcCall;

/*
 * Make a client in the current memory context, of a server such as
 * "https://host:7233". Raises only 53200.
 */
extern OpdClient *opd_client_new(OpdLoop *loop, OpdHttp *http, const char *base_url,
								 const char *namespace);

/* Send this with every call from now on, or nothing (NULL); it is copied. */
extern void opd_client_set_bearer(OpdClient *client, const char *bearer);

/*
 * Begin a call. It lives in the current memory context, whose reset gives it
 * up; the request is packed at once and not needed any more. A request larger
 * than the server takes ends with RESOURCE_EXHAUSTED.
 */
extern OpdRpcCall *opd_client_call(OpdClient *client, OpdRpc rpc,
								   const ProtobufCMessage *request, long deadline_ms,
								   OpdRpcDone done, void *arg);

/*
 * The same for an answer that should arrive: repeated with growing pauses as
 * long as the failure may pass, until give_up_ms (opd_now_ms() scale). "done"
 * gets the last outcome.
 */
extern OpdRpcCall *opd_client_answer(OpdClient *client, OpdRpc rpc,
									 const ProtobufCMessage *request, double give_up_ms,
									 OpdRpcDone done, void *arg);

extern void opd_client_free_call(OpdRpcCall *call);

/* A pause of about "ms", 20 % more or less, so that agents do not march in step. */
extern double opd_client_jitter(double ms);

#endif							/* OPD_CLIENT_H */
