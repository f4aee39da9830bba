#!/bin/sh
#
# make soak: mixed jobs under mild faults for a long time, with flat memory,
# connections and file descriptors.
#
#   SOAK_MINUTES    how long jobs are asked for (30); three at least
#   SOAK_SEED       of what is left to chance (the time; the report has it)

. "$(dirname "$0")/../harness/scratch.sh"
. "$checkout/test/harness/parts.sh"

with_parts env SOAK_MINUTES="${SOAK_MINUTES:-30}" SOAK_SEED="${SOAK_SEED:-$(date +%s)}" \
	perl -I "$pgxs_test/perl" -I test/perl test/soak/soak.pl
