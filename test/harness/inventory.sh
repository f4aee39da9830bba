#!/bin/sh
#
# Print INVENTORY.md: what opdata_inventory() of the installed library says, as
# "make inventory" writes it.

. "$(dirname "$0")/scratch.sh"

as_tester initdb -D "$scratch/agent" -U postgres -A trust -E UTF8 --no-locale -N > /dev/null
as_tester pg_ctl -D "$scratch/agent" -l "$scratch/log" -w start -o "-c listen_addresses='' -c unix_socket_directories='$scratch' -c shared_preload_libraries=opdata" > /dev/null
as_tester psql -X -q -h "$scratch" -U postgres -d postgres -c "SET client_min_messages = warning; CREATE EXTENSION opdata CASCADE"
as_tester psql -X -A -t -q -v ON_ERROR_STOP=1 -h "$scratch" -U postgres -d postgres -f test/harness/inventory.sql
as_tester pg_ctl -D "$scratch/agent" -m fast -w stop > /dev/null
