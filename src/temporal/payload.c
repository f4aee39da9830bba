/*-------------------------------------------------------------------------
 *
 * payload.c
 *	  Temporal's payloads and failures, and our JSON values and errors.
 *
 * src/temporal/payload.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "base/guarded.h"
#include "base/inventory.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "temporal/payload.h"

#define ENCODING "encoding"
#define JSON_PLAIN "json/plain"
#define BINARY_NULL "binary/null"
#define BINARY_PLAIN "binary/plain"

static Tp__Payloads *
make_payloads(const char *encoding, const char *data, size_t len)
{
	Tp__Payloads *payloads = palloc(sizeof(Tp__Payloads));
	Tp__Payload *payload = palloc(sizeof(Tp__Payload));
	Tp__MetadataEntry *entry = palloc(sizeof(Tp__MetadataEntry));

	tp__metadata_entry__init(entry);
	entry->key = ENCODING;
	entry->value.data = (uint8 *) unconstify(char *, encoding);
	entry->value.len = strlen(encoding);

	tp__payload__init(payload);
	payload->n_metadata = 1;
	payload->metadata = palloc(sizeof(*payload->metadata));
	payload->metadata[0] = entry;
	payload->data.data = (uint8 *) unconstify(char *, data);
	payload->data.len = len;

	tp__payloads__init(payloads);
	payloads->n_payloads = 1;
	payloads->payloads = palloc(sizeof(*payloads->payloads));
	payloads->payloads[0] = payload;
	return payloads;
}

Tp__Payloads *
opd_payload_of_text(const char *json, size_t len)
{
	return make_payloads(JSON_PLAIN, json, len);
}

Tp__Payloads *
opd_payload_of_json(const char *message, const Jsonb *value)
{
	char	   *text;

	opd_inventory_check(message, value);
	text = JsonbToCString(NULL, &unconstify(Jsonb *, value)->root, VARSIZE(value));

	return opd_payload_of_text(text, strlen(text));
}

Tp__Payloads *
opd_payload_of_bytes(const char *bytes, size_t len)
{
	return make_payloads(BINARY_PLAIN, bytes, len);
}

static bool
has_encoding(const Tp__Payload *payload, const char *encoding)
{
	for (size_t i = 0; i < payload->n_metadata; i++)
	{
		Tp__MetadataEntry *entry = payload->metadata[i];

		if (strcmp(entry->key, ENCODING) == 0)
			return entry->value.len == strlen(encoding) &&
				memcmp(entry->value.data, encoding, entry->value.len) == 0;
	}
	return false;
}

/* jsonb_in() under opd_guarded_call(). */
typedef struct Parse
{
	char	   *text;
	Jsonb	   *json;
} Parse;

static void
parse_json(void *arg)
{
	Parse	   *parse = arg;

	parse->json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(parse->text)));
}

Jsonb *
opd_payload_to_json(const Tp__Payloads *payloads, OpdError **error)
{
	const Tp__Payload *payload;
	Parse		parse;

	if (payloads == NULL || payloads->n_payloads == 0 ||
		has_encoding(payloads->payloads[0], BINARY_NULL))
	{
		OpdJson		empty;

		opd_json_begin_object(&empty);
		return opd_json_end_object(&empty);
	}
	payload = payloads->payloads[0];
	if (!has_encoding(payload, JSON_PLAIN))
	{
		*error = opd_error_hint(opd_error_new(OPD_UNSUPPORTED, "the input is not encoded as json/plain"),
								"Start the workflow without a payload codec, with one JSON object.");
		return NULL;
	}

	/* the text may hold a credential: what the parser says quotes it */
	parse.text = pnstrdup((char *) payload->data.data, payload->data.len);
	if (strlen(parse.text) != payload->data.len ||
		!pg_verify_mbstr(PG_UTF8, parse.text, payload->data.len, true) ||
		opd_guarded_call(parse_json, &parse) != NULL ||
		!opd_json_is_object(parse.json))
	{
		*error = opd_error_new(OPD_UNSUPPORTED, "the input is no JSON object");
		explicit_bzero(parse.text, strlen(parse.text));
		return NULL;
	}
	explicit_bzero(parse.text, strlen(parse.text));
	return parse.json;
}

size_t
opd_payload_size(const Tp__Payloads *payloads)
{
	return payloads ? tp__payloads__get_packed_size(payloads) : 0;
}

Tp__Failure *
opd_failure_new(const char *type, const char *message, bool non_retryable)
{
	Tp__Failure *failure = palloc(sizeof(Tp__Failure));
	Tp__ApplicationFailureInfo *info = palloc(sizeof(Tp__ApplicationFailureInfo));

	tp__application_failure_info__init(info);
	info->type = pstrdup(type);
	info->non_retryable = non_retryable;

	tp__failure__init(failure);
	failure->message = opd_text_clean(message, strlen(message), OPD_FAILURE_TEXT_MAX_BYTES / 4, NULL);
	failure->source = "opdata";
	failure->failure_info_case = TP__FAILURE__FAILURE_INFO_APPLICATION_FAILURE_INFO;
	failure->application_failure_info = info;
	return failure;
}

Tp__Failure *
opd_failure_of_error(const OpdError *error, bool non_retryable)
{
	const char *message = error->message;
	Tp__Failure *failure;
	OpdJson		json;

	if (strstr(message, error->sqlstate) == NULL)
		message = psprintf("%s (SQLSTATE %s)", message, error->sqlstate);
	failure = opd_failure_new(opd_error_name(error->code), message, non_retryable);

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "code", opd_error_name(error->code));
	opd_json_add_string(&json, "sqlstate", error->sqlstate);
	opd_json_add_string(&json, "detail", error->detail == NULL ? NULL :
						opd_text_clean(error->detail, strlen(error->detail), OPD_FAILURE_TEXT_MAX_BYTES / 4, NULL));
	opd_json_add_string(&json, "hint", error->hint == NULL ? NULL :
						opd_text_clean(error->hint, strlen(error->hint), OPD_FAILURE_TEXT_MAX_BYTES / 4, NULL));
	failure->application_failure_info->details = opd_payload_of_json("failure details", opd_json_end_object(&json));
	return failure;
}
