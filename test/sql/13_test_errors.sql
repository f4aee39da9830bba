\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- Every error code that can be had without a second source: as an error when
-- storing, with its SQLSTATE, the code as the first word of its DETAIL and a
-- hint; and in the result of a test. (Timeouts and servers without TLS are
-- tested elsewhere.)
--
\set ca `cat "$OPD_CERT_DIR/ca.crt"`
\set other_ca `cat "$OPD_CERT_DIR/other_ca.crt"`
\set cert `cat "$OPD_CERT_DIR/certuser.crt"`
\set key `cat "$OPD_CERT_DIR/certuser.key"`
\set other_cert `cat "$OPD_CERT_DIR/other_user.crt"`
\set other_key `cat "$OPD_CERT_DIR/other_user.key"`

-- The error of a credential. Complains where storing and testing do not agree,
-- where something was stored, and where the message holds the secret.
CREATE FUNCTION failure(payload jsonb, OUT state text, OUT code text, OUT message text, OUT hint text)
LANGUAGE plpgsql AS $$
DECLARE
	store record;
	test jsonb := steady(opdata_test(payload));
BEGIN
	SELECT * INTO store FROM outcome(format('SELECT opdata_store_creds(''failing'', %L)', payload));
	state := store.state;
	code := split_part(store.detail, ' ', 1);
	message := store.message;
	hint := store.hint;
	IF store.message = 'no error' THEN
		message := 'NO ERROR';
	ELSIF (test #>> '{error,message}', test #>> '{error,code}', test #>> '{error,hint}') IS DISTINCT FROM (message, code, hint) THEN
		message := format('%s BUT TESTED %s', message, test -> 'error');
	ELSIF test - 'error' <> '{"ok": false, "server": null, "readOnly": false, "warnings": []}' THEN
		message := format('%s BUT TESTED %s', message, test);
	ELSIF position(nullif(payload ->> 'password', '') IN concat(store, test)) > 0 THEN
		message := 'LEAK ' || message;
	ELSIF EXISTS (SELECT FROM opdata_connections WHERE id = 'failing') THEN
		message := 'STORED ALL THE SAME ' || message;
	END IF;
END
$$;

-- as psql shows it, once
SELECT opdata_store_creds('failing', payload('reader', '{"port": 1}'));
\echo :LAST_ERROR_SQLSTATE
SELECT steady(opdata_test(payload('reader', '{"port": 1}')));

\x on
-- connection_refused: nobody listens
SELECT * FROM failure(payload('reader', '{"port": 1}'));

-- host_not_found: a name that cannot be one, so that nobody is asked
SELECT * FROM failure(payload('reader', jsonb_build_object('host', repeat('x', 64) || '.example')));
SELECT * FROM failure(payload('reader', '{"host": "db..example"}'));

-- host_not_allowed: sockets, and link-local addresses in any spelling
SELECT * FROM failure(payload('reader', '{"host": "/tmp"}'));
SELECT * FROM failure(jsonb_build_object('dsn', format('postgresql://reader:reader_pw@%%2Ftmp:%s/shop', source_port())));
SELECT * FROM failure(payload('reader', '{"host": "169.254.169.254"}'));
\x off
SELECT host, code, message
FROM unnest(ARRAY['169.254.0.1', '::ffff:169.254.169.254', '[::ffff:a9fe:a9fe]', 'fe80::1', '[fe80::1]', '169.254.43518', '2852039166', '0xa9fea9fe', '0251.0376.0251.0376']) AS host,
	failure(payload('reader', jsonb_build_object('host', host)));
\x on

-- authentication_failed: the password, none, no such role, a role without LOGIN
SELECT * FROM failure(payload('reader', '{"password": "wrong-canary"}'));
SELECT * FROM failure(payload('md5_reader', '{"password": "wrong-canary"}'));
SELECT * FROM failure(payload('reader', '{"password": null}'));
SELECT * FROM failure(payload('md5_reader', '{"password": ""}'));
SELECT * FROM failure(payload('nobody'));
SELECT * FROM failure(payload('nologin_role'));
-- turned away with TLS, for which there is no other code
SELECT * FROM failure(payload('plain_reader', '{"sslMode": "require"}'));
SELECT opdata_test(payload('plain_reader')) -> 'ok' AS ok;
-- a client certificate: none, and one that the source's CA did not sign
SELECT * FROM failure(payload('certuser', '{"sslMode": "require"}'));
SELECT * FROM failure(payload('certuser', jsonb_build_object('sslMode', 'require', 'sslCert', :'other_cert', 'sslKey', :'other_key')));
SELECT result -> 'ok' AS ok, result -> 'warnings' AS warnings
FROM opdata_test(payload('certuser', jsonb_build_object('sslMode', 'require', 'password', null, 'sslCert', :'cert', 'sslKey', :'key'))) AS result;
-- that certificate is somebody else's
SELECT * FROM failure(payload('reader', jsonb_build_object('sslMode', 'require', 'password', null, 'sslCert', :'cert', 'sslKey', :'key')));

-- credential_not_checked: let in unseen, on the agent's own host, whatever is offered
SELECT * FROM failure(payload('trust_reader'));
SELECT code FROM failure(payload('trust_reader', '{"password": null}'));
SELECT code FROM failure(payload('trust_reader', '{"sslMode": "require"}'));
SELECT code FROM failure(payload('trust_reader', '{"host": "localhost"}'));
SELECT code FROM failure(payload('trust_reader', '{"host": "::ffff:127.0.0.1"}'));

-- database_not_found
SELECT * FROM failure(payload('reader', '{"database": "nope"}'));

-- tls_required: the source takes this role with TLS only
SELECT * FROM failure(payload('tls_reader'));
SELECT opdata_test(payload('tls_reader', '{"sslMode": "require"}')) -> 'ok' AS ok;

-- certificate_untrusted: another CA (the message is OpenSSL's); one that the
-- system does not know, if it knows any; another host name
SELECT state, code, hint FROM failure(payload('reader', jsonb_build_object('sslMode', 'verify-ca', 'sslRootCert', :'other_ca')));
SELECT state, code, hint FROM failure(payload('reader', jsonb_build_object('sslMode', 'require', 'sslRootCert', :'other_ca')));
SELECT state, code, hint FROM failure(payload('reader', jsonb_build_object('sslMode', 'verify-full', 'sslRootCert', :'cert')));
-- however fast the source answers
SELECT DISTINCT state, code
FROM generate_series(1, 20) AS n, failure(payload('reader', jsonb_build_object('sslMode', (ARRAY['verify-ca', 'verify-full'])[1 + n % 2])));
SELECT * FROM failure(payload('reader', jsonb_build_object('host', '::ffff:127.0.0.1', 'sslMode', 'verify-full', 'sslRootCert', :'ca')));
SELECT mode, opdata_test(payload('reader', jsonb_build_object('sslMode', mode, 'sslRootCert', :'ca'))) -> 'ok' AS ok
FROM unnest(ARRAY['require', 'verify-ca', 'verify-full']) AS mode;

-- permission_denied: the hint is the statement that helps
\connect :source
CREATE DATABASE "No entry";
REVOKE CONNECT ON DATABASE "No entry" FROM PUBLIC;
CREATE ROLE "Some reader" LOGIN PASSWORD 'Some reader_pw';
\connect :agent
SELECT * FROM failure(payload('Some reader', '{"database": "No entry"}'));
SELECT substring(hint FROM 'GRANT.*') AS mend FROM failure(payload('Some reader', '{"database": "No entry"}')) \gset
\connect :source
:mend
\connect :agent
SELECT opdata_test(payload('Some reader', '{"database": "No entry"}')) -> 'ok' AS ok;

-- the source takes no connections for now
\connect :source
ALTER DATABASE "No entry" ALLOW_CONNECTIONS false;
\connect :agent
SELECT * FROM failure(payload('Some reader', '{"database": "No entry"}'));
\connect :source
ALTER ROLE "Some reader" CONNECTION LIMIT 0;
\connect :agent
SELECT * FROM failure(payload('Some reader'));
\connect :source
DROP DATABASE "No entry";
DROP ROLE "Some reader";
\connect :agent

-- the codes of a preview, which are errors always
SELECT opdata_store_creds('shop', payload('reader')) -> 'status' AS status;
SELECT opdata_store_creds('refused', payload('reader', '{"port": 1}'), test => false) -> 'status' AS status;
SELECT o.*
FROM unnest(ARRAY['SELECT * FROM payroll', 'SELECT * FROM nope', 'SELECT nope FROM customer', 'SELECT 1 / 0', 'SELECT ''x''::int', 'SELECT 1; SELECT 2',
		'DELETE FROM customer', 'SELECT nextval(''nope'')', 'SELECT FROM WHERE', '', '-- nothing', 'SELECT $1', 'SELECT pg_notify(''a'', ''b'')', 'SELECT txid_current()']) AS query,
	outcome(format('SELECT opdata_preview(''shop'', %L)', query)) AS o;
SELECT * FROM outcome($$SELECT opdata_preview('refused', 'SELECT 1')$$);
SELECT * FROM outcome($$SELECT opdata_preview('nope', 'SELECT 1')$$);
SELECT * FROM outcome($$SELECT opdata_test('nope')$$);

\x off
SELECT opdata_delete('shop'), opdata_delete('refused');
DROP FUNCTION failure;
