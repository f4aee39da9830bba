\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- opdata_preview: what becomes of values, names and types, and where results
-- end. Which statements are let through is tested by test/corpus/guard.txt.
--
\connect :source
ALTER DATABASE shop SET timezone = 'UTC';
CREATE SCHEMA odd;
GRANT USAGE ON SCHEMA odd TO reader;
CREATE TYPE odd.mood AS ENUM ('sad', 'fine');
CREATE DOMAIN odd.short AS varchar(5);
CREATE DOMAIN odd.big AS int8;
CREATE TYPE odd.pair AS (a int, b text);
CREATE TYPE odd."Q t" AS ENUM ('x');
CREATE TABLE odd.customer (only_here int);
INSERT INTO odd.customer VALUES (7);
GRANT SELECT ON odd.customer TO reader;
\connect :agent

SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
CREATE FUNCTION look(query text) RETURNS jsonb
LANGUAGE sql AS $$ SELECT steady(opdata_preview('shop', query)) $$;
-- without columns and rows
CREATE FUNCTION extent(query text) RETURNS jsonb
LANGUAGE sql AS $$ SELECT look(query) - 'columns' - 'rows' $$;
-- the first cell
CREATE FUNCTION cell(query text) RETURNS jsonb
LANGUAGE sql AS $$ SELECT look(query) #> '{rows,0,0}' $$;

-- the shape
SELECT look('SELECT id, name, created_at FROM customer ORDER BY id');
SELECT jsonb_typeof(result -> 'durationMs') AS duration, (result -> 'durationMs')::numeric BETWEEN 0.001 AND 20000 AS plausible,
	(SELECT array_agg(key ORDER BY key) FROM jsonb_object_keys(result) AS key) AS keys
FROM opdata_preview('shop', 'SELECT 1') AS result;
SELECT opdata_preview('shop', null) IS NULL AND opdata_preview(null, 'SELECT 1') IS NULL AS null_for_null;

-- every type: its name, what JSON makes of the value, the value
CREATE TABLE sample (n int GENERATED ALWAYS AS IDENTITY, type text, value text);
INSERT INTO sample (type, value) VALUES
	('boolean', 'true'), ('boolean', 'false'),
	('smallint', '-32768'), ('integer', '2147483647'), ('oid', '4294967295'),
	('bigint', '9007199254740991'), ('bigint', '9007199254740992'), ('bigint', '9007199254740993'),
	('bigint', '-9007199254740992'), ('bigint', '-9007199254740993'), ('bigint', '9223372036854775807'),
	('real', '1.5'), ('real', '1e-30'), ('real', 'NaN'), ('real', 'Infinity'),
	('double precision', '0.1'), ('double precision', '-0'), ('double precision', '1e20'), ('double precision', '1e-20'), ('double precision', '123456789.123456789'),
	('double precision', 'NaN'), ('double precision', 'Infinity'), ('double precision', '-Infinity'),
	('numeric', '0.10'), ('numeric', '123456789012345678901234567890'), ('numeric', 'NaN'), ('numeric', 'Infinity'), ('numeric(10,2)', '3.14159'), ('money', '12.5'),
	('text', 'Zoë "quoted" \ '), ('text', ''), ('varchar', 'v'), ('varchar(7)', 'v'), ('character(3)', 'c'), ('"char"', 'c'), ('name', 'a name'), ('bpchar', 'b '),
	('bytea', '\x00ff5c'), ('bytea', ''),
	('date', '2026-01-05'), ('date', 'infinity'), ('date', '0044-03-15 BC'), ('time', '09:00:00.5'), ('time(0)', '09:00'), ('time with time zone', '09:00:00+05:30'),
	('timestamp', '2026-01-05 09:00:00.123456'), ('timestamp(3) without time zone', '2026-01-05 09:00:00.123456'), ('timestamp with time zone', '2026-01-05 09:00:00+01'),
	('timestamp with time zone', '-infinity'), ('interval', '1 year 2 mons 3 days 04:05:06.7'), ('interval day to second(1)', '1 day 0.77 s'),
	('uuid', '6b1fd2a4-9d2f-4c39-9d8e-2f6c1d0a1b2c'),
	('json', '{"a": 1, "a": 2,   "b":[ ]}'), ('jsonb', '{"a": 1, "a": 2,   "b":[ ]}'), ('json', 'null'), ('jsonb', '"text"'), ('jsonpath', '$.a[*]'),
	('inet', '192.0.2.1'), ('inet', '192.0.2.1/24'), ('cidr', '192.0.2.0/24'), ('macaddr', '08:00:2b:01:02:03'), ('macaddr8', '08:00:2b:01:02:03:04:05'),
	('point', '(1,2)'), ('line', '{1,2,3}'), ('lseg', '[(0,0),(1,1)]'), ('box', '(1,1),(0,0)'), ('path', '((0,0),(1,1))'), ('polygon', '((0,0),(1,1))'), ('circle', '<(0,0),1>'),
	('bit(3)', '101'), ('bit varying', '10101'), ('tsvector', 'a fat cat'), ('tsquery', 'fat & cat'),
	('int4range', '[1,5)'), ('int8range', 'empty'), ('numrange', '[1.5,)'), ('tstzrange', '[2026-01-05 09:00+00,)'), ('daterange', '[2026-01-05,2026-01-07)'),
	('int4multirange', '{[1,3),[5,7)}'), ('datemultirange', '{}'),
	('integer[]', '{1,NULL,3}'), ('text[]', '{"a,b",NULL,"NULL",""}'), ('integer[]', '[0:1]={1,2}'), ('boolean[]', '{{t,f},{f,t}}'), ('int2vector', '1 2'), ('oidvector', '1 2'),
	('regclass', 'pg_class'), ('regtype', 'integer'), ('regproc', 'now'), ('regprocedure', 'now()'), ('regrole', 'reader'), ('regnamespace', 'public'),
	('pg_lsn', '16/B374D848'), ('xid', '7'), ('xid8', '7'), ('cid', '7'), ('tid', '(0,1)'), ('pg_snapshot', '10:20:10,14'), ('refcursor', 'c'), ('aclitem', 'reader=r/super'),
	('odd.mood', 'fine'), ('odd.mood[]', '{fine,sad}'), ('odd.short', 'abc'), ('odd.big', '9007199254740993'), ('odd.short[]', '{a}'), ('odd.pair', '(1,"a b")'),
	('odd.pair', '(,)'), ('odd.pair[]', '{"(1,)",NULL}'), ('odd."Q t"', 'x'), ('odd.customer', '(7)'), ('public.customer', '(1,Ada,ada@example.com,"2026-01-05 09:00:00+00")');
SELECT s.type AS asked, c.value ->> 'type' AS type, jsonb_typeof(cell.value) AS json, cell.value
FROM (SELECT look('SELECT ' || string_agg(format('%L::%s', value, type), ', ' ORDER BY n)) AS result FROM sample) AS l,
	jsonb_array_elements(result -> 'columns') WITH ORDINALITY AS c(value, n),
	jsonb_array_elements(result #> '{rows,0}') WITH ORDINALITY AS cell(value, n),
	sample AS s
WHERE s.n = c.n AND s.n = cell.n
ORDER BY s.n;
-- the greatest and the least
SELECT cell('SELECT 1.7976931348623157e308::float8') = to_jsonb(1.7976931348623157e308), cell('SELECT 5e-324::float8') = to_jsonb(5e-324);
-- null is null, whatever the type
SELECT count(*) AS cells, count(*) FILTER (WHERE cell = 'null') AS nulls
FROM (SELECT look('SELECT ' || string_agg(format('null::%s', type), ', ' ORDER BY n)) AS result FROM sample) AS l, jsonb_array_elements(result #> '{rows,0}') AS cell;
-- a row of nulls is no null, nor is a row with one
SELECT look('SELECT row(null, null), row(), row(null, 1), null::odd.pair, row(null, null)::odd.pair, (SELECT c FROM customer c WHERE false), (SELECT c FROM odd.customer c)') - 'rowCount';
-- types that have no name of their own
SELECT look('SELECT ''x'', null, ARRAY[1], row(1), 1.0, current_date - date ''2000-01-01'' > 0, now() - now(), pg_sleep(0)');
DROP TABLE sample;

-- rows: 100 and no more; whether there are more is not known
SELECT n, extent(format('SELECT FROM generate_series(1, %s)', n)) FROM unnest(ARRAY[0, 1, 99, 100, 101, 100000]) AS n;
SELECT extent('SELECT generate_series(1, 1000000000)');
SELECT extent('SELECT * FROM generate_series(1, 250) LIMIT 99');
SELECT look('SELECT n FROM generate_series(1, 250) AS n ORDER BY n DESC') #> '{rows,99}' AS last;

-- cells: 1024 characters, whatever their bytes
SELECT c.what, n, extent(format('SELECT repeat(%L, %s)', c, n)) AS extent,
	char_length(cell(format('SELECT repeat(%L, %s)', c, n)) #>> '{}') AS characters,
	cell(format('SELECT repeat(%L, %s)', c, n)) #>> '{}' = repeat(c, least(n, 1024)) AS right_ones
FROM (VALUES ('one byte', 'x'), ('two', 'ü'), ('three', '€'), ('four', '😀'), ('quote', '"'), ('backslash', '\')) AS c(what, c), unnest(ARRAY[1023, 1024, 1025]) AS n;
-- text, in all its types, and whatever else is printed at length
SELECT query, r -> 'truncatedBy' AS by, r -> 'truncated' AS truncated, char_length(r #>> '{rows,0,0}') AS characters, right(r #>> '{rows,0,0}', 5) AS "end"
FROM unnest(ARRAY[
	$$SELECT repeat('x', 100000)$$, $$SELECT repeat('x', 1025)::varchar$$, $$SELECT repeat('x', 1025)::varchar(2000)$$, $$SELECT repeat('x', 1025)::char(1025)$$, $$SELECT 'x'::char(1025)$$,
	$$SELECT 'x'::char(1024)$$, $$SELECT to_json(repeat('x', 1022))$$, $$SELECT to_json(repeat('x', 1023))$$, $$SELECT to_jsonb(repeat('x', 1023))$$, $$SELECT array_fill(1, ARRAY[511])$$,
	$$SELECT array_fill(1, ARRAY[512])$$, $$SELECT repeat('9', 1024)::numeric$$, $$SELECT repeat('9', 1025)::numeric$$, $$SELECT repeat('1', 1025)::varbit$$, $$SELECT row(1, repeat('x', 1021))::odd.pair$$,
	$$SELECT row(1, repeat('x', 1020))::odd.pair$$, $$SELECT decode(repeat('ab', 511), 'hex')$$, $$SELECT decode(repeat('ab', 512), 'hex')$$, $$SELECT decode(repeat('ab', 100000), 'hex')$$,
	$$SELECT repeat('x', 1025)::tsvector$$]) AS query, look(query) AS r;
-- cut cells alone do not make a truncated result
SELECT extent('SELECT repeat(''x'', 1025) FROM generate_series(1, 99)'), extent('SELECT repeat(''x'', 1025) FROM generate_series(1, 101)');

-- bytes: the whole result fits into 1 MiB, and not one more row would have
CREATE FUNCTION fill(width int, c text, OUT extent jsonb, OUT fits boolean, OUT is_full boolean)
LANGUAGE plpgsql AS $$
DECLARE
	result jsonb := opdata_preview('shop', format('SELECT %s FROM generate_series(1, 100)',
		(SELECT string_agg(format('repeat(%L, 1024)', c), ', ') FROM generate_series(1, width))));
	row_bytes int := octet_length(convert_to(result #>> '{rows,0}', 'UTF8'));
	n int := octet_length(convert_to(result::text, 'UTF8'));
BEGIN
	extent := result - 'columns' - 'rows' - 'durationMs';
	fits := n <= 1048576;
	is_full := n + row_bytes + 256 > 1048576;
END
$$;
SELECT width, c, (fill(width, c)).*
FROM (VALUES (9, 'x'), (10, 'x'), (11, 'x'), (20, 'x'), (11, '"'), (11, '😀'), (11, E'\n'), (1000, 'x')) AS t(width, c);
-- a row that does not fit by itself leaves none
SELECT (fill(1100, 'x')).*;
-- the rows that are left out are not counted as cut
SELECT extent('SELECT repeat(''x'', CASE WHEN n < 95 THEN 1024 ELSE 1025 END), ' || string_agg('repeat(''y'', 1024)', ', ') || ' FROM generate_series(1, 100) AS n')
FROM generate_series(1, 10);

-- control characters but tab and newline, and bidirectional controls, are left out; others stay
SELECT to_hex(a) || '-' || to_hex(b) AS among, string_agg(to_hex(n), ' ' ORDER BY n) FILTER (WHERE strpos(text, chr(n)) = 0) AS left_out, char_length(text) AS left
FROM (VALUES (1, 126), (127, 700), (1500, 1700), (8190, 8310), (65270, 65280), (917500, 917640)) AS t(a, b),
	LATERAL (SELECT cell(format('SELECT string_agg(chr(n), '''' ORDER BY n) FROM generate_series(%s, %s) AS n', a, b)) #>> '{}' AS text) AS c,
	generate_series(a, b) AS n
GROUP BY a, b, text
ORDER BY a;
SELECT look(E'SELECT 1 AS "a\u202Eb", 2 AS "tab\there", 3 AS "bell\u0007"') -> 'columns' AS columns;
SELECT cell(E'SELECT ARRAY[''\u202E'', ''x'']'), cell('SELECT to_json(chr(7))'), cell('SELECT chr(27) || ''[31mred''');
-- cells that were cut because they were long, not because something was left out
SELECT extent('SELECT chr(7) || repeat(''x'', 1023)'), extent('SELECT chr(7) || repeat(''x'', 1024)');

-- names of columns: the same twice, none, long, quoted, and such as the agent's own statement uses
SELECT look('SELECT 1 AS a, 2 AS a, 3 AS "A", 4, 5, '''' AS "?column?", 6 AS "sélect", 7 AS "a""b", 8 AS c0, 9 AS preview, 10 AS preview_query');
SELECT look(format('SELECT 1 AS %I', repeat('n', 63))) -> 'columns' AS columns;
SELECT look('SELECT c.*, p.id FROM customer c JOIN purchase p ON p.id = c.id ORDER BY c.id LIMIT 1');

-- no columns, no rows, neither
SELECT look('SELECT FROM customer');
SELECT look('SELECT * FROM customer WHERE false');
SELECT look('SELECT WHERE false');
SELECT look('TABLE customer LIMIT 0') - 'columns';
SELECT look('VALUES (1, ''a''), (2, null)');

-- as many columns as there can be, and one more
SELECT n, jsonb_array_length(r -> 'columns') AS columns, jsonb_array_length(r #> '{rows,0}') AS cells, r #> '{rows,0,0}' AS first, r #> ARRAY['rows', '0', (n - 1)::text] AS last, r -> 'truncated' AS truncated
FROM unnest(ARRAY[1600, 1664]) AS n, look('SELECT ' || (SELECT string_agg(i::text, ', ') FROM generate_series(1, n) AS i)) AS r;
SELECT jsonb_array_length(r -> 'columns') AS columns, r #> '{columns,1599}' AS last_column, r #>> '{rows,0,1599}' AS last
FROM look('SELECT ' || (SELECT string_agg(format('%L::odd.mood', 'fine'), ', ') FROM generate_series(1, 1600) AS i)) AS r;
SELECT state, detail FROM outcome('SELECT look(''SELECT ' || (SELECT string_agg(i::text, ', ') FROM generate_series(1, 1665) AS i) || ''')');

-- what the source's session is like: read-only, limited, in UTF-8, under our name
SELECT look($$SELECT name, CASE name WHEN 'statement_timeout' THEN (replace(setting, 'ms', '')::int BETWEEN 1 AND 11000)::text ELSE setting END FROM pg_settings
	WHERE name IN ('transaction_read_only', 'statement_timeout', 'client_encoding', 'application_name', 'standard_conforming_strings', 'bytea_output', 'search_path', 'TimeZone') ORDER BY name COLLATE "C"$$) -> 'rows' AS settings;
SELECT cell('SELECT session_user || '' '' || current_user || '' '' || current_database()');
SELECT opdata_store_creds('named', jsonb_build_object('dsn', format('host=127.0.0.1 port=%s dbname=shop user=reader password=reader_pw sslmode=disable application_name=''my tool''', source_port()))) -> 'status' AS status;
SELECT opdata_preview('named', 'SELECT current_setting(''application_name'')') -> 'rows' AS rows;
-- "schema" is where names are looked for; otherwise the role's own search path stays
SELECT cell('SELECT count(*) FROM customer');
SELECT opdata_store_creds('named', payload('reader', '{"schema": "odd"}')) -> 'status' AS status;
SELECT opdata_preview('named', 'SELECT * FROM customer') -> 'rows' AS rows;
SELECT opdata_store_creds('named', payload('reader', '{"schema": "no, such \"schema\""}')) -> 'status' AS status;
SELECT state, detail, hint FROM outcome($$SELECT opdata_preview('named', 'SELECT * FROM customer')$$);
SELECT opdata_preview('named', 'SELECT current_setting(''search_path'')') -> 'rows' AS rows;
\connect :source
ALTER ROLE reader SET search_path = odd;
\connect :agent
SELECT cell('SELECT * FROM customer');
\connect :source
ALTER ROLE reader RESET search_path;
ALTER DATABASE shop RESET timezone;
SET client_min_messages = warning;
DROP SCHEMA odd CASCADE;
\connect :agent

SELECT opdata_delete('shop'), opdata_delete('named');
DROP FUNCTION look, extent, cell, fill;
