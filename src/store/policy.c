/*-------------------------------------------------------------------------
 *
 * policy.c
 *	  What the customer lets leave: masks, limits, recipients.
 *
 * src/store/policy.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/sql.h"
#include "store/policy.h"

/* Before opd_sql_begin(), inside of which the owner is the current user. */
static Datum
caller(NameData *name)
{
	namestrcpy(name, GetUserNameFromId(GetUserId(), false));
	return NameGetDatum(name);
}

/* ------------------------------------------------------------------ masks */

OpdMask *
opd_policy_mask_of(const char *workspace_id, const char *connection_id)
{
	static OpdStatement find = {
		.sql = "SELECT DISTINCT column_pattern, type_pattern FROM opdata.mask"
		" WHERE $1 IS NULL OR (workspace_id IN ($1, '*') AND (connection_id IS NULL OR connection_id = $2))"
		" ORDER BY column_pattern, type_pattern",
		.n_args = 2,
		.arg_types = {TEXTOID, TEXTOID}
	};
	char		nulls[2];
	Datum		values[] = {opd_sql_parameter(workspace_id, &nulls[0]), opd_sql_parameter(connection_id, &nulls[1])};
	OpdMask    *mask = palloc0(sizeof(OpdMask));
	MemoryContext context = CurrentMemoryContext;
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	mask->n_rules = (int) opd_sql_run(&find, values, nulls);
	mask->rules = MemoryContextAlloc(context, sizeof(OpdMaskRule) * Max(mask->n_rules, 1));
	for (int i = 0; i < mask->n_rules; i++)
	{
		mask->rules[i].column_pattern = opd_sql_text(i, 1);
		mask->rules[i].type_pattern = opd_sql_text(i, 2);
	}
	opd_sql_end(&scope);
	return mask;
}

void
opd_policy_add_mask(const char *workspace_id, const char *column_pattern,
					const char *connection_id, const char *type_pattern)
{
	static OpdStatement insert = {
		.sql = "INSERT INTO opdata.mask (workspace_id, column_pattern, connection_id, type_pattern, added_by)"
		" VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
		.n_args = 5,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, NAMEOID}
	};
	NameData	added_by;
	char		nulls[5] = "     ";
	Datum		values[] = {
		CStringGetTextDatum(workspace_id), CStringGetTextDatum(column_pattern),
		opd_sql_parameter(connection_id, &nulls[2]), opd_sql_parameter(type_pattern, &nulls[3]), caller(&added_by)
	};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&insert, values, nulls);
	opd_sql_end(&scope);
}

uint64
opd_policy_remove_masks(const char *workspace_id, const char *column_pattern, const char *connection_id)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.mask WHERE workspace_id = $1 AND column_pattern = $2"
		" AND connection_id IS NOT DISTINCT FROM $3",
		.n_args = 3,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID}
	};
	char		nulls[3] = "   ";
	Datum		values[] = {
		CStringGetTextDatum(workspace_id), CStringGetTextDatum(column_pattern), opd_sql_parameter(connection_id, &nulls[2])
	};
	OpdSqlScope scope;
	uint64		n;

	opd_sql_begin(&scope);
	n = opd_sql_run(&delete, values, nulls);
	opd_sql_end(&scope);
	return n;
}

/* ----------------------------------------------------------------- limits */

void
opd_policy_limit(const char *workspace_id, int previews_per_day, int rows_per_day)
{
	static OpdStatement put = {
		.sql = "INSERT INTO opdata.egress_limit VALUES ($1, $2, $3)"
		" ON CONFLICT (workspace_id) DO UPDATE"
		"  SET previews_per_day = excluded.previews_per_day, rows_per_day = excluded.rows_per_day",
		.n_args = 3,
		.arg_types = {TEXTOID, INT4OID, INT4OID}
	};
	char		nulls[3] = {' ', previews_per_day < 0 ? 'n' : ' ', rows_per_day < 0 ? 'n' : ' '};
	Datum		values[] = {
		CStringGetTextDatum(workspace_id), Int32GetDatum(previews_per_day), Int32GetDatum(rows_per_day)
	};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&put, values, nulls);
	opd_sql_end(&scope);
}

OpdError *
opd_policy_refusal(const char *workspace_id, int n_rows)
{
	static OpdStatement find = {
		.sql = "SELECT l.previews_per_day = 0, e.n_previews >= l.previews_per_day"
		" FROM opdata.egress_limit l, LATERAL ("
		"  SELECT pg_catalog.count(*) AS n_previews, COALESCE(pg_catalog.sum(row_count), 0) AS n_rows"
		"  FROM opdata.egress e WHERE e.sent_at > pg_catalog.now() - interval '24 hours'"
		"   AND (l.workspace_id = '*' OR e.workspace_id IS NULL OR e.workspace_id = l.workspace_id)) e"
		" WHERE ($1 IS NULL OR l.workspace_id IN ($1, '*'))"
		"  AND (e.n_previews >= l.previews_per_day OR e.n_rows + $2 > l.rows_per_day)"
		" ORDER BY 1 DESC NULLS LAST, 2 DESC NULLS LAST LIMIT 1",
		.n_args = 2,
		.arg_types = {TEXTOID, INT4OID}
	};
	char		nulls[2] = "  ";
	Datum		values[] = {opd_sql_parameter(workspace_id, &nulls[0]), Int32GetDatum(n_rows)};
	OpdSqlScope scope;
	bool		refused;
	bool		off = false;
	bool		by_previews = false;

	opd_sql_begin(&scope);
	refused = opd_sql_run(&find, values, nulls) > 0;
	if (refused)
	{
		off = opd_sql_bool(0, 1);
		by_previews = opd_sql_bool(0, 2);
	}
	opd_sql_end(&scope);
	if (!refused)
		return NULL;
	return opd_error_hint(opd_error_new(OPD_EGRESS_DENIED, "%s",
										off ? "no previews may leave this workspace" :
										by_previews ? "as many previews as may leave this workspace within 24 hours have left it" :
										"with this preview more rows would leave this workspace within 24 hours than may"),
						  "An admin of the workspace sets this with opdata_limit(), in the agent's database.");
}

/* ------------------------------------------------------------- recipients */

void
opd_policy_trust(const char *label, const char *kid, const Jsonb *jwk)
{
	static OpdStatement put = {
		.sql = "INSERT INTO opdata.recipient (label, kid, jwk, added_by) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (label) DO UPDATE"
		"  SET kid = excluded.kid, jwk = excluded.jwk, added_by = excluded.added_by, added_at = now()",
		.n_args = 4,
		.arg_types = {TEXTOID, TEXTOID, JSONBOID, NAMEOID}
	};
	NameData	added_by;
	Datum		values[] = {
		CStringGetTextDatum(label), CStringGetTextDatum(kid), JsonbPGetDatum(jwk), caller(&added_by)
	};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&put, values, NULL);
	opd_sql_end(&scope);
}

bool
opd_policy_distrust(const char *label)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.recipient WHERE label = $1",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	Datum		values[] = {CStringGetTextDatum(label)};
	OpdSqlScope scope;
	bool		found;

	opd_sql_begin(&scope);
	found = opd_sql_run(&delete, values, NULL) > 0;
	opd_sql_end(&scope);
	return found;
}

bool
opd_policy_trusts(const char *kid)
{
	static OpdStatement find = {
		.sql = "SELECT 1 FROM opdata.recipient WHERE kid = $1 LIMIT 1",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	Datum		values[] = {CStringGetTextDatum(kid)};
	OpdSqlScope scope;
	bool		found;

	opd_sql_begin(&scope);
	found = opd_sql_run(&find, values, NULL) > 0;
	opd_sql_end(&scope);
	return found;
}
