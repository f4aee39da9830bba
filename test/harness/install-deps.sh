#!/bin/sh
#
# Install the Debian 12 packages that building and testing opdata needs.
#
#   install-deps.sh GROUP...      groups: build test lint valgrind
#
# Only what is missing is installed, so that a second run changes nothing and
# needs no network. Debian's server packages would create a cluster and start
# services; on this machine, which may be anybody's, neither must happen.

set -eu

packages_of()
{
	case $1 in
		build) echo gcc libc6-dev make libpq-dev libssl-dev libcurl4-openssl-dev \
			libprotobuf-c-dev protobuf-c-compiler postgresql-server-dev-15 ;;
		# what lies beyond apt, install-temporal.sh and install-servers.sh fetch
		# with the last two
		test) echo postgresql-15 libipc-run-perl openssl pgbouncer protobuf-compiler \
			tinyproxy-bin faketime python3-venv ca-certificates jose ;;
		lint) echo binutils clang-14 clang-tidy-14 python3-venv ;;
		valgrind) echo valgrind ;;
		*) echo "$0: unknown group \"$1\"" >&2; exit 2 ;;
	esac
}

missing=
for group in "$@"; do
	wanted=$(packages_of "$group")
	for package in $wanted; do
		status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
		[ "$status" = "install ok installed" ] || missing="$missing $package"
	done
done
[ -n "$missing" ] || exit 0

echo "installing:$missing"
if [ "$(id -u)" -ne 0 ]; then
	exec sudo "$0" "$@"
fi

# Ask postgresql-common not to create the cluster "main", and invoke-rc.d not
# to start services, for as long as the installation lasts.
conf_dir=/etc/postgresql-common/createcluster.d
conf=$conf_dir/opdata-tests.conf
policy=/usr/sbin/policy-rc.d

restore()
{
	rm -f "$conf" "$policy"
	[ ! -e "$policy.opdata-saved" ] || mv "$policy.opdata-saved" "$policy"
	# of no package: a folder that we made goes again
	rmdir "$conf_dir" 2>/dev/null || true
}
trap restore EXIT
trap 'exit 1' HUP INT TERM

umask 022
mkdir -p "$conf_dir"
echo "create_main_cluster = false" > "$conf"
[ ! -e "$policy" ] || mv "$policy" "$policy.opdata-saved"
printf '#!/bin/sh\nexit 101\n' > "$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q install -y --no-install-recommends $missing

# The tests start their own PgBouncer; the service must not come up at boot.
case " $missing " in
	*" pgbouncer "*) update-rc.d pgbouncer disable ;;
esac
