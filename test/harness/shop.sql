-- shop.sql: roles and data of the throwaway source, run by source-cluster.sh.

ALTER ROLE super PASSWORD 'super_pw';
CREATE ROLE owner_role LOGIN PASSWORD 'owner_role_pw';
CREATE ROLE reader LOGIN PASSWORD 'reader_pw';
CREATE ROLE writer LOGIN PASSWORD 'writer_pw';
CREATE ROLE nologin_role NOLOGIN PASSWORD 'nologin_role_pw';
CREATE ROLE tls_reader LOGIN PASSWORD 'tls_reader_pw' IN ROLE reader;
CREATE ROLE plain_reader LOGIN PASSWORD 'plain_reader_pw' IN ROLE reader;
CREATE ROLE trust_reader LOGIN PASSWORD 'trust_reader_pw' IN ROLE reader;
CREATE ROLE certuser LOGIN IN ROLE reader;
SET password_encryption = 'md5';
CREATE ROLE md5_reader LOGIN PASSWORD 'md5_reader_pw' IN ROLE reader;
RESET password_encryption;

CREATE DATABASE shop OWNER owner_role;
\connect shop
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO owner_role;
SET ROLE owner_role;

CREATE TABLE customer (
	id int PRIMARY KEY,
	name text NOT NULL,
	email text NOT NULL,
	created_at timestamptz NOT NULL
);
INSERT INTO customer VALUES
	(1, 'Ada', 'ada@example.com', '2026-01-05 09:00:00+00'),
	(2, 'Grace', 'grace@example.com', '2026-02-11 10:30:00+00'),
	(3, 'Zoë', 'zoe@example.com', '2026-03-17 18:45:00+00');

CREATE TABLE purchase (
	id int PRIMARY KEY,
	customer_id int NOT NULL REFERENCES customer,
	amount numeric(10, 2) NOT NULL,
	paid boolean,
	items jsonb NOT NULL
);
INSERT INTO purchase
	SELECT n, 1 + n % 3, n * 1.25, CASE WHEN n % 5 = 0 THEN NULL ELSE n % 2 = 0 END,
		jsonb_build_array(jsonb_build_object('sku', 'S' || n))
	FROM generate_series(1, 250) n;

CREATE VIEW revenue AS
	SELECT c.name, count(*) AS purchases, sum(p.amount) AS amount
	FROM customer c JOIN purchase p ON p.customer_id = c.id
	GROUP BY c.name;

-- what a reader may not read
CREATE TABLE payroll (employee text PRIMARY KEY, salary numeric NOT NULL);
INSERT INTO payroll VALUES ('Bob', 1000);

GRANT SELECT ON customer, purchase, revenue TO reader;
GRANT SELECT, INSERT, UPDATE, DELETE ON customer, purchase TO writer;
