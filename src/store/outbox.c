/*-------------------------------------------------------------------------
 *
 * outbox.c
 *	  Calls of the control plane's HTTP API that wait to be made.
 *
 * Two changes of one connection wait for each other at its row, so that their
 * calls have ids in the order in which they committed.
 *
 * src/store/outbox.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/limits.h"
#include "base/sql.h"
#include "store/outbox.h"

static bool filled;

bool
opd_outbox_was_filled(void)
{
	bool		was = filled;

	filled = false;
	return was;
}

/* Of more calls than are kept the oldest go: what came after tells more. */
static void
add(OpdStatement *insert, Datum *values)
{
	static OpdStatement bound = {
		/* never waiting for who does the same */
		.sql = "DELETE FROM opdata.outbox WHERE id IN"
		" (SELECT id FROM opdata.outbox WHERE id <= $1 FOR UPDATE SKIP LOCKED)",
		.n_args = 1,
		.arg_types = {INT8OID}
	};
	OpdSqlScope scope;
	bool		isnull;
	Datum		id;

	opd_sql_begin(&scope);
	if (opd_sql_run(insert, values, NULL) == 1)
	{
		id = opd_sql_datum(0, 1, &isnull);
		id = Int64GetDatum(DatumGetInt64(id) - OPD_OUTBOX_MAX_CALLS);
		/* with an old snapshot it could fail for what others have deleted since */
		if (!IsolationUsesXactSnapshot())
			(void) opd_sql_run(&bound, &id, NULL);
		filled = true;
	}
	opd_sql_end(&scope);
}

void
opd_outbox_tell_connection(const char *id)
{
	static OpdStatement insert = {
		.sql = "INSERT INTO opdata.outbox (function, args)"
		" SELECT 'connections:setStatus', pg_catalog.jsonb_build_object("
		"  'workspaceId', workspace_id, 'connectionId', id, 'type', type, 'status', status,"
		"  'errorCode', last_error, 'safeMetadata', safe_metadata,"
		"  'lastTestedAt', pg_catalog.round(EXTRACT(epoch FROM last_tested_at) * 1000))"
		" FROM opdata.connection WHERE id = $1 RETURNING id",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	Datum		values[] = {CStringGetTextDatum(id)};

	add(&insert, values);
}

void
opd_outbox_tell_deleted(const char *id, const char *workspace_id)
{
	static OpdStatement insert = {
		.sql = "INSERT INTO opdata.outbox (function, args)"
		" VALUES ('connections:setStatus', pg_catalog.jsonb_build_object("
		"  'workspaceId', $2, 'connectionId', $1, 'status', 'deleted',"
		"  'errorCode', NULL, 'safeMetadata', '{}'::jsonb, 'lastTestedAt', NULL)) RETURNING id",
		.n_args = 2,
		.arg_types = {TEXTOID, TEXTOID}
	};
	Datum		values[] = {CStringGetTextDatum(id), CStringGetTextDatum(workspace_id)};

	add(&insert, values);
}

bool
opd_outbox_first(OpdOutboxCall *call)
{
	static OpdStatement first = {
		.sql = "SELECT id, key::text, function, args, n_failures,"
		" made_at < pg_catalog.now() - interval '1 day'"
		" FROM opdata.outbox ORDER BY id LIMIT 1"
	};
	OpdSqlScope scope;
	Datum		args = (Datum) 0;
	bool		found;
	bool		isnull;

	opd_sql_begin(&scope);
	found = opd_sql_run(&first, NULL, NULL) == 1;
	if (found)
	{
		call->id = DatumGetInt64(opd_sql_datum(0, 1, &isnull));
		call->key = opd_sql_text(0, 2);
		call->function = opd_sql_text(0, 3);
		args = opd_sql_datum(0, 4, &isnull);
		call->n_failures = DatumGetInt32(opd_sql_datum(0, 5, &isnull));
		call->is_old = DatumGetBool(opd_sql_datum(0, 6, &isnull));
	}
	opd_sql_end(&scope);
	/* here, since unpacking allocates in the memory context that is current */
	if (found)
		call->args = DatumGetJsonbP(args);
	return found;
}

void
opd_outbox_remove(int64 id)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.outbox WHERE id = $1",
		.n_args = 1,
		.arg_types = {INT8OID}
	};
	Datum		values[] = {Int64GetDatum(id)};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&delete, values, NULL);
	opd_sql_end(&scope);
}

void
opd_outbox_note_failure(int64 id)
{
	static OpdStatement update = {
		.sql = "UPDATE opdata.outbox SET n_failures = n_failures + 1 WHERE id = $1",
		.n_args = 1,
		.arg_types = {INT8OID}
	};
	Datum		values[] = {Int64GetDatum(id)};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&update, values, NULL);
	opd_sql_end(&scope);
}

int64
opd_outbox_count(TimestampTz *oldest)
{
	static OpdStatement count = {
		.sql = "SELECT pg_catalog.count(*), pg_catalog.min(made_at) FROM opdata.outbox"
	};
	OpdSqlScope scope;
	bool		isnull;
	Datum		value;
	int64		n;

	*oldest = 0;
	opd_sql_begin(&scope);
	(void) opd_sql_run(&count, NULL, NULL);
	n = DatumGetInt64(opd_sql_datum(0, 1, &isnull));
	value = opd_sql_datum(0, 2, &isnull);
	if (!isnull)
		*oldest = DatumGetTimestampTz(value);
	opd_sql_end(&scope);
	return n;
}
