#!/bin/sh
#
# Provide the servers that the tests of TLS, sign-in and faults talk to: a
# Temporal server with certificates and tokens (built from temporal-server/), a
# proxy that spoils connections, and Node with the modules of test/node.
#
#   install-servers.sh                  build and fetch what is missing
#   install-servers.sh --where NAME     print the path of one of these:
#                                       temporal-server, toxiproxy-server, node, modules
#
# All of it is kept, a second run fetches nothing. A change of temporal-server/
# or of the lock file makes a new folder. The packages of "install-deps.sh test"
# must be there. Building takes minutes and 5 GB of disk for as long as it
# lasts; 160 MB stay.

set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
. "$checkout/test/harness/cache.sh"

toxiproxy_version=2.12.0
go_needed=1.25			# by temporal-server/go.mod
node_needed=20.0		# by test/node/package.json
source=$checkout/test/harness/temporal-server

server=$cache/temporal-server-$(sum_of "$source"/*)/temporal-server
toxiproxy=$cache/toxiproxy-$toxiproxy_version/toxiproxy-server
modules=$cache/node-$(sum_of "$checkout/test/node/package-lock.json")/node_modules

find_node "$node_needed"
case "${1:-} ${2:-}" in
	" ") ;;
	"--where temporal-server") echo "$server"; exit 0 ;;
	"--where toxiproxy-server") echo "$toxiproxy"; exit 0 ;;
	"--where node") echo "$node"; exit 0 ;;
	"--where modules") echo "$modules"; exit 0 ;;
	*) echo "usage: $0 [--where temporal-server|toxiproxy-server|node|modules]" >&2; exit 2 ;;
esac

have_all()
{
	[ -x "$server" ] && [ -x "$toxiproxy" ] && [ -d "$modules" ] && node_works "$node_needed"
}

if have_all; then
	exit 0
fi
begin_work

if [ ! -x "$server" ]; then
	find_go "$go_needed"
	echo "building a Temporal server with TLS and tokens, once: this takes some minutes"
	(cd "$source" && run_go build -ldflags "-s -w" -o "$work/server/temporal-server" .)
	keep "$work/server" "$(dirname "$server")"
fi

if [ ! -x "$toxiproxy" ]; then
	find_go "$go_needed"
	echo "building toxiproxy $toxiproxy_version, once"
	run_go install -ldflags "-s -w" "github.com/Shopify/toxiproxy/v2/cmd/server@v$toxiproxy_version"
	mv "$work/bin/server" "$work/bin/toxiproxy-server"
	keep "$work/bin" "$(dirname "$toxiproxy")"
fi

fetch_node "$node_needed"
if [ ! -d "$modules" ]; then
	echo "fetching the modules of test/node, once"
	fetch_modules "$checkout/test/node" "$(dirname "$modules")"
fi

have_all
