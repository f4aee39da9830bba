-- inventory.sql: INVENTORY.md, from what the library says of itself. Run by
-- inventory.sh, and by the test that the file is up to date, with psql -X -A -t -q.

SELECT $$# What leaves the agent

Every field of every message that opdata sends to the control plane, made by `make inventory` from
`opdata_inventory()`, which is the table that the agent itself checks each JSON message against: a field that is
not listed does not leave. Requests to Temporal have no other fields than those of the descriptors they are packed
by, which are listed too.$$;

WITH field AS (
	SELECT row_number() OVER () AS n, * FROM opdata_inventory()
), line AS (
	SELECT n, format(E'%s| %s | %s |',
		CASE WHEN message IS DISTINCT FROM lag(message) OVER (ORDER BY n)
			THEN format(E'\n## %s\n\n| field | meaning |\n|---|---|\n', message) ELSE '' END,
		'`' || field || '`', replace(coalesce(meaning, ''), '|', '\|')) AS text
	FROM field
)
SELECT text FROM line ORDER BY n;
