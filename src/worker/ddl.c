/*-------------------------------------------------------------------------
 *
 * ddl.c
 *	  Commands of other sessions that the workers must make way for.
 *
 * DROP DATABASE, renaming, moving and copying a database fail while a session
 * is connected to it, and our workers always are. Before such a command the
 * workers of that database are asked to leave for a moment. CREATE and DROP
 * EXTENSION wake them up, so that they come and go at once, not at the next
 * look; so does a message for the control plane.
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
#include "store/outbox.h"
#include "worker/ddl.h"
#include "worker/state.h"
#include "worker/tokencell.h"

/* The workers stay away for so long, should the command fail or be canceled. */
#define PAUSE_MS		15000
/* The command goes on after this, and says itself who is in its way. */
#define LEAVE_WAIT_MS	5000

static ProcessUtility_hook_type next_hook;

/* What the running transaction will tell the workers when it ends. */
static bool look_again;			/* something changed, if it commits */
static TimestampTz asked_until; /* they were asked to stay away until then; 0: not */
static bool suspend;				/* the agent was told to stop, if it commits */
static bool key_exchanged;			/* if it commits */
static bool database_gone;		/* it is, if it commits */

static void
on_transaction_end(XactEvent event, void *arg)
{
	bool		done;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE)
		return;
	/* what was prepared has not happened yet: COMMIT PREPARED looks again */
	done = event == XACT_EVENT_COMMIT;
	if (asked_until != 0)
		opd_state_end_pause(asked_until);
	/* before the locks are let go: who waits for them sees it */
	if (key_exchanged && done)
		opd_state_note_key_exchange();
	if (asked_until != 0 || (look_again && done))
		opd_state_poke();
	if (opd_outbox_was_filled() && done)
		opd_state_note_outbox();
	if (database_gone && done)
		opd_state_set_absent(OPD_WORKER_NO_DATABASE, opd_state_generation());
	if (suspend && done)
		opd_tokencell_forget();
	look_again = suspend = key_exchanged = database_gone = false;
	asked_until = 0;
}

static bool
is_agent_database(const char *name)
{
	return name != NULL && strcmp(name, opd_conf_database()) == 0;
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

/*
 * May the command bring or take away what the workers work with? Asked after
 * it succeeded; a wrong yes costs a look.
 */
static bool
concerns_workers(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_CreatedbStmt:
			return is_agent_database(((CreatedbStmt *) statement)->dbname);
		case T_AlterDatabaseStmt:
			return is_agent_database(((AlterDatabaseStmt *) statement)->dbname);
		case T_RenameStmt:
			return ((RenameStmt *) statement)->renameType == OBJECT_DATABASE &&
				(is_agent_database(((RenameStmt *) statement)->subname) ||
				 is_agent_database(((RenameStmt *) statement)->newname));
		case T_CreateRoleStmt:
			return opd_conf_is_worker_role(((CreateRoleStmt *) statement)->role);
		case T_AlterRoleStmt:
			return opd_conf_is_worker_role(((AlterRoleStmt *) statement)->role->rolename);
		case T_CreateExtensionStmt:
			return strcmp(((CreateExtensionStmt *) statement)->extname, "opdata") == 0 &&
				is_agent_database(get_database_name(MyDatabaseId));
		case T_CopyStmt:
			/* a dump that is restored may make this a copy */
			return ((CopyStmt *) statement)->is_from && ((CopyStmt *) statement)->relation != NULL &&
				((CopyStmt *) statement)->relation->schemaname != NULL &&
				strcmp(((CopyStmt *) statement)->relation->schemaname, "opdata") == 0 &&
				strcmp(((CopyStmt *) statement)->relation->relname, "agent") == 0 &&
				is_agent_database(get_database_name(MyDatabaseId));
		case T_DropOwnedStmt:
			return is_agent_database(get_database_name(MyDatabaseId));
		case T_DropStmt:
			return (((DropStmt *) statement)->removeType == OBJECT_EXTENSION ||
					((DropStmt *) statement)->removeType == OBJECT_SCHEMA) &&
				is_agent_database(get_database_name(MyDatabaseId));
		case T_TransactionStmt:
			return ((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED;
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

	asked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), PAUSE_MS);
	opd_state_pause_until(asked_until);
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
	bool		asked = is_agent_database(database) && may_ask_for(database);
	bool		is_drop = IsA(statement, DropdbStmt);
	bool		ends_prepared = IsA(statement, TransactionStmt) && concerns_workers(statement);

	if (asked)
		ask_workers_to_leave();

	(next_hook ? next_hook : standard_ProcessUtility) (pstmt, query, read_only_tree, context, params,
													   environment, dest, completion);

	/* after COMMIT PREPARED there is no transaction any more whose end could tell */
	if (ends_prepared)
		opd_state_poke();
	else if (!IsA(statement, TransactionStmt) && concerns_workers(statement))
		look_again = true;
	if (asked && is_drop)
		database_gone = true;
}

void
opd_ddl_suspend_at_commit(void)
{
	suspend = look_again = true;
}

void
opd_ddl_poke_at_commit(void)
{
	look_again = true;
}

void
opd_ddl_exchange_at_commit(void)
{
	key_exchanged = look_again = true;
}

void
opd_ddl_install(void)
{
	next_hook = ProcessUtility_hook;
	ProcessUtility_hook = utility_hook;
	RegisterXactCallback(on_transaction_end, NULL);
}
