/*-------------------------------------------------------------------------
 *
 * connections.c
 *	  Rows of opdata.connection.
 *
 * src/store/connections.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/sql.h"
#include "secret/envelope.h"
#include "store/connections.h"
#include "store/keys.h"

static OpdEnvelopeIdentity
payload_identity(const char *workspace_id, const char *id)
{
	OpdEnvelopeIdentity identity = {
		.workspace_id = workspace_id,
		.id = id,
		.column = "payload"
	};

	return identity;
}

OpdConnection *
opd_connections_find(const char *id)
{
	static OpdStatement find = {
		.sql = "SELECT id, workspace_id, type, name, key_id, payload"
		" FROM opdata.connection WHERE id = $1",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	OpdConnection *connection = palloc0(sizeof(OpdConnection));
	Datum		values[] = {CStringGetTextDatum(id)};
	OpdSqlScope scope;
	bool		isnull;
	bool		found;

	opd_sql_begin(&scope);
	found = opd_sql_run(&find, values, NULL) == 1;
	if (found)
	{
		connection->id = opd_sql_text(0, 1);
		connection->workspace_id = opd_sql_text(0, 2);
		connection->type = opd_sql_text(0, 3);
		connection->name = opd_sql_text(0, 4);
		connection->key_id = opd_sql_text(0, 5);
		connection->payload = (bytea *) DatumGetPointer(opd_sql_datum(0, 6, &isnull));
	}
	opd_sql_end(&scope);
	return found ? connection : NULL;
}

char *
opd_connections_payload(const OpdConnection *connection, const OpdKeySource *keys)
{
	OpdEnvelopeIdentity identity = payload_identity(connection->workspace_id, connection->id);
	MemoryContext caller = CurrentMemoryContext;
	OpdSqlScope scope;
	OpdMasterKey key;
	char	   *opened;
	char	   *payload;

	opd_masterkey_read(keys, connection->key_id, &key);
	opd_sql_begin(&scope);
	opened = opd_envelope_open(&key, &identity, connection->payload);
	payload = MemoryContextStrdup(caller, opened);
	opd_envelope_wipe(opened);
	opd_sql_end(&scope);
	opd_masterkey_wipe(&key);
	return payload;
}

char *
opd_connections_put(const OpdConnectionChange *change, const OpdKeySource *keys)
{
	static OpdStatement put = {
		.sql = "INSERT INTO opdata.connection AS c"
		" (id, workspace_id, type, name, key_id, payload, safe_metadata, status, last_tested_at)"
		" VALUES ($1, $2, $3, COALESCE($4, $1), $5, $6, $7, $8, CASE WHEN $9 THEN now() END)"
		" ON CONFLICT (id) DO UPDATE SET type = excluded.type, name = COALESCE($4, c.name),"
		"  key_id = excluded.key_id, payload = excluded.payload,"
		"  safe_metadata = excluded.safe_metadata, status = excluded.status,"
		"  last_tested_at = excluded.last_tested_at, last_error = NULL, updated_at = now()"
		" WHERE c.workspace_id = excluded.workspace_id"
		" RETURNING name",
		.n_args = 9,
		.arg_types = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, BYTEAOID, JSONBOID, TEXTOID, BOOLOID}
	};
	OpdEnvelopeIdentity identity = payload_identity(change->workspace_id, change->id);
	OpdSqlScope scope;
	OpdMasterKey key;
	char	   *name = NULL;
	Datum		values[9];
	char		nulls[] = "         ";

	opd_sql_begin(&scope);
	opd_keys_for_writing(keys, &key);

	values[0] = CStringGetTextDatum(change->id);
	values[1] = CStringGetTextDatum(change->workspace_id);
	values[2] = CStringGetTextDatum(change->type);
	values[3] = opd_sql_parameter(change->name, &nulls[3]);
	values[4] = CStringGetTextDatum(key.id);
	values[5] = PointerGetDatum(opd_envelope_close(&key, &identity, change->payload));
	values[6] = JsonbPGetDatum(change->safe_metadata);
	values[7] = CStringGetTextDatum(change->status);
	values[8] = BoolGetDatum(change->tested);
	opd_masterkey_wipe(&key);

	if (opd_sql_run(&put, values, nulls) == 1)
		name = opd_sql_text(0, 1);
	opd_sql_end(&scope);
	return name;
}

void
opd_connections_note_test(const OpdConnection *connection, const char *error_code)
{
	static OpdStatement note = {
		.sql = "UPDATE opdata.connection SET last_tested_at = now(), last_error = $2,"
		" status = CASE WHEN $2 IS NULL THEN 'connected' ELSE 'error' END"
		" WHERE id = $1 AND payload = $3",
		.n_args = 3,
		.arg_types = {TEXTOID, TEXTOID, BYTEAOID}
	};
	char		nulls[] = "   ";
	Datum		values[] = {
		CStringGetTextDatum(connection->id), opd_sql_parameter(error_code, &nulls[1]), PointerGetDatum(connection->payload)
	};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&note, values, nulls);
	opd_sql_end(&scope);
}

char *
opd_connections_delete(const char *id, const char *workspace_id)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.connection WHERE id = $1 AND ($2 IS NULL OR workspace_id = $2) RETURNING workspace_id",
		.n_args = 2,
		.arg_types = {TEXTOID, TEXTOID}
	};
	char		nulls[] = "  ";
	Datum		values[] = {CStringGetTextDatum(id), opd_sql_parameter(workspace_id, &nulls[1])};
	OpdSqlScope scope;
	char	   *deleted = NULL;

	opd_sql_begin(&scope);
	if (opd_sql_run(&delete, values, nulls) == 1)
		deleted = opd_sql_text(0, 1);
	opd_sql_end(&scope);
	return deleted;
}
