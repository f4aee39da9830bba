#!/bin/sh
#
# A guided tour of opdata on two throwaway servers ("make demo").
#
# One server plays the customer's source, with TLS, passwords and the web shop
# of test/demo/shop.sql; the other is the agent. Every step prints a sentence,
# the SQL and what psql answers. In the second half a Temporal development
# server plays the control plane; the first run builds it, which takes minutes.
# Servers and files are gone at the end; at a terminal they stay until Enter is
# pressed. A step that does not turn out as its sentence says ends the tour
# with an error.

. "$(dirname "$0")/../harness/scratch.sh"

step_number=0
password='correct horse battery'

step()
{
	step_number=$((step_number + 1))
	printf '\n%s. %s\n\n' "$step_number" "$1"
}

# run_sql PROMPT ARGUMENT...: show the SQL on standard input, run it by psql
# with these arguments, show the answer. :'ca' is the certificate of the
# source's authority.
run_sql()
{
	prompt=$1
	shift
	sql=$(cat)
	status=0
	answer=$(printf '%s\n' "$sql" |
		as_tester psql -X -q -v ON_ERROR_STOP=1 -v ca="$ca" "$@" 2>&1) || status=$?
	indent=$(printf '%*s' $((${#prompt} + 3)) '')
	printf '%s\n' "$sql" | sed "1s/^/$prompt=# /; 2,\$s/^/$indent/"
	[ -z "$answer" ] || printf '%s\n' "$answer" | sed 's/^/    /; s/[ +]*$//; /^$/d'
	return $status
}

# Over trusted sockets, as the administrator of each server. Arguments are for
# psql; -At leaves nothing but the value.
on_agent()
{
	run_sql agent -h "$scratch/agent" -p "$agent_port" -U postgres -d agent "$@"
}

on_source()
{
	run_sql source -h "$scratch/source" -p "$source_port" -U super -d webshop "$@"
}

fail()
{
	echo "$0: $1" >&2
	exit 1
}

refused_on_agent()
{
	if on_agent; then
		fail "the agent should have refused this"
	fi
}

# The value of a query on the agent.
ask()
{
	as_tester psql -X -q -At -h "$scratch/agent" -p "$agent_port" -U postgres -d agent -c "$1"
}

# expect VALUE QUERY
expect()
{
	value=$(ask "$2")
	[ "$value" = "$1" ] || fail "not \"$1\" but \"$value\": $2"
}

# Does a text stand in any file of the agent's server?
in_files_of_agent()
{
	as_tester grep -rqaF -e "$1" agent agent.log
}

start_source()
{
	source_port=$(as_tester perl -MIO::Socket::INET -e \
		'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport')
	as_tester test/harness/source-cluster.sh start "$scratch/source" "$source_port"
	as_tester psql -X -q -v ON_ERROR_STOP=1 -h "$scratch/source" -p "$source_port" \
		-U super -d postgres -f test/demo/shop.sql
	ca=$(as_tester cat source/certs/ca.crt)
}

# Its log is told to show everything, since a step searches it.
start_agent()
{
	agent_port=$source_port		# as a socket only, so that it is free
	as_tester initdb -D agent -U postgres -A trust -E UTF8 --no-locale -N > "$scratch/initdb.log"
	cat >> "$scratch/agent/postgresql.conf" <<-CONF
		shared_preload_libraries = 'opdata'
		listen_addresses = ''
		port = $agent_port
		unix_socket_directories = '$scratch/agent'
		opdata.database = 'agent'
		log_statement = all
		fsync = off
	CONF
	as_tester pg_ctl -D agent -l agent.log -w -s start || {
		as_tester cat agent.log >&2
		fail "the agent's server did not start"
	}
	as_tester createdb -h "$scratch/agent" -p "$agent_port" -U postgres agent
}

printf '\nStarting two servers in %s: a source and an agent.\n' "$scratch"
start_source
start_agent

step 'The agent lives in a database of yours. One line in its postgresql.conf loads the library
   (shared_preload_libraries); this does the rest:'
on_agent <<'SQL'
CREATE EXTENSION opdata CASCADE;
SQL

step 'The source is a web shop with 5000 orders. Its owner makes a role that can only read:'
on_source <<SQL
CREATE ROLE opdata_reader LOGIN PASSWORD '$password';
GRANT CONNECT ON DATABASE webshop TO opdata_reader;
GRANT USAGE ON SCHEMA public TO opdata_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO opdata_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE owner_role IN SCHEMA public
  GRANT SELECT ON TABLES TO opdata_reader;
SQL

step 'The agent stores its credentials, having tested them. :'\''ca'\'' is the certificate of the
   authority that signed the one of the source, as PEM text:'
on_agent -At <<SQL
SELECT jsonb_pretty(opdata_store_creds('webshop', jsonb_build_object(
  'host', 'localhost', 'port', $source_port, 'database', 'webshop',
  'username', 'opdata_reader', 'password', '$password',
  'sslMode', 'verify-full', 'sslRootCert', :'ca')));
SQL
expect connected "select status from opdata_connections"

step 'Later, somebody gives the role more than it needs:'
on_source <<'SQL'
GRANT INSERT, DELETE ON purchase TO opdata_reader;
SQL

step 'The next test tells, and says how to mend it:'
on_agent <<'SQL'
SELECT t->'readOnly' AS read_only, w->>'code' AS code, w->>'statement' AS statement
FROM opdata_test('webshop') t, jsonb_array_elements(t->'warnings') w;
SQL
mend=$(ask "select w->>'statement' from opdata_test('webshop') t, jsonb_array_elements(t->'warnings') w")
on_source <<SQL
$mend
SQL
on_agent <<'SQL'
SELECT opdata_test('webshop')->'readOnly' AS read_only;
SQL
expect true "select opdata_test('webshop')->'readOnly'"

step 'A preview runs one query on the source. Here its rows are unpacked into a table:'
on_agent <<'SQL'
SELECT r->>0 AS customer, r->>1 AS city, r->>2 AS orders, r->>3 AS spent
FROM jsonb_array_elements(opdata_preview('webshop', $$
  SELECT c.name, c.city, count(*), sum(o.quantity * p.price)
  FROM purchase o JOIN customer c ON c.id = o.customer_id JOIN product p ON p.id = o.product_id
  GROUP BY c.id ORDER BY 4 DESC, c.id LIMIT 5
$$)->'rows') r;
SQL

step 'More than 100 rows never come, and the result says so:'
on_agent <<'SQL'
SELECT p->'rowCount' AS rows, p->'truncated' AS truncated, p->'truncatedBy' AS by
FROM opdata_preview('webshop', 'SELECT * FROM purchase') p;
SQL
expect 100 "select opdata_preview('webshop', 'table purchase')->'rowCount'"

step 'What writes is refused, however deep it hides, and so is a second statement:'
refused_on_agent <<'SQL'
SELECT opdata_preview('webshop', 'WITH gone AS (DELETE FROM purchase RETURNING *) SELECT * FROM gone');
SQL
refused_on_agent <<'SQL'
SELECT opdata_preview('webshop', 'SELECT 1; DROP TABLE purchase');
SQL

step 'New credentials that do not work are refused too, and the old ones stay:'
refused_on_agent <<SQL
SELECT opdata_store_creds('webshop', '{
  "host": "localhost", "port": $source_port, "database": "webshop",
  "username": "opdata_reader", "password": "wrong horse"}');
SQL
on_agent <<'SQL'
SELECT opdata_test('webshop')->'ok' AS old_credentials_work;
SQL
expect true "select opdata_test('webshop')->'ok'"

step 'In the table is ciphertext. The key is in a file; the row names it:'
on_agent <<'SQL'
SELECT id, key_id, left(encode(payload, 'hex'), 48) || '...' AS payload
FROM opdata.connection;
SQL

step 'The agent'\''s log was told to show every statement. Of the one with credentials it shows this:'
as_tester grep -m 1 'hidden by opdata' agent.log | sed 's/^/    /'
expect "" checkpoint
in_files_of_agent 'WITH gone AS' || fail "the log should show other statements"
for secret in "$password" 'wrong horse'; do
	! in_files_of_agent "$secret" || fail "\"$secret\" stands in a file of the agent's server"
done
printf '\n   Neither password stands in any file of the agent'\''s server, log and WAL included.\n'

step 'How the agent is. It warns that its key should lie elsewhere than the data:'
on_agent -At <<'SQL'
SELECT jsonb_pretty(opdata_status());
SQL

# ---------------------------------------------------------- control plane

# A free TCP port after the next one is free too: the web page's.
free_ports()
{
	as_tester perl -MIO::Socket::INET -e '
		for (1 .. 50) {
			my $a = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1") or next;
			my $b = IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1", LocalPort => $a->sockport + 1) or next;
			print $a->sockport;
			exit 0;
		}
		exit 1'
}

start_temporal()
{
	as_tester sh -c 'echo $$ > tmp/temporal.pid; exec "$@"' sh \
		"$temporal" server start-dev --ip 127.0.0.1 --port "$temporal_port" --ui-port "$web_port" \
		--db-filename "$scratch/tmp/temporal.db" --log-level error > "$scratch/temporal.log" 2>&1 &
	for _ in $(seq 100); do
		if as_tester "$temporal" operator cluster health --address "127.0.0.1:$temporal_port" > /dev/null 2>&1; then
			return
		fi
		sleep 0.2
	done
	cat "$scratch/temporal.log" >&2
	fail "the Temporal server did not start"
}

# start_workflow TYPE INPUT [SHOWN-INPUT]: as somebody at the control plane
# does it; secrets need not be shown.
start_workflow()
{
	printf '$ temporal workflow execute --task-queue tenant-acme --type %s --input \\\n    %s\n' "$1" "'${3:-$2}'"
	printf '%s' "$2" > "$scratch/input.json"
	status=0
	answer=$(as_tester "$temporal" workflow execute --address "127.0.0.1:$temporal_port" \
		--task-queue tenant-acme --type "$1" --input-file "$scratch/input.json" --color never 2>&1) || status=$?
	printf '%s\n' "$answer" | sed -n '/^Results/,/^time=/p' | sed '/^time=/d; s/ *$//; /^$/d' |
		fold -s -w 110 | sed 's/^/    /'
	return $status
}

stop_temporal()
{
	kill "$(cat "$scratch/tmp/temporal.pid")" 2> /dev/null || true
	wait
}

printf '\nThat was SQL alone. Now a control plane: a Temporal development server.\n'
test/harness/install-temporal.sh
temporal=$(test/harness/install-temporal.sh --where temporal)
temporal_port=$(free_ports)
web_port=$((temporal_port + 1))
start_temporal

step 'Two settings and a reload connect the agent to it. TLS is on by default; this server has none:'
on_agent <<SQL
ALTER SYSTEM SET opdata.temporal_address = '127.0.0.1:$temporal_port';
ALTER SYSTEM SET opdata.temporal_tls = off;
ALTER SYSTEM SET opdata.org_id = 'acme';
SELECT pg_reload_conf();
SQL
for _ in $(seq 100); do
	[ "$(ask "select bool_and(w->>'state' = 'polling') from jsonb_array_elements(opdata_status()->'workers') w")" != t ] || break
	sleep 0.2
done

step 'The workers, which had no database connection until now, ask it for tasks:'
on_agent <<'SQL'
SELECT w->>'name' AS worker, w->>'state' AS state, w->'polls' AS open_polls
FROM jsonb_array_elements(opdata_status()->'workers') w;
SQL
expect t "select bool_and(w->>'state' = 'polling') from jsonb_array_elements(opdata_status()->'workers') w"

step 'Somebody at the control plane has credentials stored, under the id "shop-2":'
start_workflow storeCredsWorkflow \
	"{\"orgId\": \"acme\", \"connectionId\": \"shop-2\", \"credentials\": {\"host\": \"localhost\", \"port\": $source_port, \"database\": \"webshop\", \"username\": \"opdata_reader\", \"password\": \"$password\"}}" \
	"{\"orgId\": \"acme\", \"connectionId\": \"shop-2\", \"credentials\": {…}}" ||
	fail "the workflow failed"
expect connected "select status from opdata_connections where id = 'shop-2'"

step 'and previews through it. The query runs here; columns and rows are the answer:'
start_workflow previewQueryWorkflow \
	'{"orgId": "acme", "connectionId": "shop-2", "sql": "select id, name, city from customer order by id limit 3"}' ||
	fail "the workflow failed"

step 'A job for another tenant is refused:'
if start_workflow previewQueryWorkflow '{"orgId": "evil", "connectionId": "shop-2", "sql": "select 1"}'; then
	fail "the agent should have refused this"
fi

step 'All of it is on record in the agent:'
on_agent <<'SQL'
SELECT kind, connection_id, state, row_count, error_code, worker
FROM opdata_jobs WHERE workflow_id IS NOT NULL ORDER BY started_at;
SQL
expect "failed tenant_mismatch" "select state || ' ' || error_code from opdata_jobs order by started_at desc limit 1"

# wait_for_health BOOLEAN
wait_for_health()
{
	for _ in $(seq 150); do
		[ "$(ask "select opdata_status()->>'healthy'")" != "$1" ] || return 0
		sleep 0.2
	done
	fail "the agent does not notice"
}

# ---------------------------------------------------------- the boundary

# Does the control plane's own database hold a text?
control_plane_knows()
{
	as_tester sh -c 'cat tmp/temporal.db*' | grep -qaF -e "$1"
}

step 'That password went through the control plane, and is in its history now. From here on credentials
   are taken sealed only, to a key that the agent publishes; any JOSE tool does it:'
control_plane_knows "$password" || fail "the control plane should know this password"
on_agent <<'SQL'
ALTER SYSTEM SET opdata.require_sealed = on;
SELECT pg_reload_conf();
SQL
sealed_password='sealed horse battery'
on_source <<SQL
ALTER ROLE opdata_reader PASSWORD '$sealed_password';
SQL
ask 'select opdata_public_key()' > "$scratch/tmp/agent.jwk"
printf '{"host": "localhost", "port": %s, "database": "webshop", "username": "opdata_reader", "password": "%s"}' \
	"$source_port" "$sealed_password" > "$scratch/tmp/credentials.json"
printf "\$ psql -XAtc 'select opdata_public_key()' agent > agent.jwk\n"
printf "\$ jose jwe enc -i '{\"protected\": {\"enc\": \"A256GCM\"}}' -I credentials.json -k agent.jwk -c -o credentials.jwe\n"
jose jwe enc -i '{"protected": {"enc": "A256GCM"}}' -I "$scratch/tmp/credentials.json" -k "$scratch/tmp/agent.jwk" \
	-c -o "$scratch/tmp/credentials.jwe"
rm "$scratch/tmp/credentials.json"
start_workflow storeCredsWorkflow \
	"{\"orgId\": \"acme\", \"connectionId\": \"shop-3\", \"credentials\": {\"sealed\": \"$(cat "$scratch/tmp/credentials.jwe")\"}}" \
	'{"orgId": "acme", "connectionId": "shop-3", "credentials": {"sealed": "eyJhbGciOiJFQ0RILUVT…"}}' ||
	fail "the workflow failed"
expect connected "select status from opdata_connections where id = 'shop-3'"
! control_plane_knows "$sealed_password" || fail "the control plane knows the sealed password"
printf '\n   This password is nowhere in the control plane'\''s database.\n'

step 'What may leave is for the customer to say: names are masked, and previews leave only sealed to the key
   of an analyst who is known here:'
jose jwk gen -i '{"kty": "EC", "crv": "P-256"}' -o "$scratch/tmp/analyst.jwk"
analyst=$(jose jwk pub -i "$scratch/tmp/analyst.jwk")
on_agent <<SQL
SELECT opdata_mask('default', '*name*');
SELECT opdata_trust_recipient('$analyst', 'analyst')->'label' AS trusted;
ALTER SYSTEM SET opdata.require_sealed_preview = on;
SELECT pg_reload_conf();
SQL
sleep 0.5
if start_workflow previewQueryWorkflow '{"orgId": "acme", "connectionId": "shop-3", "sql": "select id, name, city from customer"}'; then
	fail "the agent should have refused this"
fi
start_workflow previewQueryWorkflow \
	"{\"orgId\": \"acme\", \"connectionId\": \"shop-3\", \"sql\": \"select id, name, city from customer order by id limit 3\", \"sealTo\": $analyst}" ||
	fail "the workflow failed"
printf '%s\n' "$answer" | grep -o 'eyJ[A-Za-z0-9_.-]*' | head -1 | tr -d '\n' > "$scratch/tmp/preview.jwe"
printf '$ jose jwe dec -i preview.jwe -k analyst.jwk\n    '
jose jwe dec -i "$scratch/tmp/preview.jwe" -k "$scratch/tmp/analyst.jwk" | grep -F '"***"' || fail "the preview cannot be opened"

step 'Each preview that left is on record, in a chain of hashes that shows what is changed:'
on_agent <<'SQL'
SELECT seq, connection_id, row_count, masked_columns, sealed_to IS NOT NULL AS sealed FROM opdata_egress ORDER BY seq;
SELECT opdata_verify_egress()->'ok' AS whole;
ALTER TABLE opdata.egress DISABLE TRIGGER append_only;
UPDATE opdata.egress SET query = 'select 1' WHERE seq = 1;
SELECT opdata_verify_egress()->'firstBad' AS first_bad;
SQL
expect '{"seq": 1, "problem": "altered"}' "select opdata_verify_egress()->'firstBad'"

step 'One call stops it all, whatever the control plane wants:'
on_agent <<'SQL'
SELECT opdata_suspend()->'suspended' AS suspended;
SQL
refused_on_agent <<'SQL'
SELECT opdata_preview('shop-3', 'SELECT 1');
SQL
on_agent <<'SQL'
SELECT opdata_resume()->'resumed' AS resumed;
SQL
wait_for_health true

step 'The control plane goes down. One query tells a monitor; a notification tells who listens:'
stop_temporal
wait_for_health false
on_agent <<'SQL'
SELECT opdata_status()->'healthy' AS healthy, opdata_status()->'reasons' AS reasons;
SQL
start_temporal
wait_for_health true
step 'It is back, and so is the agent, by itself:'
on_agent <<'SQL'
SELECT opdata_status()->'healthy' AS healthy, opdata_status()->'reasons' AS reasons;
SQL

# so that whoever looks at the web page finds rows there
ask 'alter system reset opdata.require_sealed_preview' > /dev/null
ask 'select pg_reload_conf()' > /dev/null
cat <<TEXT

   The control plane's web page is http://127.0.0.1:$web_port/ and shows these workflows with their histories.
   By hand you start one like this:

     $temporal workflow execute --address 127.0.0.1:$temporal_port \\
       --task-queue tenant-acme --type previewQueryWorkflow \\
       --input '{"orgId": "acme", "connectionId": "shop-3", "sql": "select * from product"}'
TEXT
if [ -t 0 ]; then
	printf '\n   All servers run until you press Enter. '
	read -r _ || true
fi

stop_temporal
as_tester pg_ctl -D agent -w -s -m fast stop
as_tester test/harness/source-cluster.sh stop "$scratch/source"
printf '\nThat was all. The servers are stopped, and their files are removed.\n'
printf 'README.md tells how to do the same with your own database.\n\n'
