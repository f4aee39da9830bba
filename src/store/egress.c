/*-------------------------------------------------------------------------
 *
 * egress.c
 *	  The log of what left: rows in a chain of hashes.
 *
 * The hash is computed by opdata.egress_hash(), a function in SQL that an auditor
 * can read and call.
 *
 * src/store/egress.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/json.h"
#include "base/sql.h"
#include "store/egress.h"
#include "store/policy.h"

/* The head is made by whoever comes first. */
void
opd_egress_hold(void)
{
	static OpdStatement make = {
		.sql = "INSERT INTO opdata.egress_head (seq, hash) VALUES (0, '') ON CONFLICT DO NOTHING"
	};
	static OpdStatement lock = {
		.sql = "SELECT 1 FROM opdata.egress_head FOR UPDATE"
	};

	OpdSqlScope scope;

	opd_sql_begin(&scope);
	if (opd_sql_run(&lock, NULL, NULL) == 0)
	{
		(void) opd_sql_run(&make, NULL, NULL);
		(void) opd_sql_run(&lock, NULL, NULL);
	}
	opd_sql_end(&scope);
}

OpdError *
opd_egress_append(const OpdEgress *entry)
{
	static OpdStatement append = {
		.sql = "WITH entry AS ("
		"  SELECT ROW(h.seq + 1, pg_catalog.clock_timestamp(), $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
		"   h.hash, '')::opdata.egress AS e FROM opdata.egress_head h"
		"   WHERE $14 OR NOT EXISTS (SELECT FROM opdata.suspension)),"
		" hashed AS (SELECT (e).*, opdata.egress_hash(e) AS new_hash FROM entry),"
		" inserted AS ("
		"  INSERT INTO opdata.egress"
		"  SELECT seq, sent_at, workspace_id, connection_id, host, requested_by, workflow_id, run_id, activity_id,"
		"   query, row_count, byte_count, masked_columns, sealed_to, error_code, prev_hash, new_hash FROM hashed"
		"  RETURNING seq, hash)"
		" UPDATE opdata.egress_head h SET seq = i.seq, hash = i.hash FROM inserted i",
		.n_args = 14,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		INT4OID, INT8OID, INT4OID, TEXTOID, TEXTOID, BOOLOID}
	};
	const char *const texts[] = {
		entry->workspace_id, entry->connection_id, entry->host, entry->requested_by,
		entry->workflow_id, entry->run_id, entry->activity_id, entry->query
	};
	Datum		values[14];
	char		nulls[14];
	OpdSqlScope scope;
	OpdError   *refusal;
	bool		suspended;

	memset(nulls, ' ', sizeof(nulls));
	for (int i = 0; i < (int) lengthof(texts); i++)
		values[i] = opd_sql_parameter(texts[i], &nulls[i]);
	values[8] = Int32GetDatum(entry->n_rows);
	values[9] = Int64GetDatum(entry->n_bytes);
	values[10] = Int32GetDatum(entry->n_masked);
	values[11] = opd_sql_parameter(entry->sealed_to, &nulls[11]);
	values[12] = opd_sql_parameter(entry->error_code, &nulls[12]);
	values[13] = BoolGetDatum(entry->told);

	/* nobody else can use up what is left */
	refusal = entry->error_code == NULL ? opd_policy_refusal(entry->workspace_id, entry->n_rows) : NULL;
	if (refusal != NULL)
		return refusal;
	opd_sql_begin(&scope);
	suspended = opd_sql_run(&append, values, nulls) == 0;
	opd_sql_end(&scope);
	return suspended ? opd_error_new(OPD_SUSPENDED, "the agent is suspended") : NULL;
}

Jsonb *
opd_egress_head(void)
{
	static OpdStatement find = {
		.sql = "SELECT seq, hash FROM opdata.egress_head WHERE seq > 0"
	};
	OpdSqlScope scope;
	OpdJson		json;
	bool		isnull;
	int64		seq = 0;
	char	   *hash = NULL;

	opd_sql_begin(&scope);
	if (opd_sql_run(&find, NULL, NULL) > 0)
	{
		seq = DatumGetInt64(opd_sql_datum(0, 1, &isnull));
		hash = opd_sql_text(0, 2);
	}
	opd_sql_end(&scope);
	opd_json_begin_object(&json);
	opd_json_add_int(&json, "rows", seq);
	opd_json_add_string(&json, "head", hash);
	return opd_json_end_object(&json);
}

/*
 * In one statement, so that all of it is of one moment. A row is bad that has
 * another hash than its values, another predecessor than it says, or none that
 * it should have.
 */
Jsonb *
opd_egress_verify(const char *expected_head)
{
	static OpdStatement verify = {
		.sql = "WITH chain AS MATERIALIZED ("
		"  SELECT e.seq, e.hash, e.prev_hash, opdata.egress_hash(e) AS computed,"
		"   COALESCE(pg_catalog.lag(e.seq) OVER w, 0) AS seq_before,"
		"   COALESCE(pg_catalog.lag(e.hash) OVER w, '') AS hash_before"
		"  FROM opdata.egress e WINDOW w AS (ORDER BY e.seq)),"
		" last AS (SELECT seq, hash FROM chain ORDER BY seq DESC LIMIT 1),"
		" head AS (SELECT seq, hash FROM opdata.egress_head),"
		" bad AS ("
		"  SELECT seq_before + 1 AS seq, 'removed' AS problem FROM chain WHERE seq IS DISTINCT FROM seq_before + 1"
		"  UNION ALL SELECT seq, 'altered' FROM chain WHERE hash IS DISTINCT FROM computed"
		"  UNION ALL SELECT seq, 'reordered' FROM chain WHERE prev_hash IS DISTINCT FROM hash_before AND seq = seq_before + 1"
		"  UNION ALL SELECT COALESCE((SELECT seq FROM last), 0) + 1, 'removed' FROM head"
		"   WHERE seq > COALESCE((SELECT seq FROM last), 0)"
		"  UNION ALL SELECT seq, 'added' FROM chain WHERE seq > COALESCE((SELECT seq FROM head), 0)"
		"  UNION ALL SELECT last.seq, 'altered' FROM last, head WHERE last.seq = head.seq AND last.hash IS DISTINCT FROM head.hash),"
		" first_bad AS (SELECT seq, problem FROM bad ORDER BY seq, problem LIMIT 1)"
		" SELECT pg_catalog.jsonb_build_object("
		"  'ok', NOT EXISTS (SELECT FROM bad)"
		"   AND ($1 IS NULL OR EXISTS (SELECT FROM chain WHERE hash = $1)),"
		"  'rows', (SELECT pg_catalog.count(*) FROM chain),"
		"  'head', (SELECT hash FROM last),"
		"  'expectedHeadFound', CASE WHEN $1 IS NOT NULL THEN EXISTS (SELECT FROM chain WHERE hash = $1) END,"
		"  'firstBad', (SELECT pg_catalog.jsonb_build_object('seq', seq, 'problem', problem) FROM first_bad))",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	char		nulls[1];
	Datum		values[] = {opd_sql_parameter(expected_head, nulls)};
	OpdSqlScope scope;
	bool		isnull;
	Datum		result;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&verify, values, nulls);
	result = opd_sql_datum(0, 1, &isnull);
	opd_sql_end(&scope);
	return DatumGetJsonbP(result);
}
