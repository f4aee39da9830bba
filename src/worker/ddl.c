/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  Commands of other sessions that the workers must make way for.
 *
 * DROP DATABASE, renaming, moving and copying a database fail while a session
 * is connected to it, and our workers always are. Before such a command the
 * workers of that database are asked to leave for a moment. CREATE and DROP
 * EXTENSION wake them up, so that they come and go at once, not at the next
 * look.
 *
 * src/worker/ddl.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/timestamp.h"

#include "conf/conf.h"
#include "worker/ddl.h"
#include "worker/state.h"

/* The workers stay away for so long, should the command fail or be canceled. */
#define PAUSE_MS		15000
/* The command goes on after this, and says itself who is in its way. */
#define LEAVE_WAIT_MS	5000

static ProcessUtility_hook_type next_hook;

/* What the running transaction will tell the workers when it ends. */
static bool look_again;			/* something changed, if it commits */
static bool come_back;			/* they were asked to leave */
static bool database_gone;		/* it is, if it commits */

static void
on_transaction_end(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT)
		return;
	if (come_back)
		opd_state_pause_until(0);
	if (come_back || (look_again && event == XACT_EVENT_COMMIT))
		opd_state_poke();
	if (database_gone && event == XACT_EVENT_COMMIT)
		opd_state_set_absent(OPD_WORKER_NO_DATABASE, opd_state_generation());
	look_again = come_back = database_gone = false;
}

/* Name of the database that a command needs for itself alone; or NULL. */
static const char *
exclusive_database(Node *statement)
{
	ListCell   *cell;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			return ((DropdbStmt *) statement)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) statement)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			foreach(cell, ((AlterDatabaseStmt *) statement)->options)
			{
				if (strcmp(((DefElem *) lfirst(cell))->defname, "tablespace") == 0)
					return ((AlterDatabaseStmt *) statement)->dbname;
			}
			return NULL;
		case T_CreatedbStmt:
			foreach(cell, ((CreatedbStmt *) statement)->options)
			{
				DefElem    *option = lfirst(cell);

				if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
					return defGetString(option);
			}
			return NULL;
		default:
			return NULL;
	}
}

/* Does the command decide whether there is something to work with? */
static bool
concerns_workers(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
		case T_DropdbStmt:
		case T_AlterDatabaseStmt:
		case T_CreateExtensionStmt:
		case T_DropOwnedStmt:
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
			return true;
		case T_RenameStmt:
			return ((RenameStmt *) statement)->renameType == OBJECT_DATABASE ||
				((RenameStmt *) statement)->renameType == OBJECT_ROLE;
		case T_DropStmt:
			return ((DropStmt *) statement)->removeType == OBJECT_EXTENSION ||
				((DropStmt *) statement)->removeType == OBJECT_SCHEMA;
		default:
			return false;
	}
}

/* Whoever may not do it anyway must not be able to disturb the workers. */
static bool
may_ask_for(const char *database)
{
	Oid			oid = get_database_oid(database, true);

	return OidIsValid(oid) && opd_owns_database(oid, GetUserId());
}

static void
ask_workers_to_leave(void)
{
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LEAVE_WAIT_MS);

	opd_state_pause_until(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PAUSE_MS));
	opd_state_poke();
	while (opd_state_connected() > 0 && GetCurrentTimestamp() < give_up)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
utility_hook(PlannedStmt *pstmt, const char *query, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params,
			 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *statement = pstmt->utilityStmt;
	const char *database = exclusive_database(statement);

	if (database != NULL && strcmp(database, opd_conf_database()) == 0 && may_ask_for(database))
	{
		come_back = true;
		ask_workers_to_leave();
	}

	(next_hook ? next_hook : standard_ProcessUtility) (pstmt, query, read_only_tree, context, params,
													   environment, dest, completion);

	if (concerns_workers(statement))
		look_again = true;
	if (come_back && (IsA(statement, DropdbStmt) || IsA(statement, RenameStmt)))
		database_gone = true;
}

void
opd_ddl_install(void)
{
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
	RegisterXactCallback(on_transaction_end, NULL);
}
