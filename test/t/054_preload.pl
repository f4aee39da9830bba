
# How the library is loaded, and what a server without it answers.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $line = "shared_preload_libraries = 'opdata'";
my $payload = q({"host": "127.0.0.1", "port": 1, "database": "d",)
  . q( "username": "u", "password": "p", "sslMode": "disable"});

# Without the line.
my $node = PostgreSQL::Test::Cluster->new('node');
$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
$node->start;

foreach my $command ('create extension opdata cascade', q{load 'opdata'})
{
	my $error = error_of($node, $command);
	is($error->{sqlstate}, '55000', "$command is refused without the line");
	is( $error->{message},
		'opdata must be loaded by shared_preload_libraries',
		"$command: the error says what is missing");
	like($error->{hint}, qr/postgresql\.conf.*restart.*: \Q$line\E$/,
		"$command: the hint has the line to add");
}
is( $node->safe_psql(
		'postgres', q{select count(*) from pg_extension where extname <> 'plpgsql'
		union all select count(*) from pg_namespace where nspname = 'opdata'}),
	"0\n0",
	'a refused CREATE EXTENSION leaves nothing behind');
$node->safe_psql('postgres', 'create role somebody login');
is( error_of($node, q{load 'opdata'}, extra_params => [ '-U', 'somebody' ])
	  ->{sqlstate},
	'42501',
	'an ordinary role cannot load the library');
{
	local $ENV{PGOPTIONS} = '-c session_preload_libraries=opdata';
	like(connection_error($node), qr/opdata must be loaded by shared_preload_libraries/,
		'a session cannot load the library for itself');
}

# With the line, before any extension is created.
$node->append_conf('postgresql.conf', "$line\n");
$node->restart;
is($node->safe_psql('postgres', 'select 1'),
	'1', 'the server starts with the library and without the extension');
is($node->safe_psql('postgres', 'show opdata.key_file'),
	'opdata.key', 'the settings are there without the extension');
ok(!-e $node->data_dir . '/opdata.key',
	'a server that has only loaded the library makes no key');
is($node->psql('postgres', q{load 'opdata'}),
	0, 'LOAD does nothing once the library is there');
$node->stop;

# What pg_upgrade and repairs start.
my @single = (
	'postgres', '--single', '-j', '-D', $node->data_dir, 'postgres');
my ($stdout, $stderr) = ('', '');
ok( IPC::Run::run(
		\@single, '<', \"select 6 * 7 as answer\n\n",
		'>', \$stdout, '2>', \$stderr),
	'a server in single-user mode runs with the library')
  or diag($stderr);
like($stdout, qr/answer = "42"/, 'and answers');
$node->command_ok(
	[
		'pg_ctl', '-D', $node->data_dir, '-l', $node->logfile, '-w', '-o', '-b',
		'start'
	],
	'a server in binary-upgrade mode starts with the library');
is($node->safe_psql('postgres', 'select 1'),
	'1', 'a server in binary-upgrade mode answers');
$node->command_ok([ 'pg_ctl', '-D', $node->data_dir, '-w', 'stop' ],
	'a server in binary-upgrade mode stops');

# Beside others, whose order does not matter.
foreach my $libraries (
	'opdata, pg_stat_statements, auto_explain',
	'auto_explain, pg_stat_statements, opdata')
{
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = '$libraries'\n");
	$node->start;
	is($node->safe_psql('postgres', 'select 1'),
		'1', "the server starts with $libraries");
	$node->stop;
}
$node->start;

# Two databases, one key.
foreach my $dbname ('one', 'two')
{
	$node->safe_psql('postgres', "create database $dbname");
	$node->safe_psql($dbname, 'create extension opdata cascade');
}
my $store = "select opdata_store_creds('crm', '$payload', test => false)";
$node->safe_psql('one', $store);
my $key = slurp_file($node->data_dir . '/opdata.key');
my $key_id = $node->safe_psql('one', 'select key_id from opdata.connection');
$node->safe_psql('two', $store);
is(slurp_file($node->data_dir . '/opdata.key'),
	$key, 'the first store in a second database takes the key that is there');
is($node->safe_psql('two', 'select key_id from opdata.connection'),
	$key_id, 'two databases of one cluster share the key');
is( json($node, q{select opdata_test('crm')}, dbname => $_)->{error}{code},
	'connection_refused',
	"the credentials in database $_ can be read")
  foreach ('one', 'two');
is_deeply(
	json($node, 'select opdata_status()', dbname => 'one')->{key}{neededIds},
	[$key_id], 'the status of one database names its key');

$node->safe_psql('one', q{select opdata_delete('crm')});
is( json($node, q{select opdata_test('crm')}, dbname => 'two')->{error}{code},
	'connection_refused',
	'deleting the rows of one database leaves the key to the other');
is(error_of($node, q{select opdata_test('crm')}, dbname => 'one')->{code},
	'connection_not_found', 'each database has connections of its own');

# Encoding.
$node->safe_psql('postgres',
	q{create database latin encoding 'LATIN1' template template0});
my $error = error_of($node, 'create extension opdata cascade',
	dbname => 'latin');
is($error->{sqlstate}, '0A000',
	'a database with another encoding than UTF8 is refused');
like($error->{hint}, qr/CREATE DATABASE .* ENCODING 'UTF8'/,
	'the hint has the statement that makes a database');

# The line taken away under existing rows.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
foreach my $call (
	'opdata_status()',
	q{opdata_test('crm')},
	q{opdata_preview('crm', 'select 1')},
	q{opdata_delete('crm')},
	"opdata_store_creds('crm', '$payload')")
{
	my ($function) = $call =~ /^(\w+)/;
	$error = error_of($node, "select $call", dbname => 'two');
	is($error->{sqlstate}, '55000', "without the line $function is refused");
	like($error->{hint}, qr/\Q$line\E$/,
		"without the line the hint of $function has it");
}
is($node->safe_psql('two', 'select id, status from opdata_connections'),
	'crm|error', 'without the line the connections are still listed');
$node->command_ok(
	[ 'pg_dump', '-f', "$PostgreSQL::Test::Utils::tmp_check/dump", 'two' ],
	'without the line the database can be dumped');
$node->safe_psql('one', 'drop extension opdata');
is($node->safe_psql('one', q{select count(*) from pg_extension where extname = 'opdata'}),
	'0', 'without the line the extension can be dropped');

$node->append_conf('postgresql.conf', "$line\n");
$node->restart;
is( json($node, q{select opdata_test('crm')}, dbname => 'two')->{error}{code},
	'connection_refused',
	'with the line again the stored credentials can be read');

# A malformed name at the start, where a warning in the log is all that PostgreSQL
# has for it.
foreach my $case (
	[ 'org_id', 'a name', 'acme' ],
	[ 'temporal_address', 'https://temporal.example', '127.0.0.1:1' ],
	[ 'temporal_namespace', 'a space', 'b' ])
{
	my ($name, $bad, $good) = @$case;
	my %settings =
	  (database => 'two', org_id => 'acme', temporal_address => '127.0.0.1:1', temporal_tls => 'off', $name => $bad);

	$node->append_conf('postgresql.conf', join('', map { "opdata.$_ = '$settings{$_}'\n" } sort keys %settings));
	$node->restart;
	my $status;
	ok( wait_until(
			sub {
				$status = json($node, 'select opdata_status()', dbname => 'two');
				!grep { $_->{state} ne 'misconfigured' } @{ $status->{workers} };
			}),
		"with a malformed opdata.$name the workers do nothing");
	is_deeply($status->{reasons}, ['misconfigured'], "opdata.$name: and the agent is not healthy");
	like($status->{workers}[0]{lastError}{message}, qr/^opdata\.$name was malformed/, "opdata.$name: the status names it");
	$node->append_conf('postgresql.conf', "opdata.$name = '$good'\n");
	$node->reload;
	ok( wait_until(
			sub {
				$status = json($node, 'select opdata_status()', dbname => 'two');
				!grep { $_->{state} eq 'misconfigured' } @{ $status->{workers} };
			}),
		"opdata.$name: a reload mends it");
}

done_testing();
