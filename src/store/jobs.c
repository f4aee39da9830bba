/*-------------------------------------------------------------------------
 *
 * jobs.c
 *	  Rows of opdata.job: what was done, as metadata.
 *
 * src/store/jobs.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/sql.h"
#include "store/jobs.h"

OpdJobRecord
opd_jobs_begin(const char *kind, const char *connection_id, const char *workspace_id)
{
	OpdJobRecord record = {
		.kind = kind,
		.connection_id = connection_id,
		.workspace_id = workspace_id,
		.requested_by = GetUserId(),
		.started_at = GetCurrentTimestamp(),
		.n_rows = -1,
		.n_bytes = -1
	};

	return record;
}

static void
set_text(Datum *values, char *nulls, int i, const char *value)
{
	if (value != NULL)
		values[i] = CStringGetTextDatum(value);
	else
		nulls[i] = 'n';
}

static void
set_count(Datum *values, char *nulls, int i, int64 value)
{
	if (value >= 0)
		values[i] = Int64GetDatum(value);
	else
		nulls[i] = 'n';
}

void
opd_jobs_write(const OpdJobRecord *record)
{
	static OpdStatement write = {
		.sql = "INSERT INTO opdata.job (kind, connection_id, workspace_id, requested_by, started_at,"
		"  finished_at, duration_ms, row_count, byte_count, error_code, state)"
		" SELECT $1, $2, $3, pg_catalog.pg_get_userbyid($4), $5, f.at,"
		"  pg_catalog.round(1000 * EXTRACT(epoch FROM f.at - $5), 3), $6, $7, $8,"
		"  CASE WHEN $8 IS NULL THEN 'succeeded' ELSE 'failed' END"
		" FROM pg_catalog.clock_timestamp() AS f(at)",
		.n_args = 8,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, OIDOID, TIMESTAMPTZOID, INT8OID, INT8OID, TEXTOID}
	};
	Datum		values[8];
	char		nulls[] = "        ";
	OpdSqlScope scope;

	if (!opd_sql_may_write())
		return;
	set_text(values, nulls, 0, record->kind);
	set_text(values, nulls, 1, record->connection_id);
	set_text(values, nulls, 2, record->workspace_id);
	values[3] = ObjectIdGetDatum(record->requested_by);
	values[4] = TimestampTzGetDatum(record->started_at);
	set_count(values, nulls, 5, record->n_rows);
	set_count(values, nulls, 6, record->n_bytes);
	set_text(values, nulls, 7, record->error_code);

	opd_sql_begin(&scope);
	(void) opd_sql_run(&write, values, nulls);
	opd_sql_end(&scope);
}
