--
-- What CREATE EXTENSION makes, and who may use it. The expected output is the
-- contract: a new function or a wider privilege shows as a difference.
--
CREATE EXTENSION opdata;
CREATE EXTENSION opdata CASCADE;

SELECT e.extname, e.extversion, n.nspname AS schema, e.extrelocatable AS relocatable
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'opdata';

-- everything that belongs to the extension
CREATE VIEW member AS
	SELECT classid, objid
	FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass
		AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'opdata')
		AND deptype = 'e';

SELECT pg_describe_object(classid, objid, 0) AS member
FROM member
ORDER BY 1;

-- privileges of roles other than the owner, none given where null
CREATE FUNCTION others(acl aclitem[], kind "char", owner oid) RETURNS text
LANGUAGE sql AS $$
	SELECT string_agg(format('%s to %s', privilege_type,
			CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END), ', ')
	FROM aclexplode(coalesce(acl, acldefault(kind, owner)))
	WHERE grantee <> owner
$$;

\pset null '(none)'

SELECT p.proname AS function, pg_get_function_arguments(p.oid) AS arguments,
	pg_get_function_result(p.oid) AS result, p.proisstrict AS strict, p.prosecdef AS definer,
	others(p.proacl, 'f', p.proowner) AS other_privileges
FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
ORDER BY p.oid::regprocedure::text;

SELECT c.oid::regclass AS relation, c.relkind AS kind, c.reloptions AS options, c.relrowsecurity AS row_security,
	others(c.relacl, 'r', c.relowner) AS other_privileges
FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind <> 'i'
ORDER BY c.oid::regclass::text;

SELECT n.nspname AS schema, others(n.nspacl, 'n', n.nspowner) AS other_privileges
FROM pg_namespace n JOIN member m ON m.classid = 'pg_namespace'::regclass AND m.objid = n.oid;

-- tables whose rows pg_dump carries
SELECT unnest(extconfig)::regclass AS dumped
FROM pg_extension
WHERE extname = 'opdata';

-- settings and when a change of them takes effect
SELECT name, boot_val AS "default", context
FROM pg_settings
WHERE name LIKE 'opdata.%'
ORDER BY name;

-- a role without privileges can do nothing, nor see a setting
CREATE ROLE nobody_special;
SET ROLE nobody_special;
SELECT opdata_status();
SELECT count(*) FROM opdata_connections;
SELECT count(*) FROM opdata_jobs;
SELECT count(*) FROM opdata.connection;
SELECT name FROM pg_settings WHERE name LIKE 'opdata.%';
RESET ROLE;

DROP ROLE nobody_special;
DROP VIEW member;
DROP FUNCTION others;

--
-- Any schema will do, "opdata" included; each in a database of its own.
--
CREATE DATABASE opdata_test_x TEMPLATE template0 ENCODING 'UTF8';
CREATE DATABASE opdata_test_opdata TEMPLATE template0 ENCODING 'UTF8';
\set agent 'dbname=' :DBNAME
\set members 'SELECT pg_describe_object(classid, objid, 0) AS member FROM pg_depend WHERE refclassid = ''pg_extension''::regclass AND refobjid = (SELECT oid FROM pg_extension WHERE extname = ''opdata'') AND deptype = ''e'' ORDER BY 1;'
\connect -reuse-previous=on "dbname=opdata_test_x"
-- not there yet: the command says so, and leaves nothing
CREATE EXTENSION opdata SCHEMA "X y" CASCADE;
SELECT extname FROM pg_extension ORDER BY 1;
CREATE SCHEMA "X y";
CREATE EXTENSION opdata SCHEMA "X y" CASCADE;
:members
SELECT "X y".opdata_store_creds('pending', '{"host": "db.example", "database": "d", "username": "u"}', test => false) -> 'status' AS status;
SELECT id, status FROM "X y".opdata_connections;
SELECT "X y".opdata_status() -> 'connections' AS connections;
SELECT opdata_status();
-- it stays where it is
ALTER EXTENSION opdata SET SCHEMA public;
-- and is the newest version there is
ALTER EXTENSION opdata UPDATE;
ALTER EXTENSION opdata UPDATE TO '0.1';
SELECT count(*) FROM pg_extension_update_paths('opdata') WHERE path IS NOT NULL;
SELECT "X y".opdata_status() #>> '{versions,extension}' = default_version AS newest FROM pg_available_extensions WHERE name = 'opdata';
-- what belongs to it, is needed by it, or holds it cannot be dropped alone
DROP TABLE opdata.connection;
DROP FUNCTION "X y".opdata_preview;
DROP SCHEMA opdata CASCADE;
DROP EXTENSION pgcrypto;
DROP SCHEMA "X y";

-- dropped, and made again: nothing is left over, not even in this session
DROP EXTENSION opdata;
SELECT count(*) FROM pg_namespace WHERE nspname = 'opdata';
SELECT count(*) FROM pg_proc WHERE proname LIKE 'opdata%';
SELECT "X y".opdata_status();
CREATE EXTENSION opdata;
SELECT opdata_status() -> 'connections' AS connections;
SELECT opdata_store_creds('again', '{"host": "db.example", "database": "d", "username": "u"}', test => false) -> 'status' AS status;
SELECT id, status FROM opdata_connections;
SELECT opdata_delete('again');
DROP EXTENSION opdata;
-- rolled back, it was never there
BEGIN;
CREATE EXTENSION opdata;
SELECT opdata_store_creds('rolled', '{"host": "db.example", "database": "d", "username": "u"}', test => false) -> 'status' AS status;
ROLLBACK;
SELECT count(*) FROM pg_namespace WHERE nspname = 'opdata';
-- and a dropped one is back
CREATE EXTENSION opdata;
SELECT opdata_store_creds('kept', '{"host": "db.example", "database": "d", "username": "u"}', test => false) -> 'status' AS status;
BEGIN;
DROP EXTENSION opdata;
ROLLBACK;
SELECT id, status FROM opdata_connections;
DROP EXTENSION opdata;
-- somebody else's schema "opdata" is not taken over
\set SHOW_CONTEXT never
CREATE SCHEMA opdata;
CREATE EXTENSION opdata;
-- unless it is named
CREATE EXTENSION opdata SCHEMA opdata;
DROP EXTENSION opdata;
SELECT nspname FROM pg_namespace WHERE nspname = 'opdata';

\connect -reuse-previous=on "dbname=opdata_test_opdata"
CREATE SCHEMA opdata;
CREATE EXTENSION pgcrypto SCHEMA opdata;
CREATE EXTENSION opdata SCHEMA opdata;
:members
SELECT opdata.opdata_store_creds('pending', '{"host": "db.example", "database": "d", "username": "u"}', test => false) -> 'status' AS status;
SELECT id, status FROM opdata.opdata_connections;
-- the same key, but a connection of this database alone
SELECT opdata.opdata_status() -> 'connections' AS connections;
-- pgcrypto may move
CREATE SCHEMA crypto;
ALTER EXTENSION pgcrypto SET SCHEMA crypto;
SELECT opdata.opdata_store_creds('pending', '{"host": "db.example", "database": "d", "username": "u"}', test => false) -> 'status' AS status;
DROP EXTENSION opdata;
SELECT count(*) FROM pg_class WHERE relnamespace = 'opdata'::regnamespace;

-- only a superuser may create it
CREATE ROLE maker;
GRANT CREATE ON DATABASE opdata_test_opdata TO maker;
SET ROLE maker;
CREATE EXTENSION opdata;
RESET ROLE;
DROP OWNED BY maker;
DROP ROLE maker;

-- databases in another encoding than UTF-8 are refused, and told what to do
\set SHOW_CONTEXT never
CREATE DATABASE opdata_test_latin1 TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
CREATE DATABASE opdata_test_ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C';
\connect -reuse-previous=on "dbname=opdata_test_latin1"
CREATE EXTENSION opdata CASCADE;
SELECT extname FROM pg_extension ORDER BY 1;
\connect -reuse-previous=on "dbname=opdata_test_ascii"
CREATE EXTENSION opdata CASCADE;
\echo :LAST_ERROR_SQLSTATE
\connect -reuse-previous=on :agent
DROP DATABASE opdata_test_x;
DROP DATABASE opdata_test_opdata;
DROP DATABASE opdata_test_latin1;
DROP DATABASE opdata_test_ascii;
