
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

# 10 seconds, one more for the source to confirm, and what a busy machine adds.
my ($earliest, $latest) = (9.5, 20);

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

# Relays that pass everything on until they are told to freeze: one that lets
# the cancel request through, one that is stopped and lets nothing through.
my $relay = silent_server(at => 'freeze', upstream => $source->port);
my $stopped_relay = silent_server(at => 'freeze', upstream => $source->port);
store($agent, 'relay', port => $relay->port);
store($agent, 'stopped relay', port => $stopped_relay->port);

my (%test, %preview);
my $began = time();
foreach my $id (sort keys %stage)
{
	$test{$id} = session($agent)->start("select opdata_test('$id')");
	$preview{$id} = session($agent)->start(preview($id, 'select 1'));
}
$test{'begin-silent'} = session($agent)->start(q{select opdata_test('begin-silent')});
foreach my $id (sort keys %later)
{
	$preview{$id} = session($agent)->start(preview($id, 'select 1'));
}
my $storing = session($agent)->start(
	q{select opdata_store_creds('new', } . payload(port => $silent{connect}->port) . ')');

my %sleep = (
	'source' => 'select pg_sleep(61)',
	'without limits' => "$no_limits select pg_sleep(62) from off",
	'relay' => "$no_limits select pg_sleep(63) from off",
	'stopped relay' => 'select pg_sleep(64)',
	'stopped backend' => "$no_limits select pg_sleep(65) from off",
	'busy' => "$no_limits select busy(66) from off");
my %connection = ('without limits' => 'source', 'stopped backend' => 'source', 'busy' => 'source');
foreach my $name (sort keys %sleep)
{
	$preview{$name} = session($agent)->start(preview($connection{$name} // $name, $sleep{$name}));
}
my %active = map { my ($number) = $sleep{$_} =~ /(6\d)\b/; $_ => $number } keys %sleep;
foreach my $name (sort keys %active)
{
	ok(wait_until(sub { source_pid($active{$name}) }), "the source works on a query: $name");
}
$relay->freeze;
kill 'STOP', $stopped_relay->{pid};
my $stopped_pid = source_pid($active{'stopped backend'});
kill 'STOP', $stopped_pid;
cmp_ok(time() - $began, '<', $earliest, 'all of this was set up before the deadline');

# While they wait: the credentials' own limit is shorter.
my $short = 'postgresql://reader:reader_pw@127.0.0.1:' . $silent{connect}->port
  . '/postgres?sslmode=disable&connect_timeout=2';
my $result = $works->run(
	qq{select opdata_test('{"dsn": "$short"}'::jsonb)});
my $answer = decode($result->{out});
ok(!$answer->{ok}, 'connect_timeout of a dsn ends the test');
is($answer->{error}{code}, 'timeout', 'connect_timeout of a dsn gives timeout');
cmp_ok($result->{seconds}, '>=', 1.9, 'connect_timeout of a dsn is waited for');
cmp_ok($result->{seconds}, '<', 8, 'connect_timeout of a dsn ends the test before the deadline');
$agent->safe_psql('postgres',
	qq{select opdata_store_creds('short', '{"dsn": "$short"}'::jsonb, test => false)});
$result = $works->run(preview('short', 'select 1'));
like($result->{error}{code}, qr/^timeout$/, 'connect_timeout of a dsn ends a preview');
cmp_ok($result->{seconds}, '<', 8, 'connect_timeout of a dsn ends a preview before the deadline');

# The tests: never an error, always an answer.
foreach my $id (sort keys %test)
{
	my $name = 'a test of a source that falls silent ' . ($stage{$id} // $later{$id});

	$result = $test{$id}->finish;
	is($result->{error}, undef, "$name raises nothing");
	$answer = decode($result->{out});
	ok(!$answer->{ok}, "$name fails");
	is($answer->{error}{code}, 'timeout', "$name gives timeout");
	in_time($result->{seconds}, $name);
	in_time($answer->{latencyMs} / 1000, "$name: latencyMs");
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
	in_time($result->{seconds}, $name);
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
in_time($result->{seconds}, 'storing credentials of a silent source');
no_secret($result->{text}, 'storing credentials of a silent source');
is($agent->safe_psql('postgres', q{select count(*) from opdata_connections where id = 'new'}),
	'0', 'credentials of a silent source are not stored');

# Queries at the source: cancelled there.
my %confirms = ('source' => 1, 'without limits' => 1, 'busy' => 1);
foreach my $name ('source', 'without limits', 'busy', 'relay', 'stopped backend', 'stopped relay')
{
	$result = $preview{$name}->finish;
	is($result->{error}{code}, 'query_timeout', "a slow query gives query_timeout: $name");
	in_time($result->{seconds}, "a slow query: $name");
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
	ok(wait_until(sub { !source_pid($active{$name}) }, 10), "the query is gone from the source: $name");
}

# Its backend was stopped: the cancellation waits for it.
kill 'CONT', $stopped_pid;
ok(wait_until(sub { !source_pid($active{'stopped backend'}) }, 10),
	'the query is gone from the source as soon as its process goes on');

# No cancel request came through, and the connection seems to be alive: the
# limit that the agent set at the source is the second line.
ok(wait_until(sub { !source_pid($active{'stopped relay'}) }, 10),
	'the query is gone from a source that no cancel request reaches');

my $log = PostgreSQL::Test::Utils::slurp_file($source->logfile);
foreach my $name ('source', 'without limits', 'busy', 'relay')
{
	like($log, qr/due to user request\n(?:(?!canceling).)*\(6\d\)(?<=\($active{$name}\))/s,
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

sub in_time
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
