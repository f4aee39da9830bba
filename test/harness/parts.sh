# parts.sh: runs a Perl test with everything that such tests need; to be sourced
# after scratch.sh.
#
# Gives: with_parts COMMAND...   run it in $scratch as the test user, with
#                                PostgreSQL's test modules, our own, and the servers
#                                in its environment; keeps the logs of a failure

# Modules of Node are looked for beside the file that imports them.
modules=$("$checkout/test/harness/install-servers.sh" --where modules)
rm -rf "$scratch/test/node/node_modules"
ln -s "$modules" "$scratch/test/node/node_modules"

with_parts()
{
	status=0
	as_tester env PG_REGRESS="$pgxs_test/regress/pg_regress" TESTDIR="$scratch" \
		TESTDATADIR="$scratch/tmp_check" TESTLOGDIR="$scratch/tmp_check/log" \
		PG_TEST_PORT_DIR="${TMPDIR:-/tmp}/opdata-test-ports-$tester" \
		OPD_TEMPORAL="$("$checkout/test/harness/install-temporal.sh" --where temporal)" \
		OPD_PYTHON="$("$checkout/test/harness/install-temporal.sh" --where python)" \
		OPD_TEMPORAL_SERVER="$("$checkout/test/harness/install-servers.sh" --where temporal-server)" \
		OPD_TOXIPROXY="$("$checkout/test/harness/install-servers.sh" --where toxiproxy-server)" \
		OPD_NODE="$("$checkout/test/harness/install-servers.sh" --where node)" \
		OPD_NODE_MODULES="$modules" \
		OPD_SEAL_SEED="${OPD_SEAL_SEED:-1}" OPD_SEAL_COUNT="${OPD_SEAL_COUNT:-4000}" \
		"$@" || status=$?
	[ $status -eq 0 ] || keep_logs tmp_check/log
	return $status
}
