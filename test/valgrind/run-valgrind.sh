#!/bin/sh
#
# Run the SQL tests with the agent's server under valgrind.
#
#   run-valgrind.sh NAME...       files test/sql/NAME.sql
#
# Fails on a memory error, or a block that is lost at the end of a process,
# whose stack goes through opdata.so. What the stock server palloc()s is one
# block to valgrind; overruns inside it are not seen.

set -eu
here=$(cd "$(dirname "$0")" && pwd)
bindir=$("${PG_CONFIG:-pg_config}" --bindir)

# Written to by the server's user, who may not be the one who runs this.
work=$(mktemp -d "${TMPDIR:-/tmp}/opdata-valgrind.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir "$work/bin" "$work/reports"
chmod 755 "$work"
chmod 1777 "$work/reports"
cp "$here/postgres.supp" "$work/"

# The server's programs, but for the one that pg_regress starts as the agent.
# initdb and pg_ctl find theirs beside the real file that a link leads to.
ln -s "$bindir"/* "$work/bin/"
rm "$work/bin/postgres"
cat > "$work/bin/postgres" <<-SERVER
	#!/bin/sh
	exec valgrind --quiet --xml=yes --xml-file=$work/reports/%p.xml \\
		--suppressions=$work/postgres.supp --leak-check=full \\
		--show-leak-kinds=definite --errors-for-leak-kinds=definite \\
		--num-callers=30 $bindir/postgres "\$@"
SERVER
chmod 755 "$work/bin/postgres"

# A difference in the output, such as a timeout met at a twentieth of the
# speed, is told but is not what this run is about.
SERVER_BINDIR=$work/bin "$here/../harness/run-regress.sh" "$@" ||
	echo "the output differs under valgrind (see tmp_check); memory is judged below" >&2

perl "$here/report.pl" "$work"/reports/*.xml
