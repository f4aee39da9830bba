
# Another master key by opdata_rotate_key(): whoever reads is not disturbed, whoever
# writes waits, and whatever fails or crashes at whatever step, each row's key is
# there whole. Then the copies: dumps, backups, a standby, a rewound primary.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Digest::SHA qw(hmac_sha256_hex);
use File::Copy qw(copy);
use File::Path qw(make_path);
use IPC::Run;
use JSON::PP;
use Opdata::Credentials ();
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->allow_nonref;
my $folder = PostgreSQL::Test::Utils::tempdir('life');
my $keys = "$folder/keys";
my $new = "$folder/new.key";
my $n_keys = 0;
my $n_ends = 0;

# The calls of an exchange on the key's files, until the commit and after it.
# The first are those of a copy of the old key.
my @put = ('create', 'write', 'fsync', 'rename', 'open the folder', 'fsync');
my @files_before = (@put, 'unlink', @put);
my @files_after = ('exchange', 'open the folder', 'fsync');

make_path($keys, { mode => 0700 });
my $source = source_cluster('source', conf => "max_connections = 60\n");
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

# A server whose calls on the files of the key can be made to fail, or be its end.
my $fault = make_fault();
local $ENV{LD_PRELOAD} = $fault;
my $agent = agent_cluster('agent', conf => <<"EOT");
opdata.key_file = '$keys/opdata.key'
restart_after_crash = on
fsync = on
max_prepared_transactions = 2
EOT
delete $ENV{LD_PRELOAD};

refused();
undisturbed();
waiting_and_ended();
rows_that_cannot_be_read();
steps_that_fail();
steps_that_are_the_last();
two_databases();
files_of_root();
a_link();
older_dumps();
command_and_file();
copies();
done_testing();

# ---------------------------------------------------------------- questions

sub status { return json($_[0] // $agent, 'select opdata_status()'); }

sub warned { return join(' ', map { $_->{code} } @{ status(@_)->{warnings} }); }

sub id_of { return substr(hmac_sha256_hex('opdata master key id v1', $_[0]), 0, 16); }

# The bytes of a file, hexadecimal, or "none".
sub hex_in { return -e $_[0] ? unpack('H*', slurp_file($_[0])) : 'none'; }

sub write_file
{
	my ($path, $content, $mode) = @_;

	open(my $file, '>:raw', $path) or die "$path: $!";
	print $file $content;
	close $file;
	chmod $mode // 0600, $path or die "chmod $path: $!";
	return;
}

# A key that there was not before, in the file that rotations take it from.
sub make_key
{
	my ($path) = @_;
	my $key = pack('H*', Digest::SHA::sha256_hex('key ' . ++$n_keys));

	unlink $new;
	write_file($path // $new, $key);
	return $key;
}

sub payload { return Opdata::Credentials::literal(Opdata::Credentials::reader($source)); }

sub store_sql { return "select opdata_store_creds('$_[0]', @{[ payload() ]}, test => false)"; }

sub rotate_sql { return "select opdata_rotate_key('" . ($_[0] // $new) . "')"; }

sub rotate { return json($_[0] // $agent, rotate_sql()); }

# Names beside the key, without those of older keys.
sub beside
{
	my ($file) = @_;
	return join(' ', map { substr($_, length $file) } grep { !/\.[0-9a-f]{16}$/ && $_ ne $file } glob("$file*"));
}

# Where an older key is kept.
sub kept { return "$keys/opdata.key." . id_of($_[0]); }

# Ids of the keys of all rows, and how many connections can be read.
sub rows_of
{
	my ($node, $dbname) = @_;

	return $node->safe_psql($dbname // 'postgres', q{
		select (select string_agg(distinct key_id, ' ') from
				(select key_id from opdata.connection union all select key_id from opdata.sealing_key) k)
			|| ' ' || (select count(opdata_preview(id, 'select 1')) from opdata_connections
				where id !~ '^c(\d\d+)$')});
}

# All is under this key, and the files are as they are to be.
sub is_whole
{
	my ($key, $n, $name) = @_;
	my $status = status();

	is(rows_of($agent), id_of($key) . " $n", "$name: all rows are under the key, and can be read");
	is(hex_in("$keys/opdata.key"), unpack('H*', $key), "$name: which is in the file");
	is(beside("$keys/opdata.key"), '', "$name: there is no other");
	is($json->encode([ @{ $status->{key} }{qw(state id neededIds)}, $status->{warnings} ]),
		$json->encode([ 'present', id_of($key), [ id_of($key) ], [] ]), "$name: the status shows it");
	return;
}

# ---------------------------------------------------------------- refused

sub refused
{
	is(error_of($agent, rotate_sql('nothing'))->{code}, 'secret_unavailable', 'a new agent, which has no key, needs a file for the new one');
	$agent->safe_psql('postgres', join(';', (map { store_sql($_) } 'a', 'b', 'of a'), 'select opdata_public_key()'));
	my $key = slurp_file("$keys/opdata.key");
	is_whole($key, 3, 'the first key');

	make_key();
	foreach my $case (
		[ 'a transaction block', "begin; @{[ rotate_sql() ]}; commit" ],
		[ 'a savepoint', "begin; savepoint s; @{[ rotate_sql() ]}; commit" ],
		[ 'several statements at once', "@{[ rotate_sql() ]}\\; select 1" ],
		[ 'a block with an exception handler', "do \$\$ begin perform opdata_rotate_key('$new'); exception when division_by_zero then null; end \$\$" ],
		[ 'a prepared transaction', "begin; @{[ rotate_sql() ]}; prepare transaction 'p'" ],
		[ 'two exchanges by one statement', "select opdata_rotate_key('$new'), opdata_rotate_key('$new')" ],
		[ 'an exchange and a store by one statement', rotate_sql() . ', (' . store_sql('x') . ')' ])
	{
		my ($name, $sql) = @$case;

		is(error_of($agent, $sql)->{sqlstate}, '25001', "$name: it is refused");
	}
	is(error_of($agent, "set default_transaction_isolation = '$_'; @{[ rotate_sql() ]}")->{sqlstate}, '0A000', "$_: it is refused")
	  foreach 'repeatable read', 'serializable';
	is(error_of($agent, "set default_transaction_read_only = on; @{[ rotate_sql() ]}")->{sqlstate}, '25006', 'a read-only session: it is refused');
	is(error_of($agent, "select 1 / (length(opdata_rotate_key('$new')::text) * 0)")->{sqlstate}, '22012', 'an error behind it ends the statement');
	is(error_of($agent, 'select opdata_rotate_key(null)')->{sqlstate}, '22023', 'without a command a file is needed');
	is_whole($key, 3, 'after those');

	$agent->safe_psql('postgres', q{
		create role admin login;
		select opdata_grant('admin', '*', 'admin');
		grant execute on function opdata_rotate_key(text) to admin});
	my $error = error_of($agent, rotate_sql(), extra_params => [ '-U', 'admin' ]);
	is("$error->{sqlstate} $error->{code}", '42501 workspace_denied', 'an admin who is no superuser is refused');

	link_to("$folder/nothing");
	foreach my $case (
		[ 'a file that is missing', sub { } ],
		[ 'an empty file', sub { write_file($new, '') } ],
		[ 'a file that is a byte short', sub { write_file($new, 'x' x 31) } ],
		[ 'a file that is a byte long', sub { write_file($new, 'x' x 33) } ],
		[ 'a file that others may read', sub { write_file($new, 'x' x 32, 0644) } ],
		[ 'a file that may not be read', sub { write_file($new, 'x' x 32, 0000) } ],
		[ 'a directory', sub { mkdir $new } ],
		[ 'a link to nothing', sub { link_to("$folder/nothing") } ],
		[ 'a link to what others may read', sub { write_file("$folder/open", 'x' x 32, 0644); link_to("$folder/open") } ],
		[ 'the key in use', sub { write_file($new, $key) } ])
	{
		my ($name, $make) = @$case;

		unlink $new;
		$make->();
		$error = error_of($agent, rotate_sql());
		is("$error->{sqlstate} $error->{code}", '22023 secret_unavailable', "$name: it is refused");
		ok($error->{hint}, "$name: with a hint");
		unlink $new;
		rmdir $new;
	}
	is(error_of($agent, rotate_sql("$keys/opdata.key"))->{sqlstate}, '22023', 'the file in use itself is refused');
	is_whole($key, 3, 'after wrong files');

	write_file("$folder/mounted", make_key("$folder/mounted"), 0400);
	link_to("$folder/mounted");
	is_deeply(
		rotate(),
		{ keyId => id_of(slurp_file("$folder/mounted")), previousKeyId => id_of($key), rows => 4 },
		'a link to a good key is taken');
	is_whole(slurp_file("$folder/mounted"), 3, 'after an exchange');
	is(hex_in("$keys/opdata.key." . id_of($key)), unpack('H*', $key), 'the older key is kept under its id');
	is(hex_in($new), hex_in("$folder/mounted"), 'the file that was named is left as it is');
	return;
}

sub link_to
{
	unlink $new;
	symlink($_[0], $new) or die "symlink: $!";
	return;
}

# ---------------------------------------------------------------- others at work

sub undisturbed
{
	my $n = 20;
	my $script = '';
	my $rest;

	$agent->safe_psql('postgres', "select count(opdata_store_creds('c' || i, @{[ payload() ]}, test => false)) from generate_series(10, 506) i");
	make_key("$folder/new.$_") foreach 1 .. $n;
	$script .= "select opdata_rotate_key('$folder/new.$_')->'rows';\n" foreach 1 .. $n - 1;
	# the last one comes when the others have had two rounds
	$script .= "do \$\$ begin perform pg_advisory_lock(114); end \$\$;\nselect opdata_rotate_key('$folder/new.$n')->'rows';\n";
	my $gate = $agent->background_psql('postgres');
	$gate->query_safe('select pg_advisory_lock(114)');
	write_file("$folder/rotations.sql", $script);
	write_file("$folder/read.sql", "\\set i random(10, 506)\nselect opdata_preview('c' || :i, 'select 1');\nselect opdata_test('c' || :i);\n");
	write_file("$folder/write.sql", "\\set i random(10, 506)\nselect opdata_store_creds('c' || :i, @{[ payload() ]}, test => false);\nselect pg_sleep(0.01);\n");

	my ($out, $err) = ('', '');
	my $rotations = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $agent->connstr('postgres'), '-f', "$folder/rotations.sql" ],
		'<', \undef, '>', \$out, '2>', \$err);
	my $rounds = 0;
	my @failed;
	while ($rotations->pumpable)
	{
		my $said = '';
		my $ok = IPC::Run::run(
			[ 'pgbench', '-n', '-c', '3', '-t', '15', '-f', "$folder/read.sql\@2", '-f', "$folder/write.sql\@1", $agent->connstr('postgres') ],
			'>', \$said, '2>&1');

		push @failed, $said unless $ok && $said !~ /ERROR/;
		$rounds++;
		$gate->quit if $rounds == 2;
		$rotations->pump_nb;
	}
	$rotations->finish;
	is($out, "501\n" x $n, 'the key of 500 connections is exchanged twenty times') or diag($err);
	cmp_ok($rounds, '>=', 2, 'while others read and write');
	is_deeply(\@failed, [], 'of whom none is disturbed');
	is_whole(slurp_file("$folder/new.$n"), 3, 'after twenty exchanges');
	is($agent->safe_psql('postgres', q{delete from opdata.connection where id ~ '^c\d\d'; select count(*) from opdata.connection}), 3, 'the three first are left');
	return;
}

# A session in the background.
sub begin
{
	my ($name, $sql) = @_;
	my ($handle, $out, $err) = Opdata::Credentials::start_psql($agent, $name, $sql);
	return { handle => $handle, out => $out, err => $err };
}

sub finish
{
	my ($session) = @_;

	IPC::Run::finish($session->{handle});
	return ${ $session->{out} } . ${ $session->{err} };
}

sub waits_for_lock
{
	my ($name, $what) = @_;

	ok( $agent->poll_query_until('postgres',
			"select count(*) = 1 from pg_stat_activity where application_name = '$name' and wait_event_type = 'Lock'"),
		$what);
	return;
}

# An exchange stands still at a row that somebody has locked.
sub waiting_and_ended
{
	my $old = slurp_file("$keys/opdata.key");
	my $lock = $agent->background_psql('postgres');
	my $key;

	foreach my $case (
		[ 'a cancel', '57014', q{select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'exchange'} ],
		[ 'a termination', '57P01', q{select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'exchange'} ],
		[ 'a statement_timeout', '57014', undef, "set statement_timeout = '15s'" ])
	{
		my ($name, $sqlstate, $end, $before) = @$case;

		make_key();
		$lock->query_safe(q{begin; select 1 from opdata.connection where id = 'b' for update});
		my ($out, $err) = ('', '');
		my $exchange = IPC::Run::start(
			[ 'psql', '-XqAt', '-v', 'VERBOSITY=verbose', '-d', $agent->connstr('postgres') . " application_name='exchange'",
				$before ? ('-c', $before) : (), '-c', rotate_sql() ],
			'<', \undef, '>', \$out, '2>', \$err);
		waits_for_lock('exchange', "$name: an exchange waits for a row");
		is(beside("$keys/opdata.key"), '.next', "$name: the new key is there");
		my $key_facts = status()->{key};
		is($json->encode([ @$key_facts{qw(state id neededIds)} ]), $json->encode([ 'present', id_of($old), [ id_of($old) ] ]), "$name: the status shows the old one");
		is(rows_of($agent), id_of($old) . ' 3', "$name: by which all can be read");
		$agent->safe_psql('postgres', $end) if defined $end;
		$exchange->finish;
		like($err, qr/$sqlstate/, "$name: it ends the exchange");
		$lock->query_safe('rollback');
		is_whole($old, 3, "after $name");
	}

	# others wait, each with a key of its own to exchange or a row to write
	$key = make_key();
	$lock->query_safe(q{begin; select 1 from opdata.connection where id = 'b' for update});
	my $exchange = begin('exchange', rotate_sql());
	waits_for_lock('exchange', 'an exchange waits for a row');
	my $store = begin('store', store_sql('a'));
	waits_for_lock('store', 'a store waits for the exchange');
	my $public_key = begin('public', 'select opdata_rotate_public_key()');
	waits_for_lock('public', 'so does another pair of keys to seal to');
	$lock->query_safe('rollback');
	like(finish($exchange), qr/"rows": 4/, 'the exchange is done');
	like(finish($store), qr/"status": "pending"/, 'then the store');
	like(finish($public_key), qr/"kid"/, 'and the pair');
	is_whole($key, 3, 'after those that waited');

	my $second = make_key("$folder/second.key");
	$key = make_key();
	$lock->query_safe(q{begin; select 1 from opdata.connection where id = 'b' for update});
	$exchange = begin('exchange', rotate_sql());
	waits_for_lock('exchange', 'an exchange waits for a row again');
	my $next = begin('next', rotate_sql("$folder/second.key"));
	waits_for_lock('next', 'another exchange waits for it');
	$lock->query_safe('rollback');
	like(finish($exchange), qr/"keyId": "@{[ id_of($key) ]}"/, 'the first is done');
	like(finish($next), qr/"keyId": "@{[ id_of($second) ]}", "rows": 5, "previousKeyId": "@{[ id_of($key) ]}"|"rows": 5, "keyId": "@{[ id_of($second) ]}", "previousKeyId": "@{[ id_of($key) ]}"/, 'then the other');
	is_whole($second, 3, 'after two exchanges');
	$lock->quit;
	return;
}

# ---------------------------------------------------------------- bad rows

sub rows_that_cannot_be_read
{
	my $old = slurp_file("$keys/opdata.key");

	foreach my $case (
		[ 'a corrupt row', 'set payload = set_byte(payload, 60, get_byte(payload, 60) # 1)', 'XX001', 'internal' ],
		[ 'a row of another key', q{set key_id = '0123456789abcdef'}, '55000', 'secret_unavailable' ])
	{
		my ($name, $set, $sqlstate, $code) = @$case;

		make_key();
		$agent->safe_psql('postgres', "create table kept as select * from opdata.connection where id = 'b'; update opdata.connection $set where id = 'b'");
		my $error = error_of($agent, rotate_sql());
		is("$error->{sqlstate} $error->{code}", "$sqlstate $code", "$name: the key is not exchanged");
		$agent->safe_psql('postgres', q{
			update opdata.connection c set payload = k.payload, key_id = k.key_id from kept k where c.id = k.id;
			drop table kept});
		is_whole($old, 3, "after $name");
	}
	return;
}

# ---------------------------------------------------------------- faults

# From the making of its first file on, the process that exchanges the key counts its
# calls on the key's folder and on the write-ahead log. FAULT_FILE: "kill N", or the
# number of an error, a space, and N; or the name of a call instead of N. Each is noted.
# Only root can make files of root's, so a key with mode 0640 is taken for one: who is
# not its owner may not link to it.
sub make_fault
{
	my ($source_file, $library) = map { "$folder/fault.$_" } qw(c so);

	open(my $file, '>', $source_file) or die "$source_file: $!";
	print $file <<"C";
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define KEYS "$keys"
#define FAULT_FILE "$folder/fault"
#define STEPS_FILE "$folder/steps"

static int armed;
static int n_steps;
static char what[16];
static char at[24];

static void
arm(void)
{
	char		text[64] = "";
	int			fd = syscall(SYS_openat, AT_FDCWD, FAULT_FILE, O_RDONLY);

	armed = 1;
	n_steps = 0;
	at[0] = 0;
	if (fd < 0)
		return;
	if (syscall(SYS_read, fd, text, sizeof(text) - 1) > 0)
		sscanf(text, "%15s %23[^\\n]", what, at);
	syscall(SYS_close, fd);
}

/* Is this call to fail? */
static int
step(const char *name)
{
	char		line[64];
	int			fd;

	if (!armed)
		return 0;
	n_steps++;
	fd = syscall(SYS_openat, AT_FDCWD, STEPS_FILE, O_WRONLY | O_CREAT | O_APPEND, 0600);
	snprintf(line, sizeof(line), "%s\\n", name);
	syscall(SYS_write, fd, line, strlen(line));
	syscall(SYS_close, fd);
	if (n_steps != atoi(at) && strcmp(name, at) != 0)
		return 0;
	if (strcmp(what, "kill") == 0)
		syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
	errno = atoi(what);
	return 1;
}

static int
of_keys(const char *path)
{
	return strncmp(path, KEYS, sizeof(KEYS) - 1) == 0;
}

/* 1: of a key or its folder, 2: of the log */
static int
kind_of(int fd)
{
	char		link_name[64];
	char		path[1024];
	ssize_t		n;

	if (!armed)
		return 0;
	snprintf(link_name, sizeof(link_name), "/proc/self/fd/%d", fd);
	n = readlink(link_name, path, sizeof(path) - 1);
	if (n <= 0)
		return 0;
	path[n] = '\\0';
	return of_keys(path) ? 1 : strstr(path, "/pg_wal/") ? 2 : 0;
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

int
open(const char *path, int flags, ...)
{
	va_list		args;
	int			mode;

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	if (!armed && of_keys(path) && (flags & O_CREAT) && strstr(path, ".next.tmp"))
		arm();
	if (armed && of_keys(path) && ((flags & O_CREAT) || strcmp(path, KEYS) == 0) &&
		step((flags & O_CREAT) ? "create" : "open the folder"))
		return -1;
	return REAL(open)(path, flags, mode);
}

ssize_t
write(int fd, const void *bytes, size_t n)
{
	if (kind_of(fd) == 1 && step("write"))
		return -1;
	return REAL(write)(fd, bytes, n);
}

ssize_t
pwrite(int fd, const void *bytes, size_t n, off_t offset)
{
	if (kind_of(fd) == 2 && strcmp(what, "kill") == 0)
		(void) step("write the log");
	return REAL(pwrite)(fd, bytes, n, offset);
}

int
fsync(int fd)
{
	if (kind_of(fd) == 1 && step("fsync"))
		return -1;
	return REAL(fsync)(fd);
}

int
fdatasync(int fd)
{
	if (kind_of(fd) == 2 && strcmp(what, "kill") == 0)
		(void) step("sync the log");
	return REAL(fdatasync)(fd);
}

int
fstat(int fd, struct stat *st)
{
	int			rc = REAL(fstat)(fd, st);

	if (rc == 0 && (st->st_mode & 07777) == 0640)
		st->st_uid = 0;
	return rc;
}

int
link(const char *from, const char *to)
{
	struct stat st;

	if (of_keys(from) && stat(from, &st) == 0 && (st.st_mode & 07777) == 0640)
	{
		errno = EPERM;
		return -1;
	}
	return REAL(link)(from, to);
}

int
rename(const char *from, const char *to)
{
	if (of_keys(to) && step(strcmp(to, KEYS "/opdata.key") == 0 ? "exchange" : "rename"))
		return -1;
	return REAL(rename)(from, to);
}

int
unlink(const char *path)
{
	if (of_keys(path) && step("unlink"))
		return -1;
	return REAL(unlink)(path);
}
C
	close $file;
	system_or_bail('cc', '-shared', '-fPIC', '-w', '-o', $library, $source_file, '-ldl');
	return $library;
}

# Calls of the exchange since the last time.
sub steps
{
	my $file = "$folder/steps";
	my @steps = -e $file ? split(/\n/, slurp_file($file)) : ();

	unlink $file;
	return @steps;
}

sub steps_that_fail
{
	my $old = slurp_file("$keys/opdata.key");
	my %number = (write => 28, create => 13, rename => 30, exchange => 30);

	steps();
	for my $n (1 .. @files_before + @files_after)
	{
		my $step = $n <= @files_before ? $files_before[ $n - 1 ] : $files_after[ $n - 1 - @files_before ];
		my $name = "call $n, $step, fails";
		my $key = make_key();
		my ($out, $err);

		unlink kept($old);
		write_file("$folder/fault", ($number{$step} // 5) . " $n");
		$agent->psql('postgres', "\\set VERBOSITY verbose\n" . rotate_sql(), stdout => \$out, stderr => \$err);
		unlink "$folder/fault";
		is((steps())[ $n - 1 ], $step, "$name: it is that call");
		if ($n <= @files_before && $step ne 'unlink')
		{
			like($err, qr/ERROR.*secret_unavailable/s, "$name: an error");
			unlike($err, qr/\Q$keys\E/, "$name: that does not name the file");
			is_whole($old, 3, $name);
			next;
		}
		unlike($err, qr/ERROR/, "$name: the key is exchanged");
		like($err, qr/WARNING.*\.next/s, "$name: a warning tells of it") if $n > @files_before;
		is(rows_of($agent), id_of($key) . ' 3', "$name: all can be read");
		is(warned(), '', "$name: no key is missing") if hex_in("$keys/opdata.key") eq unpack('H*', $key);
		$agent->safe_psql('postgres', store_sql('a'));
		is_whole($key, 3, "$name, and after the next store");
		$old = $key;
	}

	# for real
	chmod 0500, $keys;
	make_key();
	is(error_of($agent, rotate_sql())->{code}, 'secret_unavailable', 'a folder that is not writable: an error');
	chmod 0700, $keys;
	is_whole($old, 3, 'after a folder that is not writable');
	return;
}

# The server starts again by itself. It may take sessions until it knows of the end,
# of which psql is told before.
sub wait_until_back
{
	wait_until(
		sub {
			my @ends = slurp_file($agent->logfile) =~ /was terminated by signal 9/g;
			return @ends > $n_ends && ($n_ends = @ends);
		}) or die 'the server does not know that a process has ended';
	wait_until(sub { my $up; eval { $up = $agent->psql('postgres', 'select 1') }; return defined $up && $up == 0; })
	  or die 'the server did not come back';
	return;
}

# At each of its calls the process is killed, which takes the whole server with it.
sub steps_that_are_the_last
{
	my $old = slurp_file("$keys/opdata.key");
	my %seen;
	my $n = 0;

	steps();
	while (1)
	{
		my $key = make_key();
		my ($out, $err, $status);

		unlink kept($old), "$keys/opdata.key.next";
		write_file("$folder/fault", 'kill ' . ++$n);
		eval { $status = $agent->psql('postgres', rotate_sql(), stdout => \$out, stderr => \$err); };
		my @steps = steps();
		if (defined $status && $status == 0)
		{
			cmp_ok($n, '>', @files_before + @files_after + 1, 'it was killed at each call');
			$old = $key;
			last;
		}
		my $name = "killed at call $n, $steps[-1]";
		is(scalar(@steps), $n, "$name: it is that call");
		$seen{ $steps[-1] }++;
		wait_until_back();
		unlink "$folder/fault";

		my $rows = rows_of($agent);
		my ($is) = grep { id_of($_) . ' 3' eq $rows } $old, $key;
		ok($is, "$name: all rows can be read, by one key") or diag($rows);
		my %whole = map { hex_in($_) => 1 } "$keys/opdata.key", "$keys/opdata.key.next";
		ok($whole{ unpack('H*', $is) }, "$name: which is in one of the two files");
		is_deeply([ grep { !/^(?:|\.next|\.next\.tmp)$/ } split / /, beside("$keys/opdata.key") ], [], "$name: no other file is left");
		my $status_now = status();
		is($status_now->{key}{state}, 'present', "$name: the status shows a key");
		is_deeply($status_now->{key}{neededIds}, [ id_of($is) ], "$name: and the one that rows need");
		my $open = hex_in("$keys/opdata.key") ne unpack('H*', $is) ? 'key_exchange_open' : '';
		is(join(' ', map { $_->{code} } @{ $status_now->{warnings} }), $open, "$name: of which none is missing");

		# of two that store at once, both finish it
		my @stores = map { begin("store $_", store_sql($_)) } 'a', 'b';
		like(finish($_), qr/"status": "pending"/, "$name: a store works") foreach @stores;
		is(rows_of($agent), id_of($is) . ' 3', "$name: under that key");
		is(hex_in("$keys/opdata.key"), unpack('H*', $is), "$name: which is in its place");
		is(hex_in(kept($old)), unpack('H*', $old), "$name: the older key is kept") if $is ne $old;
		$old = $is;
	}
	unlink "$folder/fault";
	is_deeply([ sort keys %seen ], [ sort keys %{ { map { $_ => 1 } @files_before, @files_after, 'sync the log', 'write the log' } } ], 'calls of every kind were the last');
	is_whole($old, 3, 'after all that');
	return;
}

# The key is exchanged in this database, but not its files.
sub kill_before_exchange
{
	my ($dbname, $name) = @_;
	my ($out, $err);

	steps();
	write_file("$folder/fault", 'kill exchange');
	eval { $agent->psql($dbname, rotate_sql(), stdout => \$out, stderr => \$err); };
	wait_until_back();
	unlink "$folder/fault";
	is((steps())[-1], 'exchange', "$name: killed before the key is in its place");
	is(beside("$keys/opdata.key"), '.next', "$name: beside which it lies");
	return;
}

# This key of another database's rows lies in FILE.next while exchanges in ours fail.
sub spare_the_key_of_another
{
	my ($key) = @_;
	my $old = slurp_file("$keys/opdata.key");
	my $next = "$keys/opdata.key.next";
	my $pending = sub {
		unlink kept($old), kept($key), $next;
		write_file($next, $key, 0640);
	};
	my $is_spared = sub {
		my ($name) = @_;

		is(rows_of($agent, 'other'), id_of($key) . ' 3', "$name: the rows of the other database can be read");
		is(hex_in("$keys/opdata.key"), unpack('H*', $old), "$name: the key of ours is in its place");
		is(warned(), '', "$name: and is not missing");
	};

	make_key();
	my @calls = (@put, 'unlink', @files_before);
	foreach my $n (1 .. @calls)
	{
		my $name = "a key of another database, call $n, $calls[ $n - 1 ]";

		steps();
		if ($calls[ $n - 1 ] ne 'unlink')
		{
			$pending->();
			write_file("$folder/fault", "5 $n");
			my $error = error_of($agent, rotate_sql());
			is((steps())[ $n - 1 ] . " $error->{code}", $calls[ $n - 1 ] . ' secret_unavailable', "$name, fails: an error");
			like($error->{message}, qr{Input/output error}, "$name, fails: that tells why");
			$is_spared->("$name, fails");
		}
		$pending->();
		write_file("$folder/fault", "kill $n");
		eval { $agent->psql('postgres', rotate_sql(), stdout => \my $out, stderr => \my $err); };
		wait_until_back();
		is(scalar(steps()), $n, "$name, is the last");
		$is_spared->("$name, is the last");
		unlink "$folder/fault";
	}

	$pending->();
	is(error_of($agent, "select 1 / (length(opdata_rotate_key('$new')::text) * 0)")->{sqlstate}, '22012', 'an exchange is rolled back');
	is(beside("$keys/opdata.key"), '', 'its own key is gone');
	$is_spared->('after it is rolled back');

	$pending->();
	chmod 0644, $next;
	my $error = error_of($agent, rotate_sql());
	is("$error->{sqlstate} $error->{code}", '55000 secret_unavailable', 'a key of another database that cannot be read: an error');
	is(hex_in($next), unpack('H*', $key), 'which leaves it');
	$pending->();
	return;
}

# One file of the cluster, and rows of two databases.
sub two_databases
{
	my @databases = ('postgres', 'other');

	$agent->safe_psql('postgres', 'create database other');
	$agent->safe_psql('other', 'create extension opdata cascade');
	$agent->safe_psql('other', store_sql($_)) foreach qw(a b c);
	$agent->safe_psql('other', 'select opdata_public_key()');
	my $old = slurp_file("$keys/opdata.key");
	is(rows_of($agent, $_), id_of($old) . ' 3', "one key for the rows of database $_") foreach @databases;

	my $key = make_key();
	$agent->safe_psql('other', rotate_sql());
	is(rows_of($agent, 'other'), id_of($key) . ' 3', 'it is exchanged in one of them');
	is(rows_of($agent), id_of($old) . ' 3', 'the rows of the other have theirs, and can be read');
	$agent->safe_psql('postgres', store_sql('a'));
	is(rows_of($agent), join(' ', sort(id_of($old), id_of($key))) . ' 3', 'what is written there has the new one');

	# killed after its commit, before the files are exchanged
	$key = make_key();
	kill_before_exchange('other', 'in one database');
	is(rows_of($agent, 'other'), id_of($key) . ' 3', 'it is the one of the rows there');
	spare_the_key_of_another($key);
	my $next = make_key();
	rotate();
	is(rows_of($agent), id_of($next) . ' 3', 'then the key is exchanged in the other database');
	is(hex_in("$keys/opdata.key"), unpack('H*', $next), 'and is in its place');
	is(rows_of($agent, 'other'), id_of($key) . ' 3', 'the rows of the first can be read still');
	is(warned(), '', 'no key is missing');

	# both at once, ten times
	my %rotations;
	foreach my $dbname (@databases)
	{
		my ($said, $complaint) = ('', '');
		my @files = map { "$folder/$dbname.$_" } 1 .. 10;

		make_key($_) foreach @files;
		my $handle = IPC::Run::start(
			[ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $agent->connstr($dbname), map { ('-c', rotate_sql($_) . "->'rows'") } @files ],
			'<', \undef, '>', \$said, '2>', \$complaint);
		$rotations{$dbname} = { handle => $handle, said => \$said, complaint => \$complaint, last => $files[-1] };
	}
	foreach my $dbname (@databases)
	{
		my $rotation = $rotations{$dbname};

		$rotation->{handle}->finish;
		like(${ $rotation->{said} }, qr/\A(?:\d\n){10}\z/, "ten exchanges in database $dbname while the other has its own")
		  or diag(${ $rotation->{complaint} });
	}
	is(rows_of($agent, $_), id_of(slurp_file($rotations{$_}{last})) . ' 3', "database $_: all can be read, under the last of them") foreach @databases;
	is(beside("$keys/opdata.key"), '', 'there is no other key');

	$agent->safe_psql('postgres', 'drop database other');
	make_key();
	rotate();
	return;
}

# ---------------------------------------------------------------- the file

sub files_of_root
{
	my $old = slurp_file("$keys/opdata.key");
	my $key = make_key();
	my ($out, $err);

	unlink kept($old);
	chmod 0640, "$keys/opdata.key";
	is($agent->psql('postgres', rotate_sql(), stderr => \$err), 0, 'a key in a file of root is exchanged');
	is($err, '', 'without a warning');
	is_whole($key, 3, 'after a file of root');
	is(sprintf('%04o', (stat kept($old))[2] & 07777) . ' ' . hex_in(kept($old)), '0600 ' . unpack('H*', $old), 'the older key is kept in a file of ours');
	$agent->safe_psql('postgres', store_sql('a'));

	# both files are root's, and the copy is gone, as on a standby that takes over
	$old = $key;
	$key = make_key();
	kill_before_exchange('postgres', 'a file of root');
	chmod 0640, "$keys/opdata.key", "$keys/opdata.key.next";
	unlink kept($old);
	$agent->safe_psql('postgres', store_sql('a'));
	is_whole($key, 3, 'a new key in a file of root, and after the next store');
	is(hex_in(kept($old)), unpack('H*', $old), 'the older key is kept then');
	chmod 0600, "$keys/opdata.key";

	# somebody tidies up too early
	$old = $key;
	$key = make_key();
	my $lock = $agent->background_psql('postgres');
	$lock->query_safe(q{begin; select 1 from opdata.connection where id = 'b' for update});
	my $exchange = begin('exchange', rotate_sql());
	waits_for_lock('exchange', 'an exchange waits for a row once more');
	unlink kept($old) or die "unlink: $!";
	$lock->query_safe('rollback');
	$lock->quit;
	like(finish($exchange), qr/WARNING.*could not find the copy/s, 'a copy that is removed meanwhile: a warning');
	is(hex_in("$keys/opdata.key"), unpack('H*', $old), 'the older key is not replaced');
	is(rows_of($agent), id_of($key) . ' 3', 'all can be read');
	$agent->safe_psql('postgres', store_sql('a'));
	is_whole($key, 3, 'a copy that was removed, and after the next store');
	is(hex_in(kept($old)), unpack('H*', $old), 'the older key is kept again');
	return;
}

# The setting names a link, in a folder of its own.
sub a_link
{
	my $link = "$folder/links/opdata.key";
	my $file = "$keys/opdata.key";
	my $key;

	mkdir "$folder/links";
	symlink('../keys/opdata.key', $link) or die "symlink: $!";
	set_conf($agent, 'opdata.key_file' => $link);
	is(status()->{key}{file}, $file, 'the status shows the file that a link leads to');
	foreach my $name ('a link', 'a link once more')
	{
		$key = make_key();
		rotate();
		is_whole($key, 3, "$name: an exchange");
		is(join(' ', map { readlink($_) // $_ } glob("$folder/links/*")), '../keys/opdata.key', "$name: it is left, with nothing beside it");
	}
	$key = make_key();
	kill_before_exchange('postgres', 'a link');
	is(rows_of($agent), id_of($key) . ' 3', 'a link: all can be read');
	$agent->safe_psql('postgres', store_sql('a'));
	is_whole($key, 3, 'a link: after the next store');

	# to another folder, where all is again
	mkdir "$folder/moved", 0700;
	foreach my $from (glob("$file*"))
	{
		(my $to = $from) =~ s{.*/}{$folder/moved/};
		rename($from, $to) or die "rename: $!";
	}
	is(error_of($agent, store_sql('a'))->{code}, 'secret_unavailable', 'a link to nothing is an error');
	is(error_of($agent, rotate_sql())->{code}, 'secret_unavailable', 'and no new key is taken');
	is(beside($file) . beside($link), '', 'nor is one made');
	unlink $link;
	symlink("$folder/moved", "$folder/links/folder");
	symlink('folder/opdata.key', $link);
	$key = make_key();
	rotate();
	is(rows_of($agent), id_of($key) . ' 3', 'a link that leads elsewhere is followed at once');
	is(hex_in("$folder/moved/opdata.key"), unpack('H*', $key), 'to where the key is exchanged');
	foreach my $from (glob("$folder/moved/*"))
	{
		(my $to = $from) =~ s{.*/}{$keys/};
		rename($from, $to) or die "rename: $!";
	}
	set_conf($agent, 'opdata.key_file' => $file);
	is_whole($key, 3, 'without the link');
	return;
}

# ---------------------------------------------------------------- copies

sub older_dumps
{
	my @dumps;

	foreach my $n (1 .. 3)
	{
		$agent->command_ok([ 'pg_dump', '-f', "$folder/dump.$n", $agent->connstr('postgres') ], "dump $n is made");
		push @dumps, { id => id_of(slurp_file("$keys/opdata.key")), file => "$folder/dump.$n" };
		make_key();
		rotate();
	}
	foreach my $n (1 .. 3)
	{
		my $dump = $dumps[ $n - 1 ];

		is(id_of(slurp_file("$keys/opdata.key.$dump->{id}")), $dump->{id}, "older key $n is kept");
		$agent->safe_psql('postgres', "create database dump$n");
		$agent->command_ok([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-f', $dump->{file}, '-o', '/dev/null', $agent->connstr("dump$n") ], "dump $n is restored");
		is( $agent->safe_psql("dump$n", q{select count(opdata_preview(id, 'select 1')) || ' ' || min(key_id) from opdata.connection}),
			"3 $dump->{id}", "dump $n can be read, by its key");
		$agent->safe_psql("dump$n", store_sql('more'));
		is($agent->safe_psql("dump$n", q{select key_id from opdata.connection where id = 'more'}), id_of(slurp_file("$keys/opdata.key")), "dump $n: what is stored has the key of now");
	}
	return;
}

# The same key by file and by command; then back with the key that the command gave.
sub command_and_file
{
	my $old = slurp_file("$keys/opdata.key");
	my $key = make_key("$keys/other.key");

	set_conf($agent, 'opdata.key_command' => "if [ -z \"\$OPDATA_KEY_ID\" ]; then cat $keys/other.key; else cat $keys/opdata.key; fi");
	my $facts = status()->{key};
	is_deeply([ @$facts{qw(source state id neededIds)} ], [ 'command', 'present', id_of($key), [ id_of($old) ] ], 'a command gives another key, and that of the rows by its id');
	is_deeply(json($agent, 'select opdata_rotate_key(null)'), { keyId => id_of($key), previousKeyId => undef, rows => 5 }, 'the rows are encrypted under it');
	is(rows_of($agent), id_of($key) . ' 3', 'all of them');
	is_deeply(json($agent, 'select opdata_rotate_key(null)'), { keyId => id_of($key), previousKeyId => undef, rows => 0 }, 'once more is no work');
	is(hex_in("$keys/opdata.key"), unpack('H*', $old), 'the file is left as it is');

	set_conf($agent, 'opdata.key_command' => '');
	is(warned(), 'key_wrong', 'back to the file: the key of the rows is missing');
	is(error_of($agent, q{select opdata_test('a')})->{code}, 'secret_unavailable', 'nothing can be read');
	rename("$keys/other.key", "$keys/opdata.key") or die "rename: $!";
	is_whole($key, 3, 'with the key in the file');
	return;
}

sub set_conf
{
	my ($node, $name, $value) = @_;

	(my $quoted = $value) =~ s/'/''/g;
	$node->append_conf('postgresql.conf', "$name = '$quoted'\n");
	$node->reload;
	$node->poll_query_until('postgres', "select current_setting('$name') = '$quoted'") or die "$name did not change";
	return;
}

# The copies that the test modules make have the mode of any new file.
sub own_keys
{
	my ($node) = @_;

	chmod 0600, $_ or die "chmod $_: $!" foreach glob($node->data_dir . '/opdata.key*');
	return;
}

# The key lies in the data directory of each, as it does by default.
sub copies
{
	my $node = agent_cluster('inner', conf => "wal_level = replica\nmax_wal_senders = 4\nwal_log_hints = on\nhot_standby = on\nwal_keep_size = '128MB'\n");
	$node->append_conf('pg_hba.conf', "local replication all trust\n");
	$node->reload;
	my $file = $node->data_dir . '/opdata.key';
	$node->safe_psql('postgres', join(';', map { store_sql($_) } 'a', 'b', 'of a'));
	is(warned($node), 'key_in_data_directory', 'the status warns of a key in the data directory');

	# before, during and after an exchange
	$node->backup('before');
	my $standby = PostgreSQL::Test::Cluster->new('standby');
	$standby->init_from_backup($node, 'before', has_streaming => 1);
	own_keys($standby);
	$standby->start;
	my $standby_file = $standby->data_dir . '/opdata.key';
	my $old = slurp_file($file);
	my $key = make_key();
	write_file("$standby_file.next", $key);
	my $lock = $node->background_psql('postgres');
	$lock->query_safe(q{begin; select 1 from opdata.connection where id = 'b' for update});
	my ($out, $err) = ('', '');
	my $exchange = IPC::Run::start([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', rotate_sql() ], '<', \undef, '>', \$out, '2>', \$err);
	ok(wait_until(sub { -e "$file.next" }), 'an exchange is under way');
	$node->backup('during');
	is(rows_of($standby), id_of($old) . ' 3', 'a standby reads before');
	my $reads = 0;
	my $failed = 0;
	$lock->query_safe('rollback');
	$lock->quit;
	$exchange->finish;
	is($err, '', 'the exchange is done');
	wait_until(
		sub {
			my ($rows, $why);
			$reads++;
			$failed++ if $standby->psql('postgres', q{select min(key_id) || ' ' || count(opdata_preview(id, 'select 1')) from opdata.connection}, stdout => \$rows, stderr => \$why) != 0;
			return ($rows // '') eq id_of($key) . ' 3';
		},
		undef, 0.05) or fail('the standby has caught up');
	is($failed, 0, 'a standby that has the new key reads all the time');
	is(warned($standby), 'key_exchange_open key_in_data_directory', 'and is warned of no missing key');
	rename("$standby_file.next", $standby_file) or die "rename: $!";
	is(rows_of($standby), id_of($key) . ' 3', 'it reads when that has its place');
	$node->backup('after');

	my $late = make_key();
	rotate($node);
	$node->wait_for_catchup($standby);
	my $error = error_of($standby, q{select opdata_preview('a', 'select 1')});
	is("$error->{sqlstate} $error->{code}", '55000 secret_unavailable', 'a standby without the new key does not read');
	like($error->{detail}, qr/Key @{[ id_of($late) ]} is needed/, 'and tells which key it needs');
	like(warned($standby), qr/key_wrong/, 'so does its status');
	write_file("$standby_file.next", $late);
	is(rows_of($standby), id_of($late) . ' 3', 'until the file comes');

	foreach my $case ([ 'before', $old ], [ 'during', $old ], [ 'after', $key ])
	{
		my ($name, $expected) = @$case;
		my $restored = PostgreSQL::Test::Cluster->new("restored_$name");

		$restored->init_from_backup($node, $name);
		own_keys($restored);
		$restored->start;
		is(rows_of($restored), id_of($expected) . ' 3', "a base backup made $name an exchange can be read") if $name ne 'during';
		like(rows_of($restored), qr/^(?:@{[ id_of($old) ]}|@{[ id_of($key) ]}) 3$/, "a base backup made $name an exchange can be read") if $name eq 'during';
		$restored->safe_psql('postgres', store_sql('more'));
		make_key();
		is(rotate($restored)->{rows}, 4, "$name: its key is exchanged");
		$restored->stop;
	}

	# the standby takes over, and finds its new key beside the old one
	$standby->promote;
	$standby->poll_query_until('postgres', 'select not pg_is_in_recovery()');
	$node->safe_psql('postgres', store_sql('of the old primary alone'));
	$node->stop;
	$standby->safe_psql('postgres', store_sql('more'));
	is(hex_in($standby_file), unpack('H*', $late), 'a promoted standby puts the key in its place with the next store');
	is(beside($standby_file), '', 'and has no other');
	my $newest = make_key();
	is(rotate($standby)->{rows}, 4, 'it exchanges its key');
	$standby->safe_psql('postgres', 'checkpoint');

	# the old primary follows
	my $outside = "$folder/outside.key";
	copy($file, $outside);
	chmod 0600, $outside;
	$standby->command_ok(
		[ 'pg_rewind', '--no-sync', '--target-pgdata', $node->data_dir, '--source-server', $standby->connstr('postgres') ],
		'the old primary is rewound');
	is(hex_in($file), unpack('H*', $newest), 'a key in its data directory is that of the new primary');
	$node->append_conf('postgresql.conf', 'port = ' . $node->port . "\nunix_socket_directories = '" . $node->host . "'\nprimary_conninfo = '" . $standby->connstr . "'\n");
	$node->set_standby_mode;
	$node->start;
	is(rows_of($node), id_of($newest) . ' 4', 'and reads');
	set_conf($node, 'opdata.key_file', $outside);
	is(error_of($node, q{select opdata_preview('a', 'select 1')})->{code}, 'secret_unavailable', 'a key outside of it is the older one, and does not');
	write_file("$outside.next", $newest);
	is(rows_of($node), id_of($newest) . ' 4', 'until the newer one is put beside it');
	return;
}
