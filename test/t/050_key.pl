
# The master key file: made on first use, refused when it is not as it must
# be, never overwritten; and the ciphertexts that depend on it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Digest::SHA qw(hmac_sha256_hex);
use Fcntl qw(:mode O_RDWR O_NONBLOCK);
use File::Path qw(make_path remove_tree);
use Opdata::Test;
use POSIX qw(mkfifo);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $other_key = 'another key of exactly 32 bytes.';
my $outside = "$PostgreSQL::Test::Utils::tmp_check/keys";
make_path($outside, { mode => 0700 });

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});
my $payload = payload('reader_pw');

my $agent = agent_cluster('agent');
my $key_file = $agent->data_dir . '/opdata.key';

# What reading calls do without a key and without rows.
my $status = json($agent, 'select opdata_status()');
is($status->{key}{state}, 'missing', 'a new agent has no key');
is($status->{key}{id}, undef, 'a new agent has no key id');
is(codes_of($status), '', 'a new agent has no warnings');
ok(json($agent, "select opdata_test('$payload'::jsonb)")->{ok},
	'credentials are tested without a key');
is(error_of($agent, q{select opdata_test('nope')})->{code},
	'connection_not_found', 'a test of an unknown id says so without a key');
is(error_of($agent, q{select opdata_preview('nope', 'select 1')})->{code},
	'connection_not_found', 'a preview of an unknown id says so without a key');
is_deeply(json($agent, q{select opdata_delete('nope')}),
	{ deleted => JSON::PP::false }, 'a deletion of an unknown id needs no key');
is( error_of($agent,
		"select opdata_store_creds('crm', '" . payload('wrong') . "')")->{code},
	'authentication_failed',
	'storing credentials that do not work fails');
is(error_of($agent, q{select opdata_store_creds('crm', '{"host": 1}')})->{code},
	'invalid_credentials', 'storing a malformed payload fails');
ok(!-e $key_file, 'none of these calls made a key');

# First use, which a rollback does not undo.
$agent->safe_psql('postgres',
	"begin; select opdata_store_creds('crm', '$payload'); rollback");
ok(-e $key_file, 'the first store makes the key, even if it is rolled back');
my $key = slurp_file($key_file);
is(length($key), 32, 'the key has 32 bytes');
is(mode_of($key_file), '0600', 'the key file has mode 0600');
is_deeply([ glob("$key_file*") ],
	[$key_file], 'no temporary file is left beside the key');

my $key_id = substr(hmac_sha256_hex('opdata master key id v1', $key), 0, 16);
is(json($agent, 'select opdata_status()')->{key}{id},
	$key_id, 'the key id is derived from the key alone');
is( json($agent, "select opdata_store_creds('crm', '$payload')")->{status},
	'connected',
	'the next store takes the key that is there');
is( $agent->safe_psql('postgres', 'select key_id from opdata.connection'),
	$key_id,
	'the row names the key');
is(slurp_file($key_file), $key, 'a second store leaves the key as it is');

my $other_id =
  substr(hmac_sha256_hex('opdata master key id v1', $other_key), 0, 16);

# Each fault: name, how to make it, state and warning that the status tells.
my @faults = (
	[ 'the key is missing', sub { }, 'missing', 'key_missing' ],
	[
		'the file holds another key',
		sub { write_key($other_key) },
		'present', 'key_wrong'
	],
	[ 'the file is empty', sub { write_key('') }, 'unusable', 'key_unusable' ],
	[
		'the file is a byte short',
		sub { write_key(substr($key, 0, 31)) },
		'unusable', 'key_unusable'
	],
	[
		'the file is a byte long',
		sub { write_key("$key\n") },
		'unusable', 'key_unusable'
	],
	[
		'the group may read the file',
		sub { write_key($key, 0640) },
		'unusable', 'key_unusable'
	],
	[
		'everybody may read the file',
		sub { write_key($key, 0604) },
		'unusable', 'key_unusable'
	],
	[
		'the group may write the file',
		sub { write_key($key, 0620) },
		'unusable', 'key_unusable'
	],
	[
		'its owner may not read the file',
		sub { write_key($key, 0000) },
		'unusable', 'key_unusable'
	],
	[
		'there is a directory in its place',
		sub { mkdir $key_file, 0700 or die "mkdir: $!" },
		'unusable', 'key_unusable'
	],
	[
		'a symbolic link points to nothing',
		sub { link_key("$outside/nothing") },
		'missing', 'key_missing'
	],
	[
		'a symbolic link points to a readable file',
		sub {
			write_file("$outside/readable", $key, 0644);
			link_key("$outside/readable");
		},
		'unusable',
		'key_unusable'
	],
	[
		'a symbolic link points to itself',
		sub { link_key($key_file) },
		'unusable', 'key_unusable'
	]);

my $rows = rows();
foreach my $fault (@faults)
{
	my ($name, $make, $state, $warning) = @$fault;

	remove_key();
	$make->();
	subtest "when $name" => sub { check_fault($state, $warning) };
}
remove_key();
write_key($key);
ok(json($agent, q{select opdata_test('crm')})->{ok},
	'with the key back, the connection works again');

# Secrets that a container platform mounts are symbolic links, which
# PostgreSQL follows for its own key files too.
remove_key();
write_file("$outside/mounted", $key, 0400);
link_key("$outside/mounted");
ok(json($agent, q{select opdata_test('crm')})->{ok},
	'a symbolic link to a good key, read-only to its owner, works');
remove_key();
write_key($key);

subtest 'who may own the file' => \&check_owners;

# A row that needs another key than the others.
$agent->safe_psql(
	'postgres', qq{
	select opdata_store_creds('old', '$payload');
	update opdata.connection set key_id = '$other_id' where id = 'old'});
$rows = rows();
ok(json($agent, q{select opdata_test('crm')})->{ok},
	'a row whose key is there works beside one whose key is not');
like(error_of($agent, q{select opdata_test('old')})->{detail},
	qr/^secret_unavailable Key $other_id is needed/,
	'the error of a row names the key that this row needs');
like(
	error_of($agent, "select opdata_store_creds('new', '$payload')")->{detail},
	qr/^secret_unavailable Key $other_id is needed/,
	'nothing is stored under a second key');
$status = json($agent, 'select opdata_status()');
is(codes_of($status, 'key_in_data_directory'),
	'key_wrong', 'the status warns of a row that needs another key');
is_deeply(
	[ sort @{ $status->{key}{neededIds} } ],
	[ sort($key_id, $other_id) ],
	'the status lists both keys that rows need');
is_deeply(json($agent, q{select opdata_delete('old')}),
	{ deleted => JSON::PP::true }, 'a row whose key is lost can be deleted');

# Deleting, and starting over.
remove_key();
is_deeply(json($agent, q{select opdata_delete('crm')}),
	{ deleted => JSON::PP::true }, 'the last row can be deleted without a key');
is(codes_of(json($agent, 'select opdata_status()')),
	'', 'a missing key is no fault when no row needs one');
ok(!-e $key_file, 'neither deletion nor status makes a key');
write_key($key, 0644);
my $error = error_of($agent, "select opdata_store_creds('crm', '$payload')");
is($error->{code}, 'secret_unavailable',
	'a key file that cannot be used is an error without rows, too');
is(describe_key(), '0644 ' . unpack('H*', $key),
	'a key file that cannot be used is left as it is');
remove_key();
is( json($agent, "select opdata_store_creds('crm', '$payload')")->{status},
	'connected',
	'with no row left, a missing key is made anew');
isnt(slurp_file($key_file), $key, 'the new key is another one');
ok(json($agent, q{select opdata_test('crm')})->{ok}, 'the new key works');

# The name of the file.
is(codes_of(json($agent, 'select opdata_status()')),
	'key_in_data_directory', 'the status warns of a key in the data directory');
$key = slurp_file($key_file);
foreach my $case (
	[ 'an absolute name outside', "$outside/absolute.key", '' ],
	[ 'a relative name', 'sub/relative.key', 'key_in_data_directory' ],
	[ 'a relative name that leads outside', '../up.key', '' ],
	[
		'a roundabout name inside',
		"$outside/../../" . relative_to_test_dir($agent->data_dir)
		  . '/roundabout.key',
		'key_in_data_directory'
	])
{
	my ($name, $value, $warnings) = @$case;
	my $path = $value =~ m{^/} ? $value : $agent->data_dir . "/$value";

	my ($directory) = $path =~ m{(.*)/};
	make_path($directory, { mode => 0700 });
	rename($key_file, $path) or die "rename to $path: $!";
	set_key_file($value);
	ok(json($agent, q{select opdata_test('crm')})->{ok},
		"opdata.key_file as $name takes effect on reload");
	is(codes_of(json($agent, 'select opdata_status()')),
		$warnings, "the status is right about $name");
	rename($path, $key_file) or die "rename from $path: $!";
}
set_key_file("$outside/elsewhere.key");
my $found = error_of($agent, q{select opdata_test('crm')});
is($found->{code}, 'secret_unavailable',
	'a name where no key is gives an error');
ok(!-e "$outside/elsewhere.key", 'a name where no key is makes none while rows exist');
$agent->append_conf('postgresql.conf', "opdata.key_file = ''\n");
$agent->reload;
$agent->wait_for_log(qr/invalid value for parameter "opdata.key_file"/);
is( $agent->safe_psql('postgres', 'show opdata.key_file'),
	"$outside/elsewhere.key",
	'an empty name is refused and the old one stays');

# Where no key can be made.
$agent->safe_psql('postgres', q{select opdata_delete('crm')});
mkdir "$outside/closed", 0500 or die "mkdir: $!";
foreach my $case (
	[ 'in a directory that is not writable', "$outside/closed/opdata.key" ],
	[ 'in a directory that does not exist', "$outside/nowhere/opdata.key" ],
	[ 'below a file', $agent->data_dir . '/PG_VERSION/opdata.key' ])
{
	my ($name, $path) = @$case;

	set_key_file($path);
	$error = error_of($agent, "select opdata_store_creds('crm', '$payload')");
	is($error->{code}, 'secret_unavailable', "$name, no key is made: an error");
	like($error->{hint}, qr/opdata\.key_file|must hold/,
		"$name: the hint helps");
	is($agent->safe_psql('postgres', 'select count(*) from opdata.connection'),
		'0', "$name, nothing is stored");
}
chmod 0700, "$outside/closed" or die "chmod: $!";
set_key_file("$outside/closed/opdata.key");
ok(json($agent, "select opdata_store_creds('crm', '$payload')")->{test}{ok},
	'once the directory is writable, the key is made there');
is(mode_of("$outside/closed/opdata.key"),
	'0600', 'a key outside the data directory has mode 0600, too');

# A full disk: this one backend may write no file longer than 16 bytes. The
# session does not get as far as writing anything else to a file.
$agent->safe_psql('postgres', q{select opdata_delete('crm')});
make_path("$outside/full", { mode => 0700 });
set_key_file("$outside/full/opdata.key");
foreach my $limit (0, 16)
{
	my $session = $agent->background_psql('postgres', on_error_stop => 0);
	my $pid = $session->query_safe('select pg_backend_pid()');
	system_or_bail('prlimit', '--pid', $pid, "--fsize=$limit");
	$session->query(
		"\\set VERBOSITY verbose\nselect opdata_store_creds('crm', '$payload')");
	like($session->{stderr}, qr/ERROR:.*could not write the master key file/s,
		"a disk with $limit bytes left: an error");
	like($session->{stderr}, qr/DETAIL:  secret_unavailable/,
		"a disk with $limit bytes left: the error has its code");
	$session->{run}->kill_kill;
	is_deeply([ slurp_dir_entries("$outside/full") ],
		[], "a disk with $limit bytes left: no half key stays behind");
}
$agent->safe_psql('postgres', "select opdata_store_creds('crm', '$payload')");
is(-s "$outside/full/opdata.key", 32, 'with room again, the key is made');

# Several sessions at once make one key.
$agent->safe_psql('postgres', q{select opdata_delete('crm')});
set_key_file("$outside/raced.key");
my $script = "$PostgreSQL::Test::Utils::tmp_check/raced.sql";
write_file($script,
	"select opdata_store_creds('r' || :client_id, '$payload', test => false);\n",
	0600);
$agent->command_ok(
	[ 'pgbench', '-n', '-c', '8', '-j', '2', '-t', '3', '-f', $script, 'postgres' ],
	'eight sessions store for the first time at once');
is( $agent->safe_psql('postgres',
		'select count(*), count(distinct key_id) from opdata.connection'),
	'8|1',
	'all of them with the same key');
is_deeply(
	[ glob("$outside/raced.key*") ],
	["$outside/raced.key"],
	'they leave no temporary file');
ok(json($agent, q{select opdata_test('r7')})->{ok},
	'what one of them stored can be read');

# Ciphertexts in the wrong place.
$agent->safe_psql(
	'postgres', qq{
	delete from opdata.connection;
	select opdata_store_creds('mine', '$payload');
	select opdata_store_creds('yours', '$payload', workspace_id => 'other')});
foreach my $case (
	[
		'a payload copied to another id',
		q{update opdata.connection set payload =
			(select payload from opdata.connection where id = 'yours'),
			workspace_id = 'other' where id = 'mine'},
		'mine'
	],
	[
		'a payload copied to another id and workspace',
		q{update opdata.connection set payload =
			(select payload from opdata.connection where id = 'yours') where id = 'mine'},
		'mine'
	],
	[
		'a row moved to another workspace',
		q{update opdata.connection set workspace_id = 'other' where id = 'mine'},
		'mine'
	],
	[
		'a row moved to another id',
		q{update opdata.connection set id = 'moved' where id = 'mine'}, 'moved'
	],
	[
		'a row whose id and workspace run together the same',
		q{update opdata.connection set workspace_id = 'defaultm', id = 'ine' where id = 'mine'},
		'ine'
	],
	[
		'an empty payload',
		q{update opdata.connection set payload = '' where id = 'mine'}, 'mine'
	],
	[
		'a payload cut in half',
		q{update opdata.connection set payload =
			substr(payload, 1, length(payload) / 2) where id = 'mine'}, 'mine'
	],
	[
		'a plain text as payload',
		q{update opdata.connection set payload = '{"host": "127.0.0.1"}' where id = 'mine'},
		'mine'
	],
	[
		'the last byte of a payload flipped',
		q{update opdata.connection set payload = set_byte(payload, length(payload) - 1,
			get_byte(payload, length(payload) - 1) # 1) where id = 'mine'},
		'mine'
	],
	[
		'a byte in the middle of a payload flipped',
		q{update opdata.connection set payload = set_byte(payload, length(payload) / 2,
			get_byte(payload, length(payload) / 2) # 128) where id = 'mine'},
		'mine'
	])
{
	my ($name, $tamper, $id) = @$case;

	foreach my $call ("opdata_test('$id')", "opdata_preview('$id', 'select 1')")
	{
		my $error = error_of($agent, "begin; $tamper; select $call");
		my $what = $call =~ /preview/ ? 'preview' : 'test';
		is( "$error->{sqlstate} " . ($error->{code} // 'no code'),
			'XX001 internal',
			"$name: $what finds data corrupted");
		like($error->{hint} // '', qr/opdata_store_creds/,
			"$name: the hint of $what says what to do");
	}
}
is( $agent->safe_psql(
		'postgres', q{
do $$
declare
	original bytea := (select payload from opdata.connection where id = 'mine');
	opened int[] := '{}';
begin
	for i in 0 .. length(original) - 1 loop
		update opdata.connection set payload =
			set_byte(original, i, get_byte(original, i) # (1 << (i % 8))) where id = 'mine';
		begin
			perform opdata_preview('mine', 'select 1');
			opened := opened || i;
		exception when others then null;
		end;
	end loop;
	perform set_config('test.opened', opened::text, false);
	update opdata.connection set payload = original where id = 'mine';
end $$;
select current_setting('test.opened')}),
	'{}',
	'a payload with a bit flipped in any of its bytes does not open');
ok(json($agent, q{select opdata_test('mine')})->{ok},
	'the untouched payload opens');
$rows = $agent->safe_psql('postgres',
	q{select payload from opdata.connection where id = 'mine'});
$agent->safe_psql('postgres', "select opdata_store_creds('mine', '$payload')");
isnt(
	$agent->safe_psql('postgres',
		q{select payload from opdata.connection where id = 'mine'}),
	$rows,
	'the same credentials stored again give another ciphertext');

# What must neither hang nor bring the server down.
$agent->safe_psql('postgres', 'delete from opdata.connection');
set_key_file('opdata.key');
remove_key();
mkfifo($key_file, 0600) or die "mkfifo: $!";
foreach my $call ('opdata_status()', "opdata_store_creds('crm', '$payload')")
{
	my $timed_out;
	$agent->psql('postgres', "select $call",
		timeout => $PostgreSQL::Test::Utils::timeout_default, timed_out => \$timed_out);
	ok(!$timed_out, 'a named pipe in the place of the key makes '
		  . ($call =~ /(\w+)/)[0] . '() no wait');
	release_pipe() if $timed_out;
}
is(describe_key(), 'pipe', 'a named pipe in the place of the key is left there');

remove_key();
link_key("$outside/nothing");
$error = error_of($agent, "select opdata_store_creds('crm', '$payload')");
is($error->{code}, 'secret_unavailable',
	'a symbolic link to nothing is an error on first use');
ok(!-e "$outside/nothing", 'no key is made behind a symbolic link to nothing');
is($agent->psql('postgres', 'select 1'),
	0, 'the server goes on after a key that could not be made');

done_testing();


sub payload
{
	my ($password) = @_;
	my $port = $source->port;

	return qq({"host": "127.0.0.1", "port": $port, "database": "postgres",)
	  . qq( "username": "reader", "password": "$password", "sslMode": "disable"});
}

# Codes of a status's warnings, less those not asked for.
sub codes_of
{
	my ($status, @ignored) = @_;
	my %ignored = map { $_ => 1 } @ignored;

	return join(', ',
		grep { !$ignored{$_} } map { $_->{code} } @{ $status->{warnings} });
}

sub write_file
{
	my ($path, $content, $mode) = @_;

	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $content;
	close $file;
	chmod $mode, $path or die "chmod $path: $!";
	return;
}

sub write_key
{
	my ($content, $mode) = @_;

	write_file($key_file, $content, $mode // 0600);
	return;
}

sub link_key
{
	my ($target) = @_;

	symlink($target, $key_file) or die "symlink: $!";
	return;
}

sub remove_key
{
	if (-d $key_file && !-l $key_file)
	{
		rmdir $key_file or die "rmdir: $!";
	}
	else
	{
		unlink $key_file;
	}
	return;
}

sub mode_of
{
	my ($path) = @_;
	return sprintf('%04o', S_IMODE((lstat($path))[2]));
}

# What stands in the place of the key, without following a link.
sub describe_key
{
	return 'nothing' unless lstat($key_file);
	return 'link to ' . readlink($key_file) if -l _;
	return 'directory' if -d _;
	return 'pipe' if -p _;

	my $mode = mode_of($key_file);
	chmod 0600, $key_file;
	my $content = unpack('H*', slurp_file($key_file));
	chmod oct($mode), $key_file;
	return "$mode $content";
}

sub slurp_dir_entries
{
	my ($path) = @_;
	return grep { !/^\.\.?$/ } slurp_dir($path);
}

# Tables of the agent; a status, a refused call or a test must not change them.
sub rows
{
	return $agent->safe_psql('postgres',
		'select c.* from opdata.connection c order by id; select count(*) from opdata.job'
	);
}

sub check_fault
{
	my ($state, $warning) = @_;
	my $before = describe_key();
	my %calls = (
		'a store of a new id' =>
		  "select opdata_store_creds('new', '$payload', test => false)",
		'a tested store over an old id' =>
		  "select opdata_store_creds('crm', '$payload')",
		'a test' => q{select opdata_test('crm')},
		'a preview' => q{select opdata_preview('crm', 'select 1')});

	foreach my $call (sort keys %calls)
	{
		my $error = error_of($agent, $calls{$call});
		is($error->{sqlstate}, '55000', "$call is refused");
		is($error->{code}, 'secret_unavailable', "$call gives the code");
		like($error->{detail} // '', qr/^\w+ Key $key_id is needed/,
			"the error of $call names the key that is needed");
		ok($error->{hint}, "the error of $call has a hint");
	}

	my $status = json($agent, 'select opdata_status()');
	is($status->{key}{state}, $state, 'the status tells the state of the key');
	is(codes_of($status, 'key_in_data_directory'),
		$warning, 'the status warns');
	is_deeply($status->{key}{neededIds},
		[$key_id], 'the status names the key that is needed');

	is(describe_key(), $before, 'what stands in its place is left as it is');
	is_deeply([ glob("$key_file.*") ], [], 'no temporary file is left');
	is(rows(), $rows, 'the tables are as they were');
	return;
}

# Lets go of a backend that waits for somebody to write to the pipe.
sub release_pipe
{
	sysopen(my $pipe, $key_file, O_RDWR | O_NONBLOCK) or die "$key_file: $!";
	$agent->poll_query_until('postgres',
		q{select count(*) = 0 from pg_stat_activity
		where state = 'active' and pid <> pg_backend_pid()});
	return;
}

# Only root can give a file to somebody else. So the server runs with an
# fstat() that takes the age of the key file for its owner.
sub check_owners
{
	my $directory = "$PostgreSQL::Test::Utils::tmp_check/owner";
	make_path($directory);
	write_file("$directory/owner.c", <<'C', 0600);
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/stat.h>

int fstat(int fd, struct stat *st)
{
	int (*real)(int, struct stat *) = dlsym(RTLD_NEXT, "fstat");
	int rc = real(fd, st);

	if (rc == 0 && st->st_mtime < 1000000)
		st->st_uid = st->st_mtime;
	return rc;
}
C
	system_or_bail('gcc', '-shared', '-fPIC', '-o', "$directory/owner.so",
		"$directory/owner.c", '-ldl');
	$agent->stop;
	{
		local $ENV{LD_PRELOAD} = "$directory/owner.so";
		$agent->start;
	}

	my $test = q{select opdata_test('crm')};
	write_key($key, 0600);
	utime(4711, 4711, $key_file) or die "utime: $!";
	my $error = error_of($agent, $test);
	is($error->{code}, 'secret_unavailable',
		'a file of another user is refused');
	like($error->{detail}, qr/Key $key_id is needed.* owned by/,
		'the error names the key and the owner that it must have');

	utime(0, 0, $key_file) or die "utime: $!";
	ok(json($agent, $test)->{ok}, 'a file of root with mode 0600 is taken');
	write_key($key, 0644);
	utime(0, 0, $key_file) or die "utime: $!";
	is(error_of($agent, $test)->{code},
		'secret_unavailable',
		'a file of root that everybody may read is refused');
	write_key($key, 0660);
	utime(0, 0, $key_file) or die "utime: $!";
	is(error_of($agent, $test)->{code},
		'secret_unavailable',
		'a file of root that the group may write is refused');
	write_key($key, 0640);
	utime(0, 0, $key_file) or die "utime: $!";
	ok(json($agent, $test)->{ok}, 'a file of root with mode 0640 is taken');

	write_key($key, 0600);
	$agent->restart;
	return;
}

sub set_key_file
{
	my ($value) = @_;

	$agent->append_conf('postgresql.conf', "opdata.key_file = '$value'\n");
	$agent->reload;
	$agent->poll_query_until('postgres',
		"select current_setting('opdata.key_file') = '$value'")
	  or die "opdata.key_file did not become $value";
	return;
}

# A path from the folder that holds all of this test's files.
sub relative_to_test_dir
{
	my ($path) = @_;
	my ($top) = $outside =~ m{^(.*)/[^/]+/[^/]+$};

	$path =~ s{^\Q$top\E/}{} or die "$path is not below $top";
	return $path;
}
