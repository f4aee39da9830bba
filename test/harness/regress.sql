-- regress.sql: what the SQL tests share. Each begins with
--
--   \set ECHO none
--   \getenv srcdir PG_ABS_SRCDIR
--   \set common :srcdir '/harness/regress.sql'
--   \i :common
--   \set ECHO all
--
-- and has then, besides the extension:
--
--   :source, :agent           for \connect: the source as a superuser, and back
--   source_port()
--   payload(username, more)   credentials of a role of the source, for database shop;
--                             its password is the one of shop.sql; "more" replaces keys
--   steady(result)            a result without what differs from run to run
--   outcome(statement)        what a statement raises, as a row

\getenv source_port OPD_SOURCE_PORT
\set source 'host=127.0.0.1 port=' :source_port ' dbname=shop user=super password=super_pw'
\set agent 'dbname=' :DBNAME

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS opdata CASCADE;
RESET client_min_messages;

CREATE OR REPLACE FUNCTION source_port() RETURNS int
LANGUAGE sql IMMUTABLE RETURN :source_port;

-- a text with 0 for the source's port
CREATE OR REPLACE FUNCTION portless(value text) RETURNS text
LANGUAGE sql IMMUTABLE RETURN regexp_replace(value, '\m' || source_port() || '\M', '0', 'g');

CREATE OR REPLACE FUNCTION payload(username text, more jsonb DEFAULT '{}') RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object('host', '127.0.0.1', 'port', source_port(), 'database', 'shop',
		'username', username, 'password', username || '_pw', 'sslMode', 'disable') || more)
$$;

CREATE OR REPLACE FUNCTION steady(result jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
	SELECT portless((result
		#- '{latencyMs}' #- '{test,latencyMs}'
		#- '{serverVersion}' #- '{test,serverVersion}'
		#- '{tls}' #- '{test,tls}'
		#- '{durationMs}')::text)::jsonb
$$;

CREATE OR REPLACE FUNCTION outcome(statement text, OUT state text, OUT message text, OUT detail text, OUT hint text)
LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	message := 'no error';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS state := RETURNED_SQLSTATE, message := MESSAGE_TEXT,
		detail := PG_EXCEPTION_DETAIL, hint := PG_EXCEPTION_HINT;
	message := portless(message);
	hint := portless(hint);
END
$$;
