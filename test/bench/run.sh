#!/bin/sh
#
# make bench: what opdata costs, as ratios against a rival in the same run.
#
# Absolute times say little on a machine shared with others, so every figure
# stands beside the same work done by plain means, taking turns with it.

. "$(dirname "$0")/../harness/scratch.sh"

rounds=${BENCH_ROUNDS:-300}
source_port=$(as_tester perl -MIO::Socket::INET -e \
	'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')

as_tester test/harness/source-cluster.sh start "$scratch/source" "$source_port"
as_tester initdb -D "$scratch/agent" -U super -A trust -E UTF8 --no-locale -N > /dev/null
cat >> "$scratch/agent/postgresql.conf" <<-CONF
	listen_addresses = ''
	unix_socket_directories = '$scratch'
	shared_preload_libraries = 'opdata'
CONF
as_tester pg_ctl -D "$scratch/agent" -l "$scratch/agent/log" -w -s start

agent="host=$scratch user=super dbname=postgres"
ask()
{
	as_tester psql -X -q -A -t -v ON_ERROR_STOP=1 -d "$agent" "$@"
}

ask -c 'CREATE EXTENSION pgcrypto' -c 'CREATE EXTENSION opdata'
for mode in disable require; do
	ask -o /dev/null -c "SELECT opdata_store_creds('$mode', jsonb_build_object(
		'host', '127.0.0.1', 'port', $source_port, 'database', 'shop',
		'username', 'reader', 'password', 'reader_pw', 'sslMode', '$mode'))"
done

cc -O2 -I"$("$PG_CONFIG" --includedir)" -o "$scratch/preview_bench" \
	"$scratch/test/bench/preview_bench.c" -L"$("$PG_CONFIG" --libdir)" -lpq

echo
echo "Preview of 100 rows over a fresh SCRAM connection, one at a time, $rounds rounds."
echo "Rival: libpq alone doing the same. Goal: at most 1.15 times its median."
echo
printf '%-44s %9s %9s %9s %9s %7s\n' "ms" "opdata" "p95" "libpq" "p95" "ratio"
preview_row()
{
	title=$1 mode=$2 commit=$3
	as_tester "$scratch/preview_bench" "$rounds" "$agent options='-c synchronous_commit=$commit'" \
		"host=127.0.0.1 port=$source_port dbname=shop user=reader password=reader_pw sslmode=$mode" \
		"$mode" 'select * from purchase' |
	while read -r ours ours95 bare bare95 ratio; do
		printf '%-44s %9s %9s %9s %9s %7s\n' "$title" "$ours" "$ours95" "$bare" "$bare95" "$ratio"
	done
}
preview_row "without TLS" disable off
preview_row "with TLS" require off
preview_row "with TLS, waiting for the disk (job record)" require on

echo
echo "Store and read one credential, median of 300 rounds each."
echo "Rival: the same row and pgcrypto called by hand, as its manual shows it."
echo
ask -f "$scratch/test/bench/credential.sql"

echo
echo "Memory that a backend takes for a preview of one cell of 1 GB. Goal: under 32 MiB."
echo
ask -f "$scratch/test/bench/memory.sql"
