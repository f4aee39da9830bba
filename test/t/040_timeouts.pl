
# A source that accepts and then says nothing, at every point of the
# conversation: the answer comes at the deadline, and no query goes on at the
# source. All that waits for a deadline waits side by side.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Faults;
use Opdata::Test;
use Test::More;
use Time::HiRes qw(time);

# 10 seconds, one more for the source to confirm, and what a busy machine adds: far
# less than anything here would last without the deadline.
my ($earliest, $latest) = (9.5, 60);

my $source = source_cluster('source', conf => "log_min_messages = error\n");
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create function busy(n int) returns int language plpgsql as $$ begin loop end loop; end $$;
});

my $agent = agent_cluster('agent');
my $works = session($agent);
store($agent, 'source', port => $source->port);

# What takes the limits away that the agent sets: then its cancel request alone
# ends the query.
my $no_limits = q{with off as materialized (select
	set_config('statement_timeout', '0', false),
	set_config('client_connection_check_interval', '0', false),
	set_config('idle_in_transaction_session_timeout', '0', false))};

# Bytes of the source's side of a sign-in with SCRAM: the first message has 24,
# the second about 100.
my %silent = (
	'connect' => silent_server(at => 'connect'),
	'tls' => silent_server(at => 'tls'),
	'first' => silent_server(at => 'bytes', upstream => $source->port, bytes => 10),
	'sign-in' => silent_server(at => 'bytes', upstream => $source->port, bytes => 60));
my %hostile = map { $_ => hostile_server($_) } qw(begin-silent query-silent row-silent no-end);

my %stage = (
	'connect' => 'at connect',
	'connect-tls' => 'at connect, where TLS is asked for',
	'tls' => 'in TLS',
	'first' => 'in its first message',
	'sign-in' => 'in the middle of sign-in');
store($agent, 'connect', port => $silent{connect}->port);
store($agent, 'connect-tls', port => $silent{connect}->port, sslMode => 'require');
store($agent, 'tls', port => $silent{tls}->port, sslMode => 'require');
store($agent, $_, port => $silent{$_}->port) foreach ('first', 'sign-in');

my %later = (
	'begin-silent' => 'after the sign-in',
	'query-silent' => 'in the middle of a query',
	'row-silent' => 'in the middle of a row',
	'no-end' => 'after the last row');
store($agent, $_, port => $hostile{$_}->port) foreach keys %later;

my %sleep = (
	'source' => 'select pg_sleep(601)',
	'without limits' => "$no_limits select pg_sleep(602) from off",
	'relay' => "$no_limits select pg_sleep(603) from off",
	'stopped relay' => 'select pg_sleep(604)',
	'stopped backend' => "$no_limits select pg_sleep(605) from off",
	'busy' => "$no_limits select busy(606) from off");
my %connection = ('without limits' => 'source', 'stopped backend' => 'source', 'busy' => 'source');
my %active = map { my ($number) = $sleep{$_} =~ /(60\d)\b/; $_ => $number } keys %sleep;

# The queries at the source: what is done to them must be done before their deadline.
# A machine that was too slow for it begins again.
my (%test, %preview, $relay, $stopped_relay, $stopped_pid);
ok( wait_until(
		sub {
			return 1 if begin_sleeps();
			kill 'CONT', grep { defined } $stopped_pid, $stopped_relay->{pid};
			$_->quit foreach values %preview;
			wait_until(sub { !grep { source_pid($_) } values %active }) or die 'a query is left at the source';
			return 0;
		}),
	'the source works on each query, and some of them are cut off, before the deadline');

# All else. Sessions come first, so that they wait side by side.
my @silent = sort keys %stage;
my @tests = (@silent, 'begin-silent');
$test{$_} = session($agent) foreach @tests;
$preview{$_} = session($agent) foreach @silent, keys %later;
$test{$_}->start("select opdata_test('$_')") foreach @tests;
$preview{$_}->start(preview($_, 'select 1')) foreach @silent, sort keys %later;
my $storing = session($agent)->start(
	q{select opdata_store_creds('new', } . payload(port => $silent{connect}->port) . ')');

# While they wait: the credentials' own limit is shorter.
my $short = 'postgresql://reader:reader_pw@127.0.0.1:' . $silent{connect}->port
  . '/postgres?sslmode=disable&connect_timeout=2';
my $result = before_deadline(qq{select opdata_test('{"dsn": "$short"}'::jsonb)}, 'connect_timeout of a dsn ends the test');
my $answer = decode($result->{out});
ok(!$answer->{ok}, 'connect_timeout of a dsn ends the test');
is($answer->{error}{code}, 'timeout', 'connect_timeout of a dsn gives timeout');
cmp_ok($result->{seconds}, '>=', 1.9, 'connect_timeout of a dsn is waited for');
$agent->safe_psql('postgres',
	qq{select opdata_store_creds('short', '{"dsn": "$short"}'::jsonb, test => false)});
$result = before_deadline(preview('short', 'select 1'), 'connect_timeout of a dsn ends a preview');
like($result->{error}{code}, qr/^timeout$/, 'connect_timeout of a dsn ends a preview');

# The tests: never an error, always an answer.
foreach my $id (sort keys %test)
{
	my $name = 'a test of a source that falls silent ' . ($stage{$id} // $later{$id});

	$result = $test{$id}->finish;
	is($result->{error}, undef, "$name raises nothing");
	$answer = decode($result->{out});
	ok(!$answer->{ok}, "$name fails");
	is($answer->{error}{code}, 'timeout', "$name gives timeout");
	at_deadline($result->{seconds}, $name);
	at_deadline($answer->{latencyMs} / 1000, "$name: latencyMs");
	like($answer->{error}{hint}, qr/127\.0\.0\.1 port \d+/, "$name names where to look")
	  if $stage{$id};
	no_secret($result->{out}, $name);
}
is( $agent->safe_psql('postgres',
		q{select string_agg(distinct status || ' ' || last_error, ',') from opdata_connections where id in ('}
		  . join(q{', '}, keys %test) . q{')}),
	'error timeout',
	'the test is noted at the connection');

# The previews: an error, query_timeout for all of them.
foreach my $id (sort keys %stage, sort keys %later)
{
	my $name = 'a preview of a source that falls silent ' . ($stage{$id} // $later{$id});

	$result = $preview{$id}->finish;
	is($result->{error}{code}, 'query_timeout', "$name gives query_timeout");
	is($result->{error}{sqlstate}, '57014', "$name has the SQLSTATE of a timeout");
	at_deadline($result->{seconds}, $name);
	like($result->{error}{hint}, qr/127\.0\.0\.1 port \d+/, "$name names where to look")
	  if $stage{$id};
	isnt($result->{error}{hint} // '', '', "$name has a hint");
	no_secret($result->{text}, $name);
	is($preview{$id}->run('select 1')->{out}, '1', "$name leaves the session alive");
}

# Storing raises the test's error and stores nothing.
$result = $storing->finish;
is($result->{error}{code}, 'timeout', 'storing credentials of a silent source gives timeout');
is($result->{error}{sqlstate}, '08001', 'storing credentials of a silent source is a connection error');
at_deadline($result->{seconds}, 'storing credentials of a silent source');
no_secret($result->{text}, 'storing credentials of a silent source');
is($agent->safe_psql('postgres', q{select count(*) from opdata_connections where id = 'new'}),
	'0', 'credentials of a silent source are not stored');

# Queries at the source: cancelled there.
my %confirms = ('source' => 1, 'without limits' => 1, 'busy' => 1);
foreach my $name ('source', 'without limits', 'busy', 'relay', 'stopped backend', 'stopped relay')
{
	$result = $preview{$name}->finish;
	is($result->{error}{code}, 'query_timeout', "a slow query gives query_timeout: $name");
	at_deadline($result->{seconds}, "a slow query: $name");
	if ($confirms{$name})
	{
		unlike($result->{error}{detail}, qr/confirm/, "the source confirms the cancellation: $name");
	}
	else
	{
		like($result->{error}{detail}, qr/did not confirm/, "it is said that the source does not answer: $name");
	}
	is($preview{$name}->run('select 1')->{out}, '1', "a slow query leaves the session alive: $name");
	next if $name =~ /stopped/;
	ok(wait_until(sub { !source_pid($active{$name}) }), "the query is gone from the source: $name");
}

# Its backend was stopped: the cancellation waits for it.
kill 'CONT', $stopped_pid;
ok(wait_until(sub { !source_pid($active{'stopped backend'}) }),
	'the query is gone from the source as soon as its process goes on');

# No cancel request came through, and the connection seems to be alive: the
# limit that the agent set at the source is the second line.
ok(wait_until(sub { !source_pid($active{'stopped relay'}) }),
	'the query is gone from a source that no cancel request reaches');

my $log = PostgreSQL::Test::Utils::slurp_file($source->logfile);
foreach my $name ('source', 'without limits', 'busy', 'relay')
{
	like($log, qr/due to user request\n(?:(?!canceling).)*\(60\d\)(?<=\($active{$name}\))/s,
		"a cancel request of the agent ended the query: $name");
}
like($log, qr/due to statement timeout\n(?:(?!canceling).)*pg_sleep\($active{'stopped relay'}\)/s,
	'the limit at the source ended the query that no cancel request reached');

# Nothing of the waiting is left behind.
kill 'CONT', $stopped_relay->{pid};
like($works->run(preview('source', 'select 6 * 7'))->{out}, qr/\[\[42\]\]/, 'the agent works afterwards');
is( $agent->safe_psql('postgres',
		q{select count(*) from opdata_jobs where kind = 'test' and error_code = 'timeout'}),
	scalar(keys %test) + 1,
	'each test is recorded as a job');
$_->quit foreach ($works, $storing, values %test, values %preview);
done_testing();

sub decode { return JSON::PP->new->utf8->decode($_[0]); }

sub preview
{
	my ($id, $query) = @_;
	$query =~ s/'/''/g;
	return "select opdata_preview('$id', '$query')";
}

# Run what ends before the deadline on any machine that is quick enough.
sub before_deadline
{
	my ($sql, $name) = @_;
	my $result;

	ok( wait_until(
			sub {
				$result = $works->run($sql);
				return $result->{seconds} < $earliest;
			}),
		"$name before the deadline");
	return $result;
}

# Begin them, one with a relay that lets the cancel request through, one with a
# relay that is stopped and lets nothing through. False if that took too long.
sub begin_sleeps
{
	my $began;

	$relay = silent_server(at => 'freeze', upstream => $source->port);
	$stopped_relay = silent_server(at => 'freeze', upstream => $source->port);
	store($agent, 'relay', port => $relay->port);
	store($agent, 'stopped relay', port => $stopped_relay->port);
	%preview = map { $_ => session($agent) } keys %sleep;

	$began = time();
	$preview{$_}->start(preview($connection{$_} // $_, $sleep{$_})) foreach keys %sleep;
	foreach my $name (keys %sleep)
	{
		return 0 unless wait_until(sub { source_pid($active{$name}) }, $earliest);
	}
	$relay->freeze;
	kill 'STOP', $stopped_relay->{pid};
	$stopped_pid = source_pid($active{'stopped backend'}) || return 0;
	kill 'STOP', $stopped_pid;
	return time() - $began < $earliest;
}

sub at_deadline
{
	my ($seconds, $name) = @_;
	cmp_ok($seconds, '>=', $earliest, "$name does not end before the deadline");
	cmp_ok($seconds, '<', $latest, "$name ends at the deadline");
	return;
}

sub no_secret
{
	my ($text, $name) = @_;
	unlike($text, qr/reader_pw/, "$name does not tell the password");
	return;
}

# The process that works on the query with this number, or ''.
sub source_pid
{
	my ($number) = @_;
	return $source->safe_psql('postgres', qq{
		select pid from pg_stat_activity
		where usename = 'reader' and state = 'active' and query ~ '\\y$number\\y'});
}
