
# The life of the tables: dump and restore, standby and promotion, drop and
# create.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Copy;
use IPC::Run;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $dumps = $PostgreSQL::Test::Utils::tmp_check;
my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});
my $port = $source->port;
my $payload =
    qq({"host": "127.0.0.1", "port": $port, "database": "postgres",)
  . qq( "username": "reader", "password": "reader_pw", "sslMode": "disable"});

# A standby needs WAL; sessions must find their places under this limit.
my $agent = agent_cluster('agent',
	conf => "wal_level = replica\nmax_wal_senders = 5\n");
my $key_file = $agent->data_dir . '/opdata.key';

# Four databases: schema public, a schema whose name needs quotes, the schema of the
# tables itself, and one that had another name when the extension was made.
my %schemas = (
	in_public => 'public',
	in_quoted => '"Agent schema"',
	in_opdata => 'opdata',
	in_renamed => 'renamed');
my %first = (in_renamed => 'made');
foreach my $dbname (sort keys %schemas)
{
	my $schema = $schemas{$dbname};
	my $first = $first{$dbname} // $schema;
	$agent->safe_psql('postgres', "create database $dbname");
	$agent->safe_psql(
		$dbname, qq{
		create schema if not exists $first;
		create schema crypto;
		create extension pgcrypto schema crypto;
		create extension opdata schema $first});
	$agent->safe_psql($dbname, "alter schema $first rename to $schema") if $first ne $schema;
	$agent->safe_psql(
		$dbname, qq{
		select $schema.opdata_store_creds('crm', '$payload', 'The CRM');
		select $schema.opdata_store_creds('later', '$payload',
			workspace_id => 'other', test => false);
		select $schema.opdata_preview('crm', 'select 42')});
}

# Servers that the dumps go to. Where a key is not given, none may appear.
my $same = agent_cluster('same');
copy_key($same);
my $keyless = agent_cluster('keyless');
my $wrong = agent_cluster('wrong');
$wrong->safe_psql('postgres',
	"select opdata_store_creds('own', '$payload', test => false)");
my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
$plain->start;

my $key_id = $agent->safe_psql('in_public',
	q{select key_id from opdata.connection where id = 'crm'});
my $wrong_id =
  $wrong->safe_psql('postgres', q{select key_id from opdata.connection});
isnt($wrong_id, $key_id, 'another cluster has another key');

foreach my $dbname (sort keys %schemas)
{
	my $schema = $schemas{$dbname};

	dump_database($dbname);
	foreach my $format ('plain', 'custom')
	{
		my $what = "a $format dump with the extension in $schema";
		my $target = "${dbname}_$format";

		my ($ok, $stderr) = restore($same, $dbname, $target, $format);
		ok($ok, "$what is restored") or diag($stderr);
		is(rows($same, $target), rows($agent, $dbname),
			"$what brings every row back");
		is( $same->safe_psql(
				$target,
				q{select n.nspname from pg_extension e
				join pg_namespace n on n.oid = extnamespace where extname = 'opdata'}
			),
			$schema =~ s/"//gr,
			"$what brings the extension back into its schema");
		ok( json($same, "select $schema.opdata_test('crm')",
				dbname => $target)->{ok},
			"after $what the connection works");
		is( json($same, "select $schema.opdata_preview('later', 'select 42')",
				dbname => $target)->{rows}[0][0],
			42,
			"after $what a connection that was never tested works");
		ok( json($same,
				"select $schema.opdata_store_creds('new', '$payload')",
				dbname => $target)->{test}{ok},
			"after $what a new connection can be stored");
	}
}

foreach my $case (
	[ $keyless, 'without the key', qr/^secret_unavailable Key $key_id is needed/ ],
	[
		$wrong, 'with another key',
		qr/^secret_unavailable Key $key_id is needed.* $wrong_id/
	])
{
	my ($node, $what, $detail) = @$case;
	my $file = $node->data_dir . '/opdata.key';
	my $before = -e $file ? slurp_file($file) : 'none';

	my ($ok, $stderr) = restore($node, 'in_public', 'restored', 'plain');
	ok($ok, "a dump is restored $what") or diag($stderr);
	foreach my $call (
		q{opdata_test('crm')},
		q{opdata_preview('crm', 'select 1')},
		"opdata_store_creds('crm', '$payload')",
		"opdata_store_creds('new', '$payload', test => false)")
	{
		my ($function) = $call =~ /^(\w+)/;
		my $error = error_of($node, "select $call", dbname => 'restored');
		is($error->{sqlstate}, '55000', "$what: $function is refused");
		like($error->{detail}, $detail,
			"$what: the error of $function names the key");
	}
	is( $node->safe_psql('restored', q{select id, status from opdata_connections order by id}),
		"crm|connected\nlater|pending",
		"$what: the connections are listed");
	is(-e $file ? slurp_file($file) : 'none',
		$before, "$what: no key is made or changed");
	unlink $file;
	copy_key($node);
	ok( json($node, q{select opdata_test('crm')}, dbname => 'restored')->{ok},
		"$what: once the key is put in place, the connection works");
}

# Rows alone, into an extension that is there already.
$same->safe_psql('postgres', 'create database data_only');
$same->safe_psql('data_only', 'create extension opdata cascade');
$same->command_ok(
	[
		'pg_restore', '--exit-on-error', '--data-only', '-d',
		$same->connstr('data_only'), "$dumps/in_public.custom"
	],
	'rows alone are restored into an existing extension');
is(rows($same, 'data_only'), rows($agent, 'in_public'),
	'rows alone bring everything back');
ok(json($same, q{select opdata_test('crm')}, dbname => 'data_only')->{ok},
	'connections restored as rows alone work');

# A server that lacks the line in its configuration.
foreach my $format ('plain', 'custom')
{
	my ($ok, $stderr) =
	  restore($plain, 'in_public', "unloaded_$format", $format);
	ok(!$ok, "a $format dump is refused without shared_preload_libraries");
	like($stderr, qr/opdata must be loaded by shared_preload_libraries/,
		"the error for a $format dump says what is missing");
	like($stderr, qr/HINT:.*shared_preload_libraries = 'opdata'/,
		"the hint for a $format dump has the line to add");
}

# A standby, made from a base backup, key included.
$agent->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($agent, 'base', has_streaming => 1);
my $standby_key = $standby->data_dir . '/opdata.key';
is(slurp_file($standby_key), slurp_file($key_file),
	'a key in the data directory is part of a base backup');

# the module's copy of the backup does not keep the mode
chmod 0600, $standby_key or die "chmod: $!";
$standby->start;
$agent->wait_for_catchup($standby);

my $jobs = job_count($agent);
my $before = rows($agent, 'in_public');
foreach my $case (
	[ $standby, 'on a standby', '' ],
	[ $agent, 'in a read-only transaction', 'begin read only; ' ],
	[
		$agent, 'in a read-only session',
		'set default_transaction_read_only = on; '
	])
{
	my ($node, $where, $begin) = @$case;

	my $result = json($node, "${begin}select opdata_test('crm')",
		dbname => 'in_public');
	ok($result->{ok}, "$where a stored connection is tested");
	ok( json($node, "${begin}select opdata_test('$payload'::jsonb)",
			dbname => 'in_public')->{ok},
		"$where a payload is tested");
	is( json($node, "${begin}select opdata_preview('crm', 'select 42')",
			dbname => 'in_public')->{rows}[0][0],
		42,
		"$where a preview works");
	is( json($node, "${begin}select opdata_status()", dbname => 'in_public')
		  ->{connections},
		2,
		"$where the status works");
	foreach my $case (
		[ 'a store over an old id', "opdata_store_creds('crm', '$payload')" ],
		[
			'an untested store of a new id',
			"opdata_store_creds('new', '$payload', test => false)"
		],
		[ 'a deletion', q{opdata_delete('crm')} ])
	{
		my ($what, $call) = @$case;
		my $error = error_of($node, "${begin}select $call",
			dbname => 'in_public');
		is($error->{sqlstate}, '25006', "$where $what is refused");
		like($error->{message} // '', qr/read-only|recovery|standby/,
			"$where the error of $what says why");
	}
}
$agent->wait_for_catchup($standby);
is(job_count($agent), $jobs, 'none of these calls left a job record');
is(rows($agent, 'in_public'), $before,
	'none of these calls changed a connection');

# A standby makes no key, not even where no row is encrypted yet.
$agent->safe_psql('postgres', 'create database empty');
$agent->safe_psql('empty', 'create extension opdata cascade');
$agent->wait_for_catchup($standby);
rename($standby_key, "$standby_key.away") or die "rename: $!";
ok( error_of($standby,
		"select opdata_store_creds('new', '$payload', test => false)",
		dbname => 'empty'),
	'a standby without a key stores nothing');
ok(!-e $standby_key, 'a standby makes no key');
like(
	error_of($standby, q{select opdata_test('crm')}, dbname => 'in_public')
	  ->{detail},
	qr/^secret_unavailable Key $key_id is needed/,
	'a standby without the key names the key that it needs');
rename("$standby_key.away", $standby_key) or die "rename: $!";

$standby->promote;
$standby->poll_query_until('postgres', 'select not pg_is_in_recovery()')
  or die 'the standby is not promoted';
ok( json($standby, "select opdata_store_creds('crm', '$payload')",
		dbname => 'in_public')->{test}{ok},
	'a promoted standby stores');
is( $standby->safe_psql(
		'in_public', 'select distinct key_id from opdata.connection'),
	$key_id,
	'a promoted standby goes on with the same key');

# One session that outlives a change of state must notice it.
my $session = $same->background_psql('in_public_plain', on_error_stop => 0);
is( $session->query_safe(q{select opdata_delete('new')->>'deleted'}),
	'true', 'a session works with the extension');
foreach my $dbname ('in_public_plain', 'in_opdata_plain')
{
	my $schema = $dbname =~ /opdata/ ? 'opdata' : 'public';

	$same->safe_psql($dbname, 'drop extension opdata');
	is( $same->safe_psql(
			$dbname,
			q{select count(*) from pg_proc where proname ~ '^opdata'
			union all select count(*) from pg_class c
			join pg_namespace n on n.oid = relnamespace
			where relname ~ '^opdata' or nspname = 'opdata'}),
		"0\n0",
		"DROP EXTENSION leaves no function or relation in schema $schema");
	$same->safe_psql($dbname, "create extension opdata schema $schema");
	is($same->safe_psql($dbname, 'select count(*) from opdata.connection'),
		'0', "an extension created again in schema $schema has no rows");
	ok( json($same, "select $schema.opdata_store_creds('crm', '$payload')",
			dbname => $dbname)->{test}{ok},
		"an extension created again in schema $schema works");
}
is( $session->query_safe(
		"select opdata_store_creds('two', '$payload')->>'status'"),
	'connected',
	'a session that saw the old extension stores in the new one');
is( $session->query_safe(q{select opdata_test('crm')->>'ok'}),
	'true', 'a session that saw the old extension tests in the new one');
$session->quit;
is( $same->safe_psql('in_public_plain',
		'select distinct key_id from opdata.connection'),
	$key_id,
	'the key outlives the extension');
my $error = error_of($same, 'drop extension pgcrypto', dbname => 'data_only');
is($error->{sqlstate}, '2BP01', 'pgcrypto cannot be dropped from under opdata');
$same->safe_psql('data_only', 'drop extension pgcrypto cascade');
is( $same->safe_psql(
		'data_only', q{select count(*) from pg_extension where extname = 'opdata'}),
	'0',
	'DROP EXTENSION pgcrypto CASCADE takes opdata with it');

# A schema of that name that somebody else made is not taken over.
$same->safe_psql('postgres', 'create database taken');
$same->safe_psql('taken',
	'create schema opdata; create table opdata.mine (a int)');
$error = error_of($same, 'create extension opdata cascade', dbname => 'taken');
is($error->{sqlstate}, '42P06',
	'an existing schema opdata is not taken over silently');
is($same->safe_psql('taken', q{select count(*) from pg_extension where extname <> 'plpgsql'}),
	'0', 'a refused CREATE EXTENSION leaves nothing behind');

done_testing();


sub copy_key
{
	my ($node) = @_;
	my $to = $node->data_dir . '/opdata.key';

	copy($key_file, $to) or die "copy: $!";
	chmod 0600, $to or die "chmod: $!";
	return;
}

# Everything that a dump has to carry.
sub rows
{
	my ($node, $dbname) = @_;
	return $node->safe_psql(
		$dbname, q{
		set timezone = 'UTC';
		select c.* from opdata.connection c order by id;
		select j.* from opdata.job j order by id});
}

sub job_count
{
	my ($node) = @_;
	return $node->safe_psql('in_public', 'select count(*) from opdata.job');
}

sub dump_database
{
	my ($dbname) = @_;

	foreach my $format ('plain', 'custom')
	{
		$agent->command_ok(
			[
				'pg_dump', "--format=$format", '-f', "$dumps/$dbname.$format",
				$agent->connstr($dbname)
			],
			"database $dbname is dumped in $format format");
	}
	return;
}

# Restores into a new database; whether it went well, and what was said.
sub restore
{
	my ($node, $dbname, $target, $format) = @_;
	my $stderr = '';
	my @command =
	  $format eq 'plain'
	  ? ('psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', "$dumps/$dbname.plain")
	  : ('pg_restore', '--exit-on-error', "$dumps/$dbname.custom");

	$node->safe_psql('postgres', "create database $target template template0");
	my $ok = IPC::Run::run([ @command, '-d', $node->connstr($target) ],
		'>', \my $stdout, '2>', \$stderr);
	return ($ok, $stderr);
}
