/*-------------------------------------------------------------------------
 *
 * audit.c
 *	  What can the role do on the source besides reading?
 *
 * Each query returns rows of three columns: a warning code, a message and the
 * statement that mends it, the latter made by the source itself, which knows
 * how to quote its names. The queries read catalogs that every role can read,
 * and run on PostgreSQL 9.6 and later.
 *
 * "Ours" are the roles whose rights the session role has or can take: itself
 * and those it is a member of. For a superuser that would be all roles, which
 * says nothing more, so then it is the role itself alone.
 *
 * src/source/audit.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/limits.h"
#include "base/text.h"
#include "source/audit.h"

#define STRINGIFY(x) #x
#define TO_STRING(x) STRINGIFY(x)

/* One row more than is listed, to know that there are more. */
#define LIMIT_CLAUSE " LIMIT " TO_STRING(OPD_AUDIT_MAX_FINDINGS) " + 1"

#define WITH_OURS \
	"WITH me AS (SELECT oid, rolname, rolsuper FROM pg_roles WHERE rolname = current_user)," \
	" ours AS (SELECT r.oid FROM pg_roles r, me" \
	"  WHERE r.oid = me.oid OR (NOT me.rolsuper AND pg_has_role(me.oid, r.oid, 'MEMBER'))) "

/* User schemas: not PostgreSQL's own, and no session's temporary one. */
#define IS_USER_SCHEMA(name) \
	name " NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'crdb_internal', 'pg_extension')" \
	" AND " name " NOT LIKE 'pg\\_temp\\_%' AND " name " NOT LIKE 'pg\\_toast\\_temp\\_%'"

#define GRANTEE "CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END"
#define GRANTED_TO_US "(a.grantee = 0 OR a.grantee IN (SELECT oid FROM ours))"

/*
 * A privilege is revoked by the one who granted it. What the grantee handed on
 * goes with it.
 */
#define REVOKED_BY_GRANTOR(owner, revoke) \
	"format(CASE WHEN a.grantor = " owner " THEN '%2$s' ELSE 'SET ROLE %1$I; %2$s RESET ROLE;' END," \
	" pg_get_userbyid(a.grantor), " revoke " || CASE WHEN bool_or(a.is_grantable) THEN ' CASCADE;' ELSE ';' END)"

static const char *const audit_queries[] = {
	/*
	 * Attributes of the role, and of those that it can become: they are not
	 * inherited, but set_config('role', ...) in a query takes them.
	 */
	WITH_OURS
	"SELECT f.code,"
	" CASE WHEN r.oid = me.oid THEN 'the role ' || f.what ELSE format('the role can become %I, which %s', r.rolname, f.what) END,"
	" CASE WHEN r.oid = me.oid THEN format('ALTER ROLE %I %s;', r.rolname, f.mend) ELSE format('REVOKE %I FROM %I;', r.rolname, g.rolname) END"
	" FROM pg_roles r JOIN ours ON ours.oid = r.oid CROSS JOIN me"
	" LEFT JOIN (pg_auth_members am JOIN ours taker ON taker.oid = am.member JOIN pg_roles g ON g.oid = am.member)"
	"  ON am.roleid = r.oid AND r.oid <> me.oid,"
	" LATERAL (VALUES"
	"  (r.rolsuper, 'role_superuser', 'is a superuser', 'NOSUPERUSER'),"
	"  (r.rolcreaterole, 'role_createrole', 'may create roles', 'NOCREATEROLE'),"
	"  (r.rolcreatedb, 'role_createdb', 'may create databases', 'NOCREATEDB'),"
	"  (r.rolreplication, 'role_replication', 'may replicate', 'NOREPLICATION'),"
	"  (r.rolbypassrls, 'role_bypassrls', 'bypasses row security', 'NOBYPASSRLS')"
	" ) AS f(applies, code, what, mend)"
	" WHERE f.applies ORDER BY 2, 3" LIMIT_CLAUSE,

	/* memberships that write, one row for each way to get there */
	WITH_OURS
	"SELECT DISTINCT 'role_member', format('the role is a member of %I', r.rolname),"
	" format('REVOKE %I FROM %I;', r.rolname, g.rolname)"
	" FROM pg_auth_members am JOIN pg_roles r ON r.oid = am.roleid JOIN pg_roles g ON g.oid = am.member"
	" WHERE am.member IN (SELECT oid FROM ours)"
	"  AND r.rolname IN ('pg_write_all_data', 'pg_write_server_files', 'pg_execute_server_program')"
	" ORDER BY 2, 3" LIMIT_CLAUSE,

	/* ownership; pinned objects of initdb have no row in pg_shdepend */
	WITH_OURS
	"SELECT 'role_owns', format('role %I owns %s %s', r.rolname, o.type, o.identity),"
	" format('REASSIGN OWNED BY %I TO another_role;', r.rolname)"
	" FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid JOIN ours ON ours.oid = r.oid,"
	" LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) o"
	" WHERE d.refclassid = 'pg_authid'::regclass AND d.deptype = 'o'"
	"  AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))"
	" ORDER BY 2" LIMIT_CLAUSE,

	/* writing to tables, views and sequences, whole or by column */
	WITH_OURS
	"SELECT 'role_writes',"
	" format('%s has %s on %s %I.%I', " GRANTEE ", string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),"
	"  CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname, c.relname),"
	REVOKED_BY_GRANTOR("c.relowner",
					   "format('REVOKE %s ON %s %I.%I FROM %s', string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),"
					   "  CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname, " GRANTEE ")")
	" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,"
	" LATERAL aclexplode(c.relacl) a"
	" WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')"
	"  AND (a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')"
	"   OR (c.relkind = 'S' AND a.privilege_type = 'USAGE'))"
	"  AND a.grantee <> c.relowner AND " GRANTED_TO_US
	"  AND " IS_USER_SCHEMA("n.nspname")
	" GROUP BY n.nspname, c.relname, c.relkind, c.relowner, a.grantee, a.grantor ORDER BY 2" LIMIT_CLAUSE,

	WITH_OURS
	"SELECT 'role_writes',"
	" format('%s has %s on column %I of table %I.%I', " GRANTEE ", string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type),"
	"  t.attname, n.nspname, c.relname),"
	REVOKED_BY_GRANTOR("c.relowner",
					   "format('REVOKE %s ON TABLE %I.%I FROM %s',"
					   "  string_agg(a.privilege_type || ' (' || quote_ident(t.attname) || ')', ', ' ORDER BY a.privilege_type),"
					   "  n.nspname, c.relname, " GRANTEE ")")
	" FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace,"
	" LATERAL aclexplode(t.attacl) a"
	" WHERE NOT t.attisdropped AND a.privilege_type IN ('INSERT', 'UPDATE')"
	"  AND a.grantee <> c.relowner AND " GRANTED_TO_US
	"  AND " IS_USER_SCHEMA("n.nspname")
	" GROUP BY n.nspname, c.relname, c.relowner, t.attname, a.grantee, a.grantor ORDER BY 2" LIMIT_CLAUSE,

	/* creating in schemas */
	WITH_OURS
	"SELECT 'role_creates', format('%s may create in schema %I', " GRANTEE ", n.nspname),"
	REVOKED_BY_GRANTOR("n.nspowner", "format('REVOKE CREATE ON SCHEMA %I FROM %s', n.nspname, " GRANTEE ")")
	" FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a"
	" WHERE a.privilege_type = 'CREATE' AND a.grantee <> n.nspowner AND " GRANTED_TO_US
	"  AND " IS_USER_SCHEMA("n.nspname")
	" GROUP BY n.nspname, n.nspowner, a.grantee, a.grantor ORDER BY 2" LIMIT_CLAUSE,

	/* creating in the database */
	WITH_OURS
	"SELECT 'role_creates', format('%s may create schemas in database %I', " GRANTEE ", d.datname),"
	REVOKED_BY_GRANTOR("d.datdba", "format('REVOKE CREATE ON DATABASE %I FROM %s', d.datname, " GRANTEE ")")
	" FROM pg_database d, LATERAL aclexplode(d.datacl) a"
	" WHERE d.datname = current_database() AND a.privilege_type = 'CREATE'"
	"  AND a.grantee <> d.datdba AND " GRANTED_TO_US
	" GROUP BY d.datname, d.datdba, a.grantee, a.grantor ORDER BY 2" LIMIT_CLAUSE,
};

typedef struct Warning
{
	char	   *code;
	char	   *message;
	char	   *statement;		/* or NULL */
} Warning;

struct OpdAudit
{
	Warning    *warnings;
	int			n_warnings;
	int			capacity;
	bool		read_only;
};

OpdAudit *
opd_audit_new(void)
{
	OpdAudit   *audit = palloc0(sizeof(OpdAudit));

	audit->read_only = true;
	audit->capacity = 8;
	audit->warnings = palloc(audit->capacity * sizeof(Warning));
	return audit;
}

static void
add_warning(OpdAudit *audit, const char *code, const char *message, const char *statement)
{
	Warning    *warning;

	if (audit->n_warnings == audit->capacity)
	{
		audit->capacity *= 2;
		audit->warnings = repalloc(audit->warnings, audit->capacity * sizeof(Warning));
	}
	warning = &audit->warnings[audit->n_warnings++];
	warning->code = pstrdup(code);
	warning->message = pstrdup(message);
	warning->statement = statement ? pstrdup(statement) : NULL;
}

void
opd_audit_warn(OpdAudit *audit, const char *code, const char *message)
{
	add_warning(audit, code, message, NULL);
}

static char *
cell(const PGresult *result, int row, int column)
{
	return opd_text_clean(PQgetvalue(result, row, column),
						  PQgetlength(result, row, column), OPD_CELL_MAX_CHARS, NULL);
}

static bool
take_findings(void *arg, const PGresult *result)
{
	OpdAudit   *audit = arg;
	int			n = PQntuples(result);

	if (PQnfields(result) != 3)
		return true;
	if (n > 0)
		audit->read_only = false;
	for (int row = 0; row < Min(n, OPD_AUDIT_MAX_FINDINGS); row++)
	{
		char	   *statement = cell(result, row, 2);

		add_warning(audit, cell(result, row, 0),
					psprintf("%s; to mend it, run on the source: %s", cell(result, row, 1), statement),
					statement);
	}
	if (n > OPD_AUDIT_MAX_FINDINGS)
		add_warning(audit, cell(result, 0, 0),
					"there are more findings of this kind; mend these and test again", NULL);
	return true;
}

void
opd_audit_add_queries(OpdAudit *audit, OpdPgConn *conn)
{
	for (size_t i = 0; i < lengthof(audit_queries); i++)
		opd_pgconn_add(conn, audit_queries[i], 0, NULL, take_findings, audit);
}

bool
opd_audit_read_only(const OpdAudit *audit)
{
	return audit->read_only;
}

void
opd_audit_failed(OpdAudit *audit, const OpdError *error)
{
	audit->read_only = false;
	opd_audit_warn(audit, "role_not_audited",
				   psprintf("the rights of the role could not be read (SQLSTATE %s), so it does not count as read-only",
							error->sqlstate));
}

Jsonb *
opd_audit_warnings(const OpdAudit *audit)
{
	OpdJson		list;

	opd_json_begin_array(&list);
	for (int i = 0; i < audit->n_warnings; i++)
	{
		const Warning *warning = &audit->warnings[i];
		OpdJson		json;

		opd_json_begin_object(&json);
		opd_json_add_string(&json, "code", warning->code);
		opd_json_add_string(&json, "message", warning->message);
		if (warning->statement != NULL)
			opd_json_add_string(&json, "statement", warning->statement);
		opd_json_push_value(&list, opd_json_end_object(&json));
	}
	return opd_json_end_array(&list);
}
