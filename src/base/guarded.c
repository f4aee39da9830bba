/*-------------------------------------------------------------------------
 *
 * guarded.c
 *	  Call something that may raise, and get the error as a value.
 *
 * src/base/guarded.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/guarded.h"

#define LOCK_QUIET_MS	60000	/* without a lock, until the next one is logged */

ErrorData *
opd_guarded_call(void (*function) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		function(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}

ErrorData *
opd_guarded_transaction(void (*function) (void *arg), void *arg, bool wait_for_disk)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		if (!wait_for_disk)
			(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
									 GUC_ACTION_LOCAL, true, 0, false);
		MemoryContextSwitchTo(context);
		function(arg);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	/* a cancel that came too late is not for what comes next */
	QueryCancelPending = false;
	pgstat_report_stat(false);
	return error;
}

bool
opd_guarded_met_lock(const ErrorData *error)
{
	static TimestampTz last;
	TimestampTz now = GetCurrentTimestamp();

	if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		return false;
	/* those that follow are of the same lock, as far as anybody cares */
	if (TimestampDifferenceExceeds(last, now, LOCK_QUIET_MS))
		ereport(LOG,
				(errmsg("opdata meets a lock that somebody holds in the agent's database, and tries again until it is gone"),
				 errhint("The view pg_locks tells who holds it.")));
	last = now;
	return true;
}

bool
opd_guarded_catalog(void (*function) (void *arg), void *arg)
{
	if (IsTransactionState())
	{
		function(arg);
		return true;
	}
	return opd_guarded_transaction(function, arg, false) == NULL;
}
