
# What is told to the control plane's HTTP API: each change of a connection once
# and in order, a sign of life, and nothing is lost while the API is away. Jobs
# never wait for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use List::Util qw(uniq);
use Opdata::ControlPlane;
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(payload);
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# The outbox is looked at every five seconds even if nobody has called, a call
# lasts ten at most, and the pauses after failures grow: 1, 2, 4, 8 seconds.
my $soon = $PostgreSQL::Test::Utils::timeout_default;
my $at_once = 8;

# Faults that the sign of life, which may come at any time, is not to meet.
my @statuses = (path => 'connections:setStatus');

my $uuid = qr/^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
my $json = JSON::PP->new->canonical->allow_nonref;

my $plane = control_plane('acme');
my ($issuer, $convex, $temporal, $client) = map { $plane->$_ } qw(issuer convex temporal client);

# no token is asked for because one has become old
$issuer->set_ttl(36000);

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});

my $agent = agent_cluster(
	'agent',
	soon => $soon,
	conf => $plane->conf(convex_url => $convex->url . '/') . <<'EOT');
log_line_prefix = '[%b] '
restart_after_crash = on
max_prepared_transactions = 2
EOT

sign_of_life();
sql_functions();
workflows();
transactions();
lost_answer();
outages();
silence();
restarts();
functions_that_fail();
refused();
many();
bound();
dump_and_restore();
without_token();
without_url();
unhealthy();

my $log = slurp_file($agent->logfile);
ok($log !~ qr/reader_pw|agent_secret|eyJ/, 'no password, secret or token is in the log');
ok($log !~ qr/PANIC|could not look for messages|could not note what came/, 'nor an unexpected error');
done_testing();

# ---------------------------------------------------------------- questions

sub psql { return $agent->safe_psql('postgres', @_); }

sub waiting { return psql('select count(*) from opdata.outbox'); }

# What was called of a function so far, and what since that many calls.
sub calls
{
	my ($from) = @_;
	my @calls = @{ $convex->calls('connections:setStatus') };

	splice @calls, 0, $from // 0;
	return @calls;
}

# Those that were answered: whether a call is taken shows after it has come.
sub heartbeats { return grep { defined $_->{status} } @{ $convex->calls('agents:heartbeat') }; }

# Calls that went through, as "id status".
sub accepted
{
	my ($from) = @_;
	return map { "$_->{args}{connectionId} $_->{args}{status}" } grep { ($_->{status} // 0) == 200 } calls($from);
}

# Everything that waits is delivered, and it is this.
sub are_told
{
	my ($from, $expected, $name) = @_;

	wait_until(sub { accepted($from) >= @$expected }, $soon);
	ok(wait_until(sub { waiting() == 0 }, $soon), "$name: nothing waits any more")
	  or diag($json->encode($agent->status->{convex}));
	is_deeply([ accepted($from) ], $expected, $name)
	  or diag($json->encode([ calls($from) ]));
	return;
}

# ---------------------------------------------------------------- what is done

# A store that goes no further than the agent.
sub store_sql
{
	my ($id) = @_;
	return "select opdata_store_creds('$id', " . payload(port => $source->port) . ', test => false)';
}

sub credentials { return reader($source, @_); }

sub workflow
{
	my ($type, %input) = @_;
	return $plane->run($type, \%input);
}

# A store by workflow and one by SQL, neither of which takes long; but the machine may
# stand still while one is made, and then it is made again. Ids of those that were made.
sub stores_go_on
{
	my ($name) = @_;
	my (@ids, $took);

	foreach my $time (1 .. 3)
	{
		my @of_time = map { "$name $_ $time" } qw(workflow sql);
		my $begun = time();
		my $ended = workflow('storeCredsWorkflow', connectionId => $of_time[0], credentials => credentials());

		is($ended->{result} && $ended->{result}{status}, 'connected', "$name: a store by workflow is done")
		  or diag($json->encode($ended));
		psql(store_sql($of_time[1]));
		$took = time() - $begun;
		push @ids, @of_time;
		last if $took < $at_once;
	}
	cmp_ok($took, '<', $at_once, "$name: it and one by SQL take no longer than ever");
	return @ids;
}

# What is told of those.
sub of_stores { return map { "$_ " . (/ workflow \d$/ ? 'connected' : 'pending') } @_; }

# ---------------------------------------------------------------- tests

sub sign_of_life
{
	$agent->workers_get('polling', 'all workers poll');
	ok(wait_until(sub { heartbeats() > 0 }, $soon), 'a heartbeat comes at the start');
	# the first one may find a worker that is not well yet
	wait_until(sub { grep { $_->{args}{healthy} } heartbeats() }, $soon);
	my ($call) = grep { $_->{args}{healthy} } heartbeats();
	my %args = %{ $call->{args} };

	is($call->{status}, 200, 'it is taken');
	is($call->{subject}, 'agent', 'with a token of the agent');
	like(delete $args{idempotencyKey}, $uuid, 'it has an idempotency key');
	cmp_ok(abs(delete($args{sentAt}) / 1000 - time()), '<', $soon, 'and a time');
	is_deeply(
		\%args,
		{   orgId => 'acme',
			agentId => $agent->status->{agent}{id},
			version => $agent->status->{versions}{library},
			healthy => JSON::PP::true,
			reasons => [],
			egress => { rows => 0, head => undef }
		},
		'and tells who is well'
	);
	like($args{agentId}, $uuid, 'the agent has an id');
	is(psql('select count(*) from opdata.agent'), 1, 'which was noted once, by one of the workers');

	my $facts = $agent->status->{convex};
	is_deeply(
		$facts,
		{ url => $convex->url . '/', waiting => 0, oldestAt => undef, lastError => undef },
		'the status has nothing that waits');
	my $before = heartbeats();
	$agent->restart;
	ok(wait_until(sub { heartbeats() > $before }, $soon), 'another one comes after a restart');
	is((heartbeats())[-1]{args}{agentId}, $args{agentId}, 'of the same agent');
	isnt((heartbeats())[-1]{args}{idempotencyKey}, $call->{args}{idempotencyKey}, 'and it is not the same one');
	$agent->workers_get('polling', 'the workers are back');
	return;
}

# What the last call for a connection has to tell, beside status and error.
sub has_told
{
	my ($from, $id, $status, $error, $name) = @_;
	my ($call) = reverse grep { $_->{args}{connectionId} eq $id } calls($from);
	my %args = %{ $call->{args} };
	my $row = json($agent, <<"EOT");
select to_jsonb(c) || jsonb_build_object('ms', round(extract(epoch from last_tested_at) * 1000))
from opdata_connections c where id = '$id'
EOT

	like(delete $args{idempotencyKey}, $uuid, "$name: it has an idempotency key");
	is_deeply(
		\%args,
		{   orgId => 'acme',
			agentId => $agent->status->{agent}{id},
			workspaceId => $row->{workspace_id},
			connectionId => $id,
			type => 'postgres',
			status => $status,
			errorCode => $error,
			lastTestedAt => $row->{ms},
			safeMetadata => $row->{safe_metadata}
		},
		"$name: and tells what the row has"
	);
	is($row->{status}, $status, "$name: which is this status");
	return;
}

sub deletion_was_told
{
	my ($from, $id, $name) = @_;
	my ($call) = reverse grep { $_->{args}{connectionId} eq $id } calls($from);
	my %args = %{ $call->{args} };

	delete $args{idempotencyKey};
	is_deeply(
		\%args,
		{   orgId => 'acme',
			agentId => $agent->status->{agent}{id},
			workspaceId => 'default',
			connectionId => $id,
			status => 'deleted',
			errorCode => undef,
			lastTestedAt => undef,
			safeMetadata => {}
		},
		"$name: a deletion tells nothing more than that"
	);
	return;
}

sub sql_functions
{
	my $from = calls();
	my $payload = payload(port => $source->port);
	my $wrong = payload(port => $source->port, password => 'other_pw');

	psql("select opdata_store_creds('a', $payload)");
	are_told($from, ['a connected'], 'a store by SQL');
	has_told($from, 'a', 'connected', undef, 'a store');
	psql("select opdata_store_creds('b', $payload, workspace_id => 'other', test => false)");
	are_told($from, [ 'a connected', 'b pending' ], 'one without a test');
	has_told($from, 'b', 'pending', undef, 'one without a test');

	$from = calls();
	is(error_of($agent, "select opdata_store_creds('a', $wrong)")->{code},
		'authentication_failed', 'a store fails');
	psql("select opdata_test($payload); select opdata_preview('a', 'select 1'); select opdata_delete('nobody')");
	psql("select opdata_test('b')");
	are_told($from, ['b connected'],
		'nothing is told of that, of a test of no connection, a preview and an unknown id, but a test is');

	$from = calls();
	$source->safe_psql('postgres', 'alter role reader nologin');
	is(json($agent, "select opdata_test('b')")->{ok}, JSON::PP::false, 'a test fails');
	$source->safe_psql('postgres', 'alter role reader login');
	are_told($from, ['b error'], 'a failed test');
	has_told($from, 'b', 'error', psql(q{select last_error from opdata_connections where id = 'b'}), 'a failed test');
	psql("select opdata_delete('a')");
	are_told($from, [ 'b error', 'a deleted' ], 'a deletion');
	deletion_was_told($from, 'a', 'by SQL');
	return;
}

sub workflows
{
	my $from = calls();

	workflow('storeCredsWorkflow', connectionId => 'w', credentials => credentials());
	are_told($from, ['w connected'], 'a store by workflow');
	has_told($from, 'w', 'connected', undef, 'a store by workflow');

	$from = calls();
	my $ended = workflow(
		'storeCredsWorkflow',
		connectionId => 'w',
		credentials => credentials(password => 'other_pw'));
	is($ended->{error}{type}, 'authentication_failed', 'a store by workflow fails');
	workflow('testCredentialsWorkflow', credentials => credentials());
	workflow('previewQueryWorkflow', connectionId => 'w', sql => 'select 1');
	workflow('deleteConnectionWorkflow', connectionId => 'nobody');
	workflow('testCredentialsWorkflow', connectionId => 'w');
	are_told($from, ['w connected'], 'by workflow too only changes of connections are told');

	$source->safe_psql('postgres', 'alter role reader nologin');
	$ended = workflow('testCredentialsWorkflow', connectionId => 'w');
	$source->safe_psql('postgres', 'alter role reader login');
	is($ended->{result}{ok}, JSON::PP::false, 'a test by workflow fails');
	are_told($from, [ 'w connected', 'w error' ], 'a failed test by workflow');
	has_told($from, 'w', 'error', $ended->{result}{error}{code}, 'a failed test by workflow');
	workflow('deleteConnectionWorkflow', connectionId => 'w');
	are_told($from, [ 'w connected', 'w error', 'w deleted' ], 'a deletion by workflow');
	deletion_was_told($from, 'w', 'by workflow');

	my @calls = calls();
	is(scalar(uniq map { $_->{args}{idempotencyKey} } @calls), scalar(@calls), 'each call has a key of its own');
	is(scalar(grep { $_->{status} != 200 || $_->{subject} ne 'agent' } @calls), 0, 'and was taken, by the token');
	return;
}

sub transactions
{
	my $from = calls();
	my @store = map { store_sql("t$_") . ';' } 0 .. 6;

	psql("begin; $store[0] rollback");
	psql("begin; $store[1] savepoint s; $store[2] rollback to s; select opdata_delete('t1'); $store[1] commit");
	psql("begin; $store[3] prepare transaction 'three'");
	psql("begin; $store[4] prepare transaction 'four'");
	psql($store[5]);
	are_told($from, [ 't1 pending', 't1 deleted', 't1 pending', 't5 pending' ], 'what was rolled back, or is prepared, is not told');
	psql(q{rollback prepared 'four'});
	psql(q{commit prepared 'three'});
	ok( wait_until(sub { accepted($from) > 4 }, $soon), 'what was prepared is told when it is committed');
	psql($store[6]);
	are_told($from, [ 't1 pending', 't1 deleted', 't1 pending', 't5 pending', 't3 pending', 't6 pending' ], 'and what was rolled back then is not');
	return;
}

sub lost_answer
{
	my $from = calls();

	$convex->lose(1, @statuses);
	psql(store_sql('lost'));
	are_told($from, ['lost pending'], 'a call is made again when its answer was lost');
	my @calls = calls($from);
	is(scalar(@calls), 2, 'it was made twice');
	is($calls[1]{args}{idempotencyKey}, $calls[0]{args}{idempotencyKey}, 'with the same key');
	is_deeply($calls[1]{args}, $calls[0]{args}, 'and the same arguments');
	is(scalar(grep { $_->{connectionId} eq 'lost' } @{ $convex->documents->{statuses} }), 1, 'so that it counted once');
	return;
}

# The status tells of it while it lasts.
sub status_tells
{
	my ($n, $message, $name) = @_;
	my ($status, $facts);

	ok( wait_until(
			sub {
				$status = $agent->status;
				$facts = $status->{convex};
				return $facts->{lastError} && $facts->{waiting} == $n;
			},
			$soon),
		"$name: the status tells that $n wait") or diag($json->encode($facts));
	like($facts->{lastError}{message} // '', $message, "$name: and why");
	like($facts->{lastError}{at} // '', qr/^\d{4}-/, "$name: and when");
	is(psql("select '$facts->{oldestAt}'::timestamptz = min(made_at) from opdata.outbox"),
		't', "$name: and since when");
	ok($status->{healthy}, "$name: the agent is healthy all the same");
	return;
}

sub recovered
{
	my ($name) = @_;

	is($agent->status->{convex}{lastError}, undef, "$name: the status has no error any more");
	return;
}

sub outages
{
	foreach my $case (
		[ 'HTTP 503', qr/503/, 503 ],
		[ 'a gateway\'s page', qr/500/, 500, html => 1 ],
		[ 'HTTP 429', qr/429/, 429, retry_after => 1 ])
	{
		my ($name, $message, @answer) = @$case;
		my $id = $name =~ s/'//gr;
		my $from = calls();

		$convex->fail(@answer, count => 1000);
		my @ids = stores_go_on($id);
		status_tells(scalar(@ids), $message, $name);
		$convex->clear;
		are_told($from, [ of_stores(@ids) ], $name);
		recovered($name);
	}

	my $log_end = -s $agent->logfile;
	$convex->stop;
	my @ids = stores_go_on('nobody there');
	status_tells(scalar(@ids), qr/cannot be reached/, 'nobody there');
	$convex->start;
	are_told(0, [ of_stores(@ids) ], 'nobody there');
	recovered('nobody there');
	my @lines = slurp_file($agent->logfile, $log_end) =~ /^\[opdata worker\] \w+:  opdata (.*HTTP API.*)$/mg;
	is(scalar(@lines), 2, 'the log tells of it once, and of its end') or diag(join "\n", @lines);
	like($lines[0], qr/cannot tell the HTTP API/, 'that it cannot');
	like($lines[1], qr/reaches the HTTP API of the control plane again/, 'and that it can');
	return;
}

# A call that is never answered is given up, and made again.
sub silence
{
	my $from = calls();

	$convex->hang(1000);
	my @ids = stores_go_on('silence');
	status_tells(scalar(@ids), qr/cannot be reached/, 'silence');
	$convex->clear;
	are_told($from, [ of_stores(@ids) ], 'silence');
	my @calls = calls($from);
	is_deeply($calls[1]{args}, $calls[0]{args}, 'silence: the call is made again as it was');
	recovered('silence');
	return;
}

sub restarts
{
	$convex->stop;
	my @ids = map { "restart $_" } 1 .. 4;
	psql(store_sql($_)) foreach @ids[ 0, 1 ];
	$agent->restart;
	psql(store_sql($ids[2]));
	$agent->workers_get('polling', 'all workers poll after a restart');
	my ($worker) = grep { $_->{kind} eq 'interactive' } @{ $agent->status->{workers} };
	kill 'KILL', $worker->{pid};
	ok( $agent->poll_query_until(
			'postgres',
			"select not opdata_status() \@? '\$.workers[*].pid ? (\@ == $worker->{pid})'"),
		'the server recovers from the crash of a worker');
	psql(store_sql($ids[3]));
	$agent->stop('immediate');
	$agent->start;

	my $keys = json($agent, 'select jsonb_agg(key order by id) from opdata.outbox');
	is(scalar(@$keys), 4, 'what waits outlives restart, crash and immediate shutdown');
	$convex->start;
	are_told(0, [ map { "$_ pending" } @ids ], 'restarts');
	is_deeply([ map { $_->{args}{idempotencyKey} } grep { ($_->{status} // 0) == 200 } calls() ],
		$keys, 'the keys are those that they had');
	$agent->workers_get('polling', 'all workers poll after the immediate shutdown');
	return;
}

sub functions_that_fail
{
	foreach my $status (560, 200)
	{
		my $from = calls();

		$convex->failed_status($status);
		$convex->fail_function(1, @statuses);
		psql(store_sql("thrown $status"));
		ok(wait_until(sub { calls($from) >= 2 && waiting() == 0 }, $soon),
			"a function that throws with HTTP status $status is called again");
		my @calls = calls($from);
		is(scalar(@calls), 2, 'once');
		is($calls[0]{status}, $status, 'it had this status');
		is_deeply($calls[1]{args}, $calls[0]{args}, 'the arguments are the same');
	}

	# One that is younger than a day is not given up, however often it has failed.
	my $young = calls();
	$convex->clear;
	$convex->fail_function(1, @statuses);
	psql(join('; ', 'begin', store_sql('young'), 'update opdata.outbox set n_failures = 20', 'commit'));
	are_told($young, ['young pending'], 'a young call that has failed often goes on');
	is(scalar(calls($young)), 2, 'and had failed once more');

	# The tenth failure is the last one of a call that is older than a day. Eight of
	# them are put there, since the pauses between them take minutes. The third is
	# for whoever comes next.
	$convex->clear;
	my $from = calls();
	my $log_end = -s $agent->logfile;
	$convex->fail_function(3, @statuses);
	psql(join(
			'; ', 'begin', store_sql('hopeless'), store_sql('behind it'),
			q{update opdata.outbox set n_failures = 8, made_at = now() - interval '25 hours' where args->>'connectionId' = 'hopeless'},
			'commit'));
	are_told($from, ['behind it pending'], 'a call that never succeeds is given up, and the next one made');
	is(scalar(grep { $_->{status} == 560 && $_->{args}{connectionId} eq 'hopeless' } calls($from)),
		2, 'after ten failures');
	my $new = slurp_file($agent->logfile, $log_end);
	my $warning = qr/^\[opdata worker\] WARNING:  opdata gives up a message to the control plane, connections:setStatus: the function failed: [^\[]*\[.*\n?.*told to fail/m;
	ok($new =~ $warning, 'the log has a warning');
	is(() = $new =~ /gives up/g, 1, 'one');
	$convex->clear;
	return;
}

# The real cause of a 401: the token. One fresh token each time.
sub refused
{
	foreach my $time ('once', 'and once more')
	{
		my $from = calls();
		my $asked = $issuer->token_requests;
		my $obtained = $agent->status->{token}{obtainedAt};

		$convex->fail(401, @statuses);
		psql(store_sql("refused $time"));
		are_told($from, ["refused $time pending"], "refused $time");
		is(join(' ', map { $_->{status} } calls($from)), '401 200', "refused $time: the call is made again");
		# the call may have been made again before the token came
		ok(wait_until(sub { $agent->status->{token}{obtainedAt} ne $obtained }, $soon), "refused $time: the status shows a fresh token");
		is($issuer->token_requests - $asked, 1, "refused $time: one was asked for");
	}

	# A deployment that does not want us at all is not a reason to stop.
	my $from = calls();
	my $asked = $issuer->token_requests;
	$convex->fail(401, count => 1000);
	my @ids = stores_go_on('unwanted');
	status_tells(scalar(@ids), qr/it refuses the agent: HTTP status 401/, 'unwanted');
	ok(wait_until(sub { calls($from) >= 3 }, $soon), 'unwanted: it tries again');
	$agent->workers_get('polling', 'unwanted: the workers poll');
	cmp_ok($issuer->token_requests - $asked, '<=', 1, 'unwanted: one more token is not asked for at each try');
	$convex->clear;
	are_told($from, [ of_stores(@ids) ], 'unwanted');
	return;
}

# Three workers, one of which tells.
sub many
{
	my $from = calls();
	my @workflows = map {
		{ $plane->arguments('storeCredsWorkflow', { connectionId => "many $_", credentials => credentials() }) }
	} 1 .. 20;
	my $ticket = $client->send('execute_many', workflows => \@workflows);
	my $payload = payload(port => $source->port);

	psql("select count(opdata_store_creds('many ' || i, $payload, test => false)) from generate_series(21, 60) i");
	psql("select opdata_store_creds('many $_', $payload, test => false)") foreach 61 .. 80;
	psql("select count(opdata_store_creds('many ' || i, $payload, test => false)) from generate_series(81, 100) i");
	my @ended = @{ $client->receive($ticket) };
	is(scalar(grep { $_->{result} } @ended), 20, 'many stores by workflow are done');
	wait_until(sub { accepted($from) >= 100 }, $soon);
	ok(wait_until(sub { waiting() == 0 }, $soon), 'all are delivered');
	my @calls = calls($from);
	is(scalar(@calls), 100, 'a hundred stores are a hundred calls');
	is_deeply(
		[ sort map { $_->{args}{connectionId} } @calls ],
		[ sort map { "many $_" } 1 .. 100 ],
		'each store was told once');
	# those of workflows come when Temporal has handed the workflows out
	my @of_sql = grep { $_->{args}{connectionId} =~ /(\d+)/ && $1 > 20 } @calls;
	my @times = map { $_->{time} } @of_sql;
	# a busy machine may be slow now and then, a look every five seconds is always
	my @pauses = grep { $times[$_] - $times[ $_ - 1 ] > 3000 } 1 .. $#times;
	cmp_ok(scalar(@pauses), '<', 20, 'they did not wait for one look after the other');
	is_deeply([ map { $_->{args}{connectionId} } @of_sql ], [ map { "many $_" } 21 .. 100 ], 'those of one session in order');
	return;
}

sub bound
{
	$convex->stop;
	psql(store_sql('oldest'));
	psql(<<'EOT');
insert into opdata.outbox (function, args)
select 'connections:setStatus', args || jsonb_build_object('connectionId', 'bulk ' || i)
from generate_series(1, 9999) i, (select args from opdata.outbox) a
EOT
	is(waiting(), 10000, 'ten thousand calls wait');
	psql(store_sql('newest'));
	is(waiting(), 10000, 'there are never more');
	is(psql(q{select count(*) from opdata.outbox where args->>'connectionId' = 'oldest'}), 0, 'the oldest one is gone');
	is($agent->status->{convex}{waiting}, 10000, 'the status tells how many wait');

	beside_others();
	psql(q{delete from opdata.outbox where args->>'connectionId' not in ('bulk 100', 'bulk 9999', 'newest')});
	return;
}

# So many calls wait, and those of these connections are among them.
sub wait_there
{
	my ($n, $ids, $name) = @_;
	my $there = join ', ', map { "'$_'" } @$ids;

	is(waiting(), $n, "$name: $n calls wait");
	is(psql("select count(*) from opdata.outbox where args->>'connectionId' in ($there)"),
		scalar(@$ids), "$name: the new ones are among them");
	return;
}

# Whoever tells something takes away what is too much, unless somebody else is
# at it: he waits for nobody, and does not fail for it.
sub beside_others
{
	my $other = $agent->background_psql('postgres', on_error_stop => 0);
	my $impatient = q{set lock_timeout = '60s'};

	foreach my $end ('commit', 'rollback')
	{
		my @ids = ("kept by $end", "beside $end");

		$other->query_safe('begin; ' . store_sql($ids[0]));
		is($other->query_safe(q{select count(*) from opdata.outbox where args->>'connectionId' like 'bulk %'}) + 1,
			psql(q{select count(*) from opdata.outbox where args->>'connectionId' like 'bulk %'}),
			"$end: a transaction that is open has taken the oldest call away");
		is(error_of($agent, "$impatient; " . store_sql($ids[1])), undef, "$end: one beside it does not wait for its lock");
		$other->query_safe($end);
		wait_there(10000, [ $end eq 'commit' ? @ids : $ids[1] ], $end);
		is(error_of($agent, "$impatient; " . store_sql("after $end")), undef, "$end: nor does who comes after it");
		wait_there($end eq 'commit' ? 10000 : 9999, ["after $end"], "after $end");
	}
	foreach my $level ('repeatable read', 'serializable')
	{
		# its snapshot has the oldest call, which is gone by then
		$other->query_safe("begin isolation level $level; select count(*) from opdata.outbox");
		psql(store_sql("before $level"));
		my $before = waiting();
		my $sql = store_sql($level);
		my $said = $other->query("$sql; commit; select count(*) from opdata.connection where id = '$level'");
		like($said, qr/^1$/m, "$level: a store does not fail for what others have taken away");
		is(waiting(), $before + 1, "$level: it takes away nothing itself");
		psql(store_sql("after $level"));
		cmp_ok(waiting(), '<=', 10000, "$level: whoever comes next does");
	}
	$other->quit;
	return;
}

# From here on Convex is stopped, and three calls wait.
sub dump_and_restore
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/outbox.dump";
	my $rows = q{select * from opdata.outbox order by id};

	psql('create database restored template template0');
	command_ok([ 'pg_dump', '--format=custom', '-f', $file, $agent->connstr('postgres') ], 'the database is dumped');
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $agent->connstr('restored'), $file ], 'and restored');
	is($agent->safe_psql('restored', $rows), psql($rows), 'with all that waits');
	my $last = psql('select max(id) from opdata.outbox');
	$agent->safe_psql('restored', store_sql('after the restore'));
	cmp_ok(
		$agent->safe_psql('restored', q{select id from opdata.outbox where args->>'connectionId' = 'after the restore'}),
		'>', $last, 'a new call comes behind it');
	psql('drop database restored');

	$convex->start;
	are_told(0, [ 'bulk 100 pending', 'bulk 9999 pending', 'newest pending' ], 'what was left');
	return;
}

sub without_token
{
	my $from = calls();
	my %token = $plane->token_settings;

	$agent->renew(map { ($_ => '') } keys %token);
	ok(wait_until(sub { grep { !$_->{authorization} } heartbeats() }, $soon),
		'without token authentication the agent goes on');
	psql(store_sql('no token'));
	status_tells(1, qr/the function failed: .*unauthenticated/s, 'no token');
	ok(wait_until(sub { calls($from) && defined((calls($from))[0]{status}) }, $soon), 'it was tried');
	my ($call) = calls($from);
	ok(!$call->{authorization}, 'the call has no header of that name');
	is($call->{status}, 560, 'the functions of this deployment want one');
	$agent->renew(%token);
	are_told($from, ['no token pending'], 'with tokens it is told');
	return;
}

sub without_url
{
	my $from = calls();

	$agent->renew(convex_url => '');
	$agent->workers_get('polling', 'without a URL the workers poll');
	my ($ended) = workflow('storeCredsWorkflow', connectionId => 'untold', credentials => credentials());
	is($ended->{result}{status}, 'connected', 'a store by workflow is done');
	psql(store_sql('untold'));
	psql(q{select opdata_test('untold')});
	psql(q{select opdata_delete('untold')});
	is(waiting(), 0, 'nothing is put aside');
	is($agent->status->{convex}, undef, 'the status says that there is none');
	$agent->renew(convex_url => $convex->url);
	$agent->workers_get('polling', 'the workers poll with a URL');
	psql(store_sql('told again'));
	are_told($from, ['told again pending'], 'what was done meanwhile is not told');
	return;
}

# The worker that tells is ended, and whoever does it then begins with a sign of
# life: which one it is, is not known.
sub unhealthy
{
	my (@before, $call);

	$temporal->stop;
	ok(wait_until(sub { !$agent->status->{healthy} }, $soon), 'without Temporal the agent is not healthy');
	foreach my $worker (@{ $agent->status->{workers} })
	{
		@before = heartbeats();
		psql("select pg_terminate_backend($worker->{pid})");
		last if wait_until(sub { heartbeats() > @before }, 20);
	}
	ok(wait_until(sub { $call = (heartbeats())[-1]; !$call->{args}{healthy} }, $soon), 'a heartbeat says so');
	is_deeply($call->{args}{reasons}, ['temporal_unreachable'], 'and why');
	return;
}
