#!/bin/sh
#
# Part of make bench: opdata's worker against a worker of Temporal's SDK for
# Node, and against two floors, on one development server.
#
# Floors: a worker that answers at once without doing anything, and the preview
# by libpq alone on a fresh connection. Every preview is one of 100 rows over a
# SCRAM connection of its own, without TLS, to the same source.
#
#   BENCH_WORKER_ROUNDS      rounds in which the contenders take turns (3)
#   BENCH_WORKER_JOBS        jobs one at a time in each, twice as many at once (100)
#   BENCH_WORKER_CONTENDERS  no-op,opdata,Node,Node local

. "$(dirname "$0")/../../harness/scratch.sh"

here=$checkout/test/bench/temporal
"$checkout/test/harness/install-temporal.sh"
"$here/install.sh"
temporal=$("$checkout/test/harness/install-temporal.sh" --where temporal)
load=$("$here/install.sh" --where load)
node=$("$here/install.sh" --where node)
modules=$("$here/install.sh" --where modules)

free_port()
{
	as_tester perl -MIO::Socket::INET -e \
		'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'
}

# Without these two settings the figures would be those of the development
# server: it moves 20 tasks a second, and four partitions of a queue that few
# poll make a task wait for two seconds now and then. It has a session of its
# own for the reason that measure.py gives.
start_temporal()
{
	address=127.0.0.1:$(free_port)
	as_tester setsid "$temporal" server start-dev --headless --ip 127.0.0.1 --port "${address#*:}" --log-level error \
		--dynamic-config-value history.transferProcessorMaxPollRPS=2000 \
		--dynamic-config-value matching.numTaskqueueReadPartitions=1 \
		--dynamic-config-value matching.numTaskqueueWritePartitions=1 > "$scratch/temporal.log" 2>&1 &
	tries=0
	until as_tester "$temporal" operator namespace describe --address "$address" -n default > /dev/null 2>&1; do
		tries=$((tries + 1))
		if [ $tries -gt 100 ]; then
			cat "$scratch/temporal.log" >&2
			exit 1
		fi
		sleep 0.2
	done
}

start_source()
{
	source_port=$(free_port)
	as_tester test/harness/source-cluster.sh start "$scratch/source" "$source_port"
	source="host=127.0.0.1 port=$source_port dbname=shop user=reader password=reader_pw"
}

# It knows the connection, and is stopped: each of its turns starts it.
make_agent()
{
	as_tester initdb -D "$scratch/agent" -U super -A trust -E UTF8 --no-locale -N > /dev/null
	cat >> "$scratch/agent/postgresql.conf" <<-CONF
		listen_addresses = ''
		unix_socket_directories = '$scratch'
		shared_preload_libraries = 'opdata'
		opdata.org_id = 'bench'
		opdata.temporal_address = '$address'
		opdata.temporal_tls = off
	CONF
	as_tester pg_ctl -D "$scratch/agent" -l "$scratch/agent/log" -w -s start
	as_tester psql -X -q -v ON_ERROR_STOP=1 -h "$scratch" -U super -d postgres -o /dev/null \
		-c 'CREATE EXTENSION opdata CASCADE' \
		-c "SELECT opdata_store_creds('shop', jsonb_build_object(
			'host', '127.0.0.1', 'port', $source_port, 'database', 'shop',
			'username', 'reader', 'password', 'reader_pw', 'sslMode', 'disable'))" 2> "$scratch/psql.log" ||
		{ cat "$scratch/psql.log" >&2; exit 1; }
	as_tester pg_ctl -D "$scratch/agent" -w -s -m fast stop
}

start_temporal
start_source
make_agent

cc -O2 -I"$("$PG_CONFIG" --includedir)" -o "$scratch/preview_bench" \
	"$scratch/test/bench/preview_bench.c" -L"$("$PG_CONFIG" --libdir)" -lpq

# Node looks for modules beside the programs that want them.
node_dir=$scratch/test/bench/temporal/node
ln -s "$modules" "$node_dir/node_modules"
as_tester "$node" "$node_dir/bundle.js" "$node_dir/bundle.out.js"

rounds=${BENCH_WORKER_ROUNDS:-3}
jobs=${BENCH_WORKER_JOBS:-100}
sdk=$(sed -n 's/.*"@temporalio\/worker": "\(.*\)".*/\1/p' "$here/node/package.json")

echo
echo "Jobs through a Temporal server: a preview of 100 rows over a fresh SCRAM connection."
echo "Medians of $rounds interleaved rounds of $jobs jobs. Memory is that of all worker processes."
echo "no-op: a worker that answers at once. libpq: the preview alone."
echo "Node: SDK $sdk on Node $(as_tester "$node" --version), with pg. Node local: the same as a local activity."
echo
if ! as_tester /usr/bin/python3 "$scratch/test/bench/temporal/measure.py" \
	--address "$address" --load "$load" --node "$node" --node-dir "$node_dir" \
	--preview-bench "$scratch/preview_bench" --agent-data "$scratch/agent" --agent-socket "$scratch" \
	--source "$source sslmode=disable" --rounds "$rounds" --jobs "$jobs" \
	--contenders "${BENCH_WORKER_CONTENDERS:-}"; then
	keep_logs agent/log source/log temporal.log
	exit 1
fi
