
# Which hosts a connection may reach: opdata.allowed_hosts in all its forms,
# names with several addresses, and a name service that never answers.
#
# Names and addresses come from test/harness/fake-resolver.c, which is put
# between the agent's server and the C library: no test asks a name server, and
# no packet leaves this machine. An address of "route" leads to the source, so
# that "allowed" can be told from "refused": it signs in.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use Opdata::Credentials;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $metadata = '169.254.169.254';

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});
my $port = $source->port;

# Two addresses beside the source's, at the same port: one where nobody
# listens, and one that accepts and says nothing.
my ($dead, $mute) = ('127.0.0.9', '127.0.0.10');
my $listener = IO::Socket::INET->new(
	LocalAddr => $mute,
	LocalPort => $port,
	ReuseAddr => 1,
	Listen => 16) or die "could not listen: $!";

my %network = fake_network(<<"TABLE");
db.test 127.0.0.1
a.db.test 127.0.0.1
db.test.other 127.0.0.1
notdb.test 127.0.0.1
test 127.0.0.1
dead-first.test $dead 127.0.0.1
mute-first.test $mute 127.0.0.1
all-dead.test $dead 127.0.0.8
refused-first.test 10.1.2.3 127.0.0.1
never.test 10.1.2.3 10.1.2.4
metadata.test $metadata
metadata-first.test $metadata 127.0.0.1
mapped.test ::ffff:127.0.0.1
unknown.test unknown
silent.test silent
route 10.1.2.3 127.0.0.1
route $metadata 127.0.0.1
route fe80::1 refused
route fd00:1::5 refused
TABLE
my $agent;
{
	local %ENV = (%ENV, %network);
	$agent = agent_cluster('agent');
}

# Rules by name: the list, then hosts that it allows and hosts that it refuses.
my $far = 'host_not_allowed';
my @rules = (
	[ '*', [qw(127.0.0.1 db.test a.db.test localhost)], [] ],
	[ 'db.test', [qw(db.test DB.Test db.test. dB.tEsT.)],
		[qw(a.db.test notdb.test test 127.0.0.1)] ],
	[ 'DB.TEST.', [qw(db.test db.test. Db.Test)], [qw(a.db.test)] ],
	[ '*.test', [qw(db.test a.db.test DB.TEST a.db.test.)],
		[qw(test db.test.other localhost 127.0.0.1)] ],
	[ '*.DB.test', [qw(a.db.test A.DB.TEST.)], [qw(db.test notdb.test)] ],
	[ '*.test.', [qw(db.test db.test.)], [qw(test db.test.other)] ],
	[ '127.0.0.1', [qw(127.0.0.1 db.test 127.1 0x7f000001 2130706433 0177.0.0.1
			::ffff:127.0.0.1 [::ffff:127.0.0.1] ::ffff:7f00:1 mapped.test)],
		[qw(10.1.2.3)] ],
	[ '::ffff:127.0.0.1', [qw(127.0.0.1 ::ffff:127.0.0.1 127.1 mapped.test)],
		[qw(10.1.2.3)] ],
	[ '127.0.0.0/8', [qw(127.0.0.1 ::ffff:127.0.0.1)], [qw(10.1.2.3)] ],
	[ '127.0.0.1/32', [qw(127.0.0.1)], [qw(127.0.0.2 10.1.2.3)] ],
	[ '::ffff:127.0.0.0/104', [qw(127.0.0.1 ::ffff:127.0.0.1)], [qw(10.1.2.3)] ],
	[ '10.0.0.0/8', [qw(10.1.2.3 ::ffff:10.1.2.3)],
		[qw(127.0.0.1 127.1 0x7f000001 2130706433 0177.0.0.1 ::ffff:127.0.0.1
			::ffff:7f00:1 db.test mapped.test)] ],
	[ '10.1.2.0/30', [qw(10.1.2.3)], [qw(10.1.2.4 127.0.0.1)] ],
	[ '0.0.0.0/0', [qw(127.0.0.1 10.1.2.3)], [qw(fd00:1::5)] ],
	[ 'nowhere.example, 10.0.0.0/8 ,,db.test', [qw(db.test 10.1.2.3)],
		[qw(a.db.test 127.0.0.1)] ],
	[ '', [], [qw(127.0.0.1 db.test)] ]);
foreach my $rule (@rules)
{
	my ($list, $allowed, $refused) = @$rule;

	allow($list);
	is(reach($_), 'ok', qq{"$list" allows $_}) foreach @$allowed;
	is(reach($_), $far, qq{"$list" refuses $_}) foreach @$refused;
}

# IPv6, where no connection comes about: refused by the rule, or by the host.
allow('fd00::/8, fe80::/10');
is(reach('fd00:1::5'), 'connection_refused', 'an IPv6 block allows what is in it');
is(reach('fe80::1'), 'connection_refused',
	'and link-local addresses when they are in it');
is(reach('2001:db8::1'), $far, 'and refuses what is not');
is(reach('127.0.0.1'), $far, 'IPv4 as well');

# Link-local addresses need an entry of their own.
my @ways = ($metadata, "::ffff:$metadata", '0xa9fea9fe', '2852039166',
	'metadata.test');
allow('*');
is(reach($_), $far, "* does not allow link-local, called $_")
  foreach @ways, 'fe80::1';
allow('*.test');
is(reach('metadata.test'), $far,
	'nor does a suffix, whatever the name resolves to');
allow('0.0.0.0/0, ::/0');
is(reach($_), $far, "nor do the blocks of everything, called $_")
  foreach @ways, 'fe80::1';
allow('metadata.test');
is(reach('metadata.test'), 'ok', 'its exact name does');
is(reach($metadata), $far, 'and for that name alone');
allow('*, 169.254.0.0/16');
is(reach($_), 'ok', "its block does, called $_") foreach @ways;
allow("*, $metadata");
is(reach($metadata), 'ok', 'its address does');
allow("::ffff:$metadata");
is(reach($metadata), 'ok', 'written as IPv6 too');
allow('*');
like(error_for($metadata)->{hint}, qr/opdata\.allowed_hosts/,
	'the hint of a link-local address says where to list it');

# What the refusal says.
allow('10.0.0.0/8');
my $error = error_for('db.test');
like($error->{message}, qr/"db\.test".*127\.0\.0\.1/,
	'a refusal names the host and the address');
like($error->{hint}, qr/opdata\.allowed_hosts/, 'and the hint the setting');
is( code_of(
		$agent,
		q{select opdata_store_creds('refused', }
		  . literal(reader('db.test')) . ')'),
	$far,
	'a connection to a refused host is not stored');
store($agent, 'refused', reader('db.test'));
is(code_of($agent, q{select opdata_preview('refused', 'select 1')}),
	$far, 'nor previewed when it was stored without a test');

# Names with several addresses.
allow('*');
is(reach('dead-first.test'), 'ok',
	'where nobody listens at the first address, the second is tried');
is(reach('metadata-first.test'),
	'ok', 'an address that is refused by the rules is passed over');
is(reach('mute-first.test'), 'ok',
	'so is one that accepts and says nothing');
is(reach('all-dead.test'), 'connection_refused',
	'without a live address the connection is refused');
is(reach('unknown.test'), 'host_not_found',
	'a name that does not exist is not found');
like(error_for('unknown.test')->{hint}, qr/getent hosts unknown\.test/,
	'with the command to try as a hint');
allow('127.0.0.0/8');
is(reach('refused-first.test'),
	'ok', 'of several addresses those are used that a block allows');
is(reach('never.test'), $far,
	'where all are refused, the host is not allowed');

# Malformed lists.
my @malformed = (
	'10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/', '10.0.0.0/8x', 'fd00::/129',
	'::ffff:10.0.0.0/95', 'db.test/8', '*test', 'db.*.test', '**', '*.',
	'db test', 'a;b', 'http://db.test', '127.0.0.1:5432', '[::1]',
	'10.0.0.256', '10.0.0', '1.2.3.4.5', 'user@db.test', "b\xc3\xbccher.test", 'db..test', '.');
allow('127.0.0.1');
foreach my $list (@malformed)
{
	my ($stdout, $stderr);

	$agent->psql(
		'postgres',
		'alter system set opdata.allowed_hosts = ' . literal($list),
		stdout => \$stdout,
		stderr => \$stderr);
	(my $shown = $list) =~ s/[^ -~]/?/g;
	like(
		$stderr,
		qr/invalid value for parameter "opdata\.allowed_hosts"/,
		"ALTER SYSTEM refuses the list \"$shown\"");
	$agent->safe_psql('postgres', q{alter system set opdata.allowed_hosts = '127.0.0.1'})
	  if $stderr eq '';
}
is( $agent->safe_psql(
		'postgres', q{select setting from pg_settings where name = 'opdata.allowed_hosts'}
	),
	'127.0.0.1',
	'the list is as it was');
$agent->safe_psql('postgres', 'alter system reset opdata.allowed_hosts');
allow_in_file('127.0.0.1, db.test');
my $offset = -s $agent->logfile;
$agent->append_conf('postgresql.conf',
	"opdata.allowed_hosts = '*, 10.0.0.0/33'");
$agent->reload;
ok( wait_until(
		sub {
			slurp_file($agent->logfile, $offset) =~
			  /invalid value for parameter "opdata\.allowed_hosts"/;
		}),
	'a malformed list in postgresql.conf is refused at reload');
like(slurp_file($agent->logfile, $offset), qr/"10\.0\.0\.0\/33"/,
	'the log names the entry');
like(
	slurp_file($agent->logfile, $offset),
	qr/host name, "\*\.suffix", address or CIDR block/,
	'and says what an entry may be');
is(reach('db.test'), 'ok', 'hosts of the old list are reached as before');
is(reach('10.1.2.3'), $far, 'others are not');
$agent->stop;
my $starts;
{
	local %ENV = (%ENV, %network);
	$offset = -s $agent->logfile;
	$starts = $agent->start(fail_ok => 1);
}
is($starts, 0,
	'with a malformed list the server does not start, rather than allow all');
like(slurp_file($agent->logfile, $offset), qr/"10\.0\.0\.0\/33"/,
	'and its log names the entry');
$agent->append_conf('postgresql.conf', "opdata.allowed_hosts = '*'");
{
	local %ENV = (%ENV, %network);
	$agent->stop if $starts;
	$agent->start;
}

# The name service that never answers.
store($agent, 'silent', reader('silent.test'));
my $preview = q{select opdata_preview('silent', 'select 1')};
my $began = time();
is(code_of($agent, $preview),
	'query_timeout', 'a preview ends at its deadline though its host is never resolved');
cmp_ok(time() - $began, '<', 60, 'which is after 10 seconds, not at the end of days');
is( test_of($agent, reader('silent.test', { connect_timeout => 1 }))
	  ->{error}{code},
	'timeout',
	'a test with a connect_timeout of its own ends with that');

my $by_name = q{from pg_stat_activity where application_name = };
like(
	interrupted('cancelled', sub { $agent->safe_psql('postgres', "select pg_cancel_backend(pid) $by_name 'cancelled'") }),
	qr/ERROR:  57014/,
	'a cancel acts while a name is resolved');
like(
	interrupted('terminated', sub { $agent->safe_psql('postgres', "select pg_terminate_backend(pid) $by_name 'terminated'") }),
	qr/FATAL:  57P01/,
	'pg_terminate_backend acts while a name is resolved, and the session is told');
like(
	interrupted(
		'closing',
		sub {
			local %ENV = (%ENV, %network);
			$agent->restart;
		}),
	qr/FATAL:  57P01/,
	'a fast shutdown does not wait for a name, and the session is told');

# Sockets.
my $socket = reader($source->host);
is(verdict($agent, $socket), $far, 'a socket is no host that may be reached');
like(test_of($agent, $socket)->{error}{hint},
	qr/opdata\.allow_local_sockets/, 'and the hint names the setting');
is(verdict($agent, reader('/nonexistent')),
	$far, 'where there is none, the answer is the same');
set_and_wait('opdata.allow_local_sockets', 'on');
is(verdict($agent, $socket), 'credential_not_checked',
	'with the setting on it is reached');
is(verdict($agent, reader('/nonexistent')),
	'connection_refused', 'and one that is not there is told from it');
set_and_wait('opdata.allowed_hosts', 'nowhere.example');
is(verdict($agent, $socket), 'credential_not_checked',
	'the list of hosts does not speak of sockets');
set_and_wait('opdata.allow_local_sockets', 'off');
is(verdict($agent, $socket), $far, 'off again it is refused');
foreach my $host ('@abstract', '127.0.0.1,/tmp', '127.0.0.1,10.1.2.3', './tmp', 'a/b')
{
	is( code_of(
			$agent,
			'select opdata_test(' . literal(reader($host)) . '::jsonb)'),
		'invalid_credentials',
		"\"$host\" is no host name at all");
}

# Who may see the rules, and change them.
$agent->safe_psql('postgres', 'create role somebody login');
is($agent->psql('postgres', 'show opdata.allowed_hosts', extra_params => [ '-U', 'somebody' ]),
	3, 'the list is shown to superusers only');
my ($stdout, $stderr);
$agent->psql('postgres', q{set opdata.allowed_hosts = '*'},
	stdout => \$stdout, stderr => \$stderr);
like($stderr, qr/cannot be changed now/, 'and no session can change it');

done_testing();


sub reader
{
	my ($host, $options) = @_;
	my $timeout = ($options // {})->{connect_timeout};

	return { dsn => "host=$host port=$port dbname=postgres user=reader password=reader_pw sslmode=disable connect_timeout=$timeout" }
	  if defined $timeout;
	return credentials(
		$source,
		host => $host,
		username => 'reader',
		password => 'reader_pw');
}

sub reach
{
	my ($host) = @_;
	return verdict($agent, reader($host));
}

sub error_for
{
	my ($host) = @_;
	return test_of($agent, reader($host))->{error};
}

sub allow
{
	my ($list) = @_;
	set_and_wait('opdata.allowed_hosts', $list);
	return;
}

# Change a setting; sessions that begin afterwards have it.
sub set_and_wait
{
	my ($name, $value) = @_;

	$agent->safe_psql('postgres',
		"alter system set $name = " . literal($value));
	wait_for_setting($name, $value);
	return;
}

sub allow_in_file
{
	my ($list) = @_;

	$agent->append_conf('postgresql.conf',
		'opdata.allowed_hosts = ' . literal($list));
	wait_for_setting('opdata.allowed_hosts', $list);
	return;
}

sub wait_for_setting
{
	my ($name, $value) = @_;

	$agent->reload;
	$agent->poll_query_until('postgres', "show $name", $value)
	  or die "$name does not become $value";
	return;
}

# What the session is told of a preview of the host that is never resolved, which is
# interrupted while it is at it: the thread that asks is the process's second. It is
# tried again when the deadline was quicker than we are.
sub interrupted
{
	my ($name, $interrupt) = @_;
	my ($psql, $out, $err);

	ok( wait_until(
			sub {
				($psql, $out, $err) = start_psql($agent, $name, $preview);
				wait_until(sub { resolves($name) || !eval { $psql->pump_nb; 1 } });
				$interrupt->();
				$psql->finish;
				return $$err !~ /query_timeout/;
			}),
		"the preview to be $name is interrupted before it ends by itself");
	return $$err;
}

sub resolves
{
	my ($name) = @_;
	my $pid = $agent->safe_psql('postgres', "select pid $by_name '$name'");

	return $pid ne '' && (() = glob("/proc/$pid/task/*")) == 2;
}
