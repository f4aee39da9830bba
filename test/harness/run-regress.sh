#!/bin/sh
#
# Run the SQL tests with pg_regress on a throwaway cluster.
#
#   run-regress.sh NAME...        files test/sql/NAME.sql, run in this order
#
# SERVER_BINDIR may name a folder with other server programs, as "make valgrind" does.

. "$(dirname "$0")/scratch.sh"

# A source to connect to: the cluster under test cannot be its own, since a
# login over its trusted socket is refused. psql reads these by \getenv.
source_port=$(as_tester perl -MIO::Socket::INET -e \
	'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
as_tester test/harness/source-cluster.sh start "$scratch/source" "$source_port"

status=0
as_tester env OPD_SOURCE_PORT="$source_port" OPD_CERT_DIR="$scratch/source/certs" \
	"$pgxs_test/regress/pg_regress" \
	--temp-instance="$scratch/agent" --temp-config=test/regress.conf \
	--bindir="${SERVER_BINDIR:-$bindir}" --no-locale --encoding=UTF8 \
	--inputdir=test --outputdir="$scratch" --dbname=regression "$@" || status=$?

as_tester test/harness/source-cluster.sh stop "$scratch/source"
if [ $status -ne 0 ]; then
	[ ! -e "$scratch/regression.diffs" ] || cat "$scratch/regression.diffs"
	keep_logs regression.diffs regression.out results log source/log
fi
exit $status
