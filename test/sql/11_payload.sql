\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
\set ECHO all
--
-- What a payload may hold. Whatever is refused is refused by the name of its
-- key, and no value is repeated: every one that could be has "canary" in it.
--
\set ca `cat "$OPD_CERT_DIR/ca.crt"`
\set cert `cat "$OPD_CERT_DIR/certuser.crt"`
\set key `cat "$OPD_CERT_DIR/certuser.key"`
\set other_cert `cat "$OPD_CERT_DIR/other_user.crt"`
\set other_key `cat "$OPD_CERT_DIR/other_user.key"`
\set encrypted_key `openssl pkcs8 -topk8 -in "$OPD_CERT_DIR/certuser.key" -passout pass:canary`
\set old_encrypted_key `openssl ec -in "$OPD_CERT_DIR/certuser.key" -aes256 -passout pass:canary 2>/dev/null`

-- What is wrong with a payload, or what is shown of one that is right. Nothing
-- is connected to.
CREATE FUNCTION verdict(payload jsonb, type text DEFAULT 'postgres') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	metadata jsonb;
	store record;
	test record;
BEGIN
	SELECT * INTO store
	FROM outcome(format('SELECT opdata_store_creds(''probe'', %L, type => %L, test => false)', payload, type));
	IF store.message = 'no error' THEN
		SELECT steady(safe_metadata) INTO STRICT metadata FROM opdata_connections WHERE id = 'probe';
		IF metadata::text ~ 'canary' THEN
			RETURN 'LEAK ' || metadata::text;
		END IF;
		RETURN metadata;
	END IF;

	SELECT * INTO test FROM outcome(format('SELECT opdata_test(%L::jsonb, %L)', payload, type));
	IF test IS DISTINCT FROM store THEN
		RETURN format('store says %s, test %s', store, test);
	ELSIF store::text ~ 'canary' THEN
		RETURN 'LEAK ' || store::text;
	ELSIF store.hint IS NULL OR store.hint = '' THEN
		RETURN 'NO HINT ' || store::text;
	ELSIF store.state = '22023' AND store.message = 'Invalid Postgres credentials.' AND store.detail ~ '^invalid_credentials ' THEN
		RETURN 'invalid: ' || substr(store.detail, length('invalid_credentials ') + 1);
	ELSE
		RETURN concat_ws(', ', store.state, store.message, store.detail);
	END IF;
END
$$;

-- the whole error, once
SELECT opdata_test('{"host": "canary"}'::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT opdata_store_creds('probe', '{"host": "canary"}');
\echo :LAST_ERROR_SQLSTATE

-- not an object
SELECT payload, verdict(payload)
FROM (VALUES ('[]'::jsonb), ('[{"host": "canary"}]'), ('"canary"'), ('"postgresql://canary"'), ('1'), ('true'), ('null'), ('{}')) AS t(payload);

-- mode fields: what is missing or empty
SELECT without, verdict(payload('reader') - without) AS missing,
	verdict(payload('reader') || jsonb_build_object(without, '')) AS empty,
	verdict(payload('reader') || jsonb_build_object(without, null)) AS "null"
FROM unnest(ARRAY['host', 'port', 'database', 'username', 'password', 'sslMode', 'schema', 'mode']) AS without;

-- of another type than it should be
SELECT key, verdict(payload('reader') || jsonb_build_object(key, 5)) AS number, verdict(payload('reader') || jsonb_build_object(key, true)) AS boolean
FROM unnest(ARRAY['host', 'database', 'username', 'password', 'sslMode', 'schema', 'mode', 'sslRootCert', 'sslCert', 'sslKey']) AS key;
SELECT key, value, verdict(payload('reader') || jsonb_build_object(key, value)) AS verdict
FROM unnest(ARRAY['host', 'port', 'password', 'mode']) AS key,
	(VALUES ('["canary"]'::jsonb), ('{"canary": "canary"}'), ('{}')) AS t(value);

-- unknown keys are refused by name, in either mode
SELECT key, verdict(payload('reader') || jsonb_build_object(key, 'canary')) AS fields,
	verdict(jsonb_build_object('dsn', 'host=db.example dbname=d user=u', key, 'canary')) AS dsn
FROM unnest(ARRAY['user', 'dbname', 'Host', 'sslmode', 'ssl_mode', 'token', 'hostaddr', 'passfile', 'service', 'options',
	'application_name', 'sslPassword', 'sslCrl', '', E'\u202Euser', repeat('k', 100)]) AS key;
-- a key of one mode is unknown in the other
SELECT verdict(payload('reader', '{"dsn": "host=canary"}')), verdict(payload('reader', '{"mode": "fields", "dsn": "host=canary"}')),
	verdict('{"dsn": "host=h dbname=d user=u", "password": "canary"}'), verdict('{"mode": "dsn", "host": "canary"}'),
	verdict('{"mode": "dsn"}'), verdict('{"mode": "dsn", "dsn": ""}'), verdict('{"dsn": null}'), verdict('{"dsn": 7}') \gx

-- port: a number, also as a string
SELECT port, verdict(payload('reader') || jsonb_build_object('port', port)) AS verdict
FROM (VALUES ('1'::jsonb), ('65535'), ('"6432"'), ('5.432e3'), ('0'), ('65536'), ('-1'), ('"-1"'), ('5432.5'), ('1e30'), ('99999999999999999999'),
	('"5432canary"'), ('"canary"'), ('" 5432"'), ('"5432 "'), ('"0x10"'), ('"5432,5433"'), ('"+5432"'), ('true')) AS t(port);

-- sslMode: four, and none that would fall back to no TLS
SELECT mode, verdict(payload('reader') || jsonb_build_object('sslMode', mode)) AS verdict
FROM unnest(ARRAY['disable', 'require', 'verify-ca', 'verify-full', 'prefer', 'allow', 'Require', 'verify_full', 'canary']) AS mode;

-- host: one host
SELECT left(host, 30) AS host, length(host), left(verdict(payload('reader') || jsonb_build_object('host', host)), 80) AS verdict
FROM unnest(ARRAY['db.example', '192.0.2.1', '::1', '[::1]', 'ünïcode.example', '/tmp', '%2Ftmp', 'canary,other', '127.0.0.1,/tmp', ',/tmp', '@canary',
	'canary@host', 'ca nary', E'canary\n', E'\tcanary', 'tmp/canary', './canary', '[]', '[db.example', repeat('h', 1024), repeat('h', 1025)]) AS host;

-- lengths: 64 KiB for a value
SELECT n, left(verdict(payload('reader') || jsonb_build_object('password', repeat('p', n))), 60) AS password,
	left(verdict(payload('reader') || jsonb_build_object('sslRootCert', repeat('p', n))), 60) AS certificate
FROM (VALUES (65536), (65537)) AS t(n);

-- and 256 KiB for all of it
SELECT verdict(payload('reader') || (SELECT jsonb_object_agg(key, repeat('p', 60000)) FROM unnest(ARRAY['password', 'schema', 'sslRootCert', 'sslCert', 'sslKey']) AS key)) AS too_large;

-- certificates and keys
SELECT what, verdict(payload('reader') || more) AS verdict
FROM (VALUES
	('CA', jsonb_build_object('sslRootCert', :'ca')),
	('CA bundle', jsonb_build_object('sslRootCert', :'ca' || E'\n' || :'other_cert')),
	('CA with Windows line ends and text around', jsonb_build_object('sslRootCert', E'issuer\r\n' || replace(:'ca', E'\n', E'\r\n') || E'\r\nend')),
	('client certificate and key', jsonb_build_object('sslCert', :'cert', 'sslKey', :'key')),
	('all three', jsonb_build_object('sslRootCert', :'ca', 'sslCert', :'cert', 'sslKey', :'key')),
	('CA that is no PEM', jsonb_build_object('sslRootCert', 'canary')),
	('CA that names a file', jsonb_build_object('sslRootCert', '/etc/ssl/certs/canary.pem')),
	('CA named system', jsonb_build_object('sslRootCert', 'system')),
	('CA cut short', jsonb_build_object('sslRootCert', left(:'ca', 300))),
	('CA with rubbish inside', jsonb_build_object('sslRootCert', E'-----BEGIN CERTIFICATE-----\ncanary\n-----END CERTIFICATE-----')),
	('key instead of CA', jsonb_build_object('sslRootCert', :'key')),
	('certificate that is no PEM', jsonb_build_object('sslCert', 'canary', 'sslKey', :'key')),
	('key instead of certificate', jsonb_build_object('sslCert', :'key', 'sslKey', :'key')),
	('certificate without key', jsonb_build_object('sslCert', :'cert')),
	('certificate with empty key', jsonb_build_object('sslCert', :'cert', 'sslKey', '')),
	('key without certificate', jsonb_build_object('sslKey', :'key')),
	('key that is no PEM', jsonb_build_object('sslCert', :'cert', 'sslKey', 'canary')),
	('key with rubbish inside', jsonb_build_object('sslCert', :'cert', 'sslKey', E'-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----')),
	('certificate instead of key', jsonb_build_object('sslCert', :'cert', 'sslKey', :'cert')),
	('key of another certificate', jsonb_build_object('sslCert', :'cert', 'sslKey', :'other_key')),
	('encrypted key', jsonb_build_object('sslCert', :'cert', 'sslKey', :'encrypted_key')),
	('encrypted key of the older form', jsonb_build_object('sslCert', :'cert', 'sslKey', :'old_encrypted_key')),
	('key that names a file', jsonb_build_object('sslCert', :'cert', 'sslKey', '/canary.key')),
	('key that names an engine', jsonb_build_object('sslCert', :'cert', 'sslKey', 'pkcs11:canary'))
) AS t(what, more);
-- with a DSN they stand beside it
SELECT verdict(jsonb_build_object('dsn', 'host=db.example dbname=d user=u', 'sslRootCert', :'ca', 'sslCert', :'cert', 'sslKey', :'key'));
SELECT verdict(jsonb_build_object('dsn', 'host=db.example dbname=d user=u', 'sslRootCert', 'canary'));

-- DSN: what is taken
SELECT dsn, verdict(jsonb_build_object('dsn', dsn)) AS verdict
FROM unnest(ARRAY[
	'postgresql://u:canary@db.example/d',
	'postgres://u:canary@db.example:6000/d?sslmode=verify-full',
	'postgresql://u:can%61ry@[::1]:6000/d?sslmode=disable',
	'postgresql://db.example/d?user=u&password=canary&port=6000',
	'postgresql:///d?host=db.example&user=u',
	'postgresql://u@db.example/d?sslrootcert=system',
	'postgresql://u@db.example/d?ssl=true',
	'host=db.example port=6000 dbname=d user=u password=canary sslmode=disable application_name=canary connect_timeout=10',
	'host=''db.example'' dbname=''my db'' user=u password=''can\''ary''',
	'host=db.example dbname=d user=u passfile='''' service='''' options='''''
	]) AS dsn;

-- with the system's trust store libpq verifies the host name too, and takes no less
SELECT verdict('{"dsn": "postgresql://u@db.example/d?sslrootcert=system&sslmode=require"}') ~ '"require"' AS weaker;

-- DSN: what is missing
SELECT dsn, verdict(jsonb_build_object('dsn', dsn)) AS verdict
FROM unnest(ARRAY['postgresql://', 'postgresql:///d?user=u', 'postgresql://u@/d', 'postgresql://db.example/d', 'postgresql://u@db.example',
	'dbname=d user=u', 'host=db.example user=u', 'host=db.example dbname=d', ' ']) AS dsn;

-- DSN: what names a local file, a service, a socket or another way round the rules, or is merely not taken
SELECT parameter, verdict(jsonb_build_object('dsn', 'host=db.example dbname=d user=u ' || parameter)) AS "key/value",
	verdict(jsonb_build_object('dsn', 'postgresql://u@db.example/d?' || parameter)) AS url
FROM unnest(ARRAY['hostaddr=192.0.2.1', 'service=canary', 'passfile=/canary', 'sslcert=/canary', 'sslkey=/canary', 'sslrootcert=/canary',
	'sslcrl=/canary', 'sslcrldir=/canary', 'sslpassword=canary', 'requirepeer=canary', 'krbsrvname=canary', 'gsslib=gssapi', 'gssencmode=prefer',
	'target_session_attrs=any', 'options=-ccanary', 'options=--cluster%3Dcanary', 'replication=database', 'client_encoding=LATIN1', 'fallback_application_name=canary',
	'keepalives=0', 'tcp_user_timeout=1', 'channel_binding=require', 'sslcompression=1', 'sslsni=0', 'ssl_min_protocol_version=TLSv1', 'authtype=canary', 'tty=canary',
	'sslmode=prefer', 'sslmode=allow', 'sslmode=canary', 'connect_timeout=canary', 'connect_timeout=-1', 'connect_timeout=3601', 'port=0', 'port=canary', 'port=1,2',
	'host=/tmp', 'host=%2Ftmp', 'host=@canary', 'host=%40db.example', 'host=canary,/tmp', 'host=canary/../tmp', 'host=/tmp,canary']) AS parameter;

-- DSN: hosts of every spelling
SELECT dsn, verdict(jsonb_build_object('dsn', dsn)) AS verdict
FROM unnest(ARRAY['postgresql://u@%2Ftmp/d', 'postgresql://u@%2Fvar%2Frun%2Fpostgresql/d', 'postgresql://u@canary1,canary2/d', 'postgresql://u@canary1:1,canary2:2/d',
	'postgresql://u@canary,%2Ftmp/d', 'postgresql://u@%40canary/d', 'postgresql://u@ca%20nary/d', 'host=,/tmp dbname=d user=u', 'host=''a b canary'' dbname=d user=u']) AS dsn;

-- DSN: a password that should have been encoded does not end up in the metadata
SELECT dsn, verdict(jsonb_build_object('dsn', dsn)) AS verdict
FROM unnest(ARRAY['postgresql://u:p@canary@db.example/d', 'postgresql://u:p/canary@db.example/d', 'postgresql://u:1/canary@db.example/d', 'postgresql://u:p?canary@db.example/d',
	'postgresql://u:p#canary@db.example/d', 'postgresql://u:p:canary@db.example/d', 'postgresql://u:p%canary@db.example/d', 'postgresql://u:p canary@db.example/d',
	'host=db.example dbname=d user=u password=p canary', 'host=db.example dbname=d user=u password=p=canary', 'host=db.example dbname=d user=u password=''canary']) AS dsn;

-- a database name is only ever a name: this one is not read as more parameters
SELECT dsn, verdict(jsonb_build_object('dsn', dsn)) AS verdict
FROM unnest(ARRAY['host=db.example user=u dbname=''host=/tmp user=postgres''', 'host=db.example user=u dbname=''postgresql://postgres@%2Ftmp/postgres''']) AS dsn;
SELECT steady(opdata_test(payload('reader', '{"database": "host=/tmp user=postgres dbname=postgres"}'))) -> 'error' AS error;
SELECT steady(opdata_test(jsonb_build_object('dsn',
	format('host=127.0.0.1 port=%s user=reader password=reader_pw sslmode=disable dbname=''hostaddr=192.0.2.1 user=postgres''', source_port())))) -> 'error' AS error;

-- a malformed DSN: the error repeats no part of it, which the client library's own would
SELECT dsn, verdict(jsonb_build_object('dsn', dsn)) AS verdict
FROM unnest(ARRAY['canary', 'canary=canary', 'host=db.example canary', 'host=db.example canary=x', 'host', 'host=''canary', 'password=canary host',
	'postgresql://u:canary@[::1', 'postgresql://u:canary@[::1]x/d', 'postgresql://u:canary@db.example/d?canary', 'postgresql://u:canary@db.example/d?canary=1',
	'postgresql://u:can%ary@db.example/d', 'postgresql://u:canary%00@db.example/d', 'postgresql://u:can ary@db.example/d?', 'postgresql://u@db.example:canary/d',
	'mysql://u:canary@db.example/d', 'jdbc:postgresql://db.example/d?password=canary', '=canary', 'host = = canary']) AS dsn;

-- options: the routing of a CockroachDB cluster, and only that
SELECT options, verdict(jsonb_build_object('dsn', format('host=db.example dbname=d user=u options=''%s''', options)), 'cockroachdb') AS verdict
FROM unnest(ARRAY['--cluster=blue-dog-123', '--cluster=a.b_c-1', '--cluster=', '--cluster', '-ccanary=1', '--cluster=a -c canary=1', '--cluster=a --canary', '-c search_path=canary']) AS options;

-- what a later version takes: unsupported, not malformed
SELECT what, verdict(payload, type) AS verdict
FROM (VALUES
	('sealed', '{"sealed": "canary"}'::jsonb, 'postgres'),
	('sealed and more', '{"sealed": "canary", "host": "canary"}', 'postgres'),
	('password by reference', payload('reader', '{"password": {"secretRef": "vault:canary#canary"}}'), 'postgres'),
	('DSN by reference', '{"dsn": {"secretRef": "vault:canary#canary"}}', 'postgres'),
	('key by reference', payload('reader', jsonb_build_object('sslCert', :'cert', 'sslKey', '{"secretRef": "vault:canary#canary"}'::jsonb)), 'postgres'),
	('mode jwt', '{"mode": "jwt", "host": "h", "database": "d", "username": "u", "token": "canary"}', 'cockroachdb'),
	('type s3', '{"bucket": "canary"}', 's3'),
	('unknown type', '{"host": "canary"}', 'canary'),
	('unknown mode', '{"mode": "canary"}', 'postgres')
) AS t(what, payload, type);

-- null arguments
SELECT opdata_test(null::jsonb);
SELECT opdata_test('{}'::jsonb, null);
\echo :LAST_ERROR_SQLSTATE

-- text that is no JSON is not repeated either
SELECT opdata_store_creds('probe', '{"password": "canary", }');
SELECT opdata_test('{"password": canary}'::jsonb);
-- an uncast literal takes the text form, which refuses what looks like a payload
SELECT opdata_test('{"password": "canary"}');
SELECT opdata_test(E' \n\t{"password": "canary"}');
SELECT opdata_test(repeat('canary', 30));
SELECT opdata_test('');
\echo :LAST_ERROR_SQLSTATE

SELECT opdata_delete('probe');
DROP FUNCTION verdict;
