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

SELECT c.oid::regclass AS relation, c.relkind AS kind, c.reloptions AS options,
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
