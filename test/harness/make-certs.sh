#!/bin/sh
#
# Make the certificates that the TLS tests use.
#
#   make-certs.sh DIR
#
#   ca.crt ca.key               the authority of the source
#   server.crt server.key       for 127.0.0.1, localhost and temporal.test
#   certuser.crt certuser.key   client certificate, CN=certuser
#   next_user.crt, .key         the same with another key: its successor
#   expiring_user.crt, .key     the same, valid for three days
#   expired_user.crt, .key      the same, no longer valid
#   other_ca.crt other_ca.key   an authority that nobody trusts
#   other_user.crt, .key        CN=certuser too, but signed by that one
#   other_server.crt, .key      the names of the server, signed by that one

set -eu
umask 077
mkdir -p "$1"
cd "$1"

authority()
{
	openssl req -new -x509 -days 3650 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
		-subj "/CN=$2" -keyout "$1.key" -out "$1.crt"
}

# certificate NAME CN AUTHORITY EXTENSION [DAYS]
certificate()
{
	openssl req -new -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 \
		-subj "/CN=$2" -keyout "$1.key" -out "$1.csr"
	echo "$4" > "$1.ext"
	openssl x509 -req -days "${5:-3650}" -in "$1.csr" -CA "$3.crt" -CAkey "$3.key" \
		-CAcreateserial -extfile "$1.ext" -out "$1.crt"
	rm "$1.csr" "$1.ext"
}

{
	authority ca "opdata test CA"
	authority other_ca "unrelated CA"
	certificate server localhost ca "subjectAltName = DNS:localhost, DNS:temporal.test, IP:127.0.0.1"
	certificate certuser certuser ca "extendedKeyUsage = clientAuth"
	certificate next_user certuser ca "extendedKeyUsage = clientAuth"
	certificate expiring_user certuser ca "extendedKeyUsage = clientAuth" 3
	certificate expired_user certuser ca "extendedKeyUsage = clientAuth" -1
	certificate other_user certuser other_ca "extendedKeyUsage = clientAuth"
	certificate other_server localhost other_ca "subjectAltName = DNS:localhost, DNS:temporal.test, IP:127.0.0.1"
} > openssl.log 2>&1 || { cat openssl.log >&2; exit 1; }
