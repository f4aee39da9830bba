/*-------------------------------------------------------------------------
 *
 * api_access.c
 *	  SQL functions by which roles are let into workspaces.
 *
 * src/api/api_access.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "fmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "api/arguments.h"
#include "api/caller.h"
#include "base/json.h"

PG_FUNCTION_INFO_V1(opdata_grant);
PG_FUNCTION_INFO_V1(opdata_revoke);

extern PGDLLEXPORT Datum opdata_grant(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum opdata_revoke(PG_FUNCTION_ARGS);

static OpdLevel
level_argument(text *value)
{
	OpdLevel	level = opd_access_level_of(text_to_cstring(value));

	if (level == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no such level of access"),
				 errdetail_internal("unsupported"),
				 errhint("Give reader, developer or admin.")));
	return level;
}

/*
 * opdata_grant(role_name, workspace_id, level) -> {"role","workspaceId","level"}
 *
 * Workspace "*" is all of them, and what belongs to none. Raises 42501
 * (workspace_denied) unless the caller is admin of the workspace, 42704 for a role
 * that does not exist, 22023 for a level other than reader, developer, admin, 22004
 * for a null.
 */
Datum
opdata_grant(PG_FUNCTION_ARGS)
{
	char	   *role;
	char	   *workspace_id;
	OpdLevel	level;
	OpdJson		json;

	opd_argument_require(PG_ARGISNULL(0), "role_name");
	opd_argument_require(PG_ARGISNULL(1), "workspace_id");
	opd_argument_require(PG_ARGISNULL(2), "level");
	role = NameStr(*PG_GETARG_NAME(0));
	workspace_id = opd_argument_id("workspace_id", PG_GETARG_TEXT_PP(1));
	opd_caller_require(workspace_id, OPD_ADMIN);
	opd_caller_require_writing();
	level = level_argument(PG_GETARG_TEXT_PP(2));
	opd_access_grant(role, workspace_id, level);
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "role", role);
	opd_json_add_string(&json, "workspaceId", workspace_id);
	opd_json_add_string(&json, "level", opd_access_level_name(level));
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}

/*
 * opdata_revoke(role_name, workspace_id, level) -> {"revoked": boolean}
 *
 * Without a level, whatever the role may do there; with one, only that. The role
 * need not exist any more. Raises 42501 (workspace_denied), 22023 for a level that
 * there is not, 22004 for another null.
 */
Datum
opdata_revoke(PG_FUNCTION_ARGS)
{
	char	   *role;
	char	   *workspace_id;
	OpdLevel	level;
	OpdJson		json;

	opd_argument_require(PG_ARGISNULL(0), "role_name");
	opd_argument_require(PG_ARGISNULL(1), "workspace_id");
	role = NameStr(*PG_GETARG_NAME(0));
	workspace_id = opd_argument_id("workspace_id", PG_GETARG_TEXT_PP(1));
	opd_caller_require(workspace_id, OPD_ADMIN);
	opd_caller_require_writing();
	level = PG_ARGISNULL(2) ? 0 : level_argument(PG_GETARG_TEXT_PP(2));
	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "revoked", opd_access_revoke(role, workspace_id, level));
	PG_RETURN_JSONB_P(opd_json_end_object(&json));
}
