#!/bin/sh
#
# Run the Perl tests with prove; each makes the clusters that it needs.
#
#   run-tap.sh FILE...            files as seen from the top of the checkout
#
# PROVE_JOBS files run at once (default 4): they mostly wait.
#
# The modules are PostgreSQL's own (PostgreSQL::Test::Cluster) and ours on top
# of them (Opdata::Test).

. "$(dirname "$0")/scratch.sh"

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
	prove -j "${PROVE_JOBS:-4}" -I "$pgxs_test/perl" -I test/perl "$@" || status=$?

if [ $status -ne 0 ]; then
	keep_logs tmp_check/log
fi
exit $status
