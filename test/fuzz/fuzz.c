/*-------------------------------------------------------------------------
 *
 * fuzz.c
 *	  A libFuzzer target: what a hostile server sends, without a server or a
 *	  backend.
 *
 *		test/fuzz/run.sh [SECONDS]		build it with clang, and run it
 *
 * The first byte of an input says what the others are:
 *
 *		H	a serialized History, which every workflow is replayed over
 *		T	a PollWorkflowTaskQueueResponse, whose history is used like that
 *		A	a PollActivityTaskQueueResponse
 *		G	an answer of HTTP to a gRPC call: its headers and its body
 *
 * Other than that in test/t/065_hostile_bytes.pl, every allocation is one of
 * malloc's and so guarded by the address sanitizer, and inputs are led by what
 * code they reach. The backend's functions that the sources call are at the
 * bottom, as small as they can be.
 *
 * test/fuzz/fuzz.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <setjmp.h>

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "base/text.h"
#include "temporal/decode.h"
#include "temporal/grpc.h"
#include "temporal/history.h"
#include "temporal/payload.h"
#include "temporal/workflow.h"
#include "worker/agent.h"
#include "testflows.h"

extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);

#define REQUIRE(condition) ((condition) ? (void) 0 : abort())

static void free_all(void);

/* Where an error that is raised comes out. */
static sigjmp_buf raised;

/* -------------------------------------------------------------- histories */

static void
check_decision(const OpdDecision *decision)
{
	for (int i = 0; i < decision->n_commands; i++)
		(void) tp__command__get_packed_size(decision->commands[i]);
	if (decision->misfit != NULL)
		return;
	REQUIRE(!decision->closed || decision->n_commands > 0);
	REQUIRE(!decision->closed || decision->local_id == NULL);
	REQUIRE((decision->local_id == NULL) == (decision->local_type == NULL));
}

static void
replay(OpdWorkflowFunction function, const OpdHistory *history)
{
	OpdDecision *decision = opd_workflow_replay(function, history, NULL, "queue", "bulk queue");

	check_decision(decision);
	if (decision->misfit == NULL && decision->local_id != NULL)
	{
		OpdLocalOutcome outcome = {.id = decision->local_id, .result = history->input};

		check_decision(opd_workflow_replay(function, history, &outcome, "queue", "bulk queue"));
	}
}

static void
use_history(const Tp__History *events)
{
	static const char *const types[] = {
		"storeCredsWorkflow", "testCredentialsWorkflow", "previewQueryWorkflow", "deleteConnectionWorkflow"
	};
	OpdHistory *history = opd_history_new();
	OpdWorkflowFunction function;

	if (opd_history_add(history, events) != NULL)
		return;
	REQUIRE(strlen(opd_history_state(history)) > 0);
	for (int i = 0; i < (int) lengthof(types); i++)
		replay(opd_workflows_find(types[i]), history);
	for (int i = 0; (function = testflows_each(i)) != NULL; i++)
		replay(function, history);
}

static void
use_message(const ProtobufCMessageDescriptor *type, const uint8 *data, size_t size)
{
	ProtobufCMessage *message = opd_decode(type, data, size);
	size_t		packed_size;
	uint8	   *packed;

	if (message == NULL)
		return;
	packed_size = protobuf_c_message_get_packed_size(message);
	packed = palloc(packed_size);
	REQUIRE(protobuf_c_message_pack(message, packed) == packed_size);

	if (type == &tp__history__descriptor)
		use_history((Tp__History *) message);
	else if (type == &tp__poll_workflow_task_queue_response__descriptor)
		use_history(((Tp__PollWorkflowTaskQueueResponse *) message)->history);
	(void) opd_decode_copy(message);	/* may raise */
}

/* ------------------------------------------------------------------- gRPC */

/* What grpc.c has asked for, as wire/http.c would know it. */
static OpdHttpRequest request;
static OpdHttpDone http_done;
static void *http_arg;
static double now_ms;

OpdHttpCall *
opd_http_start(OpdHttp *http, const OpdHttpRequest *new_request, OpdHttpDone done, void *arg)
{
	request = *new_request;
	http_done = done;
	http_arg = arg;
	return NULL;
}

void
opd_http_free(OpdHttpCall *call)
{
}

double
opd_now_ms(void)
{
	return now_ms;
}

/* One more part of the input: a length of two bytes, cut to what is there. */
static size_t
part(const uint8 **data, size_t *size, const uint8 **bytes)
{
	size_t		len;

	*bytes = *data;
	if (*size < 2)
	{
		*size = 0;
		return 0;
	}
	len = Min((size_t) ((*data)[0] << 8 | (*data)[1]), *size - 2);
	*bytes = *data + 2;
	*data += 2 + len;
	*size -= 2 + len;
	return len;
}

/* A copy with nothing around it that may be read. */
static char *
alone(const uint8 *bytes, size_t len)
{
	char	   *copy = palloc(len);

	memcpy(copy, bytes, len);
	return copy;
}

static OpdHttpResult result;
static int	n_replies;

static void
on_reply(void *arg, const OpdGrpcReply *reply)
{
	n_replies++;
	REQUIRE(reply->message != NULL);
	REQUIRE(strcmp(reply->message, opd_text_clean(reply->message, strlen(reply->message), 100000, NULL)) == 0);
	REQUIRE(opd_grpc_status_name(reply->status) != NULL);
	if (reply->status == OPD_GRPC_OK)
	{
		REQUIRE(reply->data == result.body + OPD_GRPC_PREFIX_BYTES);
		REQUIRE(reply->len == result.body_len - OPD_GRPC_PREFIX_BYTES);
		for (size_t i = 0; i < reply->len; i++)
			(void) *(volatile const uint8 *) &reply->data[i];
	}
}

/*
 * Byte 0: how it ended, byte 1 and 2: the HTTP status, byte 3: the content type,
 * byte 4: the number of headers, with name and value as parts; then the body.
 */
static void
use_answer(const uint8 *data, size_t size)
{
	static const char *const content_types[] = {NULL, "", "application/grpc", "application/grpc+proto", "text/html"};
	OpdGrpcChannel channel = {.base_url = "http://localhost", .namespace = "default"};
	uint8		frame[OPD_GRPC_PREFIX_BYTES];
	const uint8 *bytes;
	size_t		len;
	int			n_headers;

	if (size < 5)
		return;
	memset(&result, 0, sizeof(result));
	result.end = data[0] & 3;
	result.status = data[1] << 8 | data[2];
	result.content_type = content_types[data[3] % lengthof(content_types)];
	n_headers = data[4];
	now_ms = 0;
	(void) opd_grpc_start(&channel, "/service/Method", frame, 0, 1000, on_reply, NULL);
	if (data[0] & 4)
		now_ms = 2000;
	data += 5;
	size -= 5;

	for (int i = 0; i < n_headers && size > 0; i++)
	{
		size_t		name_len = part(&data, &size, &bytes);
		char	   *name = alone(bytes, name_len);

		len = part(&data, &size, &bytes);
		request.on_header(http_arg, name, name_len, alone(bytes, len), len);
	}
	result.body = (uint8 *) alone(data, size);
	result.body_len = size;
	result.problem = result.end == OPD_HTTP_WHOLE ? "" : "it broke";
	n_replies = 0;
	http_done(http_arg, &result);
	REQUIRE(n_replies == 1);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	if (size == 0)
		return 0;
	if (sigsetjmp(raised, 0) == 0)
	{
		switch (data[0])
		{
			case 'H':
				use_message(&tp__history__descriptor, data + 1, size - 1);
				break;
			case 'T':
				use_message(&tp__poll_workflow_task_queue_response__descriptor, data + 1, size - 1);
				break;
			case 'A':
				use_message(&tp__poll_activity_task_queue_response__descriptor, data + 1, size - 1);
				break;
			case 'G':
				use_answer(data + 1, size - 1);
				break;
			default:
				return -1;
		}
	}
	free_all();
	return 0;
}

/* ------------------------------------------------- in place of the backend */

/* Every allocation is one of malloc's, and lives until the end of the input. */
typedef struct Allocation
{
	struct Allocation *previous;
	struct Allocation *next;
	size_t		size;
	size_t		unused;			/* keeps what follows aligned */
} Allocation;

static Allocation all = {&all, &all, 0, 0};

static struct MemoryContextData top_context;
MemoryContext CurrentMemoryContext = &top_context;

static void *
allocate(size_t size)
{
	Allocation *allocation = malloc(sizeof(Allocation) + size);

	REQUIRE(allocation != NULL);
	allocation->size = size;
	allocation->previous = &all;
	allocation->next = all.next;
	all.next->previous = allocation;
	all.next = allocation;
	memset(allocation + 1, 0xa5, size);
	return allocation + 1;
}

static void
free_all(void)
{
	while (all.next != &all)
		pfree(all.next + 1);
}

void *
palloc(Size size)
{
	return allocate(size);
}

void *
palloc0(Size size)
{
	return memset(allocate(size), 0, size);
}

void
pfree(void *pointer)
{
	Allocation *allocation = (Allocation *) pointer - 1;

	allocation->previous->next = allocation->next;
	allocation->next->previous = allocation->previous;
	free(allocation);
}

void *
repalloc(void *pointer, Size size)
{
	void	   *copy = allocate(size);

	memcpy(copy, pointer, Min(size, ((Allocation *) pointer - 1)->size));
	pfree(pointer);
	return copy;
}

void *
repalloc_huge(void *pointer, Size size)
{
	return repalloc(pointer, size);
}

char *
pnstrdup(const char *text, Size len)
{
	size_t		n = strnlen(text, len);
	char	   *copy = palloc(n + 1);

	memcpy(copy, text, n);
	copy[n] = '\0';
	return copy;
}

char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

char *
psprintf(const char *format,...)
{
	va_list		args;
	char	   *text;
	int			len;

	va_start(args, format);
	len = vsnprintf(NULL, 0, format, args);
	va_end(args);
	text = palloc(len + 1);
	va_start(args, format);
	vsnprintf(text, len + 1, format, args);
	va_end(args);
	return text;
}

void *
MemoryContextAllocHuge(MemoryContext context, Size size)
{
	return allocate(size);
}

void *
MemoryContextAllocExtended(MemoryContext context, Size size, int flags)
{
	return allocate(size);
}

Size
MemoryContextMemAllocated(MemoryContext context, bool recurse)
{
	size_t		n = 0;

	/* counting once in a while is enough, and keeps long histories fast */
	static int	calls = 0;

	if (++calls % 64 != 0)
		return 0;
	for (Allocation *a = all.next; a != &all; a = a->next)
		n += a->size;
	return n;
}

/* lib/stringinfo.c */

void
initStringInfo(StringInfo text)
{
	text->maxlen = 64;
	text->data = palloc(text->maxlen);
	text->data[0] = '\0';
	text->len = 0;
	text->cursor = 0;
}

void
appendBinaryStringInfo(StringInfo text, const char *data, int len)
{
	while (text->len + len + 1 > text->maxlen)
	{
		text->maxlen *= 2;
		text->data = repalloc(text->data, text->maxlen);
	}
	memcpy(text->data + text->len, data, len);
	text->len += len;
	text->data[text->len] = '\0';
}

void
appendStringInfoString(StringInfo text, const char *string)
{
	appendBinaryStringInfo(text, string, strlen(string));
}

/* utils/elog.c: an error ends the input */

bool
errstart(int level, const char *domain)
{
	return true;
}

bool
errstart_cold(int level, const char *domain)
{
	return true;
}

int
errcode(int code)
{
	return 0;
}

int
errmsg(const char *format,...)
{
	return 0;
}

void
errfinish(const char *file, int line, const char *function)
{
	siglongjmp(raised, 1);
}

void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
{
	abort();
}

/* temporal/payload.c: the rest of it is about jsonb */

Tp__Payloads *
opd_payload_of_text(const char *json, size_t len)
{
	Tp__Payloads *payloads = palloc(sizeof(Tp__Payloads));

	tp__payloads__init(payloads);
	return payloads;
}

Tp__Payloads *
opd_payload_of_bytes(const char *bytes, size_t len)
{
	Tp__Payloads *payloads = palloc(sizeof(Tp__Payloads));

	tp__payloads__init(payloads);
	return payloads;
}

Tp__Failure *
opd_failure_new(const char *type, const char *message, bool non_retryable)
{
	Tp__Failure *failure = palloc(sizeof(Tp__Failure));

	tp__failure__init(failure);
	return failure;
}
