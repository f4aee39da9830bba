\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- Who may do what: nobody anything, until a workspace is granted, which brings
-- the privileges with it; and nothing that a caller made is run as the owner.
--
CREATE ROLE ordinary;
CREATE ROLE caller;
CREATE ROLE boss IN ROLE caller;
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;

-- a role without grants
CREATE FUNCTION tries() RETURNS TABLE (statement text, state text, message text)
LANGUAGE sql AS $$
	SELECT t, o.state, o.message
	FROM unnest(ARRAY[
		'SELECT opdata_store_creds(''mine'', payload(''reader''))', 'SELECT opdata_test(''shop'')', 'SELECT opdata_test(payload(''reader''))',
		'SELECT opdata_preview(''shop'', ''SELECT 1'')', 'SELECT opdata_delete(''shop'')', 'SELECT opdata_status()', 'SELECT opdata_resume()',
		'TABLE opdata_connections', 'TABLE opdata_jobs', 'TABLE opdata.connection', 'TABLE opdata.job', 'INSERT INTO opdata.job (kind) VALUES (''x'')',
		'CREATE TABLE opdata.mine ()', 'SHOW opdata.key_file', 'SET opdata.allowed_hosts = ''*''', 'SET opdata.key_file = ''/tmp/mine''']) AS t,
		outcome(t) AS o
$$;
SET ROLE ordinary;
SELECT * FROM tries();
-- so the caller is told, too
SELECT opdata_preview('shop', 'SELECT 1');
SELECT opdata_test('shop');
SELECT opdata_store_creds('mine', payload('reader'));
RESET ROLE;

-- privileges without a workspace open nothing, and show nothing
GRANT EXECUTE ON FUNCTION opdata_store_creds, opdata_test(text), opdata_test(jsonb, text), opdata_preview, opdata_delete, opdata_status, opdata_resume TO ordinary;
GRANT SELECT ON opdata_connections, opdata_jobs TO ordinary;
SET ROLE ordinary;
SELECT * FROM tries();
SELECT count(*) FROM opdata_connections;
RESET ROLE;
REVOKE ALL ON FUNCTION opdata_store_creds, opdata_test(text), opdata_test(jsonb, text), opdata_preview, opdata_delete, opdata_status, opdata_resume FROM ordinary;
REVOKE ALL ON opdata_connections, opdata_jobs FROM ordinary;

-- a workspace brings the privileges; the tables stay closed
SELECT opdata_grant('caller', '*', 'admin');
SET ROLE caller;
SELECT statement, state FROM tries();
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
SELECT opdata_test('shop') -> 'ok' AS ok;
SELECT opdata_preview('shop', 'SELECT name FROM customer ORDER BY id') -> 'rows' AS rows;
SELECT id, status FROM opdata_connections;
SELECT count(*) > 0 AS any_job FROM opdata_jobs;
SELECT state FROM outcome('TABLE opdata.connection');
RESET ROLE;

-- recorded is the role in effect: the session's, the one switched to, and the definer of a function
DELETE FROM opdata.job;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SET ROLE caller;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SET ROLE boss;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
RESET ROLE;
CREATE FUNCTION by_definer() RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS $$ SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' $$;
ALTER FUNCTION by_definer() OWNER TO caller;
SET ROLE ordinary;
SELECT by_definer();
RESET ROLE;
SET SESSION AUTHORIZATION caller;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
RESET SESSION AUTHORIZATION;
SELECT CASE requested_by WHEN session_user THEN 'session' ELSE requested_by END AS requested_by FROM opdata_jobs ORDER BY started_at;

-- A caller who puts operators, functions, types, casts and tables of his own
-- first in the search path: each notes the role that it runs as.
GRANT CREATE ON DATABASE :"DBNAME" TO caller;
SET ROLE caller;
CREATE SCHEMA trap;
CREATE TABLE trap.sprung (trap text, role name);
GRANT INSERT ON trap.sprung TO PUBLIC;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
CREATE FUNCTION trap.spring(trap text) RETURNS text LANGUAGE sql AS $$ INSERT INTO trap.sprung VALUES (trap, current_user) RETURNING trap $$;
-- functions that the agent's statements, defaults, checks and pgcrypto use
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('now'); RETURN pg_catalog.now(); END $$;
CREATE FUNCTION trap.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('clock_timestamp'); RETURN pg_catalog.now(); END $$;
CREATE FUNCTION trap.gen_random_uuid() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('gen_random_uuid'); RETURN pg_catalog.gen_random_uuid(); END $$;
CREATE FUNCTION trap.pg_get_userbyid(oid) RETURNS name LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('pg_get_userbyid'); RETURN 'nobody'; END $$;
CREATE FUNCTION trap.round(numeric, int) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('round'); RETURN 1; END $$;
CREATE FUNCTION trap.char_length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('char_length'); RETURN 1; END $$;
CREATE FUNCTION trap.pgp_sym_encrypt_bytea(bytea, text, text) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('encrypt ' || $2); RETURN $1; END $$;
CREATE FUNCTION trap.pgp_sym_decrypt_bytea(bytea, text) RETURNS bytea LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('decrypt ' || $2); RETURN $1; END $$;
CREATE FUNCTION trap.collect(jsonb, text) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('jsonb_agg'); RETURN $1; END $$;
CREATE AGGREGATE trap.jsonb_agg(text) (SFUNC = trap.collect, STYPE = jsonb, INITCOND = '[]');
CREATE FUNCTION trap.more(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('count'); RETURN $1; END $$;
CREATE AGGREGATE trap.count(*) (SFUNC = trap.more, STYPE = bigint, INITCOND = '0');
-- operators
CREATE FUNCTION trap.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('text ='); RETURN true; END $$;
CREATE FUNCTION trap.same(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('name ='); RETURN true; END $$;
CREATE FUNCTION trap.same(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('oid ='); RETURN true; END $$;
CREATE FUNCTION trap.other(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('text <>'); RETURN false; END $$;
CREATE FUNCTION trap.minus(timestamptz, timestamptz) RETURNS interval LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('timestamptz -'); RETURN '1 s'; END $$;
CREATE FUNCTION trap.times(int, numeric) RETURNS numeric LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('int *'); RETURN 1; END $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.same);
CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.same);
CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.same);
CREATE OPERATOR trap.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.other);
CREATE OPERATOR trap.- (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = trap.minus);
CREATE OPERATOR trap.* (LEFTARG = int, RIGHTARG = numeric, FUNCTION = trap.times);
-- types, a cast and relations of the names that the agent uses
CREATE DOMAIN trap.timestamptz AS pg_catalog.timestamptz CHECK (trap.spring('timestamptz') IS NOT NULL);
CREATE DOMAIN trap.uuid AS pg_catalog.uuid CHECK (trap.spring('uuid') IS NOT NULL);
CREATE TYPE trap.carrier AS (value text);
CREATE FUNCTION trap.carry(trap.carrier) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('cast'); RETURN 'shop'; END $$;
CREATE CAST (trap.carrier AS text) WITH FUNCTION trap.carry(trap.carrier) AS IMPLICIT;
CREATE TABLE trap.connection (LIKE opdata_connections);
CREATE VIEW trap.pg_extension AS SELECT trap.spring('pg_extension') AS v, '9.9'::text AS extversion, 'opdata'::name AS extname, 0::oid AS oid;
CREATE VIEW trap.pg_proc AS SELECT trap.spring('pg_proc') AS v, 0::oid AS oid;
SET search_path = trap, pg_catalog, public;
SELECT public.opdata_status() OPERATOR(pg_catalog.->) 'connections' AS connections;
SELECT public.opdata_store_creds('trapped', public.payload('reader')) OPERATOR(pg_catalog.->) 'status' AS status;
SELECT public.opdata_store_creds('trapped', public.payload('reader'), test => false) OPERATOR(pg_catalog.->) 'status' AS status;
SELECT public.opdata_test('trapped') OPERATOR(pg_catalog.->) 'ok' AS ok;
SELECT public.opdata_test(public.payload('reader')) OPERATOR(pg_catalog.->) 'ok' AS ok;
SELECT public.opdata_preview('trapped', 'SELECT 1') OPERATOR(pg_catalog.->) 'rows' AS rows;
SELECT public.opdata_delete('trapped');
-- the caller's own cast runs, as the caller: it is his statement
SELECT public.opdata_preview(ROW('x')::trap.carrier, 'SELECT 1') OPERATOR(pg_catalog.->) 'rows' AS rows;
RESET search_path;
RESET ROLE;
SELECT DISTINCT trap, role FROM trap.sprung ORDER BY trap;
TRUNCATE trap.sprung;
-- they are armed: statements of the caller do run them
SET ROLE caller;
SET search_path = trap, pg_catalog, public;
SELECT 'a'::text = 'b'::text AS equal, 'a'::text <> 'b'::text AS unequal, round(2.5, 0) AS rounded;
SELECT now() IS NOT NULL AS now;
SELECT count(*), jsonb_agg('x'::text) FROM trap.pg_extension;
SELECT '2026-01-05'::trap.timestamptz IS NOT NULL AS domain;
RESET search_path;
RESET ROLE;
SELECT DISTINCT trap, role FROM trap.sprung ORDER BY trap;
TRUNCATE trap.sprung;

-- temporary objects are not found either
SET ROLE caller;
CREATE TEMP TABLE connection (LIKE opdata_connections);
CREATE TEMP TABLE pg_extension (extversion text, extname name, oid oid);
INSERT INTO pg_extension VALUES ('9.9', 'opdata', 0);
CREATE FUNCTION pg_temp.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.spring('temporary now'); RETURN pg_catalog.now(); END $$;
SET search_path = pg_temp, public;
SELECT opdata_status() #>> '{versions,extension}' <> '9.9' AS true_version;
SELECT opdata_store_creds('trapped', payload('reader')) -> 'status' AS status;
SELECT opdata_test('trapped') -> 'ok' AS ok;
SELECT opdata_delete('trapped');
RESET search_path;
DROP TABLE pg_temp.connection, pg_temp.pg_extension;
DROP FUNCTION pg_temp.now();
RESET ROLE;
SELECT DISTINCT trap, role FROM trap.sprung ORDER BY trap;

-- role and search path are the caller's again afterwards, also after errors
SET ROLE caller;
SET search_path = public, trap;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT current_user, current_setting('search_path');
SELECT opdata_preview('shop', 'SELECT nope');
SELECT current_user, current_setting('search_path');
SELECT state FROM outcome($$SELECT opdata_preview('shop', 'SELECT nope')$$);
SELECT current_user, current_setting('search_path');
SELECT opdata_preview('nope', 'SELECT 1');
SELECT current_user, current_setting('search_path');
SELECT state FROM outcome($$SELECT opdata_store_creds('shop', payload('reader'), workspace_id => 'other')$$);
SELECT current_user, current_setting('search_path');
BEGIN;
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
SAVEPOINT s;
SELECT opdata_store_creds('shop', payload('nobody'));
ROLLBACK TO s;
SELECT current_user, current_setting('search_path');
COMMIT;
SELECT state FROM outcome('TABLE opdata.connection');
RESET ROLE;
RESET search_path;

-- row security and triggers that are not there cannot be added by a caller
SET ROLE caller;
SELECT state FROM outcome('CREATE TRIGGER t BEFORE INSERT ON opdata.connection FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()');
SELECT state FROM outcome('CREATE RULE r AS ON INSERT TO opdata.job DO INSTEAD NOTHING');
SELECT state FROM outcome('CREATE INDEX ON opdata.job (kind)');
SELECT state FROM outcome('COMMENT ON TABLE opdata.job IS ''x''');
RESET ROLE;

SELECT opdata_delete('shop'), opdata_delete('mine');
DROP FUNCTION tries, by_definer;
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
REVOKE ALL ON DATABASE :"DBNAME" FROM caller;
SELECT opdata_revoke('caller', '*');
DROP OWNED BY caller;
DROP ROLE ordinary, boss, caller;
