# scratch.sh: a throwaway copy of the tests, to be sourced by the run-*.sh scripts.
#
# PostgreSQL refuses to run as root, and the user it runs as instead may not be
# able to enter the folder that the checkout lies in. So the tests are copied
# to a fresh folder of the test user, run there, and the folder is removed.
#
# Sets:  checkout     the folder with the Makefile
#        scratch      the fresh folder, current directory of everything run
#        bindir       programs of the server under test
#        pgxs_test    PostgreSQL's own test programs and Perl modules
# Gives: as_tester COMMAND...   run it in $scratch as the test user
#        keep_logs PATH...      copy files of $scratch to tmp_check of the checkout,
#                             a/b as a-b

set -eu

# The script that runs may lie at any depth.
checkout=$(cd "$(dirname "$0")" && until [ -e Makefile ] || [ "$PWD" = / ]; do cd ..; done && pwd)
: "${PG_CONFIG:=pg_config}"
bindir=$("$PG_CONFIG" --bindir)
pgxs_test=$(dirname "$("$PG_CONFIG" --pgxs)")/../test

if [ "$(id -u)" -eq 0 ]; then
	tester=postgres
else
	tester=$(id -un)
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/opdata-test.XXXXXX")

# A known environment: no PG* variables, locale or ~/.pgpass of the caller.
# pgbouncer is in /usr/sbin, which is not in every user's PATH.
as_tester()
{
	set -- env -i PATH="$bindir:$PATH:/usr/sbin" HOME="$scratch" TMPDIR="$scratch/tmp" \
		LANG=C LC_ALL=C PG_CONFIG="$PG_CONFIG" "$@"
	if [ "$(id -u)" -eq 0 ]; then
		set -- runuser -u "$tester" -- "$@"
	fi
	(cd "$scratch" && "$@")
}

# Processes of this run that are still there have their current directory
# below $scratch: servers in their data directory, everything else in $scratch.
# The pids are looked up by the test user, whose processes they are, as root
# in a container may not follow the links.
signal_leftovers()
{
	as_tester perl -e '
		my ($signal, $scratch) = @ARGV;
		my @pids = grep { $_ != $$ && $_ != getppid() }
			grep { (readlink("/proc/$_/cwd") // "") =~ m{^\Q$scratch\E(/|$)} }
			map { m{(\d+)$} } glob("/proc/[0-9]*");
		exit !kill($signal, @pids);' "$1" "$scratch"
}

# SIGQUIT is an immediate shutdown to a postmaster, which then frees its shared
# memory; what is still there three seconds later is killed.
cleanup()
{
	trap - EXIT HUP INT PIPE TERM
	if signal_leftovers QUIT; then
		tries=0
		while signal_leftovers 0 && [ $tries -lt 30 ]; do
			sleep 0.1
			tries=$((tries + 1))
		done
		signal_leftovers KILL || true
	fi
	rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 1' HUP INT PIPE TERM

keep_logs()
{
	mkdir -p "$checkout/tmp_check"
	for path in "$@"; do
		[ ! -e "$scratch/$path" ] || cp -R "$scratch/$path" "$checkout/tmp_check/$(echo "$path" | tr / -)"
	done
	echo "logs are in $checkout/tmp_check" >&2
}

# what an earlier run kept
rm -rf "$checkout/tmp_check"

for path in test expected sql README.md SECURITY.md INVENTORY.md; do
	[ ! -e "$checkout/$path" ] || cp -R "$checkout/$path" "$scratch/"
done
mkdir -p "$scratch/tmp" "$scratch/src/temporal"
cp "$checkout/src/temporal/temporal.proto" "$scratch/src/temporal/"
chown -R "$tester" "$scratch"
