
# A source behind PgBouncer in transaction mode: what works, what its own
# errors become, and what a preview leaves in a connection that the next
# client gets.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use IPC::Run;
use Opdata::Credentials;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = source_cluster('source', tls => 1);
$source->safe_psql(
	'postgres', q{
	create role reader login password 'reader_pw';
	create role waiting login password 'waiting_pw';
	create schema sales;
	create table sales.orders as select n, 'order ' || n as name from generate_series(1, 3) n;
	grant usage on schema sales to reader;
	grant select on sales.orders to reader;
});
my $certs = $source->data_dir . '/certs';
my $agent = agent_cluster('agent');

# Pools: "shop" of three connections, "single" of one, "full" of one that the
# test takes; "down" where no server is, "nowhere" where it has no such database.
my $pooler_port = PostgreSQL::Test::Cluster::get_free_port();
my $closed_port = closed_port();
my $pooler;
start_pooler();

my %reader = (
	port => $pooler_port + 0,
	database => 'shop',
	username => 'reader',
	password => 'reader_pw');

# What works.
my $stored = json($agent,
	q{select opdata_store_creds('shop', } . literal(via()) . ')');
is($stored->{status}, 'connected', 'a source behind PgBouncer is stored');
is($stored->{test}{tls}, undef, 'without TLS when that is what was asked for');
my $version = $source->safe_psql('postgres', 'show server_version');
is($stored->{test}{serverVersion},
	$version, 'the test reports the version of the server behind it');
is($stored->{test}{readOnly},
	JSON::PP::true, 'and has looked at the rights of the role there');
my $tls = json($agent, q{select opdata_test('shop')});
is($tls->{ok}, JSON::PP::true, 'the stored connection is tested');
foreach my $mode ('require', 'verify-full')
{
	my $result = test_of(
		$agent,
		via(
			sslMode => $mode,
			sslRootCert => slurp_pem($certs, 'ca.crt')));
	like($result->{tls}{version} // 'none', qr/^TLSv1/,
		"sslMode $mode gets TLS from PgBouncer");
}
is_deeply(
	preview(
		$agent, via(schema => 'sales'),
		'select * from orders where name <> $$;$$ order by n'
	),
	[ [ 1, 'order 1' ], [ 2, 'order 2' ], [ 3, 'order 3' ] ],
	'a preview brings rows, and "schema" is the search path');

# More at once than the pool has connections.
store($agent, 'many', via());
my @previews = map {
	[
		start_psql(
			$agent,
			"preview $_",
			qq{select opdata_preview('many', 'select $_, pg_sleep(0.3)')->'rows'->0->>0}
		)
	]
} 1 .. 8;
foreach my $number (1 .. 8)
{
	my ($psql, $out, $err) = @{ $previews[ $number - 1 ] };

	$psql->finish;
	is("$$out$$err", "$number\n",
		"preview $number of eight at once over three connections has its rows");
}

# Errors of PgBouncer itself. Only here does it send those away who wait for a server.
client('pgbouncer', 'set query_wait_timeout = 2');
is(verdict($agent, via(password => 'wrong')),
	'authentication_failed', 'a wrong password is an authentication error');
is(verdict($agent, via(password => undef)),
	'authentication_failed', 'so is no password');
is(verdict($agent, via(username => 'nobody')),
	'authentication_failed', 'so is a role that PgBouncer does not know');
is(verdict($agent, via(database => 'unknown')),
	'database_not_found', 'a database that PgBouncer does not know is not found');
isnt(verdict($agent, via(database => 'nowhere')),
	'authentication_failed',
	'one that the server behind does not have is no authentication error');
is(verdict($agent, via(database => 'down')),
	'connection_refused', 'a server behind that is down refuses the connection');
is( verdict($agent, via(sslMode => 'verify-ca', sslRootCert => slurp_pem($certs, 'other_ca.crt'))),
	'certificate_untrusted',
	'a certificate of PgBouncer that another CA signed is not trusted');

# The only connection of a pool is taken: a client waits, then PgBouncer tells
# it to go (query_wait_timeout).
my $holder = try_hold('full', 'begin; select 1')
  or die 'could not take the connection';
my $waiting = via(database => 'full');
store($agent, 'full', $waiting);
is(verdict($agent, $waiting),
	'connection_refused', 'a pool without a free connection refuses a test');
is(code_of($agent, q{select opdata_preview('full', 'select 1')}),
	'connection_refused', 'and a preview');
client('pgbouncer', 'set query_wait_timeout = 120');
release($holder);
ok( wait_until(sub { verdict($agent, $waiting) eq 'ok' }),
	'when the connection is free again the test works');

# What the next client finds in the connection that a preview used.
my $settings = q{
	select string_agg(name || '=' || setting, ' ' order by name) from pg_settings
	where name not in ('application_name', 'transaction_read_only') and source <> 'default'
		or name in ('statement_timeout', 'search_path', 'work_mem', 'bytea_output', 'TimeZone',
			'idle_in_transaction_session_timeout', 'client_connection_check_interval', 'transaction_read_only')};
my $clean = client('single', $settings);
my $server_pid = client('single', 'select pg_backend_pid()');
store($agent, 'single', via(database => 'single', schema => 'sales'));
is( json($agent,
		q{select opdata_preview('single', 'select pg_backend_pid()')}
	)->{rows}[0][0] . "\n",
	$server_pid,
	'a preview uses the connection that the client before it used');
my @afterwards = (
	[ 'select 1', 'a preview' ],
	[ 'select * from orders', 'one with a search path' ],
	[
		q{select set_config('work_mem', '1234kB', false), set_config('statement_timeout', '1', false)},
		'one that sets something itself'
	]);
foreach my $case (@afterwards)
{
	my ($query, $title) = @$case;

	is( code_of(
			$agent,
			q{select opdata_preview('single', } . literal($query) . ')'),
		'ok',
		"$title works");
	is(client('single', 'select pg_backend_pid()'),
		$server_pid, "after $title the next client gets the same connection");
	is(client('single', $settings),
		$clean, "and finds it as it was before $title");
	is(transactions(), 0, "and no transaction is open after $title");
}

# PgBouncer closes what was left within a transaction: not the same connection,
# but a clean one.
@afterwards = (
	[ 'select 1/0', 'query_failed', 'one that fails' ],
	[
		'select * from nonexistent',
		'query_failed', 'one that does not parse there'
	],
	[
		q{select repeat('x', 1000) from generate_series(1, 100000)},
		'ok', 'one of more rows than are taken'
	],
	[
		q{select set_config('work_mem', '1234kB', false), 1/0},
		'query_failed', 'one that sets something and fails'
	]);
foreach my $case (@afterwards)
{
	my ($query, $code, $title) = @$case;

	is( code_of(
			$agent,
			q{select opdata_preview('single', } . literal($query) . ')'),
		$code,
		"$title gives $code");
	is(client('single', $settings),
		$clean, "after $title the next client finds nothing of it");
	ok(wait_until(sub { !transactions() }), "and no transaction is open after $title");
}
is(code_of($agent, q{select opdata_preview('single', 'select pg_sleep(600)')}),
	'query_timeout', 'past the time limit a preview is cancelled through PgBouncer');
ok( wait_until(
		sub {
			$source->safe_psql('postgres',
				q{select count(*) from pg_stat_activity where query ~ 'pg_sleep' and state = 'active' and pid <> pg_backend_pid()}
			) eq '0';
		}),
	'and its query is over at the source');
is(client('single', $settings), $clean, 'the next client finds nothing of it');
ok(wait_until(sub { !transactions() }), 'and no transaction is open');

# No room at PgBouncer at all (max_client_conn). Clients that have just gone may
# still count, so some of ours may not get in at first.
my @clients;
ok( wait_until(
		sub {
			push @clients, grep { defined } map { try_hold('shop', 'select 1') }
			  @clients + 1 .. 20;
			return verdict($agent, via()) eq 'connection_refused';
		}),
	'a PgBouncer that takes no more clients refuses the connection');
release(@clients);

stop_pooler();
is(verdict($agent, via()), 'connection_refused',
	'a PgBouncer that is gone refuses the connection');

done_testing();


sub via
{
	return credentials($source, %reader, @_);
}

sub start_pooler
{
	my $folder = "$PostgreSQL::Test::Utils::tmp_check/pgbouncer";
	my $server = 'host=127.0.0.1 port=' . $source->port;
	my $out = '';

	mkdir($folder) or die "$folder: $!";
	append_to_file(
		"$folder/users.txt",
		qq{"reader" "reader_pw"\n"waiting" "waiting_pw"\n});
	append_to_file("$folder/pgbouncer.ini", <<"INI");
[databases]
shop = $server dbname=postgres pool_size=3
single = $server dbname=postgres pool_size=1
full = $server dbname=postgres pool_size=1
down = host=127.0.0.1 port=$closed_port dbname=postgres
nowhere = $server dbname=nonexistent

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pooler_port
unix_socket_dir =
pool_mode = transaction
auth_type = scram-sha-256
auth_file = $folder/users.txt
client_tls_sslmode = allow
client_tls_ca_file = $certs/ca.crt
client_tls_cert_file = $certs/server.crt
client_tls_key_file = $certs/server.key
server_tls_sslmode = disable
max_client_conn = 20
query_wait_timeout = 120
admin_users = reader
server_login_retry = 1
logfile = $PostgreSQL::Test::Utils::log_path/pgbouncer.log
pidfile = $folder/pid
INI
	$pooler = IPC::Run::start([ 'pgbouncer', '-q', "$folder/pgbouncer.ini" ],
		'<', \undef, '>&', \$out);
	wait_until(
		sub {
			return 1 if IO::Socket::INET->new(
				PeerAddr => '127.0.0.1',
				PeerPort => $pooler_port);
			die "pgbouncer did not start: $out" unless $pooler->pumpable;
			return 0;
		}) or die "pgbouncer does not listen: $out";
	return;
}

sub stop_pooler
{
	return unless defined $pooler;
	$pooler->kill_kill;
	undef $pooler;
	return;
}

END
{
	# leaves the exit status of the test alone
	local $?;
	stop_pooler();
}

sub pooler_connstr
{
	my ($database) = @_;
	return
	  "host=127.0.0.1 port=$pooler_port dbname=$database user=reader password=reader_pw sslmode=disable";
}

# Another client of PgBouncer: its answers.
sub client
{
	my ($database, $sql) = @_;
	my ($out, $err);

	IPC::Run::run(
		[
			'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1',
			'-d', pooler_connstr($database), '-c', $sql
		],
		'<', \undef, '>', \$out, '2>', \$err) or die "psql: $err";
	return $out;
}

# One that stays until release(), after this script; undef if it does not get in.
sub try_hold
{
	my ($database, $sql) = @_;
	my ($in, $out) = ("$sql;\n\\echo ready\n", '');
	my $handle = IPC::Run::start(
		[ 'psql', '-XqAt', '-d', pooler_connstr($database) ],
		'<', \$in, '>&', \$out,
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));

	$handle->pump until $out =~ /^ready$/m or !$handle->pumpable;
	return $handle if $out =~ /^ready$/m;
	$handle->finish;
	return;
}

sub release
{
	$_->finish foreach @_;
	return;
}

# Open transactions of the role at the source.
sub transactions
{
	return $source->safe_psql('postgres',
		q{select count(*) from pg_stat_activity where usename = 'reader' and xact_start is not null}
	);
}
