#!/bin/sh
#
# Run the Perl tests with prove; each makes the clusters that it needs.
#
#   run-tap.sh FILE...            files as seen from the top of the checkout
#
# PROVE_JOBS files run at once (default 10): they mostly wait. What failed is said
# once more at the end, with all that the test said of it.
#
# The modules are PostgreSQL's own (PostgreSQL::Test::Cluster) and ours on top
# of them (Opdata::Test).

. "$(dirname "$0")/scratch.sh"
. "$checkout/test/harness/parts.sh"

# Each test's log has its results, since PostgreSQL 15 with the time before them, among
# the output of the commands it ran. One that died has no plan, and the reason in its
# last lines.
tell_failures()
{
	stamp='^(\[[0-9:.]+\]\([0-9.]+s\) )?'
	for log in "$scratch"/tmp_check/log/regress_log_*; do
		[ -e "$log" ] || continue
		failures=$(
			awk -v failed="${stamp}not ok" -v passed="${stamp}ok" '
				$0 ~ failed { lines = 30 }
				$0 ~ passed { lines = 0 }
				lines-- > 0' "$log"
			grep -Eq "${stamp}1\.\.[0-9]+\$" "$log" || tail -n 15 "$log"
		)
		[ -z "$failures" ] || printf '\n%s\n%s\n' "${log##*/regress_log_}" "$failures"
	done
}

with_parts prove --timer -j "${PROVE_JOBS:-10}" -I "$pgxs_test/perl" -I test/perl "$@" || {
	status=$?
	tell_failures
	exit $status
}
