/*-------------------------------------------------------------------------
 *
 * sealing.c
 *	  The agent's key pairs that credentials are sealed to.
 *
 * src/store/sealing.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <openssl/crypto.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "base/json.h"
#include "base/sql.h"
#include "secret/envelope.h"
#include "secret/jwe.h"
#include "store/keys.h"
#include "store/sealing.h"

static OpdEnvelopeIdentity
private_key_identity(const char *kid)
{
	OpdEnvelopeIdentity identity = {
		.workspace_id = "",
		.id = kid,
		.column = "private_key"
	};

	return identity;
}

/* ---------------------------------------------------------------- the key */

/* The public part as others want it: with what it is for. */
static Jsonb *
describe(const OpdJwk *key)
{
	static const char *const members[] = {"kty", "crv", "x", "y"};
	Jsonb	   *bare = opd_json_parse_object(key->jwk, strlen(key->jwk));
	JsonbValue	v;
	OpdJson		json;

	opd_json_begin_object(&json);
	for (int i = 0; i < (int) lengthof(members); i++)
	{
		if (opd_json_find(bare, members[i], &v))
			opd_json_add_string(&json, members[i], opd_json_string(&v));
	}
	opd_json_add_string(&json, "use", "enc");
	opd_json_add_string(&json, "alg", OPD_JWK_ALG);
	opd_json_add_string(&json, "kid", key->kid);
	return opd_json_end_object(&json);
}

/* The public key to seal to, between opd_sql_begin() and opd_sql_end(); 0: none. */
static Datum
find_current(void)
{
	static OpdStatement find = {
		.sql = "SELECT public_key FROM opdata.sealing_key WHERE expires_at IS NULL"
	};
	bool		isnull;

	return opd_sql_run(&find, NULL, NULL) > 0 ? opd_sql_datum(0, 1, &isnull) : (Datum) 0;
}

static void
lock_pairs(const OpdKeySource *keys)
{
	static OpdStatement lock = {
		.sql = "LOCK TABLE opdata.sealing_key IN SHARE ROW EXCLUSIVE MODE"
	};

	opd_keys_lock_out_exchange(keys);
	(void) opd_sql_run(&lock, NULL, NULL);
}

/*
 * Under the lock. A transaction with an older snapshot may not see that somebody
 * has made one: ON CONFLICT makes it 40001, after which the caller tries again.
 */
static void
make_pair(const OpdKeySource *keys)
{
	static OpdStatement insert = {
		.sql = "INSERT INTO opdata.sealing_key (kid, public_key, private_key, key_id) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT DO NOTHING",
		.n_args = 4,
		.arg_types = {TEXTOID, JSONBOID, BYTEAOID, TEXTOID}
	};
	OpdMasterKey key;
	OpdJwk		public_part;
	char	   *private_jwk;
	OpdEnvelopeIdentity identity;
	Datum		values[4];

	opd_keys_for_writing(keys, &key);
	private_jwk = opd_jwk_generate(&public_part);
	identity = private_key_identity(public_part.kid);
	values[0] = CStringGetTextDatum(public_part.kid);
	values[1] = JsonbPGetDatum(describe(&public_part));
	values[2] = PointerGetDatum(opd_envelope_close(&key, &identity, private_jwk));
	values[3] = CStringGetTextDatum(key.id);
	opd_envelope_wipe(private_jwk);
	opd_masterkey_wipe(&key);
	(void) opd_sql_run(&insert, values, NULL);
}

Jsonb *
opd_sealing_public_key(const OpdKeySource *keys)
{
	OpdSqlScope scope;
	Datum		found;

	opd_sql_begin(&scope);
	found = find_current();
	if (found == (Datum) 0 && !opd_sql_may_write())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("the agent has no public key yet, and none can be made in a read-only session"),
				 errdetail_internal("unsupported"),
				 errhint("Run SELECT opdata_public_key(); once on the primary server.")));
	if (found == (Datum) 0)
	{
		lock_pairs(keys);
		found = find_current();
	}
	if (found == (Datum) 0)
	{
		make_pair(keys);
		found = find_current();
	}
	opd_sql_end(&scope);
	return DatumGetJsonbP(found);
}

Jsonb *
opd_sealing_rotate(const OpdKeySource *keys, const Interval *overlap)
{
	static OpdStatement retire = {
		.sql = "UPDATE opdata.sealing_key SET expires_at = pg_catalog.now() + $1 WHERE expires_at IS NULL",
		.n_args = 1,
		.arg_types = {INTERVALOID}
	};
	Datum		values[] = {IntervalPGetDatum(overlap)};
	OpdSqlScope scope;
	Datum		found;

	(void) opd_sealing_prune();
	opd_sql_begin(&scope);
	lock_pairs(keys);
	(void) opd_sql_run(&retire, values, NULL);
	make_pair(keys);
	found = find_current();
	opd_sql_end(&scope);
	return DatumGetJsonbP(found);
}

uint64
opd_sealing_prune(void)
{
	static OpdStatement prune = {
		.sql = "DELETE FROM opdata.sealing_key WHERE expires_at <= pg_catalog.now()"
	};
	OpdSqlScope scope;
	uint64		n;

	opd_sql_begin(&scope);
	n = opd_sql_run(&prune, NULL, NULL);
	opd_sql_end(&scope);
	return n;
}

/* ------------------------------------------------------------ the payload */

static OpdError *
cannot_open(const char *problem)
{
	return opd_error_hint(opd_error_new(OPD_UNSEALING_FAILED, "the sealed credentials cannot be opened: %s", problem),
						  "Seal them as a compact JWE (ECDH-ES+A256KW, A256GCM) to the key that SELECT opdata_public_key(); shows now.");
}

#define PAIRS_MAX	8			/* that are tried for a token without a kid */

/* Try the pairs that may be meant. NULL when none opens it. */
static char *
open_token(const OpdJwe *token, const OpdKeySource *keys, bool *known)
{
	static OpdStatement find = {
		.sql = "SELECT kid, key_id, private_key FROM opdata.sealing_key"
		" WHERE (expires_at IS NULL OR expires_at > pg_catalog.clock_timestamp()) AND ($1 IS NULL OR kid = $1)"
		" ORDER BY expires_at DESC NULLS FIRST LIMIT " CppAsString2(PAIRS_MAX),
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	char		nulls[1];
	Datum		values[] = {opd_sql_parameter(token->kid, nulls)};
	char	   *kids[PAIRS_MAX];
	char	   *key_ids[PAIRS_MAX];
	Datum		private_keys[PAIRS_MAX];
	MemoryContext caller = CurrentMemoryContext;
	OpdSqlScope scope;
	char	   *opened = NULL;
	char	   *plaintext = NULL;
	bool		isnull;
	int			n;

	opd_sql_begin(&scope);
	n = (int) opd_sql_run(&find, values, nulls);
	*known = n > 0;
	for (int i = 0; i < n; i++)
	{
		kids[i] = opd_sql_text(i, 1);
		key_ids[i] = opd_sql_text(i, 2);
		private_keys[i] = opd_sql_datum(i, 3, &isnull);
	}
	for (int i = 0; i < n && opened == NULL; i++)
	{
		OpdEnvelopeIdentity identity = private_key_identity(kids[i]);
		OpdMasterKey key;
		char	   *private_jwk;

		opd_masterkey_read(keys, key_ids[i], &key);
		private_jwk = opd_envelope_open(&key, &identity, DatumGetByteaPP(private_keys[i]));
		opd_masterkey_wipe(&key);
		opened = opd_jwe_open(token, private_jwk);
		opd_envelope_wipe(private_jwk);
	}
	if (opened != NULL)
	{
		plaintext = MemoryContextStrdup(caller, opened);
		opd_envelope_wipe(opened);
	}
	opd_sql_end(&scope);
	return plaintext;
}

/*
 * Take what is said of the use out of the credentials, of which it is none. False if
 * that is another one.
 */
static bool
take_use(Jsonb **plain, const OpdSealedUse *use)
{
	const struct
	{
		const char *key;
		const char *value;
	}			members[] = {
		{"workspaceId", use != NULL ? use->workspace_id : NULL},
		{"connectionId", use != NULL ? use->connection_id : NULL}
	};
	bool		right = true;

	for (int i = 0; i < (int) lengthof(members); i++)
	{
		const char *said = opd_json_find_string(*plain, members[i].key);
		Jsonb	   *before = *plain;

		if (!opd_json_has(before, members[i].key))
			continue;
		if (use != NULL && (said == NULL || members[i].value == NULL || strcmp(said, members[i].value) != 0))
			right = false;
		*plain = DatumGetJsonbP(DirectFunctionCall2(jsonb_delete, JsonbPGetDatum(before), CStringGetTextDatum(members[i].key)));
		OPENSSL_cleanse(before, VARSIZE(before));
	}
	return right;
}

OpdError *
opd_sealing_take(const Jsonb *payload, bool required, const OpdKeySource *keys,
				 const OpdSealedUse *use, Jsonb **plain)
{
	JsonbValue	v;
	OpdJwe		token;
	const char *problem;
	char	   *plaintext;
	bool		known;

	*plain = unconstify(Jsonb *, payload);
	if (!opd_json_find(payload, "sealed", &v))
	{
		if (!required)
			return NULL;
		return opd_error_hint(opd_error_new(OPD_SEALED_REQUIRED, "credentials are only taken sealed"),
							  "Give {\"sealed\": \"<compact JWE>\"}, encrypted to the key that SELECT opdata_public_key(); shows.");
	}
	*plain = NULL;
	if (v.type != jbvString || JB_ROOT_COUNT(payload) != 1)
		return cannot_open("\"sealed\" is no string, or stands beside other keys");
	if (!opd_jwe_parse(opd_json_string(&v), &token, &problem))
		return cannot_open(problem);
	plaintext = open_token(&token, keys, &known);
	if (plaintext == NULL)
		return cannot_open(known ? "it was altered, or sealed to another key" :
						   "its kid is of no key that this agent has, or has any more");

	*plain = opd_json_parse_object(plaintext, strlen(plaintext));
	opd_envelope_wipe(plaintext);
	if (*plain == NULL)
		return cannot_open("what was sealed is no JSON object");
	if (opd_json_find(*plain, "sealed", &v))
	{
		OPENSSL_cleanse(*plain, VARSIZE(*plain));
		*plain = NULL;
		return cannot_open("what was sealed is sealed once more");
	}
	if (!take_use(plain, use))
	{
		OPENSSL_cleanse(*plain, VARSIZE(*plain));
		*plain = NULL;
		return opd_error_hint(opd_error_new(OPD_UNSEALING_FAILED, "the sealed credentials are for another use: they name the connection or workspace that they are for"),
							  "Store them as the connection, and in the workspace, that was sealed with them.");
	}
	return NULL;
}
