/*-------------------------------------------------------------------------
 *
 * keys.c
 *	  Master keys and the rows that are encrypted under them.
 *
 * src/store/keys.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/json.h"
#include "base/sql.h"
#include "secret/envelope.h"
#include "store/keys.h"

/* This transaction exchanges the key. */
static bool exchanging;

#define KEY_FILES_LOCK 0x6F706461	/* "opda", as an advisory lock of no database */

#define KEY_IDS "(SELECT key_id FROM opdata.connection UNION SELECT key_id FROM opdata.sealing_key) k"

void
opd_keys_note_exchange(bool begun)
{
	exchanging = begun;
}

void
opd_keys_lock_out_writers(void)
{
	static OpdStatement lock = {
		.sql = "LOCK TABLE opdata.connection, opdata.sealing_key IN SHARE ROW EXCLUSIVE MODE"
	};
	OpdSqlScope scope;
	LOCKTAG		files;

	/* the files are the cluster's: another database may have rows of its own */
	SET_LOCKTAG_ADVISORY(files, InvalidOid, KEY_FILES_LOCK, 0, 2);
	(void) LockAcquire(&files, ExclusiveLock, false, false);
	opd_sql_begin(&scope);
	(void) opd_sql_run(&lock, NULL, NULL);
	opd_sql_end(&scope);
}

/* Ids that rows need beside this one, in the order of their names. */
static uint64
other_ids(const char *key_id)
{
	static OpdStatement find = {
		.sql = "SELECT key_id FROM " KEY_IDS " WHERE key_id <> $1 ORDER BY key_id",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	Datum		values[] = {CStringGetTextDatum(key_id)};

	return opd_sql_run_latest(&find, values, NULL);
}

/*
 * An exchange that a crash kept from its last step: rows need the key in
 * FILE.next. Under the lock, since who exchanges holds it until that step.
 */
static void
finish_exchange(const OpdKeySource *source, const char *id)
{
	opd_keys_lock_out_writers();
	if (opd_masterkey_is_staged(source->file, id))
		opd_masterkey_finish_exchange(source->file);
}

/*
 * "No row is encrypted yet" is the truth under the lock, and of two sessions one
 * makes the key and the other finds it.
 */
static void
make_first_key(const OpdKeySource *source)
{
	opd_keys_lock_out_writers();
	if (other_ids("") == 0)
		opd_masterkey_create(source->file);
}

/*
 * What is to be done before a row is written: the first key is made, or an
 * exchange is finished. Returns the state of the key before.
 */
static OpdKeyState
settle(const OpdKeySource *source)
{
	OpdMasterKey key;
	char	   *problem;
	char	   *id;
	uint64		n;
	OpdKeyState state;

	if (exchanging)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("nothing can be encrypted in a transaction that exchanges the master key"),
				 errdetail_internal("unsupported")));

	state = opd_masterkey_look(source, NULL, &key, &problem);
	opd_masterkey_wipe(&key);
	if (source->command[0] != '\0')
		return state;
	if (state == OPD_KEY_MISSING)
		make_first_key(source);
	else if (state == OPD_KEY_PRESENT)
	{
		n = other_ids(key.id);
		for (uint64 i = 0; i < n; i++)
		{
			id = opd_sql_text((int) i, 1);
			if (!opd_masterkey_is_staged(source->file, id))
				continue;
			finish_exchange(source, id);
			break;
		}
	}
	return state;
}

/*
 * Settled before the lock, since who has it already would wait for others that
 * have it. The exchange takes the lock on this table first.
 */
void
opd_keys_lock_out_exchange(const OpdKeySource *source)
{
	static OpdStatement lock = {
		.sql = "LOCK TABLE opdata.connection IN ROW EXCLUSIVE MODE"
	};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) settle(source);
	(void) opd_sql_run(&lock, NULL, NULL);
	opd_sql_end(&scope);
}

void
opd_keys_for_writing(const OpdKeySource *source, OpdMasterKey *key)
{
	OpdMasterKey other;
	OpdKeyState state;
	uint64		n;

	opd_keys_lock_out_exchange(source);
	/* it may have been exchanged while we waited */
	state = settle(source);

	/* with no key at all, which one is missed is known from the rows */
	opd_masterkey_read(source, state != OPD_KEY_PRESENT && other_ids("") > 0 ? opd_sql_text(0, 1) : NULL, key);
	n = other_ids(key->id);
	opd_masterkey_wipe(key);
	for (uint64 i = 0; i < n; i++)
	{
		/* a new row beside those that nobody can read would hide what is wrong */
		opd_masterkey_read(source, opd_sql_text((int) i, 1), &other);
		opd_masterkey_wipe(&other);
	}
	opd_masterkey_read(source, NULL, key);
}

Jsonb *
opd_keys_needed(void)
{
	static OpdStatement find = {
		.sql = "SELECT COALESCE(jsonb_agg(key_id ORDER BY key_id), '[]') FROM " KEY_IDS
	};
	OpdSqlScope scope;
	bool		isnull;
	Datum		ids;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&find, NULL, NULL);
	ids = opd_sql_datum(0, 1, &isnull);
	opd_sql_end(&scope);
	/* here, since unpacking allocates in the memory context that is current */
	return DatumGetJsonbP(ids);
}

char *
opd_keys_first_missing(bool (*is_there) (const char *id), const char *after)
{
	static OpdStatement find = {
		.sql = "SELECT key_id FROM " KEY_IDS " ORDER BY key_id COLLATE \"C\""
	};
	OpdSqlScope scope;
	char	   *missing = NULL;
	uint64		n;

	opd_sql_begin(&scope);
	n = opd_sql_run(&find, NULL, NULL);
	for (uint64 i = 0; i < n && missing == NULL; i++)
	{
		missing = opd_sql_text((int) i, 1);
		if ((after != NULL && strcmp(missing, after) <= 0) || is_there(missing))
			missing = NULL;
	}
	opd_sql_end(&scope);
	return missing;
}

/* ------------------------------------------------------- another key */

#define SOME 100				/* rows at a time */

/* Where encrypted values are. */
typedef struct Place
{
	const char *column;			/* part of the identity of a value */
	OpdStatement find;			/* id, workspace, key id, value of some rows with another key than $1 */
	OpdStatement update;		/* $1 id, $2 value, $3 key id */
} Place;

static Place places[] = {
	{
		"payload",
		{
			.sql = "SELECT id, workspace_id, key_id, payload FROM opdata.connection"
			" WHERE key_id <> $1 ORDER BY id LIMIT " CppAsString2(SOME),
			.n_args = 1,
			.arg_types = {TEXTOID}
		},
		{
			.sql = "UPDATE opdata.connection SET payload = $2, key_id = $3 WHERE id = $1",
			.n_args = 3,
			.arg_types = {TEXTOID, BYTEAOID, TEXTOID}
		}
	},
	{
		"private_key",
		{
			.sql = "SELECT kid, '', key_id, private_key FROM opdata.sealing_key"
			" WHERE key_id <> $1 ORDER BY kid LIMIT " CppAsString2(SOME),
			.n_args = 1,
			.arg_types = {TEXTOID}
		},
		{
			.sql = "UPDATE opdata.sealing_key SET private_key = $2, key_id = $3 WHERE kid = $1",
			.n_args = 3,
			.arg_types = {TEXTOID, BYTEAOID, TEXTOID}
		}
	},
};

/* One value under another key. */
static void
reencrypt(Place *place, const OpdKeySource *source, const OpdMasterKey *new_key,
		  const OpdEnvelopeIdentity *identity, const char *old_id, Datum value)
{
	OpdMasterKey old_key;
	char	   *plaintext;
	Datum		values[] = {CStringGetTextDatum(identity->id), (Datum) 0, CStringGetTextDatum(new_key->id)};

	opd_masterkey_read(source, old_id, &old_key);
	plaintext = opd_envelope_open(&old_key, identity, DatumGetByteaPP(value));
	opd_masterkey_wipe(&old_key);
	values[1] = PointerGetDatum(opd_envelope_close(new_key, identity, plaintext));
	opd_envelope_wipe(plaintext);
	(void) opd_sql_run(&place->update, values, NULL);
}

/* Some rows of one place; how many. */
static int
reencrypt_some(Place *place, const OpdKeySource *source, const OpdMasterKey *new_key)
{
	Datum		new_id = CStringGetTextDatum(new_key->id);
	OpdEnvelopeIdentity identities[SOME];
	char	   *old_ids[SOME];
	Datum		old_values[SOME];
	OpdSqlScope scope;
	bool		isnull;
	int			n;

	opd_sql_begin(&scope);
	n = (int) opd_sql_run(&place->find, &new_id, NULL);
	for (int i = 0; i < n; i++)
	{
		identities[i].id = opd_sql_text(i, 1);
		identities[i].workspace_id = opd_sql_text(i, 2);
		identities[i].column = place->column;
		old_ids[i] = opd_sql_text(i, 3);
		old_values[i] = opd_sql_datum(i, 4, &isnull);
	}
	for (int i = 0; i < n; i++)
		reencrypt(place, source, new_key, &identities[i], old_ids[i], old_values[i]);
	opd_sql_end(&scope);
	return n;
}

int64
opd_keys_reencrypt(const OpdKeySource *source, const OpdMasterKey *new_key)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext some = AllocSetContextCreate(caller, "opdata rows", ALLOCSET_DEFAULT_SIZES);
	int64		total = 0;
	int			n;

	for (int i = 0; i < (int) lengthof(places); i++)
	{
		do
		{
			CHECK_FOR_INTERRUPTS();
			MemoryContextReset(some);
			MemoryContextSwitchTo(some);
			n = reencrypt_some(&places[i], source, new_key);
			MemoryContextSwitchTo(caller);
			total += n;
		} while (n > 0);
	}
	MemoryContextDelete(some);
	return total;
}
