/*-------------------------------------------------------------------------
 *
 * client.c
 *	  The calls of Temporal's WorkflowService that a worker makes.
 *
 * src/temporal/client.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <unistd.h>
#include <openssl/crypto.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "base/limits.h"
#include "temporal/client.h"
#include "temporal/decode.h"

#define SERVICE "/temporal.api.workflowservice.v1.WorkflowService/"

/* Pauses between the tries of an answer. */
#define ANSWER_PAUSE_MS		100
#define ANSWER_PAUSE_GROWTH	1.7
#define ANSWER_PAUSE_MAX_MS	5000
#define EXHAUSTED_PAUSE_MS	1000

/* Method by OpdRpc; responses that hold nothing for us have no type. */
static const struct
{
	const char *method;
	const ProtobufCMessageDescriptor *response;
}			rpcs[] = {
	[OPD_RPC_SYSTEM_INFO] = {SERVICE "GetSystemInfo", &tp__get_system_info_response__descriptor},
	[OPD_RPC_POLL_WORKFLOW] = {SERVICE "PollWorkflowTaskQueue", &tp__poll_workflow_task_queue_response__descriptor},
	[OPD_RPC_POLL_ACTIVITY] = {SERVICE "PollActivityTaskQueue", &tp__poll_activity_task_queue_response__descriptor},
	[OPD_RPC_WORKFLOW_COMPLETED] = {SERVICE "RespondWorkflowTaskCompleted", &tp__respond_workflow_task_completed_response__descriptor},
	[OPD_RPC_WORKFLOW_FAILED] = {SERVICE "RespondWorkflowTaskFailed", NULL},
	[OPD_RPC_QUERY_COMPLETED] = {SERVICE "RespondQueryTaskCompleted", NULL},
	[OPD_RPC_ACTIVITY_COMPLETED] = {SERVICE "RespondActivityTaskCompleted", NULL},
	[OPD_RPC_ACTIVITY_FAILED] = {SERVICE "RespondActivityTaskFailed", NULL},
	[OPD_RPC_ACTIVITY_CANCELED] = {SERVICE "RespondActivityTaskCanceled", NULL},
	[OPD_RPC_ACTIVITY_HEARTBEAT] = {SERVICE "RecordActivityTaskHeartbeat", &tp__record_activity_task_heartbeat_response__descriptor},
	[OPD_RPC_HISTORY] = {SERVICE "GetWorkflowExecutionHistory", &tp__get_workflow_execution_history_response__descriptor},
	[OPD_RPC_SHUTDOWN_WORKER] = {SERVICE "ShutdownWorker", NULL},
};

struct OpdRpcCall
{
	OpdClient  *client;
	OpdRpc		rpc;
	uint8	   *frame;			/* prefix and packed request */
	size_t		len;			/* of the request */
	bool		too_large;
	long		deadline_ms;
	double		give_up_ms;		/* no try begins after this */
	double		pause_ms;		/* before the next try */
	OpdTimer   *timer;
	OpdGrpcCall *grpc_call;		/* NULL between tries */
	uint64		bearer_number;	/* of the last try */
	OpdRpcDone	done;
	void	   *arg;
	MemoryContextCallback on_reset;
};

static void on_reply(void *arg, const OpdGrpcReply *reply);

static void
wipe_bearer(void *arg)
{
	OpdClient  *client = arg;

	if (client->channel.bearer != NULL)
		OPENSSL_cleanse(unconstify(char *, client->channel.bearer), strlen(client->channel.bearer));
}

OpdClient *
opd_client_new(OpdLoop *loop, OpdHttp *http, const char *base_url, const char *namespace)
{
	OpdClient  *client = palloc0(sizeof(OpdClient));
	char		host[256];

	if (gethostname(host, sizeof(host)) != 0)
		strlcpy(host, "localhost", sizeof(host));
	host[sizeof(host) - 1] = '\0';

	client->loop = loop;
	client->namespace = pstrdup(namespace);
	client->identity = psprintf("%d@%s@opdata-%s", MyProcPid, host, OPD_VERSION);
	client->instance_key = DatumGetCString(DirectFunctionCall1(uuid_out, gen_random_uuid(NULL)));
	client->channel.http = http;
	client->channel.base_url = pstrdup(base_url);
	client->channel.namespace = client->namespace;
	client->wipe.func = wipe_bearer;
	client->wipe.arg = client;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &client->wipe);
	return client;
}

void
opd_client_set_bearer(OpdClient *client, const char *bearer)
{
	const char *before = client->channel.bearer;

	if (before == bearer || (before != NULL && bearer != NULL && strcmp(before, bearer) == 0))
		return;
	wipe_bearer(client);
	if (before != NULL)
		pfree(unconstify(char *, before));
	client->channel.bearer = bearer != NULL ? MemoryContextStrdup(GetMemoryChunkContext(client), bearer) : NULL;
	client->bearer_number++;
}

double
opd_client_jitter(double ms)
{
	return ms * (0.8 + 0.4 * opd_random_fraction());
}

/* May the same answer succeed later? */
static bool
may_pass(int status, const char *message)
{
	switch (status)
	{
		case OPD_GRPC_INVALID_ARGUMENT:
		case OPD_GRPC_NOT_FOUND:
		case OPD_GRPC_ALREADY_EXISTS:
		case OPD_GRPC_FAILED_PRECONDITION:
		case OPD_GRPC_UNIMPLEMENTED:
			return false;
		case OPD_GRPC_RESOURCE_EXHAUSTED:
			return strncmp(message, "grpc: received message larger than max", 38) != 0;
		default:
			return true;
	}
}

static void
send_frame(OpdRpcCall *call)
{
	call->bearer_number = call->client->bearer_number;
	call->grpc_call = opd_grpc_start(&call->client->channel, rpcs[call->rpc].method,
									 call->frame, call->len, call->deadline_ms,
									 on_reply, call);
}

static void
on_timer(void *arg)
{
	OpdRpcCall *call = arg;

	if (call->too_large)
	{
		OpdRpcReply reply = {
			.status = OPD_GRPC_RESOURCE_EXHAUSTED,
			.message = "grpc: received message larger than max (not sent)"
		};

		call->done(call->arg, &reply);
		return;
	}
	send_frame(call);
}

static void
on_reply(void *arg, const OpdGrpcReply *grpc_reply)
{
	OpdRpcCall *call = arg;
	OpdRpcReply reply = {
		.status = grpc_reply->status,
		.message = grpc_reply->message,
		.too_large = grpc_reply->too_large,
		.bearer_number = call->bearer_number
	};
	double		pause_ms;

	if ((reply.status == OPD_GRPC_UNAUTHENTICATED || reply.status == OPD_GRPC_PERMISSION_DENIED) &&
		reply.bearer_number == call->client->bearer_number)
		call->client->bearer_refused = true;

	if (reply.status == OPD_GRPC_OK && rpcs[call->rpc].response != NULL)
	{
		reply.response = opd_decode(rpcs[call->rpc].response, grpc_reply->data, grpc_reply->len);
		if (reply.response == NULL)
		{
			reply.status = OPD_GRPC_INTERNAL;
			reply.message = "the answer could not be decoded";
		}
	}

	if (reply.status != OPD_GRPC_OK && call->give_up_ms > 0 && may_pass(reply.status, reply.message))
	{
		if (reply.status == OPD_GRPC_RESOURCE_EXHAUSTED)
			call->pause_ms = Max(call->pause_ms, EXHAUSTED_PAUSE_MS);
		pause_ms = opd_client_jitter(call->pause_ms);
		call->pause_ms = Min(call->pause_ms * ANSWER_PAUSE_GROWTH, ANSWER_PAUSE_MAX_MS);
		if (opd_now_ms() + pause_ms < call->give_up_ms)
		{
			opd_grpc_free(call->grpc_call);
			call->grpc_call = NULL;
			opd_timer_set(call->timer, opd_now_ms() + pause_ms);
			return;
		}
	}

	/* the packed bytes of what was decoded, and of the request, are done with */
	opd_grpc_free(call->grpc_call);
	call->grpc_call = NULL;
	pfree(call->frame);
	call->frame = NULL;
	call->done(call->arg, &reply);
}

static void
free_call(void *arg)
{
	OpdRpcCall *call = arg;

	if (call->timer != NULL)
		opd_timer_free(call->timer);
	call->timer = NULL;
}

static OpdRpcCall *
begin(OpdClient *client, OpdRpc rpc, const ProtobufCMessage *request, long deadline_ms,
	  double give_up_ms, OpdRpcDone done, void *arg)
{
	OpdRpcCall *call = palloc0(sizeof(OpdRpcCall));

	call->client = client;
	call->rpc = rpc;
	call->deadline_ms = deadline_ms;
	call->give_up_ms = give_up_ms;
	call->pause_ms = ANSWER_PAUSE_MS;
	call->done = done;
	call->arg = arg;
	call->timer = opd_timer_new(client->loop, on_timer, call);
	call->on_reset.func = free_call;
	call->on_reset.arg = call;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &call->on_reset);

	call->len = protobuf_c_message_get_packed_size(request);
	if (call->len > OPD_GRPC_SEND_MAX_BYTES)
	{
		call->too_large = true;
		opd_timer_set(call->timer, opd_now_ms());
		return call;
	}
	call->frame = palloc(OPD_GRPC_PREFIX_BYTES + call->len);
	protobuf_c_message_pack(request, call->frame + OPD_GRPC_PREFIX_BYTES);
	send_frame(call);
	return call;
}

OpdRpcCall *
opd_client_call(OpdClient *client, OpdRpc rpc, const ProtobufCMessage *request,
				long deadline_ms, OpdRpcDone done, void *arg)
{
	return begin(client, rpc, request, deadline_ms, 0, done, arg);
}

OpdRpcCall *
opd_client_answer(OpdClient *client, OpdRpc rpc, const ProtobufCMessage *request,
				  double give_up_ms, OpdRpcDone done, void *arg)
{
	return begin(client, rpc, request, OPD_RPC_DEADLINE_MS, give_up_ms, done, arg);
}

void
opd_client_free_call(OpdRpcCall *call)
{
	if (call->grpc_call != NULL)
		opd_grpc_free(call->grpc_call);
	call->grpc_call = NULL;
	free_call(call);
}
