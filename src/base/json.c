/*-------------------------------------------------------------------------
 *
 * json.c
 *	  Build and read jsonb.
 *
 * src/base/json.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/guarded.h"
#include "base/json.h"

static void
add_key(OpdJson *json, const char *key)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = unconstify(char *, key);
	v.val.string.len = strlen(key);
	pushJsonbValue(&json->state, WJB_KEY, &v);
}

static void
set_string(JsonbValue *v, const char *value)
{
	if (value == NULL)
		v->type = jbvNull;
	else
	{
		v->type = jbvString;
		v->val.string.val = unconstify(char *, value);
		v->val.string.len = strlen(value);
	}
}

static void
set_numeric(JsonbValue *v, Numeric value)
{
	v->type = jbvNumeric;
	v->val.numeric = value;
}

static Numeric
numeric_from_text(const char *text)
{
	return DatumGetNumeric(DirectFunctionCall3(numeric_in,
											   CStringGetDatum(text),
											   ObjectIdGetDatum(InvalidOid),
											   Int32GetDatum(-1)));
}

/*
 * Push a whole jsonb. A container is pushed as jbvBinary, which unpacks it; a
 * scalar is taken out of its wrapper first.
 */
static void
push_whole(OpdJson *json, JsonbIteratorToken token, Jsonb *value)
{
	JsonbValue	v;

	if (value == NULL)
		v.type = jbvNull;
	else if (JB_ROOT_IS_SCALAR(value))
		(void) JsonbExtractScalar(&value->root, &v);
	else
	{
		v.type = jbvBinary;
		v.val.binary.data = &value->root;
		v.val.binary.len = VARSIZE(value) - VARHDRSZ;
	}
	pushJsonbValue(&json->state, token, &v);
}

void
opd_json_begin_object(OpdJson *json)
{
	json->state = NULL;
	json->result = pushJsonbValue(&json->state, WJB_BEGIN_OBJECT, NULL);
}

Jsonb *
opd_json_end_object(OpdJson *json)
{
	json->result = pushJsonbValue(&json->state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(json->result);
}

void
opd_json_begin_array(OpdJson *json)
{
	json->state = NULL;
	json->result = pushJsonbValue(&json->state, WJB_BEGIN_ARRAY, NULL);
}

Jsonb *
opd_json_end_array(OpdJson *json)
{
	json->result = pushJsonbValue(&json->state, WJB_END_ARRAY, NULL);
	return JsonbValueToJsonb(json->result);
}

void
opd_json_add_string(OpdJson *json, const char *key, const char *value)
{
	JsonbValue	v;

	add_key(json, key);
	set_string(&v, value);
	pushJsonbValue(&json->state, WJB_VALUE, &v);
}

void
opd_json_add_int(OpdJson *json, const char *key, int64 value)
{
	JsonbValue	v;

	add_key(json, key);
	set_numeric(&v, int64_to_numeric(value));
	pushJsonbValue(&json->state, WJB_VALUE, &v);
}

void
opd_json_add_bool(OpdJson *json, const char *key, bool value)
{
	JsonbValue	v;

	add_key(json, key);
	v.type = jbvBool;
	v.val.boolean = value;
	pushJsonbValue(&json->state, WJB_VALUE, &v);
}

void
opd_json_add_ms(OpdJson *json, const char *key, double value_ms)
{
	JsonbValue	v;

	add_key(json, key);
	set_numeric(&v, numeric_from_text(psprintf("%.3f", value_ms)));
	pushJsonbValue(&json->state, WJB_VALUE, &v);
}

void
opd_json_add_time(OpdJson *json, const char *key, TimestampTz at)
{
	opd_json_add_string(json, key, at == 0 ? NULL :
						JsonEncodeDateTime(NULL, TimestampTzGetDatum(at), TIMESTAMPTZOID, NULL));
}

void
opd_json_add_value(OpdJson *json, const char *key, Jsonb *value)
{
	add_key(json, key);
	push_whole(json, WJB_VALUE, value);
}

void
opd_json_push_string(OpdJson *json, const char *value)
{
	JsonbValue	v;

	set_string(&v, value);
	pushJsonbValue(&json->state, WJB_ELEM, &v);
}

void
opd_json_push_number(OpdJson *json, const char *text)
{
	JsonbValue	v;

	set_numeric(&v, numeric_from_text(text));
	pushJsonbValue(&json->state, WJB_ELEM, &v);
}

void
opd_json_push_bool(OpdJson *json, bool value)
{
	JsonbValue	v;

	v.type = jbvBool;
	v.val.boolean = value;
	pushJsonbValue(&json->state, WJB_ELEM, &v);
}

void
opd_json_push_value(OpdJson *json, Jsonb *value)
{
	push_whole(json, WJB_ELEM, value);
}

/* A text, parsed under guard. */
typedef struct Parse
{
	char	   *text;
	Jsonb	   *json;
} Parse;

static void
parse(void *arg)
{
	Parse	   *p = arg;

	pg_verifymbstr(p->text, strlen(p->text), false);
	p->json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(p->text)));
}

Jsonb *
opd_json_parse_object(const void *data, size_t len)
{
	Parse		p = {pnstrdup(data, len), NULL};
	bool		parsed;

	/* a NUL inside is no JSON */
	parsed = strlen(p.text) == len && opd_guarded_call(parse, &p) == NULL;
	/* some of it is a secret */
	explicit_bzero(p.text, len);
	return parsed && opd_json_is_object(p.json) ? p.json : NULL;
}

bool
opd_json_is_object(const Jsonb *json)
{
	return JB_ROOT_IS_OBJECT(json);
}

bool
opd_json_find(const Jsonb *object, const char *key, JsonbValue *value)
{
	JsonbContainer *container = unconstify(JsonbContainer *, &object->root);

	if (!JB_ROOT_IS_OBJECT(object))
		return false;
	return getKeyJsonValueFromContainer(container, key, strlen(key), value) != NULL;
}

char *
opd_json_string(const JsonbValue *value)
{
	Assert(value->type == jbvString);
	return pnstrdup(value->val.string.val, value->val.string.len);
}

bool
opd_json_has(const Jsonb *object, const char *key)
{
	JsonbValue	v;

	return opd_json_find(object, key, &v);
}

char *
opd_json_find_string(const Jsonb *object, const char *key)
{
	JsonbValue	v;

	return opd_json_find(object, key, &v) && v.type == jbvString ? opd_json_string(&v) : NULL;
}
