-- shop.sql: a web shop of 400 customers, 60 products and 5000 orders, run by run.sh on
-- the demo's source. Everything is reckoned from row numbers, so that it is the same
-- each time.

CREATE DATABASE webshop OWNER owner_role;
\connect webshop
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT CREATE ON SCHEMA public TO owner_role;
SET ROLE owner_role;

CREATE TABLE customer (
	id int PRIMARY KEY,
	name text NOT NULL,
	email text NOT NULL UNIQUE,
	city text NOT NULL,
	since date NOT NULL
);
INSERT INTO customer
	SELECT n, first || ' ' || last, lower(first) || '.' || lower(last) || n || '@example.com',
		(ARRAY['Lisbon', 'Oslo', 'Ghent', 'Turin', 'Cork', 'Graz'])[1 + n * 7 % 6],
		date '2022-01-03' + n * 37 % 1400
	FROM generate_series(1, 400) n,
	LATERAL (SELECT
		(ARRAY['Ada', 'Bruno', 'Chiara', 'Dag', 'Elif', 'Finn', 'Greta', 'Hugo', 'Ines', 'Jonas'])[1 + n % 10],
		(ARRAY['Almeida', 'Berg', 'Claes', 'Doyle', 'Egger', 'Ferri', 'Gruber', 'Hansen', 'Ivars', 'Janssens', 'Kelly'])[1 + n % 11])
		AS who(first, last);

CREATE TABLE product (
	id int PRIMARY KEY,
	name text NOT NULL,
	price numeric(8, 2) NOT NULL
);
INSERT INTO product
	SELECT n,
		(ARRAY['Oak', 'Steel', 'Linen', 'Cork', 'Glass', 'Wool'])[1 + n % 6] || ' '
			|| (ARRAY['lamp', 'chair', 'bowl', 'blanket', 'shelf', 'mirror', 'clock', 'tray', 'stool', 'vase'])[1 + n / 6],
		4.90 + n * 53 % 190
	FROM generate_series(0, 59) n;

CREATE TABLE purchase (
	id int PRIMARY KEY,
	customer_id int NOT NULL REFERENCES customer,
	product_id int NOT NULL REFERENCES product,
	quantity int NOT NULL,
	ordered_at timestamptz NOT NULL
);
-- some customers and products are more popular than others
INSERT INTO purchase
	SELECT n, 1 + (n * n) % 397, (n * n * 7 + n) % 60, 1 + n % 4,
		timestamptz '2025-01-01 06:00:00+00' + n * interval '97 minutes'
	FROM generate_series(1::bigint, 5000) n;
