\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- opdata_store_creds: test, then insert or replace.
--

-- what a stored connection shows, but for times
CREATE VIEW stored AS
	SELECT id, workspace_id, name, type, status, steady(safe_metadata) AS safe_metadata,
		last_tested_at IS NOT NULL AS tested, last_error
	FROM opdata_connections
	ORDER BY id COLLATE "C";

-- both modes; the result holds the test, and no secret
SELECT jsonb_pretty(steady(opdata_store_creds('shop', payload('reader'))));
SELECT jsonb_pretty(steady(opdata_store_creds('shop-dsn',
	jsonb_build_object('dsn', format('postgresql://reader:reader_pw@127.0.0.1:%s/shop?sslmode=disable', source_port())))));
SELECT steady(opdata_store_creds('shop-words', name => 'Key words',
	payload => jsonb_build_object('mode', 'dsn', 'schema', 'public', 'dsn',
		format('host=127.0.0.1 port=%s dbname=shop user=reader password=reader_pw sslmode=disable application_name=tests connect_timeout=5',
			source_port())))) #- '{test}';
SELECT * FROM stored;

-- the connections work
SELECT id, opdata_test(id) -> 'ok' AS ok, steady(opdata_preview(id, 'SELECT name FROM customer ORDER BY id')) -> 'rows' AS rows
FROM stored;

-- the payload is encrypted, and differs each time that the same is stored
SELECT id, payload::text ~ encode('reader', 'hex') AS readable, octet_length(payload) > 100 AS holds_something
FROM opdata.connection
ORDER BY id;
SELECT payload AS payload_before, updated_at AS updated_before, created_at AS created_before
FROM opdata.connection
WHERE id = 'shop' \gset
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
SELECT payload <> :'payload_before' AS other_bytes, created_at = :'created_before' AS same_row, updated_at > :'updated_before' AS updated
FROM opdata.connection
WHERE id = 'shop';

-- no test: nothing is sent to the source
SELECT steady(opdata_store_creds('nowhere', payload('reader', '{"host": "192.0.2.1"}'), test => false));
SELECT opdata_store_creds('shop', payload('writer'), test => false) #- '{safeMetadata}';
SELECT * FROM stored WHERE id IN ('nowhere', 'shop');
-- a test decides
SELECT steady(opdata_test('shop')) #- '{warnings}';
SELECT * FROM stored WHERE id = 'shop';

-- storing again keeps the name, unless there is a new one; without any, it is the id
SELECT opdata_store_creds('shop', payload('reader'), 'The shop') ->> 'name' AS name;
SELECT opdata_store_creds('shop', payload('reader')) ->> 'name' AS name;
SELECT opdata_store_creds('shop', payload('reader'), 'Kiosk') ->> 'name' AS name;
SELECT opdata_store_creds('shop', payload('reader'), 'Unpaid', test => false) ->> 'name' AS name;

-- a failing test raises and leaves everything as it was
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
CREATE TABLE was AS SELECT * FROM opdata.connection WHERE id = 'shop';
SELECT opdata_store_creds('shop', payload('reader', '{"password": "wrong-canary"}'), 'Other name');
\echo :LAST_ERROR_SQLSTATE
SELECT state, detail FROM outcome($$SELECT opdata_store_creds('shop', payload('reader', '{"password": "wrong-canary"}'))$$);
SELECT state, detail FROM outcome($$SELECT opdata_store_creds('shop', payload('reader', '{"database": "nope"}'))$$);
SELECT state, detail FROM outcome($$SELECT opdata_store_creds('shop', payload('reader', '{"port": "none"}'))$$);
SELECT state, detail FROM outcome($$SELECT opdata_store_creds('new', payload('nologin_role'))$$);
SELECT c = was AS as_it_was FROM opdata.connection c, was WHERE c.id = 'shop';
SELECT count(*) FROM stored WHERE id = 'new';
SELECT opdata_test('shop') -> 'ok' AS ok;
DROP TABLE was;

-- a test that fails later is noted, and one that succeeds clears it
SELECT opdata_store_creds('fades', payload('reader', '{"database": "nope"}'), test => false) -> 'status' AS status;
SELECT steady(opdata_test('fades')) #- '{warnings}';
SELECT * FROM stored WHERE id = 'fades';
SELECT opdata_store_creds('fades', payload('reader')) -> 'status' AS status;
SELECT * FROM stored WHERE id = 'fades';

-- storing rolls back with its transaction
BEGIN;
SELECT opdata_store_creds('passing', payload('reader')) -> 'status' AS status;
SELECT opdata_preview('passing', 'SELECT 1') -> 'rows' AS rows;
ROLLBACK;
SELECT count(*) FROM stored WHERE id = 'passing';

-- defaults of each type
SELECT opdata_store_creds('pg', '{"host": "db.example", "database": "d", "username": "u"}', test => false);
SELECT opdata_store_creds('crdb', '{"host": "db.example", "database": "d", "username": "u"}', type => 'cockroachdb', test => false);
SELECT opdata_store_creds('crdb', '{"dsn": "postgresql://u:p@db.example/d?options=--cluster%3Dabc-123"}', type => 'cockroachdb', test => false);
SELECT opdata_store_creds('crdb', '{"dsn": "postgresql://u:p@db.example:26000/d?sslmode=require"}', type => 'cockroachdb', test => false);
SELECT opdata_store_creds('pg', '{"dsn": "postgresql://u:p@db.example/d"}', test => false);
SELECT opdata_store_creds('pg', '{"dsn": "host=db.example dbname=d user=u", "schema": "Sales"}', test => false);
-- a stored connection may change its type
SELECT opdata_store_creds('crdb', '{"dsn": "host=db.example dbname=d user=u"}', test => false) -> 'type' AS type;
-- a PostgreSQL server stored as the other type is told apart by the test
SELECT steady(opdata_test(payload('reader'), 'cockroachdb')) -> 'server' AS server;

-- an id belongs to one workspace
SELECT opdata_store_creds('shop', payload('reader'), workspace_id => 'team-b');
\echo :LAST_ERROR_SQLSTATE
SELECT state, detail FROM outcome($$SELECT opdata_store_creds('shop', payload('reader'), workspace_id => 'team-b', test => false)$$);
SELECT opdata_store_creds('shop-b', payload('reader'), workspace_id => 'team-b') ->> 'workspaceId' AS workspace;
SELECT opdata_store_creds('shop-b', payload('reader'), workspace_id => 'team-b') ->> 'workspaceId' AS workspace;
SELECT state, detail FROM outcome($$SELECT opdata_store_creds('shop-b', payload('reader'))$$);
SELECT id, workspace_id FROM stored WHERE id IN ('shop', 'shop-b');

-- ids of 1 to 128 characters, not bytes
SELECT length(opdata_store_creds('x', payload('reader'), test => false) ->> 'connectionId') AS length;
SELECT length(opdata_store_creds(repeat('x', 128), payload('reader'), test => false) ->> 'connectionId') AS length;
SELECT length(opdata_store_creds(repeat('ü', 128), payload('reader'), test => false) ->> 'connectionId') AS length;
SELECT opdata_store_creds('', payload('reader'), test => false);
SELECT opdata_store_creds(repeat('x', 129), payload('reader'), test => false);
SELECT opdata_store_creds(repeat('ü', 129), payload('reader'), test => false);
SELECT opdata_store_creds('w', payload('reader'), workspace_id => '', test => false);
SELECT opdata_store_creds('w', payload('reader'), workspace_id => repeat('w', 129), test => false);
SELECT length(opdata_store_creds('w', payload('reader'), workspace_id => repeat('w', 128), test => false) ->> 'workspaceId') AS length;
-- any character will do
SELECT opdata_store_creds(id, payload('reader')) ->> 'connectionId' AS id, opdata_test(id) -> 'ok' AS ok,
	opdata_preview(id, 'SELECT 1') -> 'rows' AS rows
FROM (VALUES (' '), ('a b'), ('O''Brien"; --'), ('%s $1 \'), ('日本')) AS odd(id);

-- names of 1 to 256 characters
SELECT opdata_store_creds('x', payload('reader'), '', test => false);
SELECT opdata_store_creds('x', payload('reader'), repeat('n', 257), test => false);
SELECT length(opdata_store_creds('x', payload('reader'), repeat('ñ', 256), test => false) ->> 'name') AS length;
SELECT opdata_store_creds('x', payload('reader'), E'O''Brien "shop" \\', test => false) ->> 'name' AS name;

-- what must not be null
SELECT opdata_store_creds(null, payload('reader'));
SELECT opdata_store_creds('x', payload('reader'), type => null);
SELECT opdata_store_creds('x', payload('reader'), workspace_id => null);
SELECT opdata_store_creds('x', payload('reader'), test => null);
\echo :LAST_ERROR_SQLSTATE
-- a null payload will mean the default credentials of the team
SELECT opdata_store_creds('x', null);
\echo :LAST_ERROR_SQLSTATE

-- types that this version does not have
SELECT opdata_store_creds('x', payload('reader'), type => 's3');
\echo :LAST_ERROR_SQLSTATE
SELECT type, (o).state, (o).detail
FROM (VALUES (''), ('Postgres'), ('postgresql'), ('s3'), ('mysql')) AS t(type),
	LATERAL (SELECT outcome(format($$SELECT opdata_store_creds('x', payload('reader'), type => %L)$$, type)) AS o) o;

-- the plain text is nowhere in the table
SELECT count(*) FROM opdata.connection c WHERE c::text ~ '(reader|writer)_pw|canary'
	OR position('reader_pw'::bytea IN payload) > 0;

SELECT count(*) AS deleted FROM stored, opdata_delete(id) AS answer WHERE answer = '{"deleted": true}';
DROP VIEW stored;
