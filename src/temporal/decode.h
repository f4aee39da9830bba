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

/* Deep copy into the current memory context. Raises 53200. */
extern ProtobufCMessage *opd_decode_copy(const ProtobufCMessage *message);

#endif							/* OPD_DECODE_H */
