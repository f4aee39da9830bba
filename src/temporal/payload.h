/*-------------------------------------------------------------------------
 *
 * payload.h
 *	  Temporal's payloads and failures, and our JSON values and errors.
 *
 * src/temporal/payload.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PAYLOAD_H
#define OPD_PAYLOAD_H

#include "base/error.h"
#include "temporal/temporal.pb-c.h"

/* What is made here lives in the current memory context. */

/*
 * One JSON argument or result ("json/plain"); bytes of our own ("binary/plain").
 * "message" is what the inventory calls it: raises XX000 when it has a field that
 * is not in there.
 */
extern Tp__Payloads *opd_payload_of_json(const char *message, const Jsonb *value);
extern Tp__Payloads *opd_payload_of_text(const char *json, size_t len);
extern Tp__Payloads *opd_payload_of_bytes(const char *bytes, size_t len);

/*
 * The first argument as JSON; unknown encodings and malformed JSON give NULL
 * and *error (unsupported). No argument at all is an empty object.
 */
extern Jsonb *opd_payload_to_json(const Tp__Payloads *payloads, OpdError **error);

/* Bytes that a result takes in Temporal. */
extern size_t opd_payload_size(const Tp__Payloads *payloads);

/*
 * An error as an application failure: type is the error's code, the message
 * our own words with the SQLSTATE, details {"code","sqlstate","detail","hint"}.
 */
extern Tp__Failure *opd_failure_of_error(const OpdError *error, bool non_retryable);

/* A failure with a type of ours that is no error code. */
extern Tp__Failure *opd_failure_new(const char *type, const char *message, bool non_retryable);

#endif							/* OPD_PAYLOAD_H */
