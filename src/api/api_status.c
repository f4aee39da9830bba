/*-------------------------------------------------------------------------
 *
 * api_status.c
 *	  opdata_status(): how the agent is, in one value.
 *
 * src/api/api_status.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <limits.h>
#include <stdlib.h>
#include <libpq-fe.h>
#include <openssl/crypto.h>

#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "base/json.h"
#include "base/sql.h"
#include "conf/conf.h"
#include "secret/masterkey.h"
#include "store/connections.h"
#include "worker/state.h"

PG_FUNCTION_INFO_V1(opdata_status);

extern PGDLLEXPORT Datum opdata_status(PG_FUNCTION_ARGS);

static void
warn(OpdJson *warnings, const char *code, const char *message)
{
	OpdJson		json;

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "code", code);
	opd_json_add_string(&json, "message", message);
	opd_json_push_value(warnings, opd_json_end_object(&json));
}

/* Version of the extension's SQL objects in this database. */
static char *
sql_version(void)
{
	static OpdStatement find = {
		.sql = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'opdata'"
	};
	OpdSqlScope scope;
	char	   *version = NULL;

	opd_sql_begin(&scope);
	if (opd_sql_run(&find, NULL, NULL) == 1)
		version = opd_sql_text(0, 1);
	opd_sql_end(&scope);
	return version;
}

static Jsonb *
versions(const char *installed)
{
	int			libpq = PQlibVersion();
	OpdJson		json;

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "library", OPD_VERSION);
	opd_json_add_string(&json, "extension", installed);
	opd_json_add_string(&json, "postgres", PG_VERSION);
	opd_json_add_string(&json, "libpq", psprintf("%d.%d", libpq / 10000, libpq % 10000));
	opd_json_add_string(&json, "openssl", OpenSSL_version(OPENSSL_VERSION_STRING));
	return opd_json_end_object(&json);
}

static bool
needs_other_key(Jsonb *needed_ids, const char *id)
{
	JsonbIterator *it = JsonbIteratorInit(&needed_ids->root);
	JsonbIteratorToken token;
	JsonbValue	v;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_ELEM &&
			(id == NULL || v.val.string.len != (int) strlen(id) ||
			 memcmp(v.val.string.val, id, v.val.string.len) != 0))
			return true;
	}
	return false;
}

/* Does the file lie in the data directory, links and all resolved? */
static bool
in_data_directory(const char *path)
{
	char		real_path[PATH_MAX];
	char		real_directory[PATH_MAX];

	return realpath(path, real_path) != NULL && realpath(DataDir, real_directory) != NULL &&
		path_is_prefix_of_path(real_directory, real_path);
}

/* State of the master key, and what is wrong about it. */
static Jsonb *
key_facts(OpdJson *warnings)
{
	char	   *path = opd_conf_key_file();
	Jsonb	   *needed_ids = opd_connections_key_ids();
	bool		may_see_path = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS);
	OpdMasterKey key;
	char	   *problem;
	OpdKeyState state = opd_masterkey_look(path, &key, &problem);
	const char *id = state == OPD_KEY_PRESENT ? key.id : NULL;
	OpdJson		json;

	opd_masterkey_wipe(&key);
	if (state == OPD_KEY_UNUSABLE)
		warn(warnings, "key_unusable", psprintf("the master key file cannot be used: %s", problem));
	else if (needs_other_key(needed_ids, id))
		warn(warnings, state == OPD_KEY_MISSING ? "key_missing" : "key_wrong",
			 psprintf("stored credentials need a master key that the key file does not hold; put the key with an id of neededIds back"));
	if (state == OPD_KEY_PRESENT && in_data_directory(path))
		warn(warnings, "key_in_data_directory",
			 "the master key lies in the data directory and so in every base backup; move it elsewhere and set opdata.key_file");

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "id", id);
	opd_json_add_value(&json, "neededIds", needed_ids);
	opd_json_add_string(&json, "state",
						state == OPD_KEY_PRESENT ? "present" :
						state == OPD_KEY_MISSING ? "missing" : "unusable");
	if (may_see_path)
		opd_json_add_string(&json, "file", path);
	return opd_json_end_object(&json);
}

/* What keeps the workers from getting jobs; "workers" has the details. */
static void
warn_of_workers(OpdJson *warnings)
{
	if (opd_state_count(OPD_WORKER_UNREACHABLE) > 0)
		warn(warnings, "temporal_unreachable",
			 "Temporal does not answer, so that no jobs come; lastError of the workers says why");
	if (opd_state_count(OPD_WORKER_REFUSED) > 0)
		warn(warnings, "temporal_refused",
			 "Temporal refuses this agent, so that no jobs come; lastError of the workers says why");
	if (!RecoveryInProgress() && opd_state_count(OPD_WORKER_STOPPED) > 0)
		warn(warnings, "workers_missing",
			 "not all worker processes run; if that lasts, see the server's log and max_worker_processes");
	if (opd_state_count(OPD_WORKER_NO_DATABASE) > 0)
		warn(warnings, "no_database",
			 "workers cannot connect to the database that opdata.database names; the server's log says why");
}

/*
 * opdata_status() -> {"versions","key","connections","workers","warnings"}
 *
 * Raises nothing for an agent in a bad state: the warnings tell.
 */
Datum
opdata_status(PG_FUNCTION_ARGS)
{
	char	   *installed = sql_version();
	OpdJson		warnings;
	OpdJson		json;
	Jsonb	   *key;

	opd_json_begin_array(&warnings);
	if (installed == NULL || strcmp(installed, OPD_VERSION) != 0)
		warn(&warnings, "version_mismatch",
			 psprintf("the library is version %s, the extension in this database %s; run ALTER EXTENSION opdata UPDATE;",
					  OPD_VERSION, installed ? installed : "unknown"));
	key = key_facts(&warnings);
	warn_of_workers(&warnings);

	opd_json_begin_object(&json);
	opd_json_add_value(&json, "versions", versions(installed));
	opd_json_add_value(&json, "key", key);
	opd_json_add_int(&json, "connections", opd_connections_count());
	opd_json_add_value(&json, "workers", opd_state_workers());
	opd_json_add_value(&json, "warnings", opd_json_end_array(&warnings));
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}
