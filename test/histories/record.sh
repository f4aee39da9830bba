#!/bin/sh
#
# Record histories of the library's workflows for test/t/063_histories.pl.
#
#   make installed deps           as for the tests
#   test/histories/record.sh      into test/histories/VERSION, of the library
#
# What is recorded must replay for ever, so that a file that is there is never
# replaced: a history of an earlier build tells more than one of today. To record
# what has changed before its release, remove the file first.

. "$(dirname "$0")/../harness/scratch.sh"

"$checkout/test/harness/install-temporal.sh"
temporal=$("$checkout/test/harness/install-temporal.sh" --where temporal)
python=$("$checkout/test/harness/install-temporal.sh" --where python)

status=0
as_tester env PG_REGRESS="$pgxs_test/regress/pg_regress" TESTDIR="$scratch" \
	TESTDATADIR="$scratch/tmp_check" TESTLOGDIR="$scratch/tmp_check/log" \
	PG_TEST_PORT_DIR="${TMPDIR:-/tmp}/opdata-test-ports-$tester" \
	OPD_TEMPORAL="$temporal" OPD_PYTHON="$python" \
	prove -v -I "$pgxs_test/perl" -I test/perl test/histories/record.pl || status=$?
if [ $status -ne 0 ]; then
	keep_logs tmp_check/log
	exit $status
fi

for file in "$scratch"/recorded/*/*.txt; do
	version=$(basename "$(dirname "$file")")
	kept=$checkout/test/histories/$version/$(basename "$file")
	mkdir -p "$(dirname "$kept")"
	if [ -e "$kept" ]; then
		echo "kept as it is: $kept"
	else
		cp "$file" "$kept"
		echo "recorded: $kept"
	fi
done
