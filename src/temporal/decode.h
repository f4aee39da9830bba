/*-------------------------------------------------------------------------
 *
 * decode.h
 *	  protobuf messages into and out of memory contexts.
 *
 * src/temporal/decode.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_DECODE_H
#define OPD_DECODE_H

#include <protobuf-c/protobuf-c.h>

/*
 * Decode a message that a peer sent into the current memory context: it is
 * freed with the context, never by itself. Returns NULL when the bytes are no
 * such message, or would take more memory than OPD_DECODED_MAX_BYTES. Raises
 * nothing but an interrupt.
 */
extern ProtobufCMessage *opd_decode(const ProtobufCMessageDescriptor *type,
									const uint8 *data, size_t len);

/*
 * Deep copy into the current memory context. NULL when that would take too much
 * memory, or when protobuf-c cannot read what it wrote: it takes fields of the
 * number 0 if they are written with more bytes than needed, and writes them
 * with one.
 */
extern ProtobufCMessage *opd_decode_try_copy(const ProtobufCMessage *message);

/* The same; raises 08P01 instead. */
extern ProtobufCMessage *opd_decode_copy(const ProtobufCMessage *message);

#endif							/* OPD_DECODE_H */
