-- credential.sql: store and read of a credential, against pgcrypto by hand.
--
-- Reading is measured by a preview that is refused before it connects: it
-- decrypts and checks the credential first.
\set QUIET 1
SET client_min_messages = warning;
SET synchronous_commit = off;
\o /dev/null
CREATE TABLE by_hand (id text PRIMARY KEY, payload bytea NOT NULL);
CREATE TABLE measured (what text, rival boolean, ms float8);

CREATE PROCEDURE measure(rounds int) LANGUAGE plpgsql AS $$
DECLARE
	secret CONSTANT text := '{"host": "127.0.0.1", "port": 5432, "database": "shop", "username": "reader", "password": "reader_pw"}';
	passphrase CONSTANT text := encode(gen_random_bytes(32), 'hex');
	started timestamptz;
BEGIN
	FOR i IN 1 .. rounds LOOP
		started := clock_timestamp();
		INSERT INTO by_hand VALUES ('k' || i % 10, pgp_sym_encrypt(secret, passphrase))
			ON CONFLICT (id) DO UPDATE SET payload = excluded.payload;
		INSERT INTO measured VALUES ('store', true, 1000 * extract(epoch FROM clock_timestamp() - started));

		started := clock_timestamp();
		PERFORM opdata_store_creds('k' || i % 10, secret::jsonb, test => false);
		INSERT INTO measured VALUES ('store', false, 1000 * extract(epoch FROM clock_timestamp() - started));

		started := clock_timestamp();
		BEGIN
			PERFORM pgp_sym_decrypt(payload, passphrase)::jsonb FROM by_hand WHERE id = 'k' || i % 10;
			RAISE EXCEPTION 'as below';
		EXCEPTION WHEN OTHERS THEN
		END;
		INSERT INTO measured VALUES ('read', true, 1000 * extract(epoch FROM clock_timestamp() - started));

		started := clock_timestamp();
		BEGIN
			PERFORM opdata_preview('k' || i % 10, 'no statement');
		EXCEPTION WHEN OTHERS THEN
		END;
		INSERT INTO measured VALUES ('read', false, 1000 * extract(epoch FROM clock_timestamp() - started));
		COMMIT;
	END LOOP;
END
$$;
CALL measure(300);
\o
SELECT format('%-44s %9s %9s %9s %9s %7s', 'ms', 'opdata', '', 'by hand', '', 'ratio');
SELECT format('%-44s %9s %9s %9s %9s %7s', what,
		round(ours::numeric, 3), '', round(rival::numeric, 3), '', round((ours / rival)::numeric, 3))
FROM (SELECT what,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) FILTER (WHERE NOT m.rival) AS ours,
		percentile_cont(0.5) WITHIN GROUP (ORDER BY ms) FILTER (WHERE m.rival) AS rival
	FROM measured m GROUP BY what) f
ORDER BY what DESC;
