\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- opdata_mask: values of masked columns stay where they are, whatever is asked;
-- and what has nothing to do with them can be asked as before.
--
\connect :source
CREATE SCHEMA vault;
GRANT USAGE ON SCHEMA vault TO reader;
CREATE TYPE vault.place AS (town text, email text);
CREATE TABLE vault.person (id int, nick text, email text, score int, active boolean, born date, home vault.place,
	"Größe" text, "E mail" text, email_of_a_name_that_is_as_long_as_a_name_can_be_in_postgresql text, attachment text[]);
INSERT INTO vault.person
	SELECT n, 'nick' || n, CASE WHEN n < 3 THEN 'canary' || n || '@x.test' END, 770 + n, n = 1, date '2026-01-05' + n, ROW('town' || n, 'canary@home')::vault.place,
		'canary größe', 'canary mail', 'canary long', ARRAY['canary a']
	FROM generate_series(1, 3) AS n;
CREATE TABLE vault.thing (id int, person_id int, price numeric, email text);
INSERT INTO vault.thing SELECT n, 1 + n % 3, n * 1.5, 'canary thing' FROM generate_series(1, 4) AS n;
GRANT SELECT ON vault.person, vault.thing TO reader;
ANALYZE vault.person;
\connect :agent

SELECT opdata_store_creds('masked', payload('reader', '{"schema": "vault"}'), workspace_id => 'here') -> 'status' AS status;
SELECT opdata_store_creds('clear', payload('reader', '{"schema": "vault"}'), workspace_id => 'there') -> 'status' AS status;

-- "error", or the rows
CREATE FUNCTION look(id text, query text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	code text;
BEGIN
	RETURN (opdata_preview(id, query) -> 'rows')::text;
EXCEPTION WHEN OTHERS OR query_canceled THEN
	GET STACKED DIAGNOSTICS code := PG_EXCEPTION_DETAIL;
	RETURN substring(code FROM '^\w+');
END
$$;
-- whether they hold a value of a masked column
CREATE FUNCTION holds_canary(rows text) RETURNS boolean
LANGUAGE sql IMMUTABLE RETURN rows ~* 'canary|y.?r.?a.?n.?a.?c|63616e617279|77[1-3]\M';
-- what an attempt comes to: refused, or *** and nothing else of a masked column
CREATE FUNCTION verdict(rows text) RETURNS text
LANGUAGE sql IMMUTABLE RETURN CASE WHEN rows = 'statement_not_allowed' THEN 'refused' WHEN holds_canary(rows) THEN 'LEAK' WHEN rows LIKE '%***%' THEN '***' ELSE 'let through: ' || rows END;

SELECT opdata_mask('here', '*mail*'), opdata_mask('here', 'SCORE'), opdata_mask('here', 'größe'), opdata_mask('here', 'attachment');

-- what shows a masked column shows ***
SELECT query, look('masked', query) AS masked FROM unnest(ARRAY[
	'SELECT id, nick, email, score, active FROM person ORDER BY id',
	'SELECT email FROM person', 'SELECT p.email FROM person AS p', 'SELECT vault.person.email FROM vault.person', 'SELECT shop.vault.person.email FROM shop.vault.person',
	'SELECT (email) FROM person', 'SELECT EMAIL FROM person', 'SELECT "email" FROM person', 'SELECT U&"em\0061il" FROM person', 'SELECT U&"em!0061il" UESCAPE ''!'' FROM person',
	'SELECT email AS email FROM person', 'SELECT email AS "email" FROM person', 'SELECT /* email */ email FROM person -- email', 'SELECT "E mail" FROM person', 'SELECT "Größe" FROM person',
	'SELECT DISTINCT email FROM person', 'SELECT email, count(*) FROM person GROUP BY email ORDER BY count(*)', 'SELECT email, score FROM person GROUP BY 1, 2', 'SELECT p.email FROM person AS p GROUP BY p.email',
	'SELECT email_of_a_name_that_is_as_long_as_a_name_can_be_in_postgresql FROM person',
	'TABLE thing', 'SELECT * FROM thing LIMIT 1', 'SELECT t.* FROM thing AS t LIMIT 1', 'SELECT t.*, t.email FROM thing AS t LIMIT 1',
	'SELECT * FROM (SELECT * FROM thing) AS x LIMIT 1', 'SELECT x.* FROM (SELECT id, email FROM thing) AS x LIMIT 1', 'WITH x AS (SELECT * FROM thing) SELECT * FROM x LIMIT 1', 'WITH x AS (SELECT email FROM thing), y AS (TABLE x) SELECT email FROM y LIMIT 1',
	'SELECT * FROM person AS p JOIN thing AS t ON t.person_id = p.id ORDER BY t.id LIMIT 1', 'SELECT id, p.email, t.email FROM person AS p JOIN thing AS t USING (id) ORDER BY id LIMIT 1',
	'SELECT p.id, x.email FROM person AS p, LATERAL (SELECT t.email FROM thing AS t WHERE t.person_id = p.id LIMIT 1) AS x ORDER BY 1',
	'SELECT attachment FROM person', 'SELECT ''x'' AS email, 1 AS score, true AS work_email, null AS mail', 'SELECT nick AS email FROM person', 'SELECT * FROM (VALUES (1)) AS v(score)',
	'SELECT 1 AS "EMAIL", 2 AS "GRÖßE", 3 AS "größe", 4 AS "große"', 'SELECT email FROM person WHERE false'
	]) AS query;
SELECT result -> 'columns' AS columns, result -> 'rowCount' AS rows FROM opdata_preview('masked', 'SELECT id, email, score, active FROM person') AS result;

-- everything else is refused, although it would give the value, or tell something of it
CREATE TABLE attempt (n int GENERATED ALWAYS AS IDENTITY, query text);
-- another name
INSERT INTO attempt (query) SELECT unnest(ARRAY[
	'SELECT email AS e FROM person', 'SELECT email e FROM person', 'SELECT email AS "Email" FROM person', 'SELECT U&"em\0061il" AS e FROM person', 'SELECT "E mail" AS e FROM person', 'SELECT "Größe" AS g FROM person', 'SELECT "GRÖßE" AS g FROM (SELECT 1) AS x("GRÖßE")',
	'SELECT email_of_a_name_that_is_as_long_as_a_name_can_be_in_postgresql AS e FROM person', 'SELECT score AS s FROM person', 'SELECT vault.person.email AS e FROM person', 'SELECT shop.vault.person.email AS e FROM person', 'SELECT (email) AS e FROM person',
	'SELECT e FROM person AS p(i, n, e)', 'SELECT p.* FROM person AS p(i, n, e)', 'SELECT x.* FROM (SELECT email FROM person) AS x(e)', 'SELECT * FROM (TABLE thing) AS x(a, b, c, d)', 'SELECT * FROM (person CROSS JOIN (SELECT 1 AS one) AS o) AS j(i, n, e)',
	'WITH x(e) AS (SELECT email FROM person) SELECT * FROM x', 'WITH x(a, b, c, d) AS (TABLE thing) TABLE x', 'WITH x AS (SELECT email AS e FROM person) SELECT e FROM x', 'WITH x AS (WITH y(e) AS (SELECT email FROM person) SELECT * FROM y) SELECT * FROM x',
	'WITH RECURSIVE x(e) AS (SELECT email FROM person) SELECT e FROM x', 'WITH RECURSIVE x AS (SELECT 1 AS n, ''''::text AS e UNION ALL SELECT n + 1, p.email FROM x, person AS p WHERE n < 2 AND p.id = 1) SELECT e FROM x',
	'WITH RECURSIVE x AS (SELECT 0 AS id, ''''::text AS nick UNION SELECT id, email FROM person) SELECT nick FROM x',
	'WITH RECURSIVE x AS (SELECT id, email FROM person WHERE id = 1 UNION ALL SELECT id, email FROM x WHERE false) SEARCH DEPTH FIRST BY email SET s SELECT s FROM x',
	'WITH RECURSIVE x AS (SELECT id, email FROM person WHERE id = 1 UNION ALL SELECT id, email FROM x WHERE false) CYCLE email SET c USING path SELECT path FROM x',
	'SELECT v.* FROM person AS p, LATERAL (VALUES (p.email)) AS v', 'SELECT v.e FROM person AS p, LATERAL (VALUES (p.email)) AS v(e)', 'SELECT x.e FROM person AS p, LATERAL (SELECT p.email AS e) AS x', 'SELECT x.e FROM person AS p, LATERAL (SELECT p.email) AS x(e)',
	'SELECT * FROM (SELECT email FROM person) AS x(e), (SELECT 1) AS y', 'VALUES ((SELECT email FROM person LIMIT 1))', 'SELECT column1 FROM (VALUES ((SELECT email FROM person LIMIT 1))) AS v']);
-- places of set operations
INSERT INTO attempt (query) SELECT unnest(ARRAY[
	'SELECT nick FROM person UNION SELECT email FROM person', 'SELECT email FROM person UNION SELECT nick FROM person', 'SELECT email FROM person UNION ALL SELECT email FROM person', 'SELECT id, nick FROM person UNION SELECT id, email FROM person',
	'SELECT 1, 2, 3.5, '''' UNION ALL SELECT * FROM thing', 'SELECT 1 AS a, 2 AS b, 3.5 AS c, '''' AS d UNION ALL TABLE thing', 'SELECT 1, 2, 3.5, '''' UNION ALL SELECT t.* FROM thing AS t', 'VALUES ('''') UNION ALL SELECT email FROM person',
	'SELECT '''' AS nick UNION ALL (SELECT email FROM person)', 'SELECT nick FROM person UNION (WITH x AS (SELECT email FROM person) SELECT email FROM x)', 'SELECT nick FROM person UNION SELECT x.email FROM (SELECT email FROM person) AS x',
	'SELECT email FROM person INTERSECT SELECT ''canary1@x.test''', 'SELECT ''canary1@x.test'' AS x INTERSECT SELECT email FROM person', 'SELECT ''canary1@x.test'' AS x EXCEPT SELECT email FROM person', 'SELECT email FROM person EXCEPT ALL SELECT nick FROM person',
	'SELECT * FROM (SELECT nick FROM person UNION SELECT email FROM person) AS x', 'SELECT nick FROM person WHERE nick IN (SELECT nick FROM person UNION SELECT email FROM person)']);
-- expressions
INSERT INTO attempt (query) SELECT format('SELECT %s FROM person AS p', e) FROM unnest(ARRAY[
	'email || ''''', '''x'' || email', 'email::varchar', 'CAST(email AS name)', 'email::varchar AS email', 'upper(email)', 'reverse(email)', 'substr(email, 1, 6)', '"left"(p.email, 9)', 'md5(email)', 'encode(convert_to(email, ''UTF8''), ''hex'')', 'length(email)', 'ascii(email)',
	'concat(email)', 'concat_ws('' '', id, email)', 'format(''%s'', email)', 'COALESCE(email, '''')', 'NULLIF(email, '''')', 'GREATEST(email, '''')', 'CASE WHEN true THEN email END', 'CASE email WHEN ''canary1@x.test'' THEN 1 END', 'email = ''canary1@x.test''',
	'email LIKE ''c%''', 'email IS NULL', 'email IS DISTINCT FROM ''a''', 'email IN (''a'')', 'email BETWEEN ''a'' AND ''d''', 'email < ANY (ARRAY[''d''])', 'email COLLATE "C"', 'ARRAY[email]', '(ARRAY[email])[1]', 'ROW(email)', '(id, email)', 'score + 0', '-score', 'score::text', 'sqrt(score)',
	'attachment[1]', 'p.attachment[1:1]', 'array_to_string(attachment, '''')', 'unnest(attachment)', '"Größe" || ''''', '"E mail" || ''''', 'position(''c'' IN email)', 'overlay(email PLACING '''' FROM 1 FOR 0)', 'trim(email)', 'extract(epoch FROM make_interval(secs => score))', 'XMLELEMENT(NAME x, email)', 'XMLFOREST(email AS x)',
	'xmlserialize(content XMLCONCAT(XMLELEMENT(NAME x, email)) AS text)', 'json_build_array(email)', 'jsonb_build_object(''x'', email)', 'to_json(email)', 'to_jsonb(email) #>> ''{}''', 'regexp_matches(email, ''.*'')', 'regexp_split_to_table(email, ''@'')',
	'generate_series(1, length(email))', 'string_agg(email, '','')', 'array_agg(email)', 'json_agg(email)', 'max(email)', 'min(score)', 'sum(score)', 'count(email)', 'count(DISTINCT email)', 'array_agg(nick ORDER BY email)', 'count(*) FILTER (WHERE email LIKE ''canary1%'')',
	'percentile_disc(0) WITHIN GROUP (ORDER BY email)', 'mode() WITHIN GROUP (ORDER BY email)', 'rank(''canary1@x.test'') WITHIN GROUP (ORDER BY email)', 'lag(email) OVER ()', 'first_value(email) OVER (ORDER BY id)', 'rank() OVER (ORDER BY email)', 'count(*) OVER (PARTITION BY email)',
	'count(*) OVER (ORDER BY id ROWS BETWEEN length(max(email)) PRECEDING AND CURRENT ROW)', 'pg_typeof(email)', 'pg_column_size(email)', 'pg_sleep(score / 1000000.0)', '1 / length(email)', 'set_config(''a.b'', email, false)', 'email::int', '(SELECT email)', '(SELECT p.email || '''')', '(SELECT x.email FROM person AS x LIMIT 1)',
	'(SELECT max(x) FROM (SELECT p.email) AS x)', 'ARRAY(SELECT email FROM person)', 'ARRAY(SELECT p.email)', 'ARRAY(TABLE thing)', '''a'' = ANY (SELECT email FROM person)', 'EXISTS (SELECT 1 FROM thing WHERE email = ''canary thing'')', 'EXISTS (SELECT FROM thing WHERE p.email LIKE ''c%'')',
	'EXISTS (SELECT generate_series(1, CASE WHEN p.email LIKE ''c%'' THEN 1 ELSE 0 END))', 'EXISTS (SELECT sum(1 / length(p.email)) FROM thing)', 'EXISTS (SELECT email FROM thing UNION SELECT ''a'')', 'EXISTS (SELECT FROM thing GROUP BY email HAVING email = ''x'')']) AS e;
-- whole rows
INSERT INTO attempt (query) SELECT unnest(ARRAY[
	'SELECT p FROM person AS p', 'SELECT person FROM person', 'SELECT person FROM vault.person', 'SELECT P FROM person AS p', 'SELECT "p" FROM person AS p', 'SELECT p::text FROM person AS p', 'SELECT p AS email FROM person AS p', 'SELECT ROW(p) FROM person AS p', 'SELECT ROW(p.*) FROM person AS p', 'SELECT (p.*)::text FROM person AS p',
	'SELECT (p).email FROM person AS p', 'SELECT (p).* FROM person AS p', 'SELECT (p.*).email FROM person AS p', 'SELECT email(p) FROM person AS p', 'SELECT "email"(p) FROM person AS p', 'SELECT p.email || '''' FROM person AS p', 'SELECT to_json(p) FROM person AS p', 'SELECT to_jsonb(p) FROM person AS p', 'SELECT to_jsonb(p.*) FROM person AS p', 'SELECT row_to_json(p) FROM person AS p',
	'SELECT json_agg(p) FROM person AS p', 'SELECT json_agg(person) FROM person', 'SELECT array_agg(p) FROM person AS p', 'SELECT array_agg(p.*) FROM person AS p', 'SELECT count(p) FROM person AS p', 'SELECT COALESCE(p) FROM person AS p', 'SELECT concat(p) FROM person AS p', 'SELECT format(''%s'', p) FROM person AS p', 'SELECT quote_literal(p) FROM person AS p', 'SELECT textin(record_out(p)) FROM person AS p',
	'SELECT (to_jsonb(p) ->> ''email'') FROM person AS p', 'SELECT x FROM (SELECT email FROM person) AS x', 'SELECT x FROM (SELECT * FROM person) AS x', 'SELECT x::text FROM (SELECT email FROM person) AS x', 'WITH x AS (SELECT email FROM person) SELECT x FROM x', 'WITH x AS (SELECT email FROM person) SELECT to_jsonb(x) FROM x', 'SELECT j FROM (person AS p JOIN thing AS t ON t.id = p.id) AS j', 'SELECT to_jsonb(j) FROM (person AS p CROSS JOIN thing AS t) AS j',
	'SELECT (SELECT p) FROM person AS p', 'SELECT (SELECT x FROM (SELECT p.*) AS x) FROM person AS p', 'SELECT ARRAY(SELECT p FROM person AS p)', 'SELECT (SELECT row_to_json(x) FROM (SELECT p.email) AS x) FROM person AS p', 'SELECT j.* FROM person AS p, to_jsonb(p) AS j', 'SELECT e.* FROM person AS p, LATERAL jsonb_each_text(to_jsonb(p)) AS e', 'SELECT u.* FROM (SELECT array_agg(p) AS a FROM person AS p) AS x, unnest(x.a) AS u',
	'SELECT u.* FROM unnest(ARRAY(SELECT p FROM person AS p)) AS u', 'SELECT jsonb_populate_record(null::person, to_jsonb(p)) FROM person AS p', 'SELECT id FROM person AS p WHERE p::text LIKE ''%canary%''', 'SELECT id FROM person AS p WHERE (p.*) IS NULL', 'SELECT id FROM person AS p ORDER BY p', 'SELECT id FROM person AS p WHERE p = (SELECT x FROM person AS x LIMIT 1)', 'SELECT p.nick FROM person AS p WHERE (p.id, p.email) IN (VALUES (1, ''canary1@x.test''))',
	'VALUES ((SELECT p FROM person AS p LIMIT 1))', 'SELECT 1 FROM person AS p GROUP BY p HAVING p::text LIKE ''%''', 'SELECT (home).email FROM person', 'SELECT (p.home).email FROM person AS p', 'SELECT email(home) FROM person', 'SELECT (home).* FROM person', 'SELECT ß FROM person AS ß', 'SELECT p.nick FROM person AS p, LATERAL (SELECT p.*) AS x(a, b, c)']);
-- the function of a row is written like a column
INSERT INTO attempt (query) SELECT unnest(ARRAY['SELECT p.to_jsonb FROM person AS p', 'SELECT p.to_json FROM person AS p', 'SELECT p.row_to_json FROM person AS p', 'SELECT p.json_agg FROM person AS p', 'SELECT p.jsonb_agg FROM person AS p', 'SELECT p.array_agg FROM person AS p', 'SELECT p.concat FROM person AS p', 'SELECT p.quote_literal FROM person AS p',
	'SELECT p.quote_nullable FROM person AS p', 'SELECT p.json_build_array FROM person AS p', 'SELECT p.jsonb_build_array FROM person AS p', 'SELECT p.record_out FROM person AS p', 'SELECT vault.person.to_jsonb FROM vault.person', 'SELECT (p).to_jsonb FROM person AS p', 'SELECT p."to_jsonb" FROM person AS p', 'SELECT x.to_jsonb FROM (SELECT email FROM person) AS x', 'SELECT p.to_jsonb ->> ''email'' FROM person AS p']);
-- joins
INSERT INTO attempt (query) SELECT unnest(ARRAY['SELECT a.id FROM person AS a JOIN person AS b USING (email)', 'SELECT a.id FROM person AS a NATURAL JOIN thing AS b', 'SELECT p.id FROM person AS p NATURAL JOIN (SELECT ''canary1@x.test'' AS email) AS x', 'SELECT p.id FROM person AS p JOIN (SELECT ''canary1@x.test'' AS email) AS x USING (email)', 'SELECT p.id FROM person AS p JOIN thing AS t ON t.email = p.email',
	'SELECT g FROM person AS p, generate_series(1, p.score) AS g', 'SELECT g.* FROM person AS p, LATERAL ROWS FROM (generate_series(1, 2), unnest(p.attachment)) AS g', 'SELECT g.* FROM person AS p CROSS JOIN LATERAL regexp_split_to_table(p.email, '''') AS g', 'SELECT x.* FROM person AS p, LATERAL json_to_record(json_build_object(''a'', p.email)) AS x(a text)', 'SELECT x.* FROM person AS p, XMLTABLE(''/a'' PASSING XMLELEMENT(NAME a, p.email) COLUMNS c text PATH ''.'') AS x',
	'SELECT x.* FROM person AS p, XMLTABLE(''/a'' PASSING xml ''<a/>'' COLUMNS c text PATH ''b'' DEFAULT p.email) AS x', 'SELECT x.* FROM person AS p, XMLTABLE((''/'' || p.nick)::text PASSING (SELECT XMLELEMENT(NAME nick1, email) FROM person LIMIT 1) COLUMNS c text PATH ''.'') AS x']);
-- conditions, orders, limits
INSERT INTO attempt (query) SELECT 'SELECT id FROM person AS p ' || e FROM unnest(ARRAY['WHERE email = ''canary1@x.test''', 'WHERE email > ''canary1''', 'WHERE email IS NOT NULL', 'WHERE p.email LIKE ''canary1%''', 'WHERE vault.p.email = ''''', 'WHERE id IN (SELECT id FROM thing WHERE email > '''')', 'WHERE ''canary1@x.test'' IN (SELECT email FROM person)', 'WHERE id = ALL (SELECT score FROM person)', 'WHERE (id, ''a'') IN (SELECT id, email FROM person)', 'WHERE EXISTS (SELECT * FROM thing AS t WHERE t.email = p.nick)', 'WHERE active AND NOT email = ''''', 'WHERE score > 5', 'WHERE CURRENT_USER = email',
	'ORDER BY email', 'ORDER BY p.email DESC', 'ORDER BY score + 0', 'ORDER BY length(email)', 'ORDER BY email USING <', 'ORDER BY CASE WHEN email LIKE ''c%'' THEN 0 ELSE 1 END', 'GROUP BY id ORDER BY max(email)', 'GROUP BY id HAVING max(email) > ''c''', 'GROUP BY id, email HAVING email = ''canary1@x.test''', 'GROUP BY id, upper(email)', 'GROUP BY GROUPING SETS ((email), (id))', 'GROUP BY CUBE (id, email)', 'GROUP BY ROLLUP (id, email)', 'GROUP BY id, email HAVING GROUPING(email) = 0',
	'LIMIT (SELECT length(email) FROM person WHERE id = 1)', 'OFFSET (SELECT score - 771 FROM person WHERE id = 1)', 'FETCH FIRST (SELECT score - 770 FROM person WHERE id = 1) ROWS ONLY', 'WINDOW w AS (ORDER BY email)', 'WINDOW w AS (PARTITION BY email)', 'WINDOW w AS (ORDER BY id ROWS BETWEEN (SELECT score FROM person WHERE id = 1) PRECEDING AND CURRENT ROW)']) AS e;
INSERT INTO attempt (query) SELECT unnest(ARRAY['SELECT DISTINCT ON (email) id FROM person', 'SELECT DISTINCT ON (2) id, email FROM person', 'SELECT id, email FROM person ORDER BY 2', 'SELECT id, email FROM person ORDER BY 2 DESC', 'SELECT * FROM person ORDER BY 3', 'SELECT p.* FROM person AS p ORDER BY 3', 'SELECT id FROM (SELECT id, email FROM person ORDER BY 2 LIMIT 1) AS x', 'SELECT id FROM person TABLESAMPLE BERNOULLI ((SELECT score - 770 FROM person AS x WHERE x.id = 1)) REPEATABLE (1)',
	'SELECT id FROM person TABLESAMPLE BERNOULLI (100) REPEATABLE ((SELECT score FROM person AS x WHERE x.id = 1))', 'SELECT t.id FROM person AS p, LATERAL (SELECT * FROM thing TABLESAMPLE SYSTEM (p.score)) AS t', 'SELECT rank() OVER w, id FROM person WINDOW w AS (ORDER BY email)', 'SELECT sum(1) OVER (ORDER BY id RANGE BETWEEN CURRENT ROW AND 1 FOLLOWING EXCLUDE TIES), score + 1 FROM person']);
-- functions and relations that read by themselves
INSERT INTO attempt (query) SELECT unnest(ARRAY['SELECT query_to_xml(''select em'' || ''ail from vault.person'', true, true, '''')', 'SELECT pg_catalog.query_to_xml(''table vault.person'', true, true, '''')', 'SELECT "query_to_xml"(''table vault.person'', true, true, '''')', 'SELECT query_to_xml_and_xmlschema(''table vault.person'', true, true, '''')', 'SELECT table_to_xml(''vault.person'', true, true, '''')', 'SELECT schema_to_xml(''vault'', true, true, '''')', 'SELECT database_to_xml(true, true, '''')',
	'SELECT word FROM ts_stat(''select to_tsvector(email) from vault.thing'')', 'SELECT ts_rewrite(''a''::tsquery, ''select ''''a''''::tsquery, plainto_tsquery(''''simple'''', email) from vault.person where id = 1'')', 'SELECT x FROM XMLTABLE(''//text()'' PASSING query_to_xml(''table vault.person'', true, true, '''') COLUMNS x text PATH ''.'')', 'SELECT * FROM dblink(''dbname=shop'', ''select email from vault.person'') AS d(e text)', 'SELECT * FROM public.dblink(''dbname=shop'', ''select email from vault.person'') AS d(e text)',
	'SELECT * FROM crosstab(''select 1, 2, email from person'') AS c(a int, b text)', 'SELECT most_common_vals FROM pg_stats', 'SELECT histogram_bounds FROM pg_catalog.pg_stats WHERE tablename = ''thing''', 'SELECT "most_common_vals" FROM "pg_catalog"."pg_stats"', 'TABLE pg_stats', 'SELECT stavalues1 FROM pg_statistic', 'SELECT * FROM pg_stats_ext', 'SELECT * FROM pg_stats_ext_exprs', 'SELECT query FROM pg_stat_activity', 'SELECT pg_stat_get_backend_activity(1)', 'SELECT * FROM pg_stat_get_activity(null)',
	'SELECT * FROM pg_stat_statements', 'SELECT * FROM pg_stat_statements(true)', 'SELECT * FROM pg_cursors', 'SELECT * FROM pg_cursor()', 'SELECT * FROM pg_prepared_statements', 'SELECT id FROM thing WHERE EXISTS (SELECT FROM pg_stats)', 'SELECT (SELECT max(most_common_vals::text) FROM pg_stats WHERE tablename = ''thing'')', 'SELECT chunk_data FROM pg_toast.pg_toast_1', 'SELECT * FROM crdb_internal.cluster_queries', 'SELECT crdb_internal.scan(null, null)', 'SELECT pg_read_file(''base/1/1'')', 'SELECT @3 FROM person']);
-- what our grammar does not know, the source's might
INSERT INTO attempt (query) SELECT unnest(ARRAY['SELECT id FROM person QUALIFY email = ''canary1@x.test''', 'SELECT [1]', 'SELECT * FROM [SHOW TABLES]', 'SELECT email FROM person AS OF SYSTEM TIME ''-1s''', 'SELECT email FROM person@primary', 'SELECT new_syntax OF email FROM person']);

SELECT verdict(look('masked', query)) AS verdict, count(*) FROM attempt GROUP BY 1 ORDER BY 1;
-- those that are not refused
SELECT query, look('masked', query) AS masked FROM attempt WHERE verdict(look('masked', query)) <> 'refused' ORDER BY n;
-- of all the functions there are that take a whole row, also those of later versions, one that is let through tells nothing of its values
CREATE VIEW row_function AS SELECT DISTINCT proname::text AS name, proname ~ '^any.*_out$' OR proname IN ('count', 'num_nulls', 'num_nonnulls', 'pg_typeof', 'pg_collation_for', 'pg_column_compression', 'pg_column_toast_chunk_id',
	'first_value', 'last_value', 'lag', 'lead', 'mode', 'rank', 'dense_rank', 'percent_rank', 'cume_dist') OR proname LIKE 'pg_restore_%' AS harmless
	FROM pg_proc WHERE pronargs >= 1 AND pronargs - pronargdefaults <= 1 AND prorettype <> ALL ('{internal,trigger}'::regtype[])
	AND proargtypes[0]::regtype::text = ANY ('{record,"\"any\"",anyelement,anynonarray,anycompatible,anycompatiblenonarray}');
SELECT count(*) > 25 AS many, count(*) FILTER (WHERE harmless) > 15 AS harmless FROM row_function;
SELECT name, harmless, verdict(rows) FROM row_function, look('masked', format('SELECT p.%I FROM person AS p', name)) AS rows WHERE verdict(rows) ~ CASE WHEN harmless THEN '^(LEAK|\*)' ELSE '^(?!refused)' END;
-- without rules most of them give the value itself
SELECT count(*) > 150 AS most FROM attempt WHERE holds_canary(look('clear', query));

-- no function that takes any row gives one when it is written like a column
SELECT count(*) > 10 AS some, count(*) FILTER (WHERE holds_canary(look('masked', format('SELECT p.%I FROM person AS p', name)))) AS leaks
FROM (SELECT DISTINCT proname AS name FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs - pronargdefaults = 1
	AND proargtypes[0] IN ('anyelement'::regtype, 'anynonarray'::regtype, 'anycompatible'::regtype, 'anycompatiblenonarray'::regtype, '"any"'::regtype, 'record'::regtype)) AS f;

-- the reason names what is wrong and what to do, and is one of the agent's own
SELECT detail, message, hint FROM outcome($$SELECT opdata_preview('masked', 'SELECT upper(email) FROM person')$$);
SELECT message FROM unnest(ARRAY['SELECT p FROM person AS p', 'SELECT p.to_jsonb FROM person AS p', 'SELECT * FROM pg_stats', 'SELECT e FROM person AS p(a, b, e)', 'SELECT nick FROM person UNION TABLE thing', 'SELECT * FROM person ORDER BY 3', 'SELECT new_syntax OF email FROM person']) AS query,
	outcome(format('SELECT opdata_preview(''masked'', %L)', query));

-- what has nothing to do with them works, and gives what it gives without rules
SELECT query, look('masked', query) AS masked, look('masked', query) = look('clear', query) AS same FROM unnest(ARRAY[
	'SELECT id, nick, active FROM person ORDER BY id', 'SELECT id AS n, upper(nick) FROM person AS p WHERE p.id < 3 ORDER BY nick DESC', 'SELECT count(*) FROM person', 'SELECT active, count(*), max(id) FROM person GROUP BY active ORDER BY 2, 1', 'SELECT DISTINCT active FROM person ORDER BY active', 'SELECT DISTINCT ON (active) active, id FROM person ORDER BY active, id',
	'SELECT id FROM person UNION SELECT id + 10 FROM thing ORDER BY 1', 'SELECT id, nick FROM person INTERSECT SELECT id, nick FROM person ORDER BY 1', 'SELECT p.nick, sum(t.price) FROM person AS p JOIN thing AS t ON t.person_id = p.id GROUP BY p.nick ORDER BY p.nick', 'SELECT nick FROM person JOIN (SELECT person_id AS id FROM thing) AS t USING (id) ORDER BY 1',
	'SELECT id FROM person AS p WHERE EXISTS (SELECT * FROM thing AS t WHERE t.person_id = p.id) ORDER BY id', 'SELECT id FROM person AS p WHERE EXISTS (SELECT 1 FROM thing AS t WHERE t.person_id = p.id AND price > 5)', 'SELECT id FROM person WHERE EXISTS (SELECT email FROM thing) ORDER BY id', 'SELECT id FROM person WHERE id IN (SELECT person_id FROM thing WHERE price < 4) ORDER BY id', 'SELECT id, (SELECT count(*) FROM thing AS t WHERE t.person_id = p.id) FROM person AS p ORDER BY id',
	'VALUES (1, ''a''), (2, ''b'')', 'SELECT * FROM (VALUES (1, ''a'')) AS v(n, letter)', 'SELECT g FROM generate_series(1, 3) AS g', 'SELECT g.* FROM generate_series(1, 2) AS g(n)', 'SELECT * FROM unnest(ARRAY[1, 2]) WITH ORDINALITY', 'WITH x AS (SELECT id, nick FROM person) SELECT nick FROM x ORDER BY id', 'WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x WHERE n < 3) SELECT n FROM x',
	'SELECT nick, rank() OVER (ORDER BY id) FROM person', 'SELECT nick, count(*) OVER w FROM person WINDOW w AS (PARTITION BY active ORDER BY id) ORDER BY id', 'SELECT string_agg(nick, '','' ORDER BY id) FILTER (WHERE active) FROM person', 'SELECT percentile_disc(0.5) WITHIN GROUP (ORDER BY id) FROM person', 'SELECT id FROM person ORDER BY id LIMIT 1 OFFSET 1', 'SELECT id FROM person TABLESAMPLE BERNOULLI (100) ORDER BY id', 'SELECT (home).town FROM person ORDER BY id', 'SELECT born + 1, extract(year FROM born) FROM person WHERE id = 1',
	'SELECT s.count FROM (SELECT count(*) FROM person) AS s', 'SELECT p.id::text || ''x'', CASE WHEN p.active THEN 1 ELSE 2 END, COALESCE(p.nick, ''none'') FROM person AS p WHERE p.nick LIKE ''nick1%''', 'SELECT to_jsonb(nick) FROM person WHERE id = 1', 'SELECT ''email'', ''canary of my own''', 'SELECT 1 AS one, null AS nothing', 'SELECT person.id FROM person ORDER BY person.id', 'SELECT count(*) FROM information_schema.columns WHERE table_schema = ''vault'' AND column_name = ''email''']) AS query;

-- patterns: * and % are any characters, ? and _ one, whatever the case; nothing else is special
CREATE FUNCTION hidden(pattern text, names text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	result jsonb;
BEGIN
	PERFORM opdata_mask('patterns', pattern);
	SELECT opdata_preview('patterns', 'SELECT ' || string_agg(format('1 AS %I', name), ', ' ORDER BY n)) INTO result FROM unnest(string_to_array(names, ' ')) WITH ORDINALITY AS u(name, n);
	PERFORM opdata_unmask('patterns', pattern);
	RETURN (SELECT string_agg(name, ' ' ORDER BY n) FROM unnest(string_to_array(names, ' ')) WITH ORDINALITY AS u(name, n) WHERE result #>> ARRAY['rows', '0', (n - 1)::text] = '***');
END
$$;
SELECT opdata_store_creds('patterns', payload('reader'), workspace_id => 'patterns') -> 'status' AS status;
SELECT pattern, hidden(pattern, names) FROM (VALUES
	('email', 'email Email EMAIL emails xemail e-mail'), ('e*l', 'el email e*l ell eml elx'), ('E%L', 'el email e%l elx'), ('e?ail', 'email e?ail eail exail eßail e😀ail eemail'), ('e_ail', 'email e_ail eail'), ('*', 'a é _'), ('%%', 'a'), ('?', 'a é 😀 ab'), ('*?', 'a é ab'), ('??', 'a é ab éé'), ('*a*b*', 'ab xaxbx ba aab bab'),
	('*mail', 'mail email maily mailmail mail.mail'), ('a.b', 'a.b axb'), ('a-b', 'a-b ab'), ('größe', 'größe GRÖßE Größe grosse grö'), ('*ö*', 'größe GRÖßE o'), ('ΑΛΦΑ', 'αλφα ΑΛΦΑ Αλφα'), ('имя', 'имя ИМЯ Имя'), ('žluť', 'žluť ŽLUŤ zlut'), ('kelvin', E'kelvin KELVIN \u212Aelvin'), ('ÿ', 'ÿ Ÿ y'), ('ёж', 'ЁЖ ёж еж'), ('x × y', '×')
	) AS t(pattern, names);
-- a pattern that takes long is none
SELECT hidden(repeat('a*', 60) || 'b', repeat('a', 63)) IS NULL AS none;
SELECT pattern, detail, message, hint FROM unnest(ARRAY['', repeat('x', 129), '^email$', '(a|b)', 'e[m]ail', 'a\b', 'a+']) AS pattern, outcome(format('SELECT opdata_mask(''here'', %L)', pattern));
SELECT detail, message FROM unnest(ARRAY['opdata_mask(null, ''a'')', 'opdata_mask(''here'', null)', 'opdata_unmask(null, ''a'')', 'opdata_unmask(''here'', null)', 'opdata_mask('''', ''a'')']) AS call, outcome('SELECT ' || call);

-- types: as format_type prints them
CREATE FUNCTION shown(query text) RETURNS jsonb
LANGUAGE sql AS $$ SELECT opdata_preview('patterns', query) #> '{rows,0}' $$;
SELECT opdata_mask('patterns', 'a*', null, 'text'), opdata_mask('patterns', '*', null, 'numeric*'), opdata_mask('patterns', '*', null, '*place');
SELECT shown($$SELECT 'x'::text AS a, 'x'::varchar AS ab, 1 AS abc, 'x'::text AS b$$);
SELECT shown('SELECT 1.5 AS x, 1.5::numeric(10,2) AS y, 1 AS z'), shown('SELECT home FROM vault.person'), shown('SELECT null::vault.place, null::text');
SELECT detail FROM outcome($$SELECT shown('SELECT upper(a) FROM (SELECT ''x''::text AS a) AS x')$$);
SELECT opdata_unmask('patterns', 'a*'), opdata_unmask('patterns', '*'), opdata_unmask('patterns', '*');
-- by any of its names, with a length or not; a domain is what it is of
CREATE FUNCTION hides(pattern text, expression text) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
	value text;
BEGIN
	PERFORM opdata_mask('patterns', '*', null, pattern);
	value := shown('SELECT ' || expression || ' AS a') ->> 0;
	PERFORM opdata_unmask('patterns', '*');
	RETURN value = '***';
END
$$;
SELECT expression, string_agg(pattern, ', ' ORDER BY n) FILTER (WHERE hides) AS hidden_by, string_agg(pattern, ', ' ORDER BY n) FILTER (WHERE NOT hides) AS not_by
	FROM (VALUES (1, '''x''::varchar(3)', 'varchar VARCHAR varchar* character*varying character*(3) text char character'), (2, '1', 'int int4 integer INT* ?nt4 int8 bigint'), (3, '1::smallint', 'smallint int2 int* int4'), (4, '1::bigint', 'int8 bigint int'),
		(5, '1.5::numeric(4,1)', 'numeric decimal numeric(4* dec'), (6, '1::real', 'real float4 float* float8'), (7, '1::float8', 'double* float8 float4'), (8, 'true', 'bool boolean'), (9, 'timestamptz(3) ''2026-01-01 00:00Z''', 'timestamptz timestamp* timestamp'),
		(10, 'timestamp ''2026-01-01 00:00''', 'timestamp timestamptz'), (11, 'ARRAY[''x'']::varchar(9)[]', 'varchar[] varchar* varchar'), (12, '''x''::char(2)', 'char bpchar character varchar'), (13, 'ROW(''a'', ''b'')::vault.place', 'place vault.place *place text'), (14, '''YES''::information_schema.yes_or_no', 'varchar yes_or_no')) AS v(i, expression, patterns),
	regexp_split_to_table(patterns, ' ') WITH ORDINALITY AS p(pattern, n), hides(pattern, expression) AS hides GROUP BY i, expression ORDER BY i;
SELECT shown('SELECT 1.5 AS a');

-- rules of one connection, of all workspaces, of nobody else
SELECT opdata_store_creds('second', payload('reader'), workspace_id => 'patterns') -> 'status' AS status;
SELECT opdata_mask('patterns', 'a', 'second'), opdata_mask('patterns', 'b', 'no such connection'), opdata_mask('*', 'c'), opdata_mask('*', 'd', 'second'), opdata_mask('elsewhere', 'e');
SELECT opdata_mask('patterns', 'a', 'second') AS again;
SELECT workspace_id, column_pattern, connection_id, type_pattern, added_by = current_user AS by_me FROM opdata.mask WHERE workspace_id <> 'here' ORDER BY 1, 2;
SELECT id, opdata_preview(id, 'SELECT 1 AS a, 2 AS b, 3 AS c, 4 AS d, 5 AS e') #> '{rows,0}' AS row FROM unnest(ARRAY['patterns', 'second', 'clear']) AS id;
SELECT opdata_unmask('patterns', 'a') AS not_all, opdata_unmask('patterns', 'a', 'second') AS this_one, opdata_unmask('patterns', 'A', 'second') AS gone, opdata_unmask('*', 'c') AS "all", opdata_unmask('patterns', 'c') AS none;
SELECT id, opdata_preview(id, 'SELECT 1 AS a, 2 AS b, 3 AS c, 4 AS d, 5 AS e') #> '{rows,0}' AS row FROM unnest(ARRAY['patterns', 'second']) AS id;
-- a connection that is deleted and stored again finds its rules
SELECT opdata_delete('second'), opdata_store_creds('second', payload('reader'), workspace_id => 'patterns') -> 'status' AS status;
SELECT opdata_preview('second', 'SELECT 4 AS d') -> 'rows' AS rows;
-- in another workspace it finds those of all workspaces, and none of the one it has left
SELECT opdata_mask('patterns', 'a', 'second'), opdata_delete('second'), opdata_store_creds('second', payload('reader'), workspace_id => 'there') -> 'status' AS status;
SELECT opdata_preview('second', 'SELECT 1 AS a, 4 AS d') -> 'rows' AS rows;

-- previews from SQL are no egress
SELECT count(*) AS egress FROM opdata_egress;

SELECT opdata_delete(id) FROM unnest(ARRAY['masked', 'clear', 'patterns', 'second']) AS id;
DELETE FROM opdata.mask;
DROP TABLE attempt;
DROP FUNCTION look, holds_canary, verdict, hidden, shown;
\connect :source
SET client_min_messages = warning;
DROP SCHEMA vault CASCADE;
\connect :agent
