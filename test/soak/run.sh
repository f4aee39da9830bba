#!/bin/sh
#
# make soak: mixed jobs under mild faults for a long time, with flat memory,
# connections and file descriptors.
#
#   SOAK_MINUTES    how long jobs are asked for (30); three at least
#   SOAK_SEED       of what is left to chance (the time; the report has it)

. "$(dirname "$0")/../harness/scratch.sh"

# Modules of Node are looked for beside the file that imports them.
modules=$(test/harness/install-servers.sh --where modules)
rm -rf "$scratch/test/node/node_modules"
ln -s "$modules" "$scratch/test/node/node_modules"

status=0
as_tester env PG_REGRESS="$pgxs_test/regress/pg_regress" TESTDIR="$scratch" \
	TESTDATADIR="$scratch/tmp_check" TESTLOGDIR="$scratch/tmp_check/log" \
	PG_TEST_PORT_DIR="${TMPDIR:-/tmp}/opdata-test-ports-$tester" \
	OPD_TEMPORAL="$(test/harness/install-temporal.sh --where temporal)" \
	OPD_PYTHON="$(test/harness/install-temporal.sh --where python)" \
	OPD_TEMPORAL_SERVER="$(test/harness/install-servers.sh --where temporal-server)" \
	OPD_TOXIPROXY="$(test/harness/install-servers.sh --where toxiproxy-server)" \
	OPD_NODE="$(test/harness/install-servers.sh --where node)" \
	OPD_NODE_MODULES="$modules" \
	SOAK_MINUTES="${SOAK_MINUTES:-30}" SOAK_SEED="${SOAK_SEED:-$(date +%s)}" \
	perl -I "$pgxs_test/perl" -I test/perl test/soak/soak.pl || status=$?

if [ $status -ne 0 ]; then
	keep_logs tmp_check/log
fi
exit $status
