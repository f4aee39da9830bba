
# The harness itself: the Temporal development server and its client tell what
# happens, and hang on nothing. Temporal's own Python worker is the other side.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use MIME::Base64 qw(decode_base64 encode_base64);
use Opdata::Temporal;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $temporal = temporal_server('temporal');
my $client = $temporal->client;
my $queue = 'peers';
my $number = 0;

$client->start_worker(task_queue => $queue);
ok( wait_until(
		sub {
			my $pollers = $client->pollers(task_queue => $queue);
			return @{ $pollers->{workflow} } && @{ $pollers->{activity} };
		}
	),
	'those who poll a task queue are told'
);

# What comes back.
my $value = {
	text => "\x{e4}\x{1F600}",
	list => [ 1, -2.5, undef ],
	yes => JSON::PP::true
};
my $ended =
  $client->execute(to('peerEcho', workflow_id => 'first', input => $value));
is_deeply(result_of($ended), $value, 'a workflow returns its input');
is($ended->{workflow_id}, 'first', 'its id');
is( $ended->{run_id},
	$client->describe(workflow_id => 'first')->{run_id},
	'that of its run'
);
cmp_ok($ended->{seconds}, '>', 0, 'and the time it took');
$ended = $client->execute(
	to( 'peerEcho',
		payloads =>
		  [ { encoding => 'json/plain', data => encode_base64('[7]', '') } ]
	)
);
is_deeply(result_of($ended), [7], 'a payload is sent as it is');
$ended = $client->execute(
	to('peerEcho', payloads => [ { encoding => 'binary/null' } ]));
is(result_of($ended), undef, 'one without a value too');

my @many = map {
	{ to('peerEcho', input => $_) }
} 1 .. 50;
my $bad = { to('peerEcho', task_timeout => -1) };
my $all = $client->execute_many(workflows => [ @many, $bad ]);
is_deeply(
	[ map { result_of($_) } @$all[ 0 .. 49 ] ],
	[ 1 .. 50 ],
	'fifty at once return each its own'
);
like($all->[50]{error}{message},
	qr/timeout/i,
	'one of them that could not be started does not hide the others');

# What goes wrong.
$ended = $client->execute(
	to( 'peerFail',
		input => {
			type => 'my_code',
			message => 'no luck',
			nonRetryable => JSON::PP::true
		}
	)
);
is_deeply(
	$ended->{error},
	{   class => 'ApplicationError',
		type => 'my_code',
		message => 'no luck',
		non_retryable => JSON::PP::true,
		details => [ { seen => JSON::PP::true } ],
		cause => {
			class => 'ApplicationError',
			type => 'Root',
			message => 'the root',
			non_retryable => JSON::PP::false,
			details => [],
			cause => undef
		}
	},
	'a failure has its type, its details and its causes'
);

$ended = $client->execute(
	to('peerActivity', input => { failUntil => 9, attempts => 2 }));
is($ended->{error}{class}, 'ActivityError', 'of a failed activity');
is($ended->{error}{retry_state},
	'MAXIMUM_ATTEMPTS_REACHED', 'it is told why it was not tried again');
is($ended->{error}{cause}{message},
	'attempt 2', 'and the failure of its last attempt');

$ended = $client->execute(to('peerWait', execution_timeout => 1));
is($ended->{error}{class},
	'TimeoutError', 'a workflow that takes too long times out');

my $before = time();
$client->start(to('nobodyKnowsIt', task_queue => 'nobody', workflow_id => 'idle'));
$ended = $client->result(workflow_id => 'idle', timeout => 1);
is($ended->{error}{class},
	'RequestTimeout',
	'a workflow that nobody does is waited for as long as was said');
cmp_ok(time() - $before, '<', 90, 'and hardly longer');

$ended = $client->result(workflow_id => 'never started');
is( "$ended->{error}{class} $ended->{error}{type}",
	'RPCError NOT_FOUND',
	'the server\'s refusal is an error with its status'
);
eval { $client->describe(workflow_id => 'never started') };
like(
	$@,
	qr/^describe: RPCError NOT_FOUND /,
	'methods that have no outcome die of it'
);
eval { $client->start(type => 'peerEcho', nonsense => 1) };
like(
	$@,
	qr/^start: TypeError .*nonsense/,
	'an argument that there is not is refused by name'
);

# A workflow that goes on.
my $id = 'waits';
$client->start(to('peerWait', workflow_id => $id));
is($client->describe(workflow_id => $id)->{status}, 'RUNNING', 'it runs');
is_deeply(
	result_of($client->query(workflow_id => $id, name => 'status')),
	{ total => 0 },
	'it is queried'
);
is( result_of($client->update(workflow_id => $id, name => 'add', input => 4)),
	4,
	'it is updated'
);
is( $client->update(workflow_id => $id, name => 'add', input => -1)
	  ->{error}{type},
	'Negative',
	'a refused update has its reason'
);
is($client->query(workflow_id => $id, name => 'nonsense')->{error}{class},
	'WorkflowQueryFailedError', 'so has a failed query');

# Side by side: the second call is over while the first one waits.
my $ticket = $client->send('result', workflow_id => $id);
is_deeply(
	result_of($client->query(workflow_id => $id, name => 'status')),
	{ total => 4 },
	'a call is made while another one waits'
);
$client->signal(workflow_id => $id, name => 'finish', input => { done => 1 });
is_deeply(
	result_of($client->receive($ticket)),
	{ done => 1 },
	'a signal is delivered, and the other call returns'
);

my $history = $client->history(workflow_id => $id);
is($history->[0]{event_type},
	'WORKFLOW_EXECUTION_STARTED', 'a history begins with the start');
is($history->[0]{attributes}{workflow_type}{name},
	'peerWait', 'which has the type');
my ($signal) =
  grep { $_->{event_type} eq 'WORKFLOW_EXECUTION_SIGNALED' } @$history;
is_deeply(
	$signal->{attributes}{input},
	[ { done => 1 } ],
	'payloads in it are their values'
);
is( $client->describe(workflow_id => $id)->{history_length},
	$history->[-1]{event_id},
	'it is whole'
);
my $bytes = $client->history_bytes(workflow_id => $id);
like(decode_base64($bytes->{base64}), qr/peerWait/, 'its bytes are there');
my $file = PostgreSQL::Test::Utils::tempdir() . '/history';
is_deeply(
	$client->history_bytes(workflow_id => $id, path => $file),
	{ events => scalar @$history, bytes => $bytes->{bytes} },
	'also in a file'
);
is(slurp_file($file), decode_base64($bytes->{base64}),
	'which holds the same');

# How else one ends.
foreach my $how (
	[ 'cancel', 'CancelledError', 'CANCELED' ],
	[ 'terminate', 'TerminatedError', 'TERMINATED' ]
  )
{
	my ($method, $class, $status) = @$how;
	my %which = (workflow_id => $method);

	$client->start(to('peerWait', %which));
	$client->$method(%which);
	is($client->result(%which)->{error}{class},
		$class, "$method ends a workflow");
	is($client->describe(%which)->{status}, $status, 'so it is described');
}

# A pending activity.
$client->start(
	to( 'peerActivity',
		workflow_id => 'tries',
		input => { failUntil => 99, interval => 0.1 }
	)
);
my $pending;
ok( wait_until(
		sub {
			($pending) =
			  @{ $client->describe(workflow_id => 'tries')
				  ->{pending_activities} };
			return $pending && ($pending->{attempt} // 0) > 1;
		}
	),
	'an activity that is tried again is seen'
);
like(
	$pending->{last_failure}{message},
	qr/^attempt \d+$/,
	'with its last failure'
);
$client->terminate(workflow_id => 'tries');

# Schedules and cron.
$client->create_schedule(
	schedule_id => 'plan',
	to('peerEcho', workflow_id => 'planned', input => 'by schedule')
);
my $run = $client->trigger_schedule(schedule_id => 'plan');
like($run->{workflow_id}, qr/^planned-/, 'a schedule is triggered');
is(result_of($client->result(%$run)),
	'by schedule', 'and starts its workflow');
my $next = $client->trigger_schedule(schedule_id => 'plan');
isnt($next->{run_id}, $run->{run_id}, 'once more, another one');
my $started = $client->history(%$run)->[0]{attributes};
ok($started->{search_attributes}{indexed_fields}{TemporalScheduledById},
	'which shows that a schedule has started it');
$client->delete_schedule(schedule_id => 'plan');

$client->start(
	to('peerEcho', workflow_id => 'cron', cron_schedule => '0 0 1 1 *'));
is($client->history(workflow_id => 'cron')->[0]{attributes}{cron_schedule},
	'0 0 1 1 *', 'a cron workflow is started');
$client->terminate(workflow_id => 'cron');

# The server goes and comes back.
$client->start(to('peerWait', workflow_id => 'outlives'));
$client->update(workflow_id => 'outlives', name => 'add', input => 1);
$ticket = $client->send('result', workflow_id => 'outlives');
$temporal->stop;
$before = time();
$ended =
  $client->query(workflow_id => 'outlives', name => 'status', timeout => 2);
like(
	$ended->{error}{class},
	qr/^(?:RPCError|RequestTimeout)$/,
	'nothing is answered while the server is down'
);
cmp_ok(time() - $before, '<', 90, 'which is told in time');
$temporal->start;
$client->signal(workflow_id => 'outlives', name => 'finish', input => 2);
is(result_of($client->receive($ticket)),
	2, 'a workflow goes on where it was, a waiting call waited');

$temporal->kill;
$temporal->start;
is($client->describe(workflow_id => 'outlives')->{status},
	'COMPLETED', 'nor does a crash lose it');

$temporal->freeze;
$ended =
  $client->query(workflow_id => 'outlives', name => 'status', timeout => 1);
ok($ended->{error}, 'a server that says nothing is not waited for');
$temporal->thaw;
is_deeply(
	result_of($client->query(workflow_id => 'outlives', name => 'status')),
	{ total => 1 },
	'until it goes on'
);

# Two servers.
my $other = temporal_server('other');
eval { $other->client->describe(workflow_id => $id) };
like($@, qr/NOT_FOUND/, 'another server is another world');

# A worker that knows less than another one.
my %one = (task_queue => 'mixed', workflow_id => 'later');
$other->client->start_worker(task_queue => 'mixed', only => ['peerFail']);
$other->client->start(
	to('peerEcho', %one, input => 'late', task_timeout => 1));
ok( wait_until(
		sub {
			grep { $_->{event_type} eq 'WORKFLOW_TASK_FAILED' }
			  @{ $other->client->history(workflow_id => 'later') };
		}
	),
	'a worker that does not know a type fails the task'
);
$other->client->stop_worker(task_queue => 'mixed');
$other->client->start_worker(task_queue => 'mixed');
is(result_of($other->client->result(workflow_id => 'later')),
	'late', 'one that comes later completes the workflow');

# A driver that is gone is an error, not a silence.
CORE::kill('KILL', $client->{pid});
eval { $client->describe(workflow_id => $id) };
like($@, qr/^describe was not (?:sent|answered)/, 'a lost driver is told');

done_testing();

# The result of an outcome; an error in its place shows in the comparison.
sub result_of
{
	my ($outcome) = @_;
	my $error = $outcome->{error} // return $outcome->{result};

	return
	  join(' ', 'failed:', map { $_ // () } @$error{qw(class type message)});
}

# Arguments for a workflow of this type with an id of its own.
sub to
{
	my ($type, %args) = @_;

	$number++;
	return (
		type => $type,
		workflow_id => "workflow $number",
		task_queue => $queue,
		%args
	);
}
