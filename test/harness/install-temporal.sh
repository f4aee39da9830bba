#!/bin/sh
#
# Provide what the tests need of Temporal: the "temporal" command with its
# development server, and Python with Temporal's client and the other packages of
# test/python/requirements.txt.
#
#   install-temporal.sh                           build and fetch what is missing
#   install-temporal.sh --where temporal|python   print the path of that program
#
# Both are kept, a second run fetches nothing. The packages of
# "install-deps.sh test" must be there. Building the command takes minutes and
# 3 GB of disk for as long as it lasts; 250 MB stay.

set -eu

checkout=$(cd "$(dirname "$0")/../.." && pwd)
. "$checkout/test/harness/cache.sh"

cli_version=1.5.1
go_needed=1.25			# by the command's go.mod
requirements=$checkout/test/python/requirements.txt

command_dir=$cache/temporal-cli-$cli_version
python_dir=$cache/temporal-python-$(sum_of "$requirements")
command=$command_dir/temporal
python=$python_dir/bin/python

case "${1:-} ${2:-}" in
	" ") ;;
	"--where temporal") echo "$command"; exit 0 ;;
	"--where python") echo "$python"; exit 0 ;;
	*) echo "usage: $0 [--where temporal|python]" >&2; exit 2 ;;
esac

have_command()
{
	works "$command" --version
}

# The import fails too when Debian's Python has become another version.
have_python()
{
	works "$python" -B -c "import temporalio.client, jwcrypto.jwe"
}

if have_command && have_python; then
	exit 0
fi
begin_work

if ! have_command; then
	find_go "$go_needed"
	echo "building the temporal command $cli_version, once: this takes some minutes"
	run_go install -ldflags "-s -w" "github.com/temporalio/cli/cmd/temporal@v$cli_version"
	"$work/bin/temporal" --version
	keep "$work/bin" "$command_dir"
fi

# The programs in bin/ but python itself name the folder that this was made in,
# so that nothing but python may be run from there.
if ! have_python; then
	echo "fetching Temporal's client for Python and what else the tests run in it, once"
	make_venv "$work/python" -r "$requirements"
	keep "$work/python" "$python_dir"
fi

have_command && have_python
