/*-------------------------------------------------------------------------
 *
 * api_boundary.c
 *	  SQL functions by which a customer says what may come in and leave.
 *
 * src/api/api_boundary.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "api/arguments.h"
#include "api/caller.h"
#include "base/error.h"
#include "base/json.h"
#include "base/limits.h"
#include "conf/conf.h"
#include "secret/jwk.h"
#include "secret/redact.h"
#include "store/egress.h"
#include "store/keys.h"
#include "store/policy.h"
#include "store/sealing.h"

#define OVERLAP_MAX_MONTHS (100 * MONTHS_PER_YEAR)	/* of keys; a sum of times has an end */

PG_FUNCTION_INFO_V1(opdata_public_key);
PG_FUNCTION_INFO_V1(opdata_rotate_public_key);
PG_FUNCTION_INFO_V1(opdata_trust_recipient);
PG_FUNCTION_INFO_V1(opdata_distrust_recipient);
PG_FUNCTION_INFO_V1(opdata_mask);
PG_FUNCTION_INFO_V1(opdata_unmask);
PG_FUNCTION_INFO_V1(opdata_limit);
PG_FUNCTION_INFO_V1(opdata_verify_egress);

extern PGDLLEXPORT Datum opdata_public_key(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_rotate_public_key(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_trust_recipient(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_distrust_recipient(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_mask(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_unmask(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_limit(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_verify_egress(PG_FUNCTION_ARGS);

static void
throw_bad_argument(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errdetail_internal("unsupported"),
			 hint ? errhint("%s", hint) : 0));
}

/* ------------------------------------------------------------------- keys */

/*
 * opdata_public_key() -> JWK {"kty","crv","x","y","use","alg","kid"}
 *
 * Makes the key pair on first use. Raises 42501 (workspace_denied), 25006 when it
 * would have to be made where nothing can be written, 55000 (secret_unavailable).
 */
Datum
opdata_public_key(PG_FUNCTION_ARGS)
{
	OpdKeySource keys;

	opd_caller_require(NULL, OPD_READER);
	keys = opd_caller_keys(NULL);
	PG_RETURN_JSONB_P(opd_sealing_public_key(&keys));
}

/*
 * opdata_rotate_public_key(overlap) -> JWK
 *
 * Raises 42501 (workspace_denied) unless the caller is admin of all workspaces,
 * 22023 for an overlap that is negative or longer than 100 years, 22004 for a null.
 */
Datum
opdata_rotate_public_key(PG_FUNCTION_ARGS)
{
	Interval   *overlap;
	OpdKeySource keys;

	opd_argument_require(PG_ARGISNULL(0), "overlap");
	overlap = PG_GETARG_INTERVAL_P(0);
	opd_caller_require(OPD_ALL_WORKSPACES, OPD_ADMIN);
	opd_caller_require_writing();
	if (overlap->time < 0 || overlap->day < 0 || overlap->month < 0)
		throw_bad_argument("the overlap must not be negative", NULL);
	if (overlap->month > OVERLAP_MAX_MONTHS || overlap->day > OVERLAP_MAX_MONTHS * 31 ||
		overlap->time / USECS_PER_DAY > OVERLAP_MAX_MONTHS * 31)
		throw_bad_argument("the overlap must not be longer than 100 years", NULL);
	keys = opd_conf_keys();
	opd_keys_lock_out_exchange(&keys);
	keys = opd_caller_keys(NULL);
	PG_RETURN_JSONB_P(opd_sealing_rotate(&keys, overlap));
}

/*
 * opdata_trust_recipient(jwk, label) -> {"label","kid"}
 *
 * Replaces what had the label before. Raises 42501 (workspace_denied) unless the
 * caller is admin of all workspaces, 22023 for what is no public key that can be
 * encrypted to, 22004 for a null.
 */
Datum
opdata_trust_recipient(PG_FUNCTION_ARGS)
{
	Jsonb	   *jwk;
	char	   *label;
	OpdJwk		recipient;
	const char *problem;
	OpdJson		json;

	/* whoever takes the private key for the public one should not find it in the log */
	opd_redact_statement();
	opd_argument_require(PG_ARGISNULL(0), "jwk");
	opd_argument_require(PG_ARGISNULL(1), "label");
	jwk = PG_GETARG_JSONB_P(0);
	opd_caller_require(OPD_ALL_WORKSPACES, OPD_ADMIN);
	opd_caller_require_writing();
	label = opd_argument_id("label", PG_GETARG_TEXT_PP(1));
	if (!opd_jwk_check_recipient(JsonbToCString(NULL, &jwk->root, VARSIZE(jwk)), &recipient, &problem))
		throw_bad_argument(psprintf("this is no public key that previews can be sealed to: %s", problem),
						   "Give a JWK like {\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": \"...\", \"y\": \"...\"}.");
	opd_policy_trust(label, recipient.kid, opd_json_parse_object(recipient.jwk, strlen(recipient.jwk)));
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "label", label);
	opd_json_add_string(&json, "kid", recipient.kid);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/* opdata_distrust_recipient(label) -> {"distrusted": boolean} */
Datum
opdata_distrust_recipient(PG_FUNCTION_ARGS)
{
	OpdJson		json;

	opd_argument_require(PG_ARGISNULL(0), "label");
	opd_caller_require(OPD_ALL_WORKSPACES, OPD_ADMIN);
	opd_caller_require_writing();
	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "distrusted", opd_policy_distrust(opd_argument_id("label", PG_GETARG_TEXT_PP(0))));
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/* ------------------------------------------------------------------ masks */

/*
 * A pattern, 1 to 128 characters. One that looks like a regular expression would
 * match nothing, and mask nothing.
 */
static char *
pattern_argument(const char *what, text *value)
{
	char	   *pattern = opd_argument_id(what, value);

	if (strpbrk(pattern, "^$|()[]{}+\\") != NULL)
		throw_bad_argument(psprintf("%s is no pattern of names, but looks like a regular expression", what),
						   "Write * for any characters and ? for one, as in *email*.");
	return pattern;
}

/*
 * opdata_mask(workspace_id, column_pattern, connection_id [, type_pattern])
 * -> {"masked": true}
 *
 * Raises 42501 (workspace_denied), 22023 for a malformed pattern.
 */
Datum
opdata_mask(PG_FUNCTION_ARGS)
{
	char	   *workspace_id;
	char	   *column_pattern;
	char	   *connection_id;
	char	   *type_pattern;
	OpdJson		json;

	opd_argument_require(PG_ARGISNULL(0), "workspace_id");
	opd_argument_require(PG_ARGISNULL(1), "column_pattern");
	workspace_id = opd_argument_id("workspace_id", PG_GETARG_TEXT_PP(0));
	opd_caller_require(workspace_id, OPD_ADMIN);
	opd_caller_require_writing();
	column_pattern = pattern_argument("column_pattern", PG_GETARG_TEXT_PP(1));
	connection_id = PG_ARGISNULL(2) ? NULL : opd_argument_id("connection_id", PG_GETARG_TEXT_PP(2));
	type_pattern = PG_NARGS() < 4 || PG_ARGISNULL(3) ? NULL : opd_argument_id("type_pattern", PG_GETARG_TEXT_PP(3));
	opd_policy_add_mask(workspace_id, column_pattern, connection_id, type_pattern);
	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "masked", true);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/* opdata_unmask(workspace_id, column_pattern, connection_id) -> {"unmasked": boolean} */
Datum
opdata_unmask(PG_FUNCTION_ARGS)
{
	char	   *workspace_id;
	uint64		n;
	OpdJson		json;

	opd_argument_require(PG_ARGISNULL(0), "workspace_id");
	opd_argument_require(PG_ARGISNULL(1), "column_pattern");
	workspace_id = opd_argument_id("workspace_id", PG_GETARG_TEXT_PP(0));
	opd_caller_require(workspace_id, OPD_ADMIN);
	opd_caller_require_writing();
	n = opd_policy_remove_masks(workspace_id, opd_argument_id("column_pattern", PG_GETARG_TEXT_PP(1)),
								PG_ARGISNULL(2) ? NULL : opd_argument_id("connection_id", PG_GETARG_TEXT_PP(2)));
	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "unmasked", n > 0);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/* ----------------------------------------------------------------- limits */

/* A number that must not be negative; -1 for a null. */
static int
number_or_none(FunctionCallInfo fcinfo, int argument, const char *what)
{
	if (PG_ARGISNULL(argument))
		return -1;
	if (PG_GETARG_INT32(argument) < 0)
		throw_bad_argument(psprintf("%s must not be negative", what), "Null is no limit, 0 lets nothing leave.");
	return PG_GETARG_INT32(argument);
}

/*
 * opdata_limit(workspace_id, previews_per_day, rows_per_day)
 * -> {"workspaceId","previewsPerDay","rowsPerDay"}
 *
 * Raises 42501 (workspace_denied), 22023 for a negative number.
 */
Datum
opdata_limit(PG_FUNCTION_ARGS)
{
	char	   *workspace_id;
	int			limits[2];
	static const char *const names[] = {"previewsPerDay", "rowsPerDay"};
	OpdJson		json;

	opd_argument_require(PG_ARGISNULL(0), "workspace_id");
	workspace_id = opd_argument_id("workspace_id", PG_GETARG_TEXT_PP(0));
	opd_caller_require(workspace_id, OPD_ADMIN);
	opd_caller_require_writing();
	limits[0] = number_or_none(fcinfo, 1, "previews_per_day");
	limits[1] = number_or_none(fcinfo, 2, "rows_per_day");
	opd_policy_limit(workspace_id, limits[0], limits[1]);
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "workspaceId", workspace_id);
	for (int i = 0; i < 2; i++)
	{
		if (limits[i] < 0)
			opd_json_add_value(&json, names[i], NULL);
		else
			opd_json_add_int(&json, names[i], limits[i]);
	}
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/* ----------------------------------------------------------------- egress */

/*
 * opdata_verify_egress(expected_head)
 * -> {"ok","rows","head","expectedHeadFound","firstBad":{"seq","problem"}|null}
 *
 * Raises 42501 (workspace_denied); a chain that is not whole is told in the result.
 */
Datum
opdata_verify_egress(PG_FUNCTION_ARGS)
{
	opd_caller_require(NULL, OPD_READER);
	PG_RETURN_JSONB_P(opd_egress_verify(PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
