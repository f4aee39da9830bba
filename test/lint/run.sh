#!/bin/sh
#
# Everything that "make lint" checks, on the library built in this checkout.
# Every check runs, also after one has found something.

set -u
cd "$(dirname "$0")/../.."
export PG_CONFIG="${PG_CONFIG:-pg_config}"

failed=
for check in layers symbols rules sql analysers; do
	echo "== $check"
	"test/lint/$check" || failed="$failed $check"
done
if [ -n "$failed" ]; then
	echo "lint failed:$failed" >&2
	exit 1
fi
echo "lint: nothing found"
