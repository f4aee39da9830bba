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
	values[0] = opd_sql_parameter(record->kind, &nulls[0]);
	values[1] = opd_sql_parameter(record->connection_id, &nulls[1]);
	values[2] = opd_sql_parameter(record->workspace_id, &nulls[2]);
	values[3] = ObjectIdGetDatum(record->requested_by);
	values[4] = TimestampTzGetDatum(record->started_at);
	set_count(values, nulls, 5, record->n_rows);
	set_count(values, nulls, 6, record->n_bytes);
	values[7] = opd_sql_parameter(record->error_code, &nulls[7]);

	opd_sql_begin(&scope);
	(void) opd_sql_run(&write, values, nulls);
	opd_sql_end(&scope);
}

static void
set_key(Datum *values, char *nulls, const OpdJobKey *key)
{
	values[0] = opd_sql_parameter(key->workflow_id, &nulls[0]);
	values[1] = opd_sql_parameter(key->run_id, &nulls[1]);
	values[2] = opd_sql_parameter(key->activity_id, &nulls[2]);
}

Jsonb *
opd_jobs_claim(const OpdJobKey *key, const OpdJobRecord *record)
{
	static OpdStatement claim = {
		.sql = "INSERT INTO opdata.job AS j (workflow_id, run_id, activity_id, kind, connection_id,"
		"  workspace_id, requested_by, started_at, attempt, worker, state)"
		" VALUES ($1, $2, $3, $4, $5, $6, pg_catalog.pg_get_userbyid($7), $8, $9, $10, 'running')"
		" ON CONFLICT (workflow_id, run_id, activity_id) DO UPDATE"
		"  SET state = 'running', started_at = excluded.started_at, finished_at = NULL,"
		"   duration_ms = NULL, row_count = NULL, byte_count = NULL, error_code = NULL,"
		"   workspace_id = COALESCE(excluded.workspace_id, j.workspace_id),"
		"   attempt = excluded.attempt, worker = excluded.worker"
		"  WHERE j.result IS NULL AND (NOT $11 OR j.started_at <= excluded.started_at)"
		" RETURNING 1",
		.n_args = 11,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, OIDOID, TIMESTAMPTZOID, INT4OID, TEXTOID, BOOLOID}
	};
	static OpdStatement find = {
		.sql = "SELECT result FROM opdata.job WHERE workflow_id = $1 AND run_id = $2 AND activity_id = $3",
		.n_args = 3,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID}
	};
	Datum		values[11];
	char		nulls[] = "           ";
	OpdSqlScope scope;
	Datum		found = (Datum) 0;
	bool		isnull = true;

	set_key(values, nulls, key);
	values[3] = opd_sql_parameter(record->kind, &nulls[3]);
	values[4] = opd_sql_parameter(record->connection_id, &nulls[4]);
	values[5] = opd_sql_parameter(record->workspace_id, &nulls[5]);
	values[6] = ObjectIdGetDatum(record->requested_by);
	values[7] = TimestampTzGetDatum(record->started_at);
	values[8] = Int32GetDatum(key->attempt);
	values[9] = opd_sql_parameter(key->worker, &nulls[9]);
	values[10] = BoolGetDatum(record->late);

	opd_sql_begin(&scope);
	if (opd_sql_run(&claim, values, nulls) == 0 && opd_sql_run(&find, values, nulls) == 1)
		found = opd_sql_datum(0, 1, &isnull);
	opd_sql_end(&scope);
	/* here, since unpacking allocates in the memory context that is current */
	return isnull ? NULL : DatumGetJsonbP(found);
}

void
opd_jobs_finish(const OpdJobKey *key, const OpdJobRecord *record, const Jsonb *result)
{
	static OpdStatement finish = {
		.sql = "UPDATE opdata.job SET finished_at = f.at, workspace_id = COALESCE($4, workspace_id),"
		"  duration_ms = pg_catalog.round(1000 * EXTRACT(epoch FROM f.at - started_at), 3),"
		"  row_count = $5, byte_count = $6, error_code = $7, result = $8,"
		"  state = CASE WHEN $9 THEN 'canceled' WHEN $7 IS NULL THEN 'succeeded' ELSE 'failed' END"
		" FROM pg_catalog.clock_timestamp() AS f(at)"
		" WHERE workflow_id = $1 AND run_id = $2 AND activity_id = $3 AND result IS NULL"
		"  AND worker = $10 AND attempt = $11 AND started_at = $12",
		.n_args = 12,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTOID, JSONBOID, BOOLOID, TEXTOID, INT4OID, TIMESTAMPTZOID}
	};
	Datum		values[12];
	char		nulls[] = "            ";
	OpdSqlScope scope;

	set_key(values, nulls, key);
	values[3] = opd_sql_parameter(record->workspace_id, &nulls[3]);
	set_count(values, nulls, 4, record->n_rows);
	set_count(values, nulls, 5, record->n_bytes);
	values[6] = opd_sql_parameter(record->error_code, &nulls[6]);
	if (result != NULL)
		values[7] = JsonbPGetDatum(result);
	else
		nulls[7] = 'n';
	values[8] = BoolGetDatum(record->canceled);
	values[9] = opd_sql_parameter(key->worker, &nulls[9]);
	values[10] = Int32GetDatum(key->attempt);
	values[11] = TimestampTzGetDatum(record->started_at);

	opd_sql_begin(&scope);
	(void) opd_sql_run(&finish, values, nulls);
	opd_sql_end(&scope);
}

void
opd_jobs_bury(const char *worker, TimestampTz before, const char *state, const char *error_code)
{
	static OpdStatement bury = {
		.sql = "UPDATE opdata.job SET state = $2, error_code = $3,"
		"  finished_at = pg_catalog.clock_timestamp()"
		" WHERE state = 'running' AND worker = $1 AND started_at < $4",
		.n_args = 4,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID}
	};
	Datum		values[] = {
		CStringGetTextDatum(worker), CStringGetTextDatum(state), CStringGetTextDatum(error_code), TimestampTzGetDatum(before)
	};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&bury, values, NULL);
	opd_sql_end(&scope);
}

uint64
opd_jobs_prune(int retention_s)
{
	/* in portions, so that a first prune after a long time is no long transaction */
	static OpdStatement prune = {
		.sql = "DELETE FROM opdata.job WHERE id = ANY (ARRAY("
		"  SELECT id FROM opdata.job WHERE started_at < pg_catalog.now() - $1 * interval '1 second'"
		/* a result must outlive the attempts that may ask for it */
		"   AND (result IS NULL OR started_at < pg_catalog.now() - interval '1 hour')"
		/* still running after a day: of a worker that there is no more */
		"   AND (state <> 'running' OR started_at < pg_catalog.now() - interval '1 day')"
		"  ORDER BY started_at LIMIT 1000))",
		.n_args = 1,
		.arg_types = {FLOAT8OID}
	};
	Datum		values[] = {Float8GetDatum((double) retention_s)};
	OpdSqlScope scope;
	uint64		n;

	opd_sql_begin(&scope);
	n = opd_sql_run(&prune, values, NULL);
	opd_sql_end(&scope);
	return n;
}
