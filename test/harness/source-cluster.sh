#!/bin/sh
#
# A throwaway PostgreSQL cluster that plays the customer's database.
#
#   source-cluster.sh start DIR PORT      on 127.0.0.1; DIR must not exist
#   source-cluster.sh stop DIR
#
# Database "shop" is made by test/harness/shop.sql. The password of every role
# is its name followed by "_pw". What a login goes through:
#
#   reader, writer, owner_role, super, nologin_role    scram-sha-256
#   md5_reader                   md5
#   trust_reader                 nothing is checked
#   tls_reader                   scram-sha-256, refused without TLS
#   plain_reader                 scram-sha-256, refused with TLS
#   certuser                     client certificate (DIR/certs/certuser.crt)
#
# The socket in DIR is for set-up: trusted, and in a folder of mode 0700.

set -eu

start()
{
	dir=$1 port=$2
	initdb -D "$dir" -U super -A trust -E UTF8 --no-locale -N > /dev/null
	"$(dirname "$0")/make-certs.sh" "$dir/certs"

	cat >> "$dir/postgresql.conf" <<-CONF
		listen_addresses = '127.0.0.1'
		port = $port
		unix_socket_directories = '$dir'
		fsync = off
		ssl = on
		ssl_ca_file = 'certs/ca.crt'
		ssl_cert_file = 'certs/server.crt'
		ssl_key_file = 'certs/server.key'
		logging_collector = off
		log_connections = on
		log_statement = all
	CONF
	cat > "$dir/pg_hba.conf" <<-HBA
		local all all trust
		hostssl all certuser 127.0.0.1/32 cert
		hostnossl all certuser 127.0.0.1/32 reject
		hostnossl all tls_reader 127.0.0.1/32 reject
		hostssl all plain_reader 127.0.0.1/32 reject
		host all md5_reader 127.0.0.1/32 md5
		host all trust_reader 127.0.0.1/32 trust
		host all all 127.0.0.1/32 scram-sha-256
	HBA
	pg_ctl -D "$dir" -l "$dir/log" -w -s start
	psql -X -q -v ON_ERROR_STOP=1 -h "$dir" -p "$port" -U super -d postgres \
		-f "$(dirname "$0")/shop.sql"
}

case ${1:-} in
	start) start "$2" "$3" ;;
	stop) pg_ctl -D "$2" -w -s -m fast stop ;;
	*) echo "usage: $0 start DIR PORT | stop DIR" >&2; exit 2 ;;
esac
