
# Who may do and see what: cases that need logins, other databases or files.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw_4711'});
my $port = $source->port;
my $payload =
    qq({"host": "127.0.0.1", "port": $port, "database": "postgres",)
  . qq( "username": "reader", "password": "reader_pw_4711", "sslMode": "disable"});

my $agent = agent_cluster('agent');
my $key_file = $agent->data_dir . '/opdata.key';

# "boss" owns a database whose extension a superuser made, "worker" is a developer
# of the one workspace there and nothing else.
$agent->safe_psql(
	'postgres', q{
	create role boss login;
	create role worker login;
	create role nobody login;
	create role auditor login in role pg_read_all_data;
	create role scribe login in role pg_write_all_data, pg_read_all_data;
	create role watcher login in role pg_read_all_settings;
	create database tenant owner boss});
is(sqlstate_as('boss', 'create extension opdata cascade'),
	'42501', 'the owner of a database cannot create the extension');
$agent->safe_psql(
	'tenant', qq{
	create extension opdata cascade;
	select opdata_grant('worker', 'default', 'developer'), opdata_grant('watcher', 'default', 'developer');
	select opdata_store_creds('crm', '$payload')});

# The owner of the database.
foreach my $case (
	[ 'call a function', 'select opdata_status()' ],
	[ 'store', "select opdata_store_creds('mine', '$payload')" ],
	[ 'delete a connection', q{select opdata_delete('crm')} ],
	[ 'read the table', 'select count(*) from opdata.connection' ],
	[ 'read the list', 'select count(*) from opdata_connections' ],
	[ 'read the jobs', 'select count(*) from opdata_jobs' ],
	[ 'create in the schema', 'create table opdata.mine (a int)' ],
	[
		'make a trigger on the table',
		'create trigger t before insert on opdata.connection
			execute function suppress_redundant_updates_trigger()'
	],
	[ 'alter the table', 'alter table opdata.connection add a int' ],
	[
		'change a function',
		q{alter function opdata_status() set search_path = public}
	],
	[
		'grant itself a function',
		'grant execute on function opdata_delete to boss'
	],
	[ 'grant itself the table', 'grant select on opdata.connection to boss' ],
	[ 'drop the schema', 'drop schema opdata cascade' ],
	[ 'drop the extension', 'drop extension opdata cascade' ],
	[ 'update the extension', 'alter extension opdata update' ],
	[
		'add to the extension',
		'create function f() returns int language sql as $$ select 1 $$;
			alter extension opdata add function f()'
	],
	[ 'load the library by a function of its own',
		q{create function f() returns jsonb language c as 'opdata', 'opdata_status'}
	],
	[
		'set a setting for the database',
		q{alter database tenant set opdata.key_file = '/tmp/key'}, '55P02|42501'
	])
{
	my ($what, $sql, $expected) = @$case;
	$expected //= '42501';
	like(sqlstate_as('boss', $sql), qr/^(?:$expected)$/,
		"the owner of the database cannot $what");
}

# What EXECUTE alone is good for. The owner of the database lays traps in the
# search path first.
$agent->safe_psql(
	'tenant', q{
	set role boss;
	create schema trap;
	grant usage on schema trap to public;
	create function trap.now() returns timestamptz language plpgsql
		as $$ begin raise 'trapped'; end $$;
	create function trap.round(float8, int) returns numeric language plpgsql
		as $$ begin raise 'trapped'; end $$;
	create function trap.jsonb_agg(text) returns jsonb language plpgsql
		as $$ begin raise 'trapped'; end $$;
	create function trap.eq(text, text) returns boolean language plpgsql
		as $$ begin raise 'trapped'; end $$;
	create operator trap.= (function = trap.eq, leftarg = text, rightarg = text);
	create operator trap.<> (function = trap.eq, leftarg = text, rightarg = text);
	create function trap.pgp_sym_encrypt_bytea(bytea, text, text) returns bytea
		language plpgsql as $$ begin raise 'trapped'; end $$;
	create function trap.pgp_sym_decrypt_bytea(bytea, text) returns bytea
		language plpgsql as $$ begin raise 'trapped'; end $$;
	alter database tenant set search_path = trap, pg_catalog, public});
is(sqlstate_as('worker', q{select 'a'::text = 'a'::text}),
	'P0001', 'the traps in the search path work');
is( json_as('worker', "select opdata_store_creds('mine', '$payload')")
	  ->{status},
	'connected',
	'EXECUTE alone is enough to store');
ok(json_as('worker', q{select opdata_test('mine')})->{ok},
	'EXECUTE alone is enough to test');
ok(json_as('worker', "select opdata_test('$payload'::jsonb)")->{ok},
	'EXECUTE alone is enough to test a payload');
is( json_as('worker', q{select opdata_preview('mine', 'select 42')})
	  ->{rows}[0][0],
	42,
	'EXECUTE alone is enough to preview');
is(json_as('worker', q{select opdata_status()})->{connections},
	2, 'EXECUTE alone is enough for the status');
ok(json_as('worker', q{select opdata_delete('mine')})->{deleted},
	'EXECUTE alone is enough to delete');
$agent->safe_psql('postgres', 'alter database tenant reset search_path');
is( $agent->safe_psql(
		'tenant',
		q{select string_agg(kind, ',' order by started_at) from opdata.job
		where requested_by = 'worker'}),
	'store,test,test,preview,delete',
	'the jobs name the role that asked');
is( $agent->safe_psql(
		'tenant', q{
	set role worker; select opdata_test('crm')->'ok'; reset role;
	select requested_by from opdata.job order by started_at desc limit 1}),
	"true\nworker",
	'the job of a role that was switched to names that role');
is(sqlstate_as('worker', 'select payload from opdata.connection'),
	'42501', 'EXECUTE does not open the table');
is(sqlstate_as('worker', q{delete from opdata_connections}),
	'42501', 'the list cannot be written');

# A schema in front of pg_catalog in the caller's own session, and in the
# temporary one.
is( $agent->safe_psql(
		'tenant', q{
	create temp table connection (id text, workspace_id text, type text, name text,
		key_id text, payload bytea);
	set search_path = pg_temp, public;
	select opdata_test('crm')->'ok'},
		extra_params => [ '-U', 'worker' ]),
	'true',
	'a temporary table of the same name is not looked at');

# Roles that read or write everything.
my $seen = $agent->safe_psql(
	'tenant', 'select * from opdata.connection; select * from opdata.job;
	select * from opdata_connections; select * from opdata_jobs',
	extra_params => [ '-U', 'auditor' ]);
like($seen, qr/\bcrm\b/, 'pg_read_all_data reads the tables');
unlike($seen, qr/reader_pw/, 'pg_read_all_data sees no password');
my ($ciphertext) = $seen =~ /\|\\x([0-9a-f]{100,})\|/;
ok($ciphertext, 'pg_read_all_data sees the ciphertext');
unlike(pack('H*', $ciphertext // ''),
	qr/reader|127\.0\.0\.1|sslMode/,
	'the ciphertext holds nothing in plain');
foreach my $function (
	q{opdata_test('crm')},
	q{opdata_preview('crm', 'select 1')},
	q{opdata_delete('crm')},
	'opdata_status()')
{
	is(sqlstate_as('auditor', "select $function"),
		'42501', "pg_read_all_data cannot call $function");
}
is( error_of($agent,
		q{select opdata_test('crm')}, dbname => 'tenant',
		extra_params => [ '-U', 'auditor' ])->{message},
	'permission denied for function opdata_test',
	'a role without EXECUTE is told so');
is( sqlstate_as(
		'scribe', q{
		insert into opdata.connection (id, type, payload, key_id, workspace_id, name, safe_metadata, status)
			select 'copy', type, payload, key_id, workspace_id, name, safe_metadata, status
			from opdata.connection where id = 'crm'}),
	'42501',
	'pg_write_all_data cannot copy a row');
$agent->safe_psql('tenant', q{
	insert into opdata.connection (id, type, payload, key_id, workspace_id, name, safe_metadata, status)
		select 'copy', type, payload, key_id, workspace_id, name, safe_metadata, status
		from opdata.connection where id = 'crm'});
is( error_of($agent, q{select opdata_test('copy')}, dbname => 'tenant')
	  ->{sqlstate},
	'XX001',
	'a copied row does not decrypt');

# Settings.
my $settings = q{select coalesce(string_agg(name, ',' order by name), '')
	from pg_settings where name ~ '^opdata\.'};
my @settings = split /,/,
  $agent->safe_psql('postgres', $settings);
cmp_ok(scalar(@settings), '>=', 3, 'there are settings');
foreach my $role ('nobody', 'boss', 'worker', 'auditor')
{
	my $visible = answer_as($role, $settings);
	unlike($visible, qr/key_file|allowed_hosts|allow_local_sockets/,
		"$role sees no setting that names a file or a host");
	is(sqlstate_as($role, 'show opdata.key_file'),
		'42501', "SHOW of the key file is refused to $role");
	is(sqlstate_as($role, q{select current_setting('opdata.key_file', true)}),
		'42501', "current_setting() of the key file is refused to $role");
	is(sqlstate_as($role, 'select name from pg_file_settings'),
		'42501', "the settings in files are refused to $role");
}
is(answer_as('watcher', 'show opdata.key_file'),
	'opdata.key', 'pg_read_all_settings shows the key file');
ok(!exists json_as('worker', 'select opdata_status()')->{key}{file},
	'the status names no key file to an ordinary role');
is(json_as('watcher', 'select opdata_status()')->{key}{file},
	$key_file, 'the status names the key file with pg_read_all_settings');

my ($file_name) = $key_file =~ m{([^/]+/[^/]+)$};
rename($key_file, "$key_file.away") or die "rename: $!";
foreach my $call (
	q{opdata_test('crm')},
	q{opdata_preview('crm', 'select 1')},
	"opdata_store_creds('crm', '$payload')")
{
	my ($function) = $call =~ /^(\w+)/;
	my ($rc, $stdout, $stderr) =
	  $agent->psql('tenant', "\\set VERBOSITY verbose\nselect $call",
		extra_params => [ '-U', 'worker' ]);
	like($stderr, qr/secret_unavailable/,
		"an ordinary role is told by $function that the key is missing");
	unlike($stderr, qr/\Q$file_name\E/,
		"$function does not tell an ordinary role where the key should be");
}
rename("$key_file.away", $key_file) or die "rename: $!";

my %values = (
	'opdata.key_file' => q{'/tmp/key'},
	'opdata.allowed_hosts' => q{'db.example'});
foreach my $setting (@settings)
{
	my $value = $values{$setting} // 'on';

	my $text = $value =~ s/'//gr;
	foreach my $case (
		[ 'SET', "set $setting = $value" ],
		[ 'SET LOCAL', "begin; set local $setting = $value" ],
		[ 'set_config()', "select set_config('$setting', '$text', false)" ],
		[ 'ALTER ROLE', "alter role worker set $setting = $value" ],
		[ 'ALTER DATABASE', "alter database tenant set $setting = $value" ],
		[
			'a function',
			"create function f() returns int language sql
				set $setting = $value as 'select 1'"
		])
	{
		my ($what, $sql) = @$case;
		is(error_of($agent, $sql)->{sqlstate},
			'55P02', "a superuser cannot change $setting by $what");
	}
	is(sqlstate_as('boss', "alter system set $setting = $value"),
		'42501', "ALTER SYSTEM SET $setting is refused to an ordinary role");

	local $ENV{PGOPTIONS} = "-c $setting=$text";
	like(connection_error($agent), qr/parameter "$setting" cannot be changed (?:now|without restarting the server)/,
		"$setting is refused as a connection option");
}
is(error_of($agent, 'set opdata.key_fiel = 1')->{sqlstate},
	'42602', 'a misspelt setting is refused');

done_testing();


sub sqlstate_as
{
	my ($role, $sql) = @_;
	my $error = error_of($agent, $sql,
		dbname => 'tenant', extra_params => [ '-U', $role ]);

	return $error ? $error->{sqlstate} : 'none';
}

sub answer_as
{
	my ($role, $sql) = @_;
	return $agent->safe_psql('tenant', $sql,
		extra_params => [ '-U', $role ]);
}

sub json_as
{
	my ($role, $sql) = @_;
	return json($agent, $sql,
		dbname => 'tenant', extra_params => [ '-U', $role ]);
}
