\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- The whole API with its privileges: what each level of access brings, that
-- nothing is PUBLIC's, and that all of it can be taken back.
--
CREATE ROLE a_reader;
CREATE ROLE a_developer;
CREATE ROLE a_admin;
CREATE ROLE all_admin;
CREATE ROLE nobody;

-- every object of the extension that has privileges, and what it is called here
CREATE VIEW object AS
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'S' THEN 'sequence' WHEN 'r' THEN 'table' ELSE c.relkind::text END AS kind,
	c.oid::regclass::text AS name, c.oid, c.relowner AS owner, c.relacl AS acl, NULL::name AS function
FROM pg_class c WHERE c.relkind NOT IN ('i', 'I', 't', 'c') AND (
	EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
		WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e' AND e.extname = 'opdata')
	OR c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'opdata'))
UNION ALL
SELECT 'function', p.oid::regprocedure::text, p.oid, p.proowner, p.proacl, p.proname
FROM pg_proc p WHERE EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' AND e.extname = 'opdata')
UNION ALL
SELECT 'schema', n.oid::regnamespace::text, n.oid, n.nspowner, n.nspacl, NULL
FROM pg_namespace n WHERE n.nspname = 'opdata';

-- privileges of a role on an object, in the letters that \dp uses
CREATE FUNCTION held(who name, kind text, object oid) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(letter, '' ORDER BY letter) FROM (
		SELECT 'X' WHERE kind = 'function' AND has_function_privilege(who, object, 'EXECUTE')
		UNION ALL SELECT letter FROM (VALUES ('r', 'SELECT'), ('a', 'INSERT'), ('w', 'UPDATE'), ('d', 'DELETE'), ('D', 'TRUNCATE'), ('x', 'REFERENCES'), ('t', 'TRIGGER')) v(letter, privilege)
			WHERE kind IN ('table', 'view') AND has_table_privilege(who, object, privilege)
		UNION ALL SELECT letter FROM (VALUES ('U', 'USAGE'), ('C', 'CREATE')) v(letter, privilege)
			WHERE kind = 'schema' AND has_schema_privilege(who, object, privilege)
		UNION ALL SELECT letter FROM (VALUES ('U', 'USAGE'), ('r', 'SELECT'), ('w', 'UPDATE')) v(letter, privilege)
			WHERE kind = 'sequence' AND has_sequence_privilege(who, object, privilege)) AS h(letter)
$$;
-- the objects on which a role holds something
CREATE FUNCTION holds(who name) RETURNS TABLE (kind text, name text, privileges text) LANGUAGE sql STABLE AS $$
	SELECT o.kind, o.name, held(who, o.kind, o.oid) FROM object o WHERE held(who, o.kind, o.oid) IS NOT NULL ORDER BY o.kind COLLATE "C", o.name COLLATE "C"
$$;
-- how many functions and views; enough to tell the levels apart
CREATE FUNCTION amount(who name) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT count(*) FILTER (WHERE kind = 'function') || ' functions, ' || count(*) FILTER (WHERE kind = 'view') || ' views, '
		|| count(*) FILTER (WHERE kind NOT IN ('function', 'view')) || ' others' FROM holds(who)
$$;

-- As it was made: nothing is PUBLIC's, whose default on a function would be EXECUTE.
CREATE TABLE acl_before AS SELECT kind, name, acl::text FROM object;
SELECT kind, name, privilege_type FROM object, aclexplode(coalesce(acl, acldefault((CASE kind WHEN 'function' THEN 'f' WHEN 'schema' THEN 'n' WHEN 'sequence' THEN 's' ELSE 'r' END)::"char", owner))) AS a
WHERE a.grantee <> owner ORDER BY 1, 2;
SELECT kind, name FROM object WHERE held('nobody', kind, oid) IS NOT NULL;
-- each view asks the caller's grants itself, behind a barrier
SELECT name, reloptions FROM object JOIN pg_class c USING (oid) WHERE kind = 'view' ORDER BY name COLLATE "C";
-- no function of the library runs as its definer
SELECT count(*) FILTER (WHERE prosecdef) AS definer, count(*) FILTER (WHERE proparallel <> 'u' AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')) AS parallel
FROM object JOIN pg_proc p USING (oid) WHERE kind = 'function';

-- each table has row security, which nobody but readers of everything passes
SELECT o.name, c.relrowsecurity AS rls, string_agg(p.polname || ' ' || p.polcmd::text || ' ' || array_to_string(p.polroles::regrole[], ','), '; ') AS policies
FROM object o JOIN pg_class c USING (oid) LEFT JOIN pg_policy p ON p.polrelid = c.oid
WHERE o.kind = 'table' GROUP BY 1, 2 ORDER BY o.name COLLATE "C";

-- A REVOKE stands beside each CREATE of the script.
CREATE FUNCTION script() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN pg_read_file(setting || '/extension/opdata--1.0.sql') FROM pg_config WHERE name = 'SHAREDIR';
END
$$;
WITH made AS (
	SELECT row_number() OVER () AS n, m[1] AS kind, m[2] AS name
	FROM regexp_matches(script(), '^CREATE (TABLE|VIEW|FUNCTION|SEQUENCE|PROCEDURE|AGGREGATE|TYPE|DOMAIN|MATERIALIZED VIEW|FOREIGN TABLE) ([\w@.]+)', 'gn') AS m
), taken AS (
	SELECT m[1] AS kind, m[2] AS name FROM regexp_matches(script(), '^REVOKE ALL ON (TABLE|FUNCTION|SEQUENCE) ([\w@.]+)[^;]* FROM PUBLIC;', 'gn') AS m
)
SELECT count(*) > 30 AS many, count(*) FILTER (WHERE n_taken < n_made) AS without_revoke
FROM (SELECT kind, name, count(*) AS n_made, (SELECT count(*) FROM taken t WHERE t.name = m.name
		AND t.kind = CASE m.kind WHEN 'FUNCTION' THEN 'FUNCTION' WHEN 'SEQUENCE' THEN 'SEQUENCE' ELSE 'TABLE' END) AS n_taken
	FROM made m GROUP BY 1, 2) AS c;

-- What the levels bring.
SELECT opdata_grant('a_reader', 'a', 'reader');
SELECT opdata_grant('a_developer', 'a', 'developer');
SELECT opdata_grant('a_admin', 'a', 'admin');
SELECT opdata_grant('all_admin', '*', 'admin');
SELECT kind, name, held('nobody', kind, oid) AS nobody, held('a_reader', kind, oid) AS reader, held('a_developer', kind, oid) AS developer,
	held('a_admin', kind, oid) AS admin, held('all_admin', kind, oid) AS "admin of *"
FROM object ORDER BY kind COLLATE "C", name COLLATE "C";
SELECT role_name, workspace_id, level, granted_by = session_user AS by_me FROM opdata.access ORDER BY 1;
-- none of it can be passed on by GRANT
SELECT count(*) FROM object, aclexplode(acl) AS a WHERE a.grantee <> owner AND a.is_grantable;

-- Up and down, in several workspaces: the highest counts, of "*" for what belongs to all.
CREATE ROLE climber;
CREATE FUNCTION step(workspace_id text, level text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	IF level IS NULL THEN PERFORM opdata_revoke('climber', workspace_id); ELSE PERFORM opdata_grant('climber', workspace_id, level); END IF;
	RETURN amount('climber');
END
$$;
SELECT step('a', 'reader');
SELECT step('a', 'admin');
SELECT step('a', 'developer');
SELECT step('b', 'admin');
SELECT step('*', 'developer');
SELECT step('*', 'admin');
SELECT step('*', 'reader');
SELECT step('b', NULL);
SELECT step('*', NULL);
SELECT step('a', 'reader');
SELECT workspace_id, level FROM opdata.access WHERE role_name = 'climber';
SELECT step('a', NULL);
SELECT opdata_revoke('climber', 'a');
-- what was rolled back was not granted
BEGIN;
SELECT step('a', 'admin');
ROLLBACK;
SELECT amount('climber');

-- Taken back, everything is as before.
SELECT opdata_revoke('a_reader', 'a'), opdata_revoke('a_developer', 'a'), opdata_revoke('a_admin', 'a'), opdata_revoke('all_admin', '*');
TABLE opdata.access;
SELECT amount('a_reader'), amount('a_developer'), amount('a_admin'), amount('all_admin');
SELECT o.kind, o.name FROM object o JOIN acl_before b USING (kind, name)
WHERE o.acl::text IS DISTINCT FROM b.acl;

-- Who grants: admins, in their own workspaces.
SELECT opdata_grant('a_admin', 'a', 'admin'), opdata_grant('all_admin', '*', 'admin');
SET ROLE a_admin;
SELECT opdata_grant('a_developer', 'a', 'developer');
SELECT opdata_grant('a_developer', 'b', 'reader');
SELECT opdata_grant('a_developer', '*', 'reader');
SELECT opdata_grant('a_admin', '*', 'admin');
SELECT opdata_revoke('all_admin', '*');
SELECT opdata_revoke('a_developer', 'b');
RESET ROLE;
SET ROLE a_developer;
SELECT state, message FROM outcome($$SELECT opdata_grant('a_developer', 'a', 'admin')$$);
RESET ROLE;
SET ROLE all_admin;
SELECT opdata_grant('a_reader', 'b', 'reader');
SELECT opdata_grant('a_developer', 'b', 'reader');
SELECT opdata_revoke('a_developer', 'b');
RESET ROLE;
SELECT role_name, workspace_id, level, CASE granted_by WHEN session_user THEN 'me' ELSE granted_by END AS granted_by FROM opdata.access ORDER BY 1, 2;

-- EXECUTE without a workspace opens nothing, nor does one without the other: a
-- function is the caller's who has both
SELECT opdata_store_creds('shop', payload('reader'), workspace_id => 'a') -> 'status' AS status;
GRANT EXECUTE ON FUNCTION opdata_suspend, opdata_trust_recipient, opdata_rotate_public_key, opdata_resume, opdata_distrust_recipient, opdata_rotate_key TO a_admin;
SET ROLE a_admin;
SELECT state, message, detail FROM unnest(ARRAY['SELECT opdata_suspend()', 'SELECT opdata_resume()', 'SELECT opdata_trust_recipient(''{}'', ''x'')',
	'SELECT opdata_distrust_recipient(''x'')', 'SELECT opdata_rotate_public_key()', 'SELECT opdata_rotate_key(''x'')', 'SELECT opdata_mask(''*'', ''x'')', 'SELECT opdata_limit(''*'', 1, 1)']) AS t, outcome(t);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION opdata_suspend, opdata_trust_recipient, opdata_rotate_public_key, opdata_resume, opdata_distrust_recipient, opdata_rotate_key FROM a_admin;

-- Members have what their role has, if they inherit it; else after SET ROLE.
CREATE ROLE heir IN ROLE a_developer;
CREATE ROLE disowned NOINHERIT IN ROLE a_developer;
CREATE ROLE grandchild IN ROLE heir;
SET ROLE heir;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT id FROM opdata_connections;
SET ROLE grandchild;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SET ROLE disowned;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT id FROM opdata_connections;
RESET ROLE;
GRANT EXECUTE ON FUNCTION opdata_preview TO disowned;
GRANT SELECT ON opdata_connections TO disowned;
SET ROLE disowned;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT id FROM opdata_connections;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION opdata_preview FROM disowned;
REVOKE SELECT ON opdata_connections FROM disowned;
SET SESSION AUTHORIZATION disowned;
SET ROLE a_developer;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT id FROM opdata_connections;
RESET SESSION AUTHORIZATION;
-- one who leaves has nothing any more
REVOKE a_developer FROM heir;
SET ROLE heir;
SELECT state FROM outcome($$SELECT opdata_preview('shop', 'SELECT 1')$$);
RESET ROLE;

-- A function of the customer's: its definer's rights count inside of it.
CREATE FUNCTION through(id text) RETURNS jsonb LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$ SELECT opdata_preview(id, 'SELECT 1') -> 'rows' $$;
CREATE FUNCTION seen() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = public, pg_temp AS $$ SELECT id FROM opdata_connections $$;
ALTER FUNCTION through OWNER TO a_developer;
ALTER FUNCTION seen OWNER TO a_developer;
CREATE FUNCTION as_invoker(id text) RETURNS jsonb LANGUAGE sql AS $$ SELECT opdata_preview(id, 'SELECT 1') -> 'rows' $$;
CREATE VIEW wrapped AS SELECT id FROM opdata_connections;
ALTER VIEW wrapped OWNER TO a_developer;
GRANT SELECT ON wrapped TO nobody;
SET ROLE nobody;
SELECT through('shop');
SELECT seen();
SELECT state FROM outcome($$SELECT as_invoker('shop')$$);
-- a view is read with its owner's privileges, but the workspaces are the caller's
SELECT id FROM wrapped;
RESET ROLE;

-- Superusers and the owner's members need no row, nor does one help those who
-- may read or write everything.
CREATE ROLE super SUPERUSER;
CREATE ROLE deputy;
DO $$ BEGIN EXECUTE format('GRANT %I TO deputy', session_user); END $$;
CREATE ROLE reads_all IN ROLE pg_read_all_data;
CREATE ROLE writes_all IN ROLE pg_write_all_data;
SET ROLE super;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT id FROM opdata_connections;
SELECT DISTINCT workspace_id FROM opdata.visible WHERE workspace_id = '*';
SET ROLE deputy;
SELECT rolsuper FROM pg_roles WHERE rolname = current_user;
SELECT opdata_preview('shop', 'SELECT 1') -> 'rows' AS rows;
SELECT id FROM opdata_connections;
SELECT opdata_limit('anywhere', NULL, NULL) -> 'workspaceId' AS workspace_id;
RESET ROLE;
SET ROLE reads_all;
SELECT id, position('reader_pw' IN encode(payload, 'escape')) AS password_at FROM opdata.connection;
SELECT id FROM opdata_connections;
SELECT state FROM outcome($$SELECT opdata_preview('shop', 'SELECT 1')$$);
SELECT state FROM outcome('UPDATE opdata.connection SET name = ''x''');
SET ROLE writes_all;
SELECT t, state, message FROM unnest(ARRAY[
	'UPDATE opdata.connection SET name = ''x''',
	'DELETE FROM opdata.connection',
	'INSERT INTO opdata.access (role_name, workspace_id, level, granted_by) VALUES (''writes_all'', ''*'', ''admin'', ''x'')',
	'INSERT INTO opdata.suspension (suspended_by) VALUES (''x'')',
	'INSERT INTO opdata.recipient (label, kid, jwk, added_by) VALUES (''x'', ''x'', ''{}'', ''x'')',
	'TRUNCATE opdata.egress']) AS t, outcome(t);
RESET ROLE;
SELECT name FROM opdata.connection;
SELECT count(*) FROM opdata.suspension;

-- Nor do privileges on the tables themselves: rows are nobody's.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA opdata TO nobody;
GRANT USAGE ON SCHEMA opdata TO nobody;
CREATE FUNCTION rows_of(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE n_read int; n_updated int; n_deleted int; column_name text; inserted text;
BEGIN
	EXECUTE format('SELECT count(*) FROM %s', name) INTO n_read;
	SELECT attname INTO column_name FROM pg_attribute WHERE attrelid = name::regclass AND attnum = 1;
	EXECUTE format('UPDATE %s SET %2$I = %2$I', name, column_name);
	GET DIAGNOSTICS n_updated = ROW_COUNT;
	EXECUTE format('DELETE FROM %s', name);
	GET DIAGNOSTICS n_deleted = ROW_COUNT;
	RETURN format('%s read, %s updated, %s deleted, insert %s', n_read, n_updated, n_deleted,
		(SELECT message FROM outcome(format('INSERT INTO %s DEFAULT VALUES', name))));
END
$$;
SELECT opdata_public_key() ->> 'kty' AS kty;
SELECT opdata_mask('a', 'secret'), opdata_limit('a', 100, NULL);
INSERT INTO opdata.egress VALUES (1, '2026-01-05', 'a', 'shop', 'h', 'r', 'w', 'r', '1', 'q', 0, 0, 0, NULL, NULL, '', 'x');
INSERT INTO opdata.egress_head (seq, hash) VALUES (1, 'x');
INSERT INTO opdata.outbox (function, args) VALUES ('f', '{}');
INSERT INTO opdata.agent (system_identifier, timeline) VALUES ('1', 1);
INSERT INTO opdata.recipient (label, kid, jwk, added_by) VALUES ('l', 'k', '{}', 'x');
INSERT INTO opdata.suspension (suspended_by) VALUES ('x');
GRANT SELECT ON object TO nobody;
SELECT string_agg(name, ' ' ORDER BY name COLLATE "C") AS empty FROM object WHERE kind = 'table' AND name <> 'opdata.egress_head'
	AND (xpath('/row/n/text()', query_to_xml(format('SELECT count(*) AS n FROM %s', name), false, true, '')))[1]::text = '0';
SET ROLE nobody;
SELECT name, rows_of(name) FROM object WHERE kind = 'table' AND name <> 'opdata.egress' ORDER BY name COLLATE "C";
SELECT (SELECT count(*) FROM opdata.egress) AS read, state, message FROM outcome('DELETE FROM opdata.egress');
RESET ROLE;
REVOKE ALL ON ALL TABLES IN SCHEMA opdata FROM nobody;
REVOKE ALL ON SCHEMA opdata FROM nobody;
DELETE FROM opdata.suspension;
DELETE FROM opdata.recipient;
DELETE FROM opdata.outbox;
DELETE FROM opdata.agent WHERE system_identifier = '1';
DELETE FROM opdata.egress_head;
ALTER TABLE opdata.egress DISABLE TRIGGER append_only;
DELETE FROM opdata.egress;
ALTER TABLE opdata.egress ENABLE TRIGGER append_only;
SELECT opdata_unmask('a', 'secret'), opdata_limit('a', NULL, NULL);
DELETE FROM opdata.egress_limit;

-- Names that need quoting, and roles that look like something else.
CREATE ROLE "Mixed Case";
CREATE ROLE "quo""te";
CREATE ROLE "it's";
CREATE ROLE "4711";
CREATE ROLE "-";
CREATE ROLE "select";
CREATE ROLE "a.b";
CREATE ROLE "x; DROP ROLE a_reader; --";
CREATE ROLE "бухгалтерия";
SELECT r, amount(r) FROM unnest(ARRAY['Mixed Case', 'quo"te', 'it''s', '4711', '-', 'select', 'a.b', 'x; DROP ROLE a_reader; --', 'бухгалтерия']) AS r, opdata_grant(r, 'a', 'developer');
CREATE FUNCTION seen_as(role name) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', role);
	answer := (SELECT string_agg(id, ' ') FROM opdata_connections) || ' ' || coalesce((opdata_preview('shop', 'SELECT 1') -> 'rows')::text, 'no rows');
	RESET ROLE;
	RETURN answer;
END
$$;
SELECT r, seen_as(r) FROM unnest(ARRAY['Mixed Case', 'quo"te', 'it''s', '4711', '-', 'select', 'a.b', 'x; DROP ROLE a_reader; --', 'бухгалтерия']) AS r;
SELECT r, opdata_revoke(r, 'a'), amount(r) FROM unnest(ARRAY['Mixed Case', 'quo"te', 'it''s', '4711', '-', 'select', 'a.b', 'x; DROP ROLE a_reader; --', 'бухгалтерия']) AS r;
DROP ROLE "Mixed Case", "quo""te", "it's", "4711", "-", "select", "a.b", "x; DROP ROLE a_reader; --", "бухгалтерия";
-- a name of 63 characters, and what PostgreSQL cuts to it
CREATE ROLE x23456789012345678901234567890123456789012345678901234567890123;
SELECT opdata_grant('x23456789012345678901234567890123456789012345678901234567890123tail', 'a', 'reader');
SELECT opdata_revoke('x23456789012345678901234567890123456789012345678901234567890123', 'a');
DROP ROLE x23456789012345678901234567890123456789012345678901234567890123;

-- Roles that are renamed or dropped leave their name behind, which opens nothing
-- to whoever has it next: its privileges went with the role.
SELECT opdata_grant('climber', 'a', 'admin');
SELECT state, message FROM outcome('DROP ROLE climber');
ALTER ROLE climber RENAME TO renamed;
SET ROLE renamed;
SELECT state, message FROM outcome('SELECT opdata_status()');
SELECT count(*) FROM opdata_connections;
RESET ROLE;
CREATE ROLE climber;
SET ROLE climber;
SELECT state, message FROM outcome('SELECT opdata_status()');
SELECT state, message FROM outcome('TABLE opdata_connections');
RESET ROLE;
-- not even with the privileges of another role
GRANT a_reader TO climber;
SET ROLE climber;
SELECT opdata_status() -> 'connections' AS connections;
SELECT count(*) FROM opdata_connections;
SELECT state, message FROM outcome($$SELECT opdata_preview('shop', 'SELECT 1')$$);
RESET ROLE;
DROP ROLE climber;
SELECT opdata_revoke('climber', 'a');
SELECT count(*) FROM opdata.access WHERE role_name = 'climber';
SELECT opdata_grant('renamed', 'a', 'reader');
SELECT opdata_revoke('renamed', 'a'), amount('renamed');
DROP ROLE renamed;
-- granted, dropped, made again, and granted less: less it is
CREATE ROLE climber;
SELECT opdata_grant('climber', 'a', 'admin');
DROP OWNED BY climber;
DROP ROLE climber;
CREATE ROLE climber;
SELECT opdata_grant('climber', 'b', 'reader');
SELECT amount('climber');
SELECT workspace_id, level FROM opdata.access WHERE role_name = 'climber' ORDER BY 1;
SET ROLE climber;
SELECT count(*) FROM opdata_connections;
SELECT state, message FROM outcome($$SELECT opdata_preview('shop', 'SELECT 1')$$);
RESET ROLE;
SELECT opdata_revoke('climber', 'a'), opdata_revoke('climber', 'b');
DROP ROLE climber;

-- Nor does a name that somebody gives his own role bring what another had by it,
-- however he is let in himself.
CREATE ROLE boss;
CREATE ROLE helper CREATEROLE;
SELECT opdata_grant('boss', '*', 'admin'), opdata_grant('helper', 'a', 'admin');
DROP OWNED BY boss;
DROP ROLE boss;
SET SESSION AUTHORIZATION helper;
CREATE ROLE climber;
SELECT opdata_grant('climber', 'a', 'admin');
ALTER ROLE climber RENAME TO boss;
GRANT boss TO helper;
SET ROLE boss;
SELECT count(*) FROM opdata_connections;
SELECT state, message FROM unnest(ARRAY['opdata_grant(''boss'', ''*'', ''admin'')', 'opdata_grant(''boss'', ''a'', ''admin'')', 'opdata_limit(''b'', NULL, NULL)']) AS t, outcome('SELECT ' || t);
RESET ROLE;
SELECT opdata_grant('boss', 'a', 'reader');
SET ROLE boss;
SELECT id FROM opdata_connections;
SELECT state, message FROM outcome($$SELECT opdata_grant('boss', '*', 'admin')$$);
RESET SESSION AUTHORIZATION;
SELECT role_name, workspace_id, level, in_effect FROM opdata_grants WHERE role_name IN ('boss', 'climber');
SELECT amount('boss'), opdata_revoke('boss', 'a'), opdata_revoke('helper', 'a');
DROP ROLE helper;
-- who is renamed has his rights again with his name, but none that was taken meanwhile
SELECT opdata_grant('boss', 'a', 'admin'), opdata_grant('boss', '*', 'developer');
ALTER ROLE boss RENAME TO climber;
SELECT role_name, workspace_id, level, in_effect FROM opdata_grants WHERE role_name IN ('boss', 'climber') ORDER BY 2;
SET ROLE climber;
SELECT count(*) FROM opdata_connections;
RESET ROLE;
ALTER ROLE climber RENAME TO boss;
SET ROLE boss;
SELECT count(*) FROM opdata_connections;
RESET ROLE;
ALTER ROLE boss RENAME TO climber;
SELECT opdata_revoke('climber', '*'), amount('climber');
ALTER ROLE climber RENAME TO boss;
SET ROLE boss;
SELECT state FROM outcome('TABLE opdata_connections');
RESET ROLE;
SELECT count(*) FROM opdata.access WHERE role_name IN ('boss', 'climber');
-- what DROP OWNED has taken does not come back with what is taken or granted after it
SELECT opdata_grant('boss', 'a', 'reader'), opdata_grant('boss', '*', 'admin');
DROP OWNED BY boss;
SELECT workspace_id, level, in_effect FROM opdata_grants WHERE role_name = 'boss' ORDER BY 1;
SELECT opdata_revoke('boss', 'a'), amount('boss');
SELECT opdata_grant('boss', 'a', 'reader'), amount('boss');
SELECT workspace_id, level, in_effect FROM opdata_grants WHERE role_name = 'boss' ORDER BY 1;
SELECT opdata_revoke('boss', 'a');
DROP ROLE boss;

-- What was set, shown to those for whom it holds.
SELECT opdata_mask('a', 'email'), opdata_mask('b', 'iban', 'other', 'text'), opdata_mask('*', 'ssn');
SELECT opdata_mask('*', 'note', 'shop') AS of_a, opdata_mask('*', 'note', 'other') AS of_none;
SELECT opdata_limit('a', 10, NULL), opdata_limit('b', 0, 0), opdata_limit('*', NULL, 5000);
SELECT opdata_trust_recipient('{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}', 'analyst') ->> 'label' AS label;
CREATE FUNCTION policy() RETURNS TABLE (view text, rows text) LANGUAGE plpgsql AS $$
BEGIN
	FOR view, rows IN VALUES ('opdata_masks', 'workspace_id, column_pattern, connection_id, type_pattern'), ('opdata_limits', 'workspace_id, previews_per_day, rows_per_day'),
		('opdata_grants', 'role_name, workspace_id, level, in_effect'), ('opdata_recipients', 'label, length(kid), jwk ->> ''kty''') LOOP
		BEGIN
			EXECUTE format('SELECT string_agg(r, '' '' ORDER BY r) FROM (SELECT ROW(%s)::text FROM %I) AS t(r)', rows, view) INTO rows;
		EXCEPTION WHEN insufficient_privilege THEN rows := SQLERRM;
		END;
		RETURN NEXT;
	END LOOP;
END
$$;
SELECT * FROM policy();
SET ROLE all_admin;
SELECT * FROM policy();
SET ROLE a_admin;
SELECT * FROM policy();
SET ROLE a_developer;
SELECT * FROM policy();
SET ROLE a_reader;
SELECT * FROM policy();
SET ROLE nobody;
SELECT * FROM policy();
RESET ROLE;
-- a privilege alone opens none of them, nor does the level of another workspace
GRANT SELECT ON opdata_masks, opdata_limits, opdata_grants, opdata_recipients TO nobody, a_reader, a_admin;
SET ROLE nobody;
SELECT * FROM policy();
SET ROLE a_reader;
SELECT * FROM policy() WHERE view IN ('opdata_grants', 'opdata_recipients');
SET ROLE a_admin;
SELECT * FROM policy() WHERE view = 'opdata_recipients';
RESET ROLE;
REVOKE SELECT ON opdata_masks, opdata_limits, opdata_grants, opdata_recipients FROM nobody;
REVOKE SELECT ON opdata_grants, opdata_recipients FROM a_reader;
REVOKE SELECT ON opdata_recipients FROM a_admin;
SELECT opdata_grant('all_admin', '*', 'reader');
SET ROLE all_admin;
SELECT * FROM policy();
RESET ROLE;
SELECT opdata_grant('all_admin', '*', 'admin');
-- who set it, and when
SELECT added_by = session_user AS by_me, added_at > now() - interval '1 hour' AS lately FROM opdata_masks
UNION ALL SELECT added_by = session_user, added_at > now() - interval '1 hour' FROM opdata_recipients
UNION SELECT granted_by = session_user, granted_at > now() - interval '1 hour' FROM opdata_grants WHERE role_name = 'all_admin';
-- as it is shown it can be taken away
SELECT bool_and((opdata_unmask(workspace_id, column_pattern, connection_id) -> 'unmasked')::boolean) AS unmasked FROM opdata_masks;
SELECT bool_and((opdata_distrust_recipient(label) -> 'distrusted')::boolean) AS distrusted FROM opdata_recipients;
SELECT count(*) FROM opdata_masks;
DELETE FROM opdata.egress_limit;
DROP FUNCTION policy;

-- Mistakes.
SELECT opdata_grant('a_reader', 'a', 'owner');
SELECT opdata_grant('a_reader', 'a', 'READER');
SELECT opdata_grant('a_reader', 'a', '');
SELECT opdata_grant('nosuchrole', 'a', 'reader');
SELECT opdata_grant('public', 'a', 'reader');
SELECT opdata_grant('', 'a', 'reader');
SELECT opdata_grant('a_reader', '', 'reader');
SELECT state, message FROM outcome($$SELECT opdata_grant('a_reader', repeat('w', 129), 'reader')$$);
SELECT opdata_revoke('nosuchrole', 'a');
SELECT t, state, message, detail FROM unnest(ARRAY['opdata_grant(NULL, ''a'', ''reader'')', 'opdata_grant(''a_reader'', NULL, ''reader'')', 'opdata_grant(''a_reader'', ''a'', NULL)',
	'opdata_revoke(NULL, ''a'')', 'opdata_revoke(''a_reader'', NULL)', 'opdata_trust_recipient(NULL, ''x'')', 'opdata_trust_recipient(''{}'', NULL)', 'opdata_distrust_recipient(NULL)',
	'opdata_rotate_public_key(NULL)', 'opdata_mask(NULL, ''x'')', 'opdata_mask(''a'', NULL)', 'opdata_unmask(NULL, ''x'')', 'opdata_unmask(''a'', NULL)', 'opdata_limit(NULL, 1, 1)']) AS t, outcome('SELECT ' || t);
SELECT opdata_store_creds('x', payload('reader'), workspace_id => '*');
SELECT state, message FROM outcome($$INSERT INTO opdata.connection (id, type, payload, key_id, workspace_id, name, safe_metadata, status) VALUES ('x', 'postgres', '', '', '*', 'x', '{}', 'pending')$$);
BEGIN READ ONLY;
SELECT opdata_grant('a_reader', 'a', 'reader');
ROLLBACK;
BEGIN READ ONLY;
SELECT opdata_revoke('a_reader', 'b');
ROLLBACK;
SELECT role_name, workspace_id, level FROM opdata.access ORDER BY 1, 2;

-- The owner of the extension keeps what is his, whoever lets him into a workspace and out again.
SET client_min_messages = warning;
CREATE ROLE keeper;
ALTER FUNCTION opdata_status() OWNER TO keeper;
SET ROLE a_admin;
SELECT opdata_grant('keeper', 'a', 'reader'), opdata_revoke('keeper', 'a');
RESET ROLE;
SELECT has_function_privilege('keeper', 'opdata_status()', 'EXECUTE') AS owner_may;
ALTER FUNCTION opdata_status() OWNER TO SESSION_USER;
DROP ROLE keeper;
RESET client_min_messages;

SELECT opdata_revoke('a_admin', 'a'), opdata_revoke('all_admin', '*'), opdata_revoke('a_developer', 'a'), opdata_revoke('a_reader', 'b');
SELECT opdata_delete('shop');
SELECT count(*) FROM object WHERE held('a_admin', kind, oid) IS NOT NULL;
DROP FUNCTION through, seen, as_invoker, rows_of, seen_as, step, script;
DROP VIEW wrapped;

-- An extension schema of another name: grants open it.
SET client_min_messages = warning;
DROP EXTENSION opdata CASCADE;
CREATE SCHEMA "X y";
CREATE EXTENSION opdata SCHEMA "X y";
RESET client_min_messages;
SELECT "X y".opdata_grant('a_reader', 'a', 'reader');
SELECT "X y".opdata_grant('a_admin', '*', 'admin');
SELECT kind, name, held('a_reader', kind, oid) AS reader, held('a_admin', kind, oid) AS "admin of *" FROM object
WHERE held('a_admin', kind, oid) IS NOT NULL ORDER BY kind COLLATE "C", name COLLATE "C";
SELECT has_schema_privilege('a_reader', 'X y', 'USAGE') AS usage, has_schema_privilege('a_reader', 'X y', 'CREATE') AS "create", has_schema_privilege('nobody', 'X y', 'USAGE') AS nobody;
SET ROLE a_reader;
SELECT "X y".opdata_status() -> 'connections' AS connections;
SELECT count(*) FROM "X y".opdata_connections;
RESET ROLE;
SELECT "X y".opdata_revoke('a_reader', 'a'), "X y".opdata_revoke('a_admin', '*');
SELECT count(*) FROM holds('a_reader');
-- a way into a schema is left, since somebody else may have granted it too
SELECT has_schema_privilege('a_reader', 'X y', 'USAGE') AS usage;
SET client_min_messages = warning;
DROP EXTENSION opdata;
DROP SCHEMA "X y";
DROP FUNCTION held, holds, amount CASCADE;
DROP VIEW object;
DROP TABLE acl_before;
DROP ROLE a_reader, a_developer, a_admin, all_admin, nobody, heir, disowned, grandchild, super, deputy, reads_all, writes_all;
