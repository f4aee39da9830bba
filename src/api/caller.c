/*-------------------------------------------------------------------------
 *
 * caller.c
 *	  What every SQL function asks first: may this be done, by this role, now?
 *
 * src/api/caller.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "api/caller.h"
#include "base/error.h"
#include "base/sql.h"
#include "conf/conf.h"
#include "secret/keycache.h"
#include "store/keys.h"
#include "store/suspension.h"
#include "wire/keycommand.h"
#include "worker/state.h"

#define LOOK_MS 250				/* at whether the agent was suspended */

/* ----------------------------------------------------------------- rights */

/* Grants are asked for by name, so the hint says whole what an admin would run. */
static void
throw_denied(const char *workspace_id, OpdLevel level)
{
	const char *role = GetUserNameFromId(GetUserId(), false);
	OpdError   *error = workspace_id == NULL ?
		opd_error_new(OPD_WORKSPACE_DENIED, "role \"%s\" is no %s of any workspace", role, opd_access_level_name(level)) :
		strcmp(workspace_id, OPD_ALL_WORKSPACES) == 0 ?
		opd_error_new(OPD_WORKSPACE_DENIED, "role \"%s\" is no %s of all workspaces", role, opd_access_level_name(level)) :
		opd_error_new(OPD_WORKSPACE_DENIED, "role \"%s\" is no %s of workspace \"%s\"", role, opd_access_level_name(level), workspace_id);

	opd_error_throw(opd_error_hint(error, "An admin may run: SELECT opdata_grant(%s, %s, '%s');",
								   quote_literal_cstr(role),
								   quote_literal_cstr(workspace_id != NULL ? workspace_id : "default"),
								   opd_access_level_name(level)));
}

void
opd_caller_require(const char *workspace_id, OpdLevel level)
{
	if (!opd_access_has(workspace_id, level))
		throw_denied(workspace_id, level);
}

void
opd_caller_require_superuser(const char *function)
{
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only superusers may call %s", function),
				 errdetail_internal("workspace_denied")));
}

void
opd_caller_require_writing(void)
{
	if (!opd_sql_may_write())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("nothing can be changed in a read-only session"),
				 errdetail_internal("unsupported"),
				 errhint("Use a session that may write, on the primary server.")));
}

OpdConnection *
opd_caller_connection(const char *id, OpdLevel level)
{
	OpdConnection *connection = opd_connections_find(id);

	if (connection == NULL || !opd_access_has(connection->workspace_id, OPD_READER))
		opd_error_throw(opd_error_hint(opd_error_new(OPD_CONNECTION_NOT_FOUND,
													 "there is no connection with this id"),
									   "List the connections with: SELECT id, status FROM opdata_connections;"));
	opd_caller_require(connection->workspace_id, level);
	return connection;
}

/* ------------------------------------------------------------ the switch */

void
opd_caller_require_not_suspended(void)
{
	if (opd_suspension_since() != 0)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_SUSPENDED, "the agent is suspended"),
									   "When it may work again, run: SELECT opdata_resume();"));
}

void
opd_caller_run(OpdLoop *loop, const bool *done)
{
	uint64		generation = opd_state_generation();

	/* what was asked before may have changed while a key or a lock was waited for */
	opd_caller_require_not_suspended();
	while (!*done)
	{
		opd_loop_turn(loop, LOOK_MS);
		if (opd_state_generation() == generation)
			continue;
		generation = opd_state_generation();
		opd_caller_require_not_suspended();
	}
}

/* -------------------------------------------------------------- the keys */

/* Ask the command for a key; what is wrong with it goes to the server's log. */
static bool
ask_for_key(const char *command, const char *id)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(caller, "opdata key command", ALLOCSET_SMALL_SIZES);
	OpdLoop    *loop;
	OpdKeyAsk  *ask;
	bool		given;

	MemoryContextSwitchTo(context);
	loop = opd_loop_new();
	ask = opd_keycommand_start(loop, command, id);
	opd_loop_run(loop, &ask->done);
	given = ask->problem == NULL;
	if (!given)
		ereport(LOG,
				(errmsg("the command of opdata.key_command gives no key: %s", ask->problem)));
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return given;
}

/* Is this key there, or given when asked for? */
static bool
get_key(const char *command, const char *id)
{
	return opd_keycache_has(id) || ask_for_key(command, id);
}

OpdKeySource
opd_caller_keys(const char *needed_id)
{
	static uint64 n_exchanges;
	OpdKeySource keys = opd_conf_keys();
	uint64		n = opd_state_key_exchanges();
	char	   *missing = NULL;

	if (keys.command[0] == '\0')
		return keys;
	if (n != n_exchanges)
		opd_keycache_ask_again();
	n_exchanges = n;
	if (!get_key(keys.command, NULL))
		return keys;
	/* one that is not given is not in the way of the others */
	while ((missing = opd_keys_first_missing(opd_keycache_has, missing)) != NULL)
		(void) ask_for_key(keys.command, missing);
	/* of a version of the row that may have been replaced meanwhile */
	if (needed_id != NULL)
		(void) get_key(keys.command, needed_id);
	return keys;
}
