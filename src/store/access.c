/*-------------------------------------------------------------------------
 *
 * access.c
 *	  What roles may do in workspaces.
 *
 * src/store/access.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "base/sql.h"
#include "store/access.h"

static const char *const level_names[] = {
	[OPD_READER] = "reader",
	[OPD_DEVELOPER] = "developer",
	[OPD_ADMIN] = "admin"
};

/* An OpdLevel as SQL has it. */
#define RANK "pg_catalog.array_position(ARRAY['reader', 'developer', 'admin'], level)"

const char *
opd_access_level_name(OpdLevel level)
{
	return level_names[level];
}

OpdLevel
opd_access_level_of(const char *name)
{
	for (OpdLevel level = OPD_READER; level <= OPD_ADMIN; level++)
	{
		if (strcmp(name, level_names[level]) == 0)
			return level;
	}
	return 0;
}

bool
opd_access_has(const char *workspace_id, OpdLevel level)
{
	static OpdStatement find = {
		.sql = "SELECT 1 FROM opdata.granted"
		" WHERE ($1 IS NULL OR workspace_id IN ($1, '*'))"
		"  AND " RANK " >= $2"
		"  AND pg_catalog.pg_has_role($3, role, 'USAGE')"
		" LIMIT 1",
		.n_args = 3,
		.arg_types = {TEXTOID, INT4OID, OIDOID}
	};
	Oid			caller = GetUserId();
	char		nulls[] = "   ";
	Datum		values[] = {
		opd_sql_parameter(workspace_id, &nulls[0]), Int32GetDatum((int) level), ObjectIdGetDatum(caller)
	};
	OpdSqlScope scope;
	bool		has;

	opd_sql_begin(&scope);
	/* who has all privileges of the owner, as whom we are now */
	has = has_privs_of_role(caller, GetUserId()) ||
		opd_sql_run(&find, values, nulls) > 0;
	opd_sql_end(&scope);
	return has;
}

int64
opd_access_count_connections(void)
{
	static OpdStatement count = {
		.sql = "SELECT pg_catalog.count(*) FROM opdata.connection c"
		" WHERE $1 OR EXISTS (SELECT FROM opdata.granted g WHERE g.workspace_id = c.workspace_id"
		"  AND pg_catalog.pg_has_role($2, g.role, 'USAGE'))",
		.n_args = 2,
		.arg_types = {BOOLOID, OIDOID}
	};
	Datum		values[] = {
		BoolGetDatum(opd_access_has(OPD_ALL_WORKSPACES, OPD_READER)), ObjectIdGetDatum(GetUserId())
	};
	OpdSqlScope scope;
	int64		n;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&count, values, NULL);
	n = opd_sql_int8(0, 1);
	opd_sql_end(&scope);
	return n;
}

/* ------------------------------------------------------------- privileges */

/*
 * Who may call a function or read a view at all. What it then does or shows is up to
 * the workspace.
 */
static const struct
{
	const char *name;
	OpdLevel	level;
	bool		everywhere;		/* a matter of the whole agent: of workspace "*" */
}			api[] = {
	{"opdata_connections", OPD_READER, false},
	{"opdata_jobs", OPD_READER, false},
	{"opdata_egress", OPD_READER, false},
	{"opdata_masks", OPD_READER, false},
	{"opdata_limits", OPD_READER, false},
	{"opdata_grants", OPD_ADMIN, false},
	{"opdata_recipients", OPD_ADMIN, true},
	{"opdata_status", OPD_READER, false},
	{"opdata_public_key", OPD_READER, false},
	{"opdata_verify_egress", OPD_READER, false},
	{"opdata_inventory", OPD_READER, false},
	{"opdata_store_creds", OPD_DEVELOPER, false},
	{"opdata_test", OPD_DEVELOPER, false},
	{"opdata_preview", OPD_DEVELOPER, false},
	{"opdata_delete", OPD_DEVELOPER, false},
	{"opdata_mask", OPD_ADMIN, false},
	{"opdata_unmask", OPD_ADMIN, false},
	{"opdata_limit", OPD_ADMIN, false},
	{"opdata_grant", OPD_ADMIN, false},
	{"opdata_revoke", OPD_ADMIN, false},
	{"opdata_trust_recipient", OPD_ADMIN, true},
	{"opdata_distrust_recipient", OPD_ADMIN, true},
	{"opdata_rotate_public_key", OPD_ADMIN, true},
	{"opdata_suspend", OPD_ADMIN, true},
	{"opdata_resume", OPD_ADMIN, true},
};

/*
 * The highest level that a role itself has somewhere, or in workspace "*". 0: none.
 * Rows of it that do not count were forgotten before.
 */
static int
highest_level(Oid role, bool everywhere)
{
	static OpdStatement find = {
		.sql = "SELECT COALESCE(pg_catalog.max(" RANK "), 0)"
		" FROM opdata.access WHERE role = $1 AND (NOT $2 OR workspace_id = '*')",
		.n_args = 2,
		.arg_types = {OIDOID, BOOLOID}
	};
	Datum		values[] = {ObjectIdGetDatum(role), BoolGetDatum(everywhere)};

	(void) opd_sql_run(&find, values, NULL);
	return opd_sql_int4(0, 1);
}

/* Give or take a privilege on an object, both as SQL wants them. */
static void
set_privilege(bool give, const char *privilege, const char *role)
{
	/* CASCADE: from whom the role has passed it on to as well, or nothing could be taken */
	opd_sql_utility(psprintf("%s %s %s %s%s", give ? "GRANT" : "REVOKE", privilege,
							 give ? "TO" : "FROM", quote_identifier(role), give ? "" : " CASCADE"));
}

/* Privileges on objects of the extension as text, one a row; the rows are copied. */
static int
list_privileges(OpdStatement *find, Datum *values, char ***names)
{
	int			n = (int) opd_sql_run(find, values, NULL);

	*names = palloc(sizeof(char *) * Max(n, 1));
	for (int i = 0; i < n; i++)
		(*names)[i] = opd_sql_text(i, 1);
	return n;
}

/* Make the privileges of a role those that its rows call for. */
static void
apply_privileges(const char *role, Oid roleid)
{
	static OpdStatement find = {
		.sql = "SELECT 'EXECUTE ON FUNCTION ' || p.oid::pg_catalog.regprocedure::text" OPD_SQL_MEMBERS("pg_proc", "p")
		" WHERE e.extname = 'opdata' AND p.proname = $2 AND p.proowner <> $1"
		" UNION ALL"
		" SELECT 'SELECT ON TABLE ' || c.oid::pg_catalog.regclass::text" OPD_SQL_MEMBERS("pg_class", "c")
		" WHERE e.extname = 'opdata' AND c.relname = $2 AND c.relowner <> $1",
		.n_args = 2,
		.arg_types = {OIDOID, NAMEOID}
	};
	static OpdStatement find_schema = {
		.sql = "SELECT 'USAGE ON SCHEMA ' || pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e"
		" JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
		" WHERE e.extname = 'opdata' AND NOT pg_catalog.has_schema_privilege($1, n.oid, 'USAGE')",
		.n_args = 1,
		.arg_types = {OIDOID}
	};
	int			highest = highest_level(roleid, false);
	int			highest_everywhere = highest_level(roleid, true);
	NameData	name;
	/* what the role owns is its own, whatever it may do in a workspace */
	Datum		values[] = {ObjectIdGetDatum(roleid), NameGetDatum(&name)};
	char	  **privileges;
	int			n;

	for (int i = 0; i < (int) lengthof(api); i++)
	{
		namestrcpy(&name, api[i].name);
		n = list_privileges(&find, values, &privileges);
		for (int j = 0; j < n; j++)
			set_privilege((api[i].everywhere ? highest_everywhere : highest) >= (int) api[i].level,
						  privileges[j], role);
	}
	/* left to it afterwards: somebody else may have granted it too */
	if (highest > 0 && list_privileges(&find_schema, values, &privileges) > 0)
		set_privilege(true, privileges[0], role);
}

/* One change after the other, since each looks at all rows of the role, and at ACLs. */
static void
lock_access(void)
{
	opd_sql_utility("LOCK TABLE opdata.access IN SHARE ROW EXCLUSIVE MODE");
}

/*
 * Rows that do not count are of another role that had this name, of another name
 * that this role had, or from before DROP OWNED. They are not to count again now that
 * the role gets privileges, or when it gets its old name back.
 */
static void
forget_leftovers(const char *role, Oid roleid)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.access a WHERE (a.role_name = $1 OR a.role = $2)"
		" AND NOT EXISTS (SELECT FROM opdata.granted g"
		"  WHERE g.role_name = a.role_name AND g.workspace_id = a.workspace_id)",
		.n_args = 2,
		.arg_types = {NAMEOID, OIDOID}
	};
	NameData	name;
	Datum		values[] = {NameGetDatum(&name), ObjectIdGetDatum(roleid)};

	namestrcpy(&name, role);
	(void) opd_sql_run(&delete, values, NULL);
}

void
opd_access_grant(const char *role, const char *workspace_id, OpdLevel level)
{
	static OpdStatement put = {
		.sql = "INSERT INTO opdata.access (role_name, workspace_id, level, granted_by) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (role_name, workspace_id) DO UPDATE"
		"  SET role = excluded.role, level = excluded.level, granted_by = excluded.granted_by, granted_at = now()",
		.n_args = 4,
		.arg_types = {NAMEOID, TEXTOID, TEXTOID, NAMEOID}
	};
	NameData	name;
	NameData	granted_by;
	Datum		values[] = {
		NameGetDatum(&name), CStringGetTextDatum(workspace_id),
		CStringGetTextDatum(level_names[level]), NameGetDatum(&granted_by)
	};
	Oid			roleid = get_role_oid(role, false);
	OpdSqlScope scope;

	namestrcpy(&name, role);
	namestrcpy(&granted_by, GetUserNameFromId(GetUserId(), false));
	opd_sql_begin(&scope);
	lock_access();
	forget_leftovers(role, roleid);
	(void) opd_sql_run(&put, values, NULL);
	apply_privileges(role, roleid);
	opd_sql_end(&scope);
}

bool
opd_access_revoke(const char *role, const char *workspace_id, OpdLevel level)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.access WHERE (role_name = $1 OR role = $2)"
		" AND workspace_id = $3 AND ($4 IS NULL OR level = $4)",
		.n_args = 4,
		.arg_types = {NAMEOID, OIDOID, TEXTOID, TEXTOID}
	};
	/* a role that was dropped has left its name alone, and has no privileges to take */
	Oid			roleid = get_role_oid(role, true);
	NameData	name;
	char		nulls[] = "    ";
	Datum		values[] = {
		NameGetDatum(&name), ObjectIdGetDatum(roleid), CStringGetTextDatum(workspace_id),
		opd_sql_parameter(level != 0 ? level_names[level] : NULL, &nulls[3])
	};
	OpdSqlScope scope;
	bool		found;

	namestrcpy(&name, role);
	opd_sql_begin(&scope);
	lock_access();
	found = opd_sql_run(&delete, values, nulls) > 0;
	if (found && OidIsValid(roleid))
	{
		forget_leftovers(role, roleid);
		apply_privileges(role, roleid);
	}
	opd_sql_end(&scope);
	return found;
}
