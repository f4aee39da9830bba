/*-------------------------------------------------------------------------
 *
 * api_key.c
 *	  opdata_rotate_key(): another master key for every row.
 *
 *		lock out writers -> FILE.ID, FILE.next -> encrypt every row -> commit -> exchange the files
 *
 * Whatever happens at any point, each row's key is in one of the two files: before
 * the commit FILE has the key of all rows, after it FILE.next has. Who meets the
 * latter finishes the exchange (store/keys.c).
 *
 * src/api/api_key.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "api/caller.h"
#include "base/json.h"
#include "base/sql.h"
#include "conf/conf.h"
#include "secret/keycache.h"
#include "store/keys.h"
#include "worker/ddl.h"

PG_FUNCTION_INFO_V1(opdata_rotate_key);

extern PGDLLEXPORT Datum opdata_rotate_key(PG_FUNCTION_ARGS);

/* What the end of the transaction has to do; path "": nothing. */
static char exchange_path[MAXPGPATH];
static char exchange_old_id[OPD_KEY_ID_CHARS + 1];

/* May raise nothing: the transaction has committed. */
static void
on_transaction_end(XactEvent event, void *arg)
{
	const char *failed;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	opd_keys_note_exchange(false);
	if (exchange_path[0] == '\0')
		return;
	if (event == XACT_EVENT_ABORT)
		opd_masterkey_unstage(exchange_path);
	else
	{
		failed = opd_masterkey_exchange(exchange_path, exchange_old_id);
		if (failed != NULL)
			ereport(WARNING,
					(errcode_for_file_access(),
					 errmsg("could not %s the master key file: %m", failed),
					 errdetail("All rows are encrypted under the new key, which is in the file with \".next\" behind its name."),
					 errhint("Make the directory writable for the database user; the next change of a connection puts the file in its place.")));
	}
	exchange_path[0] = '\0';
}

static void
throw_rotation(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errdetail_internal("secret_unavailable"),
			 errhint("%s", hint)));
}

/* The new key, out of the file that a superuser names. */
static void
read_new_file(const char *name, OpdMasterKey *key)
{
	OpdKeySource source = {
		.file = is_absolute_path(name) ? name : psprintf("%s/%s", DataDir, name),
		.command = ""
	};
	char	   *problem;
	OpdKeyState state = opd_masterkey_look(&source, NULL, key, &problem);

	if (state != OPD_KEY_PRESENT)
		throw_rotation(state == OPD_KEY_MISSING ? "the file with the new key does not exist" :
					   psprintf("the file with the new key cannot be used: %s", problem),
					   "Make it as the database user: (umask 077; openssl rand -out FILE 32)");
}

static void
wipe_key(void *arg)
{
	opd_masterkey_wipe(arg);
}

/* Room for a key that is wiped at the end of the calling statement, also after an error. */
static OpdMasterKey *
make_room_for_key(void)
{
	OpdMasterKey *key = palloc0(sizeof(OpdMasterKey));
	MemoryContextCallback *on_reset = palloc(sizeof(MemoryContextCallback));

	on_reset->func = wipe_key;
	on_reset->arg = key;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, on_reset);
	return key;
}

/* The key that rows are encrypted under now, all of which must be readable. */
static void
read_old_key(const OpdKeySource *keys, OpdMasterKey *key)
{
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	opd_keys_for_writing(keys, key);
	opd_sql_end(&scope);
}

/* Encrypt every row under the new key, and have the files exchanged at commit. */
static int64
exchange(const OpdKeySource *keys, bool by_command, const OpdMasterKey *new_key, char *old_id)
{
	static bool registered;
	OpdMasterKey *old_key = make_room_for_key();
	int64		n_rows;

	read_old_key(keys, old_key);
	strlcpy(old_id, old_key->id, OPD_KEY_ID_CHARS + 1);
	if (!by_command && strcmp(old_id, new_key->id) == 0)
		throw_rotation("the new key is the one that is in use", "Make another one as the database user: (umask 077; openssl rand -out FILE 32)");
	if (!registered)
		RegisterXactCallback(on_transaction_end, NULL);
	registered = true;
	opd_keys_note_exchange(true);
	if (!by_command)
	{
		opd_masterkey_stage(keys->file, old_key, new_key);
		/* from now on FILE.next is of this transaction */
		strlcpy(exchange_old_id, old_id, sizeof(exchange_old_id));
		strlcpy(exchange_path, keys->file, sizeof(exchange_path));
	}
	opd_masterkey_wipe(old_key);
	n_rows = opd_keys_reencrypt(keys, new_key);
	/* after a crash the files may not be ahead of the rows */
	ForceSyncCommit();
	opd_ddl_exchange_at_commit();
	return n_rows;
}

/*
 * opdata_rotate_key(new_key_file) -> {"keyId","previousKeyId","rows"}
 *
 * Raises 42501 unless the caller is a superuser, 25001 inside of a transaction
 * block, 0A000 unless it is READ COMMITTED, 22023 for a new key that cannot be used
 * or is the old one, 55000 (secret_unavailable) when a row needs a key that is not
 * there.
 */
Datum
opdata_rotate_key(PG_FUNCTION_ARGS)
{
	OpdKeySource keys;
	OpdMasterKey *new_key = make_room_for_key();
	char		old_id[OPD_KEY_ID_CHARS + 1];
	bool		by_command;
	int64		n_rows;
	OpdJson		json;

	opd_caller_require_superuser("opdata_rotate_key()");
	opd_caller_require_writing();
	PreventInTransactionBlock(true, "opdata_rotate_key()");
	/* rows that came while it waited for the lock must be seen */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the master key is only exchanged at isolation level READ COMMITTED"),
				 errdetail_internal("unsupported"),
				 errhint("Run SET default_transaction_isolation = 'read committed'; before.")));
	by_command = opd_conf_keys().command[0] != '\0';
	if (by_command != PG_ARGISNULL(0))
		throw_rotation(by_command ? "with opdata.key_command the new key comes from the command" : "a file with the new key is needed",
					   by_command ? "Let the command give the new key when OPDATA_KEY_ID is empty, and run SELECT opdata_rotate_key(NULL);" :
					   "Make one as the database user: (umask 077; openssl rand -out FILE 32)");
	/* with a command: what it gives now, and what rows need */
	if (by_command)
		opd_keycache_forget();
	keys = opd_caller_keys(NULL);

	opd_keys_lock_out_writers();
	if (by_command)
		opd_masterkey_read(&keys, NULL, new_key);
	else
		read_new_file(text_to_cstring(PG_GETARG_TEXT_PP(0)), new_key);
	n_rows = exchange(&keys, by_command, new_key, old_id);
	opd_masterkey_wipe(new_key);

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "keyId", new_key->id);
	opd_json_add_string(&json, "previousKeyId", by_command ? NULL : old_id);
	opd_json_add_int(&json, "rows", n_rows);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}
