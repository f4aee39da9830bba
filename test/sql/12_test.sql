\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- opdata_test: its result, and the audit of the role. Each finding names the
-- statement that mends it; here they are run on the source, and the finding
-- has to go.
--

-- the shape of a result, without and with TLS, and of a failed test
SELECT steady(opdata_test(payload('reader')));
SELECT key, jsonb_typeof(value) AS "without TLS", (SELECT jsonb_typeof(tls.value) FROM jsonb_each(opdata_test(payload('reader', '{"sslMode": "require"}'))) tls WHERE tls.key = plain.key) AS "with TLS",
	(SELECT jsonb_typeof(failed.value) FROM jsonb_each(opdata_test(payload('reader', '{"password": "wrong"}'))) failed WHERE failed.key = plain.key) AS failed
FROM jsonb_each(opdata_test(payload('reader'))) AS plain;
SELECT result #>> '{tls,version}' ~ '^TLSv1\.[23]$' AS version, length(result #>> '{tls,cipher}') > 5 AS cipher,
	(SELECT array_agg(key ORDER BY key) FROM jsonb_object_keys(result -> 'tls') AS key) AS keys,
	(result -> 'latencyMs')::numeric BETWEEN 0.001 AND 15000 AS latency
FROM opdata_test(payload('reader', '{"sslMode": "require"}')) AS result;
SELECT steady(opdata_test(payload('reader', '{"password": "wrong"}')));

-- stored or not makes no difference
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
SELECT steady(opdata_test('shop')) = steady(opdata_test(payload('reader'))) AS same;
-- the version is what the server prints
SELECT opdata_test('shop') ->> 'serverVersion' = opdata_preview('shop', 'SELECT current_setting(''server_version'')') #>> '{rows,0,0}' AS same;
SELECT opdata_delete('shop');
SELECT opdata_test('shop');
\echo :LAST_ERROR_SQLSTATE

-- Findings about a role of the source, one row each, in database "audit".
CREATE FUNCTION findings(username text, OUT read_only boolean, OUT code text, OUT finding text, OUT statement text) RETURNS SETOF record
LANGUAGE sql AS $$
	SELECT (result -> 'readOnly')::boolean, coalesce(warning ->> 'code', result #>> '{error,code}'),
		split_part(warning ->> 'message', '; to mend it, run on the source: ', 1), warning ->> 'statement'
	FROM opdata_test(payload(username, '{"database": "audit"}')) AS result
		LEFT JOIN jsonb_array_elements(result -> 'warnings') AS warning ON true
	ORDER BY warning ->> 'code' COLLATE "C", warning ->> 'message' COLLATE "C"
$$;

\connect :source
CREATE DATABASE audit;
\set source_audit 'host=127.0.0.1 port=' :source_port ' dbname=audit user=super password=super_pw'
\connect :source_audit
CREATE ROLE another_role;
CREATE ROLE clean LOGIN PASSWORD 'clean_pw';
CREATE ROLE attributes LOGIN PASSWORD 'attributes_pw' SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS;
CREATE ROLE "We""ird role" LOGIN PASSWORD 'We"ird role_pw' CREATEDB;
CREATE ROLE powers LOGIN PASSWORD 'powers_pw';
GRANT pg_write_all_data, pg_write_server_files, pg_execute_server_program, pg_read_all_data, pg_monitor TO powers;
CREATE ROLE team NOLOGIN;
CREATE ROLE outer_team NOLOGIN;
GRANT pg_write_all_data TO team;
GRANT team TO outer_team;
CREATE ROLE team_powers LOGIN PASSWORD 'team_powers_pw' IN ROLE outer_team;
CREATE ROLE writing_team NOLOGIN IN ROLE pg_write_all_data;
CREATE ROLE twice LOGIN PASSWORD 'twice_pw' IN ROLE writing_team, pg_write_all_data;
CREATE ROLE admins NOLOGIN SUPERUSER CREATEROLE;
CREATE ROLE outer_admins NOLOGIN IN ROLE admins;
CREATE ROLE admin LOGIN NOINHERIT PASSWORD 'admin_pw' IN ROLE outer_admins;
CREATE SCHEMA shop;
CREATE SCHEMA "We ird";
CREATE TABLE shop.t (a int, "B b" int);
CREATE TABLE shop.parts (a int) PARTITION BY LIST (a);
CREATE TABLE shop.part PARTITION OF shop.parts DEFAULT;
CREATE TABLE "We ird"."Ta""ble" (a int);
CREATE VIEW shop.v AS SELECT a FROM shop.t;
CREATE MATERIALIZED VIEW shop.mv AS SELECT a FROM shop.t;
CREATE SEQUENCE shop.seq;

-- reading is no finding; nor are temporary tables, or what every role may do
GRANT USAGE ON SCHEMA shop, "We ird" TO clean;
GRANT SELECT ON ALL TABLES IN SCHEMA shop, "We ird" TO clean;
GRANT SELECT ON shop.seq TO clean;
GRANT SELECT (a) ON shop.t TO clean;
GRANT TEMPORARY, CONNECT ON DATABASE audit TO clean;
GRANT pg_read_all_data, pg_monitor, pg_signal_backend TO clean;
\connect :agent
SELECT * FROM findings('clean');

-- attributes of the role
SELECT * FROM findings('attributes');
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('attributes') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('attributes');
SELECT * FROM findings('We"ird role');
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('We"ird role') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('We"ird role');

-- predefined roles that write, also through other roles
SELECT * FROM findings('powers');
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('powers') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('powers');
SELECT * FROM findings('team_powers');
-- every way there is to be cut
SELECT DISTINCT read_only, code FROM findings('twice');
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('twice') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('twice');

-- attributes are not inherited, but a member can become the other role, even in a query
SELECT DISTINCT read_only FROM findings('admin');
SELECT coalesce(string_agg(DISTINCT statement, ' '), '') AS mend FROM findings('admin') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('admin');

-- writing to relations, whole or by column; to a role, to PUBLIC, to a group
-- that the role inherits from, and to one that it can only switch to
\connect :source_audit
CREATE ROLE writes LOGIN PASSWORD 'writes_pw';
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER ON shop.t TO writes;
GRANT INSERT ON shop.parts, shop.v TO writes;
GRANT DELETE ON "We ird"."Ta""ble" TO writes;
GRANT UPDATE ("B b"), INSERT ("B b", a), SELECT (a) ON shop.t TO writes;
GRANT USAGE, UPDATE ON shop.seq TO writes;
\connect :agent
SELECT * FROM findings('writes');
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('writes') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('writes');

-- granted by another than the owner, who cannot revoke it, and handed on
\connect :source_audit
CREATE ROLE grants LOGIN PASSWORD 'grants_pw';
CREATE ROLE granted LOGIN PASSWORD 'granted_pw';
GRANT USAGE ON SCHEMA shop TO grants, granted;
GRANT INSERT ON shop.t TO grants, granted WITH GRANT OPTION;
SET ROLE grants;
GRANT INSERT ON shop.t TO granted WITH GRANT OPTION;
SET ROLE granted;
GRANT INSERT ON shop.t TO another_role;
RESET ROLE;
\connect :agent
SELECT DISTINCT read_only, code FROM findings('granted');
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('granted') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('granted');

\connect :source_audit
CREATE ROLE inherits LOGIN PASSWORD 'inherits_pw' IN ROLE team;
CREATE ROLE switches LOGIN NOINHERIT PASSWORD 'switches_pw' IN ROLE team;
GRANT UPDATE ON shop.t TO PUBLIC;
GRANT UPDATE (a) ON shop.v TO PUBLIC;
GRANT USAGE ON shop.seq TO PUBLIC;
GRANT CREATE ON SCHEMA shop TO PUBLIC;
GRANT CREATE ON DATABASE audit TO PUBLIC;
GRANT INSERT ON shop.t TO team;
GRANT CREATE ON SCHEMA "We ird" TO team;
GRANT CREATE ON DATABASE audit TO team;
\connect :agent
SELECT * FROM findings('clean');
SELECT * FROM findings('inherits');
-- rights that the role can take count as those that it has
SELECT count(*) FROM (SELECT * FROM findings('inherits') EXCEPT SELECT * FROM findings('switches')) AS less;
SELECT coalesce(string_agg(statement, ' '), '') AS mend FROM findings('switches') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('clean');
SELECT * FROM findings('inherits');
SELECT * FROM findings('switches');

-- owning anything, whatever it is
\connect :source_audit
CREATE ROLE keeper LOGIN PASSWORD 'keeper_pw';
GRANT USAGE ON SCHEMA shop TO keeper;
CREATE ROLE owns_by_team LOGIN PASSWORD 'owns_by_team_pw' IN ROLE team;
GRANT CREATE ON SCHEMA shop TO keeper;
SET ROLE keeper;
CREATE TABLE shop.mine (a serial PRIMARY KEY);
CREATE FUNCTION shop.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE shop.mood AS ENUM ('fine');
RESET ROLE;
REVOKE CREATE ON SCHEMA shop FROM keeper;
CREATE SCHEMA "His own" AUTHORIZATION keeper;
CREATE DATABASE his_own OWNER keeper;
CREATE VIEW shop.teams AS SELECT 1 AS one;
ALTER VIEW shop.teams OWNER TO team;
\connect :agent
SELECT * FROM findings('keeper');
SELECT * FROM findings('owns_by_team');
SELECT coalesce(string_agg(DISTINCT statement, ' '), '') AS mend FROM findings('keeper') \gset
SELECT coalesce(string_agg(DISTINCT statement, ' '), '') AS mend_team FROM findings('owns_by_team') \gset
\connect :source_audit
:mend
:mend_team
\connect :agent
SELECT * FROM findings('keeper');
SELECT * FROM findings('owns_by_team');

-- the owner of the database
\connect :source_audit
ALTER DATABASE audit OWNER TO keeper;
\connect :agent
SELECT * FROM findings('keeper');
SELECT coalesce(string_agg(DISTINCT statement, ' '), '') AS mend FROM findings('keeper') \gset
\connect :source_audit
:mend
\connect :agent
SELECT * FROM findings('keeper');

-- a finding is listed once, 50 of a kind at most, and then it is said that there are more
\connect :source_audit
CREATE SCHEMA many;
CREATE ROLE writes_many LOGIN PASSWORD 'writes_many_pw';
DO $$
BEGIN
	FOR n IN 1..50 LOOP
		EXECUTE format('CREATE TABLE many.t%1$s (); GRANT INSERT ON many.t%1$s TO writes_many;', to_char(n, 'FM00'));
	END LOOP;
END
$$;
\connect :agent
SELECT count(*), count(DISTINCT finding), count(statement), max(finding) AS last FROM findings('writes_many');
\connect :source_audit
CREATE TABLE many.t51 ();
GRANT INSERT ON many.t51 TO writes_many;
\connect :agent
SELECT count(*), count(DISTINCT finding), count(statement), max(finding) FILTER (WHERE statement IS NULL) AS last FROM findings('writes_many');
-- the message of each says the statement, too
SELECT count(*) FROM opdata_test(payload('writes_many', '{"database": "audit"}')) AS result, jsonb_array_elements(result -> 'warnings') AS warning
WHERE warning ->> 'message' LIKE '%; to mend it, run on the source: ' || (warning ->> 'statement');

-- the bootstrap superuser is told by its attributes, not by all that it owns
SELECT * FROM findings('super') WHERE code <> 'role_owns';

-- the role's own settings and objects cannot hide anything
\connect :source_audit
CREATE ROLE hides LOGIN PASSWORD 'hides_pw' CREATEDB;
CREATE SCHEMA hides AUTHORIZATION hides;
SET ROLE hides;
CREATE VIEW hides.pg_roles AS SELECT oid, rolname, false AS rolsuper, false AS rolcreaterole, false AS rolcreatedb, false AS rolreplication, false AS rolbypassrls FROM pg_catalog.pg_roles;
CREATE VIEW hides.pg_shdepend AS SELECT * FROM pg_catalog.pg_shdepend WHERE false;
CREATE FUNCTION hides.format(text, name, text) RETURNS text LANGUAGE sql AS $$SELECT 'nothing'$$;
CREATE FUNCTION hides.isnt(oid, oid) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR hides.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = hides.isnt);
RESET ROLE;
ALTER ROLE hides SET search_path = hides, pg_catalog;
\connect :agent
SELECT * FROM findings('hides');

-- where the catalog cannot be read, a role does not count as read-only
\connect :source_audit
REVOKE SELECT ON pg_catalog.pg_roles FROM PUBLIC;
\connect :agent
SELECT result -> 'ok' AS ok, result -> 'readOnly' AS read_only, result -> 'error' AS error, jsonb_pretty(result -> 'warnings') AS warnings
FROM opdata_test(payload('switches', '{"database": "audit"}')) AS result;

DROP FUNCTION findings;
\connect :source
DROP DATABASE audit;
DROP DATABASE his_own;
DROP ROLE another_role, clean, attributes, "We""ird role", powers, team, outer_team, team_powers, twice, writes, inherits, switches,
	keeper, owns_by_team, writing_team, admins, outer_admins, admin, grants, granted, writes_many, hides;
