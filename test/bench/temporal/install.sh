#!/bin/sh
#
# Provide what the benchmark of the worker needs besides the tests' tools: its
# load driver, built from load/, Node, and the modules of the rival in node/.
#
#   install.sh                                build and fetch what is missing
#   install.sh --where load|node|modules      print the path of that
#
# All of it is kept where the tests' tools are, and a second run fetches
# nothing. A change of load/ or of a lock file makes a new folder.

set -eu

here=$(cd "$(dirname "$0")" && pwd)
. "$here/../../harness/cache.sh"

go_needed=1.23			# by load/go.mod
node_needed=20.3		# by node/package.json

load=$cache/bench-load-$(sum_of "$here"/load/*)/load
modules=$cache/bench-node-$(sum_of "$here/node/package-lock.json")/node_modules

find_node "$node_needed"
case "${1:-} ${2:-}" in
	" ") ;;
	"--where load") echo "$load"; exit 0 ;;
	"--where node") echo "$node"; exit 0 ;;
	"--where modules") echo "$modules"; exit 0 ;;
	*) echo "usage: $0 [--where load|node|modules]" >&2; exit 2 ;;
esac

if [ -x "$load" ] && [ -d "$modules" ] && node_works "$node_needed"; then
	exit 0
fi
begin_work

if [ ! -x "$load" ]; then
	find_go "$go_needed"
	echo "building the load driver, once"
	(cd "$here/load" && run_go build -ldflags "-s -w" -o "$work/load/load" .)
	keep "$work/load" "$(dirname "$load")"
fi

fetch_node "$node_needed"
if [ ! -d "$modules" ]; then
	echo "fetching Temporal's SDK for Node, once"
	fetch_modules "$here/node" "$(dirname "$modules")"
fi
