-- memory.sql: peak memory of a backend that previews a cell of 1 GB.
--
-- The kernel's high-water mark of this very backend, before and after. A
-- smaller preview first, so that caches and libraries are there already.
\set QUIET 1
\o /dev/null
CREATE FUNCTION peak_kb() RETURNS bigint LANGUAGE sql AS $$
	SELECT (regexp_match(pg_read_file('/proc/' || pg_backend_pid() || '/status'),
		'VmHWM:\s+(\d+) kB'))[1]::bigint
$$;
SELECT opdata_preview('disable', $q$ select repeat('x', 1000) from generate_series(1, 100) $q$);
SELECT peak_kb() AS before \gset
SELECT opdata_preview('disable', $q$ select repeat(repeat('x', 1000), 1000000) $q$);
SELECT peak_kb() AS after \gset
\o
SELECT format('%-44s %9s', 'MiB', round((:after - :before) / 1024.0, 1));
