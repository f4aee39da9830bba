/*-------------------------------------------------------------------------
 *
 * decode.c
 *	  protobuf messages into and out of memory contexts.
 *
 * protobuf-c allocates through two functions that we give it. They must not
 * raise, since that would jump over its frames, and they count: two bytes on
 * the wire can become a struct of a hundred.
 *
 * src/temporal/decode.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "utils/memutils.h"

#include "base/limits.h"
#include "temporal/decode.h"

typedef struct Pool
{
	MemoryContext context;
	size_t		left;			/* bytes that may still be allocated */
} Pool;

static void *
pool_alloc(void *arg, size_t size)
{
	Pool	   *pool = arg;

	if (size > pool->left)
		return NULL;
	pool->left -= size;
	return MemoryContextAllocExtended(pool->context, size, MCXT_ALLOC_NO_OOM | MCXT_ALLOC_HUGE);
}

static void
pool_free(void *arg, void *pointer)
{
	if (pointer != NULL)
		pfree(pointer);
}

ProtobufCMessage *
opd_decode(const ProtobufCMessageDescriptor *type, const uint8 *data, size_t len)
{
	Pool		pool = {CurrentMemoryContext, OPD_DECODED_MAX_BYTES};
	ProtobufCAllocator allocator = {pool_alloc, pool_free, &pool};

	return protobuf_c_message_unpack(type, &allocator, len, data);
}

ProtobufCMessage *
opd_decode_try_copy(const ProtobufCMessage *message)
{
	size_t		len = protobuf_c_message_get_packed_size(message);
	uint8	   *bytes = MemoryContextAllocHuge(CurrentMemoryContext, Max(len, 1));
	ProtobufCMessage *copy;

	protobuf_c_message_pack(message, bytes);
	copy = opd_decode(message->descriptor, bytes, len);
	pfree(bytes);
	return copy;
}

ProtobufCMessage *
opd_decode_copy(const ProtobufCMessage *message)
{
	ProtobufCMessage *copy = opd_decode_try_copy(message);

	if (copy == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("a message of the Temporal server cannot be kept")));
	return copy;
}
