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

#include "api/caller.h"
#include "base/json.h"
#include "base/sql.h"
#include "conf/conf.h"
#include "secret/masterkey.h"
#include "store/agents.h"
#include "store/egress.h"
#include "store/keys.h"
#include "store/outbox.h"
#include "store/suspension.h"
#include "worker/health.h"
#include "worker/state.h"
#include "worker/tokencell.h"

/* How long before its end a certificate is warned of. */
#define CERTIFICATE_WARN_DAYS 14
/* Messages that wait for so long are late. */
#define CONVEX_LATE_MS	300000

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

/* Is every key that rows need there? And is one of them not yet in its place? */
static bool
has_needed_keys(const OpdKeySource *keys, Jsonb *needed_ids, const char *id, bool *exchanging)
{
	JsonbIterator *it = JsonbIteratorInit(&needed_ids->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		all = true;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		OpdMasterKey key;
		char	   *problem;
		char	   *needed;

		if (token != WJB_ELEM)
			continue;
		needed = opd_json_string(&v);
		all = all && opd_masterkey_look(keys, needed, &key, &problem) == OPD_KEY_PRESENT && strcmp(key.id, needed) == 0;
		opd_masterkey_wipe(&key);
		*exchanging |= keys->command[0] == '\0' && id != NULL && strcmp(needed, id) != 0 &&
			opd_masterkey_is_staged(keys->file, needed);
	}
	return all;
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
	OpdKeySource keys = opd_caller_keys(NULL);
	bool		by_command = keys.command[0] != '\0';
	Jsonb	   *needed_ids = opd_keys_needed();
	bool		may_see_path = has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_SETTINGS);
	OpdMasterKey key;
	char	   *problem;
	OpdKeyState state = opd_masterkey_look(&keys, NULL, &key, &problem);
	const char *id = state == OPD_KEY_PRESENT ? key.id : NULL;
	bool		exchanging = false;
	OpdJson		json;

	opd_masterkey_wipe(&key);
	if (by_command && state == OPD_KEY_MISSING)
		warn(warnings, "key_missing", "the command of opdata.key_command gives no key; the server's log says why");
	else if (state == OPD_KEY_UNUSABLE)
		warn(warnings, "key_unusable", psprintf("the master key file cannot be used: %s", problem));
	else if (!has_needed_keys(&keys, needed_ids, id, &exchanging))
		warn(warnings, state == OPD_KEY_MISSING ? "key_missing" : "key_wrong",
			 by_command ? "stored credentials need a master key that the key command does not give for its id, which is one of neededIds" :
			 "stored credentials need a master key that the key file does not hold; put the key with an id of neededIds back");
	if (exchanging)
		warn(warnings, "key_exchange_open",
			 "rows need the key in the file with \".next\" behind the name of the key file; do not remove it: on the primary server the next change of a connection puts it in its place, on a standby rename it yourself");
	if (!by_command && state == OPD_KEY_PRESENT && in_data_directory(keys.file))
		warn(warnings, "key_in_data_directory",
			 "the master key lies in the data directory and so in every base backup; move it elsewhere and set opdata.key_file");

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "id", id);
	opd_json_add_value(&json, "neededIds", needed_ids);
	opd_json_add_string(&json, "state",
						state == OPD_KEY_PRESENT ? "present" :
						state == OPD_KEY_MISSING ? "missing" : "unusable");
	opd_json_add_string(&json, "source", by_command ? "command" : "file");
	if (may_see_path && !by_command)
		opd_json_add_string(&json, "file", keys.file);
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
	if (opd_state_count(OPD_WORKER_MISCONFIGURED) > 0)
		warn(warnings, "misconfigured",
			 "a file that a setting names cannot be used, so that no jobs come; lastError of the workers says which");
	if (opd_state_count(OPD_WORKER_NO_TOKEN) > 0)
		warn(warnings, "no_token",
			 "the agent has no token, so that no jobs come; token.lastError says why");
	if (opd_state_count(OPD_WORKER_NO_DATABASE) > 0)
		warn(warnings, "no_database",
			 "workers cannot connect to the database that opdata.database names; the server's log says why");
}

/* Which cluster this is, and if it is the one that the agent was noted for. */
static Jsonb *
agent_facts(OpdJson *warnings)
{
	OpdAgentFacts facts = opd_agents_look(false);
	OpdJson		json;

	if (facts.copy)
		warn(warnings, "copy",
			 "this database is a copy of one in another cluster, and its agent asks for no jobs; if it is the one that should work, run SELECT opdata_resume();");
	else if (facts.noted_timeline != 0 && facts.timeline > facts.noted_timeline)
		warn(warnings, "new_timeline",
			 "the cluster is on a new timeline, after a failover or a point-in-time restore; if the one before still runs, two agents work: stop one, then run SELECT opdata_resume();");
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "id", facts.copy ? NULL : facts.agent_id);
	opd_json_add_string(&json, "systemIdentifier", facts.system_identifier);
	if (facts.timeline != 0)
		opd_json_add_int(&json, "timeline", facts.timeline);
	else
		opd_json_add_string(&json, "timeline", NULL);
	opd_json_add_bool(&json, "copy", facts.copy);
	return opd_json_end_object(&json);
}

/* Where the control plane is and what keeps the way to it safe. */
static Jsonb *
temporal_facts(OpdJson *warnings)
{
	OpdWorkerConf *conf = opd_conf_worker();
	TimestampTz ends = conf->temporal_tls ? opd_state_certificate() : 0;
	TimestampTz now = GetCurrentTimestamp();
	OpdJson		json;

	if (conf->temporal_address[0] == '\0')
		return NULL;
	if (ends != 0 && ends <= now)
		warn(warnings, "certificate_expired",
			 "the client certificate for Temporal has ended; put a new one and its key in place of the files");
	else if (ends != 0 && ends <= TimestampTzPlusMilliseconds(now, INT64CONST(1000) * 86400 * CERTIFICATE_WARN_DAYS))
		warn(warnings, "certificate_expires",
			 psprintf("the client certificate for Temporal ends within %d days; put a new one and its key in place of the files",
					  CERTIFICATE_WARN_DAYS));
	if (!conf->temporal_tls && conf->temporal_auth != OPD_AUTH_NONE)
		warn(warnings, "token_in_clear",
			 "the agent's token or API key goes to Temporal without TLS; set opdata.temporal_tls to on");
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "address", conf->temporal_address);
	opd_json_add_string(&json, "namespace", conf->temporal_namespace);
	opd_json_add_bool(&json, "tls", conf->temporal_tls);
	opd_json_add_string(&json, "auth",
						conf->temporal_auth == OPD_AUTH_TOKEN ? "token" :
						conf->temporal_auth == OPD_AUTH_API_KEY ? "api_key" : "none");
	opd_json_add_time(&json, "certificateExpiresAt", ends);
	opd_json_add_bool(&json, "proxy", conf->proxy[0] != '\0');
	return opd_json_end_object(&json);
}

/* What waits to be told to the control plane's HTTP API. */
static Jsonb *
convex_facts(OpdJson *warnings)
{
	TimestampTz oldest;
	int64		n_waiting;
	OpdJson		json;

	if (opd_conf_convex_url()[0] == '\0')
		return NULL;
	n_waiting = opd_outbox_count(&oldest);
	if (oldest != 0 && TimestampDifferenceExceeds(oldest, GetCurrentTimestamp(), CONVEX_LATE_MS))
		warn(warnings, "convex_behind",
			 "messages to the control plane's HTTP API wait to be delivered; jobs go on; convex.lastError says why");
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "url", opd_conf_convex_url());
	opd_json_add_int(&json, "waiting", n_waiting);
	opd_json_add_time(&json, "oldestAt", oldest);
	opd_json_add_value(&json, "lastError", opd_state_delivery_error());
	return opd_json_end_object(&json);
}

/* Is it suspended, and what is demanded of what comes in and leaves? */
static Jsonb *
boundary_facts(TimestampTz since, OpdJson *warnings)
{
	OpdJson		json;

	if (since != 0)
		warn(warnings, "suspended",
			 "the agent is suspended, so that no jobs are done; when it may work again, run SELECT opdata_resume();");
	opd_json_begin_object(&json);
	opd_json_add_time(&json, "suspendedSince", since);
	opd_json_add_bool(&json, "requireSealed", opd_conf_require_sealed());
	opd_json_add_bool(&json, "requireSealedPreview", opd_conf_require_sealed_preview());
	return opd_json_end_object(&json);
}

/*
 * opdata_status() -> {"healthy","reasons","versions","key","connections",
 * "agent","temporal","token","convex","boundary","egress","workers","warnings"}
 *
 * Raises 42501 (workspace_denied); nothing for an agent in a bad state: the
 * warnings tell. Connections are counted in the caller's workspaces.
 */
Datum
opdata_status(PG_FUNCTION_ARGS)
{
	char	   *installed = sql_version();
	OpdHealth	health = opd_health_now();
	TimestampTz suspended_since;
	Jsonb	   *parts[6];
	OpdJson		warnings;
	OpdJson		json;

	opd_caller_require(NULL, OPD_READER);
	suspended_since = opd_suspension_since();
	/* also while no worker has noticed yet, or all of them start anew */
	if (suspended_since != 0)
		health |= opd_health_suspended();
	opd_json_begin_array(&warnings);
	if (installed == NULL || strcmp(installed, OPD_VERSION) != 0)
		warn(&warnings, "version_mismatch",
			 psprintf("the library is version %s, the extension in this database %s; run ALTER EXTENSION opdata UPDATE;",
					  OPD_VERSION, installed ? installed : "unknown"));
	parts[0] = key_facts(&warnings);
	warn_of_workers(&warnings);
	parts[1] = agent_facts(&warnings);
	parts[2] = temporal_facts(&warnings);
	parts[3] = opd_conf_wants_token() ? opd_tokencell_facts() : NULL;
	parts[4] = convex_facts(&warnings);
	parts[5] = boundary_facts(suspended_since, &warnings);

	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "healthy", health == 0);
	opd_json_add_value(&json, "reasons", opd_health_reasons(health));
	opd_json_add_value(&json, "versions", versions(installed));
	opd_json_add_value(&json, "key", parts[0]);
	opd_json_add_int(&json, "connections", opd_access_count_connections());
	opd_json_add_value(&json, "agent", parts[1]);
	opd_json_add_value(&json, "temporal", parts[2]);
	opd_json_add_value(&json, "token", parts[3]);
	opd_json_add_value(&json, "convex", parts[4]);
	opd_json_add_value(&json, "boundary", parts[5]);
	opd_json_add_value(&json, "egress", opd_egress_head());
	opd_json_add_value(&json, "workers", opd_state_workers());
	opd_json_add_value(&json, "warnings", opd_json_end_array(&warnings));
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}
