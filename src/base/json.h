/*-------------------------------------------------------------------------
 *
 * json.h
 *	  Build a jsonb object member by member, and read members of one.
 *
 * Thin wrappers around utils/jsonb.h, so that the code that makes a result
 * reads like the result.
 *
 * src/base/json.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_JSON_H
#define OPD_JSON_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"

/* One jsonb value being built; lives in the memory context of its beginning. */
typedef struct OpdJson
{
	JsonbParseState *state;
	JsonbValue *result;
} OpdJson;

/* Begin and end an object or an array that is the whole value. */
extern void opd_json_begin_object(OpdJson *json);
extern Jsonb *opd_json_end_object(OpdJson *json);
extern void opd_json_begin_array(OpdJson *json);
extern Jsonb *opd_json_end_array(OpdJson *json);

/*
 * Add a member to the object. NULL strings and NULL values give a JSON null.
 * Strings must be valid in the server encoding.
 */
extern void opd_json_add_string(OpdJson *json, const char *key, const char *value);
extern void opd_json_add_int(OpdJson *json, const char *key, int64 value);
extern void opd_json_add_bool(OpdJson *json, const char *key, bool value);
extern void opd_json_add_ms(OpdJson *json, const char *key, double value_ms);	/* 3 decimals */
extern void opd_json_add_time(OpdJson *json, const char *key, TimestampTz at);	/* 0: null */
extern void opd_json_add_value(OpdJson *json, const char *key, Jsonb *value);

/* Add an element to the array. */
extern void opd_json_push_string(OpdJson *json, const char *value);
extern void opd_json_push_number(OpdJson *json, const char *text);	/* text of a finite number */
extern void opd_json_push_bool(OpdJson *json, bool value);
extern void opd_json_push_value(OpdJson *json, Jsonb *value);

/*
 * Parse an object that a peer has sent, in the current memory context; NULL for
 * anything else, and for what is no valid UTF-8. Not from a callback. Raises only
 * 53200.
 */
extern Jsonb *opd_json_parse_object(const void *data, size_t len);

/* Is it an object at the top? */
extern bool opd_json_is_object(const Jsonb *json);

/*
 * Find a member of a top-level object: true and *value filled, or false when
 * there is none. The value points into the object.
 */
extern bool opd_json_find(const Jsonb *object, const char *key, JsonbValue *value);

/* Copy of a string value, NUL-terminated, in the current memory context. */
extern char *opd_json_string(const JsonbValue *value);

/* Is there a member of that name, and the copy of one that is a string: else NULL. */
extern bool opd_json_has(const Jsonb *object, const char *key);
extern char *opd_json_find_string(const Jsonb *object, const char *key);

#endif							/* OPD_JSON_H */
