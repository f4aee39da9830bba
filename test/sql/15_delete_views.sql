\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- opdata_delete, the views, what is recorded of jobs, and opdata_status.
--
DELETE FROM opdata.job;
SELECT opdata_store_creds('shop', payload('reader'), 'The shop') -> 'status' AS status;
SELECT opdata_store_creds('other', payload('reader'), workspace_id => 'team-b') -> 'status' AS status;

-- the views: their columns, and nothing secret among them
SELECT attrelid::regclass AS view, string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum) AS columns
FROM pg_attribute
WHERE attrelid IN ('opdata_connections'::regclass, 'opdata_jobs'::regclass) AND attnum > 0
GROUP BY attrelid
ORDER BY attrelid::regclass::text;
SELECT id, workspace_id, name, type, status, steady(safe_metadata), last_tested_at = created_at AS tested, last_error, updated_at = created_at AS unchanged
FROM opdata_connections
ORDER BY id;
-- they are for looking only
SELECT state, message FROM outcome($$SET ROLE pg_read_all_data; UPDATE opdata_connections SET workspace_id = 'mine'$$);
RESET ROLE;

-- delete
SELECT opdata_delete('other');
SELECT opdata_delete('other');
SELECT opdata_delete('Shop');
SELECT opdata_delete(null) IS NULL AS null_for_null;
SELECT opdata_delete('');
SELECT opdata_delete(repeat('x', 129));
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM opdata_connections;
SELECT count(*) FROM opdata.connection WHERE id = 'other';
SELECT state, detail FROM outcome($$SELECT opdata_preview('other', 'SELECT 1')$$);
-- the id is free again, for any workspace, and nothing of before is left
SELECT opdata_store_creds('other', payload('reader', '{"port": 1}'), test => false) ->> 'name' AS name;
SELECT workspace_id, status, last_tested_at, last_error FROM opdata_connections WHERE id = 'other';
BEGIN;
SELECT opdata_delete('other');
SELECT count(*) FROM opdata_connections;
ROLLBACK;
SELECT count(*) FROM opdata_connections;

-- what was done: one record each, of metadata only
DELETE FROM opdata.job;
SELECT opdata_test('shop') -> 'ok' AS ok;
SELECT opdata_test('other') -> 'ok' AS ok;
SELECT opdata_test(payload('reader')) -> 'ok' AS ok;
SELECT opdata_test(payload('reader', '{"database": "canary"}')) -> 'ok' AS ok;
SELECT opdata_preview('shop', 'SELECT ''canary'' FROM generate_series(1, 7)') -> 'rowCount' AS rows;
SELECT opdata_preview('shop', 'SELECT WHERE false') -> 'rowCount' AS rows;
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
SELECT opdata_store_creds('shop', payload('reader'), test => false) -> 'status' AS status;
SELECT opdata_delete('other');
SELECT kind, connection_id, workspace_id, state, requested_by = current_user AS by_me, row_count, error_code,
	duration_ms >= 0 AND finished_at >= started_at AND started_at > now() - interval '10 min' AS times
FROM opdata_jobs
ORDER BY started_at;
SELECT count(DISTINCT id) AS ids, count(*) FILTER (WHERE j::text ~ 'canary|_pw') AS secrets FROM opdata_jobs j;
-- bytes are those of the result as it was given
DELETE FROM opdata.job;
SELECT octet_length(convert_to(opdata_preview('shop', 'SELECT name, repeat(''ü'', id) FROM customer')::text, 'UTF8')) AS bytes \gset
SELECT row_count, byte_count = :bytes AS same FROM opdata_jobs;
-- what raises leaves no record
DELETE FROM opdata.job;
SELECT state FROM outcome($$SELECT opdata_preview('shop', 'SELECT nope')$$);
SELECT state FROM outcome($$SELECT opdata_preview('nope', 'SELECT 1')$$);
SELECT state FROM outcome($$SELECT opdata_store_creds('shop', '{}')$$);
SELECT state FROM outcome($$SELECT opdata_test('{}'::jsonb)$$);
SELECT opdata_delete('nope');
SELECT count(*) FROM opdata_jobs;

-- read-only: test and preview work and leave nothing behind
SELECT opdata_test('shop') -> 'ok' AS ok;
DELETE FROM opdata.job;
SELECT last_tested_at AS tested_before FROM opdata_connections WHERE id = 'shop' \gset
BEGIN TRANSACTION READ ONLY;
SELECT opdata_test('shop') -> 'ok' AS ok;
SELECT opdata_test(payload('reader')) -> 'ok' AS ok;
SELECT opdata_preview('shop', 'SELECT name FROM customer ORDER BY id') -> 'rows' AS rows;
SELECT opdata_status() -> 'connections' AS connections;
COMMIT;
SELECT count(*) FROM opdata_jobs;
SELECT last_tested_at = :'tested_before' AS untouched FROM opdata_connections WHERE id = 'shop';
-- so it is in a session that is read-only by default, and below a savepoint
SET default_transaction_read_only = on;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SET default_transaction_read_only = off;
BEGIN;
SAVEPOINT s;
SET TRANSACTION READ ONLY;
SELECT opdata_test('shop') -> 'ok' AS ok;
ROLLBACK TO s;
SELECT opdata_test('shop') -> 'ok' AS ok;
COMMIT;
SELECT count(*) FROM opdata_jobs;
-- storing and deleting say why they cannot, and storing does before it tests
BEGIN TRANSACTION READ ONLY;
SELECT state FROM outcome($$SELECT opdata_delete('shop')$$);
SELECT state FROM outcome($$SELECT opdata_store_creds('shop', payload('reader', '{"port": 1}'))$$);
SELECT state FROM outcome($$SELECT opdata_store_creds('new', payload('reader'), test => false)$$);
ROLLBACK;
SELECT opdata_delete('shop');

-- status: versions and paths differ, the rest is fixed
SELECT key, jsonb_typeof(value) AS type FROM jsonb_each(opdata_status());
SELECT key, jsonb_typeof(value) AS type FROM jsonb_each(opdata_status() -> 'versions');
SELECT key, jsonb_typeof(value) AS type FROM jsonb_each(opdata_status() -> 'key');
SELECT opdata_status() #>> '{versions,extension}' = extversion AS same FROM pg_extension WHERE extname = 'opdata';
SELECT (opdata_status() #>> '{key,id}') ~ '^[0-9a-f]+$' AS key_id, opdata_status() #> '{key,neededIds}' AS needed, opdata_status() #>> '{key,state}' AS state;
SELECT opdata_store_creds('shop', payload('reader'), test => false) -> 'status' AS status;
SELECT opdata_status() #> '{key,neededIds}' = jsonb_build_array(opdata_status() #> '{key,id}') AS needed, opdata_status() -> 'connections' AS connections;
SELECT jsonb_pretty((((opdata_status() #- '{versions}') #- '{key}') #- '{workers}') #- '{agent}') AS status;
-- without an organisation the workers wait, and hold no connection
SELECT w - 'pid' - 'since' AS worker FROM jsonb_array_elements(opdata_status() -> 'workers') w;
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'opdata worker' AND datname IS NOT NULL;
-- the path of the key is for those who may see settings
SELECT opdata_status() #>> '{key,file}' = current_setting('data_directory') || '/opdata.key' AS path;
CREATE ROLE looks;
SELECT opdata_grant('looks', 'default', 'reader') -> 'level' AS level;
SET ROLE looks;
SELECT key FROM jsonb_each(opdata_status() -> 'key');
SELECT opdata_status()::text ~ '/' AS shows_a_path;
RESET ROLE;
GRANT pg_read_all_settings TO looks;
SET ROLE looks;
SELECT key FROM jsonb_each(opdata_status() -> 'key');
RESET ROLE;
SELECT opdata_revoke('looks', 'default');
DROP ROLE looks;
SELECT opdata_delete('shop');
