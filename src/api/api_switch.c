/*-------------------------------------------------------------------------
 *
 * api_switch.c
 *	  The kill switch: opdata_suspend(), opdata_resume().
 *
 * src/api/api_switch.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"

#include "api/caller.h"
#include "base/json.h"
#include "conf/conf.h"
#include "store/agents.h"
#include "store/suspension.h"
#include "worker/ddl.h"

PG_FUNCTION_INFO_V1(opdata_suspend);
PG_FUNCTION_INFO_V1(opdata_resume);

extern PGDLLEXPORT Datum opdata_suspend(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_resume(PG_FUNCTION_ARGS);

/*
 * opdata_suspend() -> {"suspended": true, "since"}
 *
 * Takes effect at commit: each worker drops what it does and asks for nothing more,
 * and so does each session. Raises 42501 (workspace_denied) unless the caller is
 * admin of all workspaces, 25006 where nothing can be written.
 */
Datum
opdata_suspend(PG_FUNCTION_ARGS)
{
	OpdJson		json;

	opd_caller_require(OPD_ALL_WORKSPACES, OPD_ADMIN);
	opd_caller_require_writing();
	(void) opd_suspension_begin();
	if (strcmp(get_database_name(MyDatabaseId), opd_conf_database()) == 0)
		opd_ddl_suspend_at_commit();
	else
	{
		opd_ddl_poke_at_commit();
		ereport(WARNING,
				(errmsg("this suspends calls in this database, and not the background workers, which work for another"),
				 errhint("Run SELECT opdata_suspend(); in the database that opdata.database names.")));
	}
	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "suspended", true);
	opd_json_add_time(&json, "since", opd_suspension_since());
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/*
 * opdata_resume() -> {"resumed": true}
 *
 * Ends a suspension, and lets the agent work in a cluster that it was not noted
 * for. Raises as opdata_suspend() does.
 */
Datum
opdata_resume(PG_FUNCTION_ARGS)
{
	OpdJson		json;

	opd_caller_require(OPD_ALL_WORKSPACES, OPD_ADMIN);
	opd_caller_require_writing();
	(void) opd_suspension_end();
	opd_agents_resume();
	opd_ddl_poke_at_commit();
	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "resumed", true);
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}
