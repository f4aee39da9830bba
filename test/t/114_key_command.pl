
# The master key as a command gives it: what is taken for a key, what the command
# gets, when it is run, who waits for it, and where the key lies meanwhile. No
# other process memory than one locked page keeps it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Digest::SHA qw(hmac_sha256_hex);
use File::Path qw(make_path);
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Opdata::Credentials qw(reader);
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->allow_nonref;
my $folder = PostgreSQL::Test::Utils::tempdir('command');

# An end that is waited for, far from the ten seconds that a command has.
my $at_once = 6;

# Bytes that a careless reader would trip over.
my @keys = map { my $n = $_; join('', map { chr(($_ * 37 + $n * 101 + 10) % 256) } 0 .. 31) } 0 .. 10;
substr($keys[0], 0, 1) = "\0";
substr($keys[0], 31, 1) = "\n";
my @ids = map { substr(hmac_sha256_hex('opdata master key id v1', $_), 0, 16) } @keys;

my $source = source_cluster('source');
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

write_file('give', <<"SH", 0700);
#!/bin/sh
echo "\${OPDATA_KEY_ID:-current}" >> $folder/calls
. $folder/what
SH
write_file("key.$_", $keys[$_]) foreach 0 .. $#keys;

my $agent = agent_cluster('agent', conf => <<"EOT");
opdata.key_command = '$folder/give'
log_min_messages = debug5
log_statement = all
EOT

what_is_a_key();
how_it_is_run();
who_waits();
how_often();
two_keys();
many_keys();
from_file_to_command();
whose_setting();
in_memory();
by_workers();

no_key_in($_) foreach slurp_file($agent->logfile);
done_testing();

# ---------------------------------------------------------------- the command

sub write_file
{
	my ($name, $content, $mode) = @_;

	replace_file("$folder/$name", $content, $mode // 0600);
	return;
}

# What it does from now on.
sub gives { write_file('what', "$_[0]\n"); return; }

# This key when it is asked for the current one, and all of these by id.
sub gives_keys
{
	my ($current, @by_id) = @_;

	gives(join("\n",
		'case "$OPDATA_KEY_ID" in',
		"'') cat $folder/key.$current;;",
		(map { "$ids[$_]) cat $folder/key.$_;;" } @by_id),
		'*) exit 3;;', 'esac'));
	return;
}

# Ids that it was asked for since the last time.
sub calls
{
	my $file = "$folder/calls";
	my @calls = -e $file ? split(/\n/, slurp_file($file)) : ();

	unlink $file;
	return join(' ', map { my $id = $_; my ($n) = grep { $ids[$_] eq $id } 0 .. $#ids; defined $n ? "key$n" : $id } @calls);
}

sub hex_of { return unpack('H*', $_[0]); }

# ---------------------------------------------------------------- questions

sub warned { return join(' ', map { $_->{code} } @{ $_[0]->{warnings} }); }

sub payload { return Opdata::Credentials::literal(reader($source)); }

sub store_sql { return "select opdata_store_creds('$_[0]', @{[ payload() ]}, test => false)"; }

sub is_gone
{
	my ($file, $name) = @_;
	my $pid = slurp_file("$folder/$file");

	chomp $pid;
	ok(wait_until(sub { !kill(0, $pid) }), $name);
	unlink "$folder/$file";
	return;
}

sub no_key_in
{
	my ($log) = @_;
	my @found;

	foreach my $n (0 .. $#keys)
	{
		my $base64 = encode_base64($keys[$n], '');

		# as it is, and as PostgreSQL would write bytes
		push @found, $n if grep { index($log, $_) >= 0 }
		  $keys[$n], hex_of($keys[$n]), uc(hex_of($keys[$n])), $base64, substr($base64, 0, 43);
	}
	is_deeply(\@found, [], 'no key is in the log');
	cmp_ok(index($log, 'the command of opdata.key_command gives no key'), '>', 0, 'where the command is spoken of');
	return;
}

# ---------------------------------------------------------------- its output

sub what_is_a_key
{
	my $hex = hex_of($keys[0]);
	my $base64 = encode_base64($keys[0], '');
	my $raw = "cat $folder/key.0";

	foreach my $case (
		[ '32 bytes', $raw ],
		[ '32 bytes and a newline', "$raw; echo" ],
		[ 'hexadecimal digits', "printf %s $hex" ],
		[ 'hexadecimal digits and a newline', "echo $hex" ],
		[ 'hexadecimal digits in capitals, and CR LF', 'printf "%s\r\n" ' . uc $hex ],
		[ 'base64', "printf %s '$base64'" ],
		[ 'base64 and a newline', "echo '$base64'" ],
		[ 'a key in two pieces', "head -c 7 $folder/key.0; sleep 0.2; tail -c 25 $folder/key.0" ])
	{
		my ($name, $does) = @$case;

		gives($does);
		my $key = $agent->status->{key};
		is("$key->{source} $key->{state} $key->{id}", "command present $ids[0]", "$name is a key");
	}
	is(calls(), join(' ', ('current') x 8), 'each of these sessions asked once');

	foreach my $case (
		[ 'nothing', ':', 'it printed no key' ],
		[ 'a newline', 'echo', 'it printed no key' ],
		[ '31 bytes', "head -c 31 $folder/key.0", 'it printed no key' ],
		[ '33 bytes', "$raw; printf x", 'it printed no key' ],
		[ '63 digits', 'printf %s ' . substr($hex, 1), 'it printed no key' ],
		[ '65 digits', "printf 0$hex", 'it printed no key' ],
		[ '64 characters that are no digits', 'printf %s ' . substr($hex, 1) . 'g', 'it printed no key' ],
		[ '31 bytes in base64', 'echo ' . encode_base64(substr($keys[0], 1), ''), 'it printed no key' ],
		[ '33 bytes in base64', 'echo ' . encode_base64("$keys[0]x", ''), 'it printed no key' ],
		[ 'base64 without its pad', 'echo ' . substr($base64, 0, 43), 'it printed no key' ],
		[ 'a megabyte', 'head -c 1000000 /dev/zero', 'it printed more than a key' ],
		[ 'the key among its complaints', "$raw >&2", 'it printed no key' ],
		[ 'the key and exit code 1', "$raw; exit 1", 'it ended with exit code 1' ],
		[ 'the key and a signal', "$raw; kill -9 \$\$", 'it ended with exit code 137' ],
		[ 'what is no command', "$folder/nothing", 'it ended with exit code 127' ])
	{
		my ($name, $does, $why) = @$case;
		my $log_end = -s $agent->logfile;

		gives($does);
		my $status = $agent->status;
		is($json->encode([ @{ $status->{key} }{qw(source state id)} ]), '["command","missing",null]', "$name: no key");
		is(warned($status), 'key_missing', "$name: the status warns");
		like(slurp_file($agent->logfile, $log_end), qr/gives no key: \Q$why\E/, "$name: the log says why");
		my $error = error_of($agent, store_sql('crm'));
		is("$error->{sqlstate} $error->{code}", '55000 secret_unavailable', "$name: nothing is stored");
		like($error->{hint}, qr/opdata\.key_command/, "$name: the hint says where to look");
	}
	ok(!-e $agent->data_dir . '/opdata.key', 'no file was made in the place of a key that the command does not give');
	calls();
	return;
}

# ---------------------------------------------------------------- what it gets

sub how_it_is_run
{
	local $ENV{PGAPPNAME} = 'canary_of_the_environment';

	write_file('what', "env > $folder/env; pwd > $folder/pwd; cat > $folder/input; cat $folder/key.0\n");
	is($agent->status->{key}{state}, 'present', 'a command that reads its input finds it at its end');
	is(-s "$folder/input", 0, 'which is empty');
	my %env = map { /^(\w+)=(.*)$/ ? ($1 => $2) : () } split /\n/, slurp_file("$folder/env");
	delete @env{qw(PWD OLDPWD SHLVL _)};
	is_deeply([ sort keys %env ], [qw(HOME LANG OPDATA_KEY_ID PATH)], 'the environment is scrubbed');
	is($env{OPDATA_KEY_ID}, '', 'the current key has an empty id');
	is($env{LANG}, 'C', 'the language is C');

	# ls has the folder that it lists open besides
	set_command("ls -l /proc/self/fd > $folder/fds; cat $folder/key.0");
	is($agent->status->{key}{state}, 'present', 'a command in shell syntax works');
	my %fds = map { /(\d+) -> (.*)$/ ? ($1 => $2) : () } split /\n/, slurp_file("$folder/fds");
	my @listed = grep { $fds{$_} =~ m{^/proc/\d+/fd$} } keys %fds;
	delete @fds{@listed};
	is_deeply(
		\%fds,
		{ 0 => '/dev/null', 1 => "$folder/fds", 2 => '/dev/null' },
		'it has no descriptors but those that every command has');
	set_command("$folder/give");
	calls();
	return;
}

sub set_command
{
	my ($command) = @_;

	$command =~ s/'/''/g;
	$agent->append_conf('postgresql.conf', "opdata.key_command = '$command'\n");
	$agent->reload;
	$agent->poll_query_until('postgres', "select current_setting('opdata.key_command') = '$command'")
	  or die 'opdata.key_command did not change';
	return;
}

# ---------------------------------------------------------------- waiting for it

sub sessions_begin
{
	my ($does, @names) = @_;
	my %sessions;

	gives($does);
	foreach my $name (@names)
	{
		my ($handle, $out, $err) = Opdata::Credentials::start_psql($agent, $name, store_sql($name));
		$sessions{$name} = { handle => $handle, out => $out, err => $err, begun => time() };
	}
	return \%sessions;
}

sub finish
{
	my ($session) = @_;

	IPC::Run::finish($session->{handle});
	return (time() - $session->{begun}, ${ $session->{err} });
}

sub who_waits
{
	# what takes ten seconds does so at once
	my $slow = sessions_begin("echo \$\$ > $folder/slow; exec sleep 600", 'slow');
	ok(wait_until(sub { -s "$folder/slow" }), 'a command that sleeps has begun');
	my $child = sessions_begin("sleep 600 & echo \$! > $folder/child; cat $folder/key.0", 'child');
	ok(wait_until(sub { -s "$folder/child" }), 'so has one whose child keeps its output open');

	foreach my $end ('cancel', 'terminate')
	{
		my $session = sessions_begin("echo \$\$ > $folder/$end; exec sleep 600", $end)->{$end};

		ok(wait_until(sub { -s "$folder/$end" }), "$end: the command has begun");
		my $before = time();
		$agent->safe_psql('postgres', "select pg_${end}_backend(pid) from pg_stat_activity where application_name = '$end'");
		my ($took, $error) = finish($session);
		cmp_ok(time() - $before, '<', $at_once, "$end: it acts at once");
		like($error, $end eq 'cancel' ? qr/57014/ : qr/57P01/, "$end: as it is to");
		is_gone($end, "$end: the command is gone");
	}
	foreach my $case ([ 'slow', $slow ], [ 'child', $child ])
	{
		my ($name, $sessions) = @$case;
		my ($took, $error) = finish($sessions->{$name});

		like($error, qr/55000.*secret_unavailable/s, "$name: the session gets no key");
		cmp_ok($took, '>', 9, "$name: after ten seconds");
		is_gone($name, "$name: what was started is gone");
	}
	is($agent->safe_psql('postgres', 'select count(*) from opdata.connection'), '0', 'none of them stored anything');
	is(calls(), join(' ', ('current') x 4), 'each asked once');
	return;
}

sub how_often
{
	gives_keys(0, 0);
	my $session = $agent->background_psql('postgres');

	$session->query_safe(store_sql('crm'));
	$session->query_safe(q{select opdata_test('crm'), opdata_preview('crm', 'select 1'), opdata_status(), opdata_public_key()})
	  foreach 1 .. 3;
	is(calls(), 'current', 'a session asks once');
	$agent->reload;
	$agent->wait_for_log(qr/received SIGHUP/);
	ok( wait_until(
			sub {
				$session->query_safe('select opdata_status()');
				return -e "$folder/calls";
			}),
		'and again after a reload');
	$session->query_safe('select opdata_status()') foreach 1 .. 3;
	is(calls(), 'current', 'once');
	$session->quit;
	return;
}

# ---------------------------------------------------------------- several keys

sub two_keys
{
	# the order in which they are asked for
	my ($lost, $older) = sort { $ids[$a] cmp $ids[$b] } 0, 1;

	gives_keys(1, 0, 1);
	$agent->safe_psql('postgres', store_sql('of key 1'));
	is(calls(), 'current key0', 'the current key is asked for, then that of older rows by its id');
	is($agent->safe_psql('postgres', q{select distinct key_id from opdata.connection where id = 'of key 1'}),
		$ids[1], 'a new row has the current key');
	my $status = $agent->status;
	is_deeply([ @{ $status->{key} }{qw(state id)} ], [ 'present', $ids[1] ], 'the status shows the current key');
	is_deeply($status->{key}{neededIds}, [ sort @ids[ 0, 1 ] ], 'and both that rows need');
	is(warned($status), '', 'without a warning');
	foreach my $id ('crm', 'of key 1')
	{
		is(json($agent, "select opdata_preview('$id', 'select 42')")->{rows}[0][0], 42, "$id is read");
	}
	calls();

	gives_keys(2, 2, $older);
	$status = $agent->status;
	is(warned($status), 'key_wrong', 'a key that is not given any more is warned of');
	is($status->{key}{id}, $ids[2], 'beside the current one');
	my %row_of = (0 => 'crm', 1 => 'of key 1');
	my $error = error_of($agent, "select opdata_test('$row_of{$lost}')");
	is($error->{code}, 'secret_unavailable', 'its rows cannot be read');
	like($error->{detail}, qr/Key $ids[$lost] is needed/, 'the error names the key');
	ok(json($agent, "select opdata_test('$row_of{$older}')")->{ok}, 'rows of a key that comes later in the order can be read');
	is(error_of($agent, store_sql('more'))->{code}, 'secret_unavailable', 'nothing is stored beside rows that nobody can read');

	gives("cat $folder/key.2");
	$error = error_of($agent, "select opdata_test('$row_of{$older}')");
	is($error->{code}, 'secret_unavailable', 'another key than the one that was asked for is not taken');
	like(slurp_file($agent->logfile), qr/it printed key $ids[2] instead of $ids[$older]/, 'the log says so');
	calls();
	return;
}

# More than are ever in use at once.
sub many_keys
{
	foreach my $n (2 .. $#keys)
	{
		gives_keys($n, 0 .. $n);
		$agent->safe_psql('postgres', store_sql("of key $n"));
	}
	calls();
	my $session = $agent->background_psql('postgres');
	foreach my $round (1, 2)
	{
		foreach my $n (1 .. $#keys)
		{
			is($session->query_safe("select opdata_preview('of key $n', 'select $n')->'rows'->0->0"),
				$n, "one session reads a row of key $n") if $round == 2;
			$session->query_safe("select opdata_preview('of key $n', 'select $n')");
		}
	}
	$session->quit;
	is(join(' ', sort split / /, calls()), join(' ', sort('current', map { "key$_" } 0 .. $#keys - 1)), 'it asked for each of them once');
	$agent->safe_psql('postgres', q{delete from opdata.connection; delete from opdata.sealing_key});
	return;
}

# ---------------------------------------------------------------- the file

sub from_file_to_command
{
	set_command('');
	$agent->safe_psql('postgres', store_sql('crm'));
	my $file = $agent->data_dir . '/opdata.key';
	my $id = $agent->status->{key}{id};

	set_command("cat $file");
	ok(json($agent, q{select opdata_test('crm')})->{ok}, 'a command that gives the key of the file reads its rows');
	my $status = $agent->status;
	is($status->{key}{id}, $id, 'under the same id');
	is(warned($status), '', 'without a warning');
	$agent->safe_psql('postgres', store_sql('by command'));
	is($agent->safe_psql('postgres', 'select distinct key_id from opdata.connection'), $id, 'what is stored has the same key');
	set_command('');
	ok(json($agent, qq{select opdata_test('$_')})->{ok}, "$_: the file does it again") foreach 'crm', 'by command';
	is(calls(), '', 'the other command was not run');
	$agent->safe_psql('postgres', q{delete from opdata.connection});
	unlink $file;
	set_command("$folder/give");
	return;
}

sub whose_setting
{
	$agent->safe_psql('postgres', q{create role nobody login});
	my @as = (extra_params => [ '-U', 'nobody' ]);
	is(error_of($agent, q{show opdata.key_command}, @as)->{sqlstate}, '42501', 'who is no superuser may not see the setting');
	is(error_of($agent, q{set opdata.key_command = 'id'}, @as)->{sqlstate}, '55P02', 'nor change it');
	is(error_of($agent, q{set opdata.key_command = 'id'})->{sqlstate}, '55P02', 'a session of a superuser does not change it either');
	is(error_of($agent, q{alter role nobody set opdata.key_command = 'id'})->{sqlstate}, '55P02', 'nor does a role have one of its own');
	return;
}

# ---------------------------------------------------------------- memory

# A function by which a session looks for bytes in all of its own memory. It is told
# them masked, so that it does not find the question.
sub make_finder
{
	my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $include = `$pg_config --includedir-server`);

	write_file('finder.c', <<'C');
#include "postgres.h"
#include <fcntl.h>
#include <unistd.h>
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(find_bytes);

static char piece[1 << 16];

Datum
find_bytes(PG_FUNCTION_ARGS)
{
	bytea	   *masked = PG_GETARG_BYTEA_PP(0);
	const char *want = VARDATA_ANY(masked);
	int			n = VARSIZE_ANY_EXHDR(masked);
	FILE	   *maps = fopen("/proc/self/maps", "r");
	int			memory = open("/proc/self/mem", O_RDONLY);
	char		line[1024];
	StringInfoData found;

	initStringInfo(&found);
	while (fgets(line, sizeof(line), maps))
	{
		unsigned long from, to;
		char		readable;

		if (sscanf(line, "%lx-%lx %c", &from, &to, &readable) != 3 || readable != 'r')
			continue;
		for (unsigned long at = from; at + n <= to; at += sizeof(piece) - n)
		{
			ssize_t		got = pread(memory, piece, Min(sizeof(piece), to - at), (off_t) at);

			/* what begins in the last bytes of a full piece is in the next one */
			char	   *end = piece + got - (got == sizeof(piece) ? n : n - 1);
			char	   *p = piece;

			while (p < end && (p = memchr(p, want[0] ^ 0x5a, end - p)) != NULL)
			{
				int			k = 1;
				char	   *real = (char *) at + (p - piece);

				while (k < n && (char) (p[k] ^ 0x5a) == want[k])
					k++;
				if (k == n && (real < piece || real >= piece + sizeof(piece)))
					appendStringInfo(&found, "%lx ", from);
				p++;
			}
			memset(piece, 0, sizeof(piece));
			if (got <= 0)
				break;
		}
	}
	fclose(maps);
	close(memory);
	PG_RETURN_TEXT_P(cstring_to_text(found.data));
}
C
	system_or_bail('cc', '-shared', '-fPIC', '-O2', '-isystem', $include, '-o', "$folder/finder.so", "$folder/finder.c");
	$agent->safe_psql('postgres',
		"create function find_bytes(bytea) returns text language c as '$folder/finder.so'");
	return;
}

# Where these bytes stand in a session's memory: the flags of each mapping.
sub found
{
	my ($session, $bytes) = @_;

	# what failed before is known
	$session->{stderr} = '';
	my $pid = $session->query_safe('select pg_backend_pid()');
	my $masked = hex_of($bytes ^ ("\x5a" x length $bytes));
	my $found = $session->query_safe("select find_bytes('\\x$masked')");
	my @flags;

	foreach my $start (split / /, $found)
	{
		my $mapping = slurp_file("/proc/$pid/smaps");
		my ($flags) = $mapping =~ /^0*$start-.*?^VmFlags: ([^\n]*)/ms;
		push @flags, $flags // 'unknown';
	}
	return @flags;
}

sub keeps_nothing
{
	my ($session, $key, $name) = @_;

	is_deeply([ found($session, hex_of($key)) ], [], "$name: no digits of the key are left");
	is_deeply([ found($session, substr(encode_base64($key, ''), 0, 42)) ], [], "$name: nor its base64");
	return found($session, $key);
}

sub in_memory
{
	make_finder();
	my $planted = $agent->background_psql('postgres');
	my $text = 'this stands in the query only, ' . $$;
	$planted->query_safe("select '$text'");
	cmp_ok(scalar(found($planted, $text)), '>', 0, 'the search finds what is there');
	$planted->quit;

	my $key = $keys[3];
	gives('if [ -z "$OPDATA_KEY_ID" ]; then echo ' . encode_base64($key, '') . '; else echo ' . hex_of($key) . '; fi');
	my $session = $agent->background_psql('postgres', on_error_stop => 0);
	is($session->query_safe(store_sql('crm') . q{->>'status'}), 'pending', 'a session uses the key');
	my @uses = (
		[ 'after a store', 'select 1' ],
		[ 'after a preview', q{select opdata_preview('crm', 'select 1')} ],
		[ 'after a test and a public key', q{select opdata_test('crm'), opdata_public_key(), opdata_rotate_public_key(), opdata_status()} ],
		[ 'after an error', q{begin; update opdata.connection set payload = set_byte(payload, 60, 1 # get_byte(payload, 60)); select opdata_test('crm'); rollback} ],
		[ 'after another error', q{begin; update opdata.connection set workspace_id = 'other'; select opdata_test('crm'); rollback} ]);
	foreach my $use (@uses)
	{
		my ($name, $sql) = @$use;

		$session->query($sql);
		my @flags = keeps_nothing($session, $key, $name);
		is(scalar(@flags), 1, "$name: the key is there once") or diag("@flags");
		foreach my $flag (qw(lo dd wf))
		{
			like($flags[0] // '', qr/\b$flag\b/, "$name: its page has the flag $flag");
		}
	}
	my $pid = $session->query_safe('select pg_backend_pid()');
	$agent->reload;
	ok( wait_until(
			sub {
				gives('exit 1');
				$session->query('select opdata_status()');
				return keeps_no_page($session, $key);
			}),
		'a reload wipes it');
	$session->quit;

	# the same with a file, which is read at each use
	$agent->safe_psql('postgres', 'delete from opdata.connection; delete from opdata.sealing_key');
	set_command('');
	$agent->safe_psql('postgres', store_sql('crm'));
	my $file = $agent->data_dir . '/opdata.key';
	$session = $agent->background_psql('postgres', on_error_stop => 0);
	foreach my $use (@uses)
	{
		my ($name, $sql) = @$use;

		$session->query($sql);
		is_deeply([ keeps_nothing($session, slurp_file($file), "a key in a file, $name") ], [], "a key in a file, $name: nor the key itself");
	}
	my $old = slurp_file($file);
	write_file('next.key', $keys[4]);
	$session->query("select opdata_rotate_key('$folder/next.key')");
	is(slurp_file($file), $keys[4], 'the key is exchanged');
	is_deeply([ keeps_nothing($session, $_->[1], "after an exchange, $_->[0]") ], [], "after an exchange, $_->[0]: it is not there")
	  foreach [ 'the old key', $old ], [ 'the new key', $keys[4] ];
	$agent->safe_psql('postgres', q{update opdata.connection set payload = set_byte(payload, 60, 1 # get_byte(payload, 60))});
	write_file('next.key', $keys[5]);
	$session->query("select opdata_rotate_key('$folder/next.key')");
	is(slurp_file($file), $keys[4], 'with a row that cannot be read it is not exchanged');
	is_deeply([ keeps_nothing($session, $_->[1], "after a failed exchange, $_->[0]") ], [], "after a failed exchange, $_->[0]: it is not there")
	  foreach [ 'the old key', $keys[4] ], [ 'the new key', $keys[5] ];
	$session->quit;
	return;
}

sub keeps_no_page
{
	my ($session, $key) = @_;
	my @flags = found($session, $key);

	return @flags == 0;
}

# ---------------------------------------------------------------- workers

sub by_workers
{
	gives('exit 4');
	my $tenant = tenant('acme', conf => "opdata.key_command = '$folder/give'\n");
	my $holds = sub {
		my ($name) = @_;

		$tenant->agent->workers_get('misconfigured', "$name: workers hold");
		# they hold as soon as they ask, before that has failed
		my $worker;
		ok(wait_until(sub { ($worker) = $tenant->agent->workers; ($worker->{lastError}{code} // '') eq 'KEY_COMMAND' }), "$name: with what failed");
		like($worker->{lastError}{message}, qr/it ended with exit code 4/, "$name: and how");
	};

	$holds->('a command that fails from the beginning');
	my $ticket = $tenant->client->send('execute',
		$tenant->arguments('storeCredsWorkflow',
			{ connectionId => 'crm', name => 'crm', type => 'postgres', credentials => reader($source) }));
	gives_keys(0, 0);
	$tenant->agent->workers_get('polling', 'they go on when it works');
	my $ended = $tenant->client->receive($ticket);
	is(code_of($ended), 'ok', 'a store that waited is done') or diag($json->encode($ended));
	is(key_id($tenant, 'crm'), $ids[0], 'under the key of the command');
	previews($tenant, 'a preview is done');

	# a reload has each worker ask again; meanwhile nothing is open
	calls();
	gives("echo \$\$ >> $folder/asking; while [ ! -e $folder/go ]; do sleep 0.1; done; cat $folder/key.0");
	$tenant->agent->reload;
	ok(wait_until(sub { -e "$folder/asking" && 3 <= split /\n/, slurp_file("$folder/asking") }), 'a reload has each worker ask');
	is( $tenant->agent->safe_psql('postgres', q{
			select count(*) filter (where xact_start is null and backend_xmin is null and backend_xid is null), count(*)
			from pg_stat_activity where backend_type = 'opdata worker'}),
		'3|3', 'no transaction is open meanwhile');
	write_file('go', '');
	$tenant->agent->workers_get('polling', 'they go on');
	previews($tenant, 'after it a preview is done');
	foreach my $worker ($tenant->agent->workers)
	{
		my @locked = grep { /\blo\b/ && /\bdd\b/ && /\bwf\b/ } slurp_file("/proc/$worker->{pid}/smaps") =~ /^VmFlags: (.*)$/mg;
		is(scalar(@locked), 1, "$worker->{name} has one page that is locked and in no core dump");
	}

	# another key for all rows, and who learns of it
	unlink "$folder/go";
	gives_keys(1, 0, 1);
	my $session = $tenant->agent->background_psql('postgres');
	$session->query_safe(q{select opdata_test('crm')});
	is_deeply(
		json($tenant->agent, 'select opdata_rotate_key(null)'),
		{ keyId => $ids[1], previousKeyId => undef, rows => 1 },
		'the command gives another key');
	is(key_id($tenant, 'crm'), $ids[1], 'rows are under it');
	is($session->query_safe(q{select opdata_test('crm')->>'ok'}), 'true', 'a session that has the older key reads them');
	$session->query_safe(store_sql('by session'));
	is(key_id($tenant, 'by session'), $ids[1], 'and stores under the newer one');
	$session->quit;
	ok( wait_until(
			sub {
				return code_of($tenant->run('previewQueryWorkflow', { connectionId => 'crm', sql => 'select 1' })) eq 'ok';
			}),
		'workers learn of it');
	is( code_of(
			$tenant->run('storeCredsWorkflow',
				{ connectionId => 'later', name => 'later', type => 'postgres', credentials => reader($source) })),
		'ok', 'a workflow stores');
	is(key_id($tenant, 'later'), $ids[1], 'under the newer key');
	my $key = $tenant->agent->status->{key};
	is($key->{id}, $ids[1], 'the status shows it');
	is_deeply($key->{neededIds}, [ $ids[1] ], 'rows need no other');
	my $error = error_of($tenant->agent, q{select opdata_rotate_key('opdata.key')});
	is("$error->{sqlstate} $error->{code}", '22023 secret_unavailable', 'with a command no file is taken');

	gives('exit 4');
	$tenant->agent->reload;
	$holds->('a command that fails after a reload');

	# the file instead, behind a link that is later led elsewhere
	symlink('key.1', "$folder/link") or die "symlink: $!";
	$tenant->agent->set(key_command => '', key_file => "$folder/link");
	$tenant->agent->workers_get('polling', 'with a file they go on');
	previews($tenant, 'a preview is done with a key behind a link');
	rename("$folder/key.1", "$folder/elsewhere") or die "rename: $!";
	unlink "$folder/link";
	symlink('elsewhere', "$folder/link") or die "symlink: $!";
	previews($tenant, 'workers follow a link that is led elsewhere');
	no_key_in(slurp_file($tenant->agent->logfile));
	return;
}

sub key_id
{
	my ($tenant, $id) = @_;
	return $tenant->agent->safe_psql('postgres', "select key_id from opdata.connection where id = '$id'");
}

sub previews
{
	my ($tenant, $name) = @_;
	my $ended = $tenant->run('previewQueryWorkflow', { connectionId => 'crm', sql => 'select 42' });

	is($ended->{result}{rows}[0][0], 42, $name) or diag($json->encode($ended));
	return;
}
