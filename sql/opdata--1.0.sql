/* sql/opdata--1.0.sql: everything that CREATE EXTENSION opdata makes. */

-- complain if the script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION opdata" to load this file. \quit

/*
 * Refuse early where the agent cannot work, with the next command as the hint.
 * The library itself refuses to be loaded other than through
 * shared_preload_libraries (src/opdata.c).
 */
DO $$
BEGIN
	IF pg_catalog.getdatabaseencoding() OPERATOR(pg_catalog.<>) 'UTF8' THEN
		RAISE EXCEPTION 'opdata needs a database with encoding UTF8, this one has %',
			pg_catalog.getdatabaseencoding()
			USING ERRCODE = 'feature_not_supported',
				HINT = 'Create one: CREATE DATABASE agent ENCODING ''UTF8'' TEMPLATE template0;';
	END IF;

	/*
	 * The base tables live in schema "opdata". It exists already when that is
	 * the schema chosen for the extension; otherwise it is ours to create, and
	 * an existing one of that name, made by somebody else, is an error.
	 */
	IF '@extschema@' OPERATOR(pg_catalog.<>) 'opdata' THEN
		CREATE SCHEMA opdata;
	END IF;
END
$$;

/*
 * One row for each stored credential. "payload" is an OpenPGP message that
 * pgcrypto made under the master key named by "key_id"; id, workspace and
 * column stand inside the plaintext too, so that a payload copied to another
 * row does not decrypt. Nothing else in the row is secret.
 */
CREATE TABLE opdata.connection (
	id text NOT NULL PRIMARY KEY
		CONSTRAINT connection_id_length CHECK (pg_catalog.char_length(id) OPERATOR(pg_catalog.>=) 1
			AND pg_catalog.char_length(id) OPERATOR(pg_catalog.<=) 128),
	type text NOT NULL,
	payload bytea NOT NULL,
	key_id text NOT NULL,
	workspace_id text NOT NULL DEFAULT 'default'
		CONSTRAINT connection_workspace_id_length CHECK (pg_catalog.char_length(workspace_id) OPERATOR(pg_catalog.>=) 1
			AND pg_catalog.char_length(workspace_id) OPERATOR(pg_catalog.<=) 128),
	name text NOT NULL,
	safe_metadata jsonb NOT NULL,
	status text NOT NULL
		CONSTRAINT connection_status CHECK (status OPERATOR(pg_catalog.=) ANY (ARRAY['connected', 'pending', 'error'])),
	last_tested_at timestamptz,
	last_error text,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
REVOKE ALL ON TABLE opdata.connection FROM PUBLIC;
COMMENT ON TABLE opdata.connection IS 'stored connections of the agent; payload is encrypted under the master key key_id';

/*
 * One row for each job: metadata only. The key is a UUID, not a sequence, so
 * that a dump carries everything in the table itself. A job of the control
 * plane is known by workflow, run and activity id too; "result" is kept of
 * those that have an effect, so that a retry is answered without doing it
 * again. "worker" is who runs it.
 */
CREATE TABLE opdata.job (
	id uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid() PRIMARY KEY,
	kind text NOT NULL,
	connection_id text,
	workspace_id text,
	state text NOT NULL
		CONSTRAINT job_state CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['running', 'succeeded', 'failed', 'canceled'])),
	requested_by name NOT NULL,
	started_at timestamptz NOT NULL,
	finished_at timestamptz,
	duration_ms double precision,
	row_count bigint,
	byte_count bigint,
	error_code text,
	workflow_id text,
	run_id text,
	activity_id text,
	attempt integer,
	worker text,
	result jsonb
);
CREATE INDEX job_started_at_idx ON opdata.job (started_at);
CREATE UNIQUE INDEX job_activity_idx ON opdata.job (workflow_id, run_id, activity_id);
REVOKE ALL ON TABLE opdata.job FROM PUBLIC;
COMMENT ON TABLE opdata.job IS 'jobs of the agent: kind, ids, counts, durations, error code; never rows or credentials';

SELECT pg_catalog.pg_extension_config_dump('opdata.connection', '');
SELECT pg_catalog.pg_extension_config_dump('opdata.job', '');

CREATE VIEW @extschema@.opdata_connections WITH (security_barrier) AS
	SELECT id, workspace_id, name, type, status, safe_metadata,
		last_tested_at, last_error, created_at, updated_at
	FROM opdata.connection;
REVOKE ALL ON TABLE @extschema@.opdata_connections FROM PUBLIC;
COMMENT ON VIEW @extschema@.opdata_connections IS 'stored connections without their secrets';

CREATE VIEW @extschema@.opdata_jobs WITH (security_barrier) AS
	SELECT id, kind, connection_id, workspace_id, state, requested_by,
		started_at, finished_at, duration_ms, row_count, byte_count, error_code,
		workflow_id, run_id, activity_id, attempt, worker
	FROM opdata.job;
REVOKE ALL ON TABLE @extschema@.opdata_jobs FROM PUBLIC;
COMMENT ON VIEW @extschema@.opdata_jobs IS 'running and finished jobs: metadata only';

/*
 * The functions run their own SQL as the owner of the tables (src/base/sql.c
 * switches, with search_path pinned), so that a role needs EXECUTE alone.
 * PARALLEL UNSAFE and VOLATILE are the defaults and right: all of them reach
 * over the network or write.
 */
CREATE FUNCTION @extschema@.opdata_store_creds(
	id text,
	payload jsonb,
	name text DEFAULT NULL,
	type text DEFAULT 'postgres',
	workspace_id text DEFAULT 'default',
	test boolean DEFAULT true)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'opdata_store_creds'
LANGUAGE C;
REVOKE ALL ON FUNCTION @extschema@.opdata_store_creds(text, jsonb, text, text, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.opdata_store_creds(text, jsonb, text, text, text, boolean) IS
	'test credentials, then insert or replace the connection; raises and changes nothing when the test fails';

CREATE FUNCTION @extschema@.opdata_test(id text)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'opdata_test_stored'
LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION @extschema@.opdata_test(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.opdata_test(text) IS
	'test a stored connection and audit its role; a bad source gives ok: false';

CREATE FUNCTION @extschema@.opdata_test(payload jsonb, type text DEFAULT 'postgres')
RETURNS jsonb
AS 'MODULE_PATHNAME', 'opdata_test_payload'
LANGUAGE C;
REVOKE ALL ON FUNCTION @extschema@.opdata_test(jsonb, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.opdata_test(jsonb, text) IS
	'test credentials without storing anything';

CREATE FUNCTION @extschema@.opdata_preview(id text, query text)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'opdata_preview'
LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION @extschema@.opdata_preview(text, text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.opdata_preview(text, text) IS
	'run one SELECT on the source, read-only: at most 100 rows, 10 seconds, 1 MiB';

CREATE FUNCTION @extschema@.opdata_delete(id text)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'opdata_delete'
LANGUAGE C STRICT;
REVOKE ALL ON FUNCTION @extschema@.opdata_delete(text) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.opdata_delete(text) IS
	'delete a connection and its secrets';

CREATE FUNCTION @extschema@.opdata_status()
RETURNS jsonb
AS 'MODULE_PATHNAME', 'opdata_status'
LANGUAGE C;
REVOKE ALL ON FUNCTION @extschema@.opdata_status() FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.opdata_status() IS
	'versions, master key, workers and warnings of this agent';
