#!/bin/sh
#
# Run the Perl tests with prove; each makes the clusters that it needs.
#
#   run-tap.sh FILE...            files as seen from the top of the checkout
#
# PROVE_JOBS files run at once (default 8): they mostly wait.
#
# The modules are PostgreSQL's own (PostgreSQL::Test::Cluster) and ours on top
# of them (Opdata::Test).

. "$(dirname "$0")/scratch.sh"
. "$checkout/test/harness/parts.sh"

with_parts prove --timer -j "${PROVE_JOBS:-8}" -I "$pgxs_test/perl" -I test/perl "$@"
