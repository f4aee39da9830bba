
# Workflows while they run: many at once, slow ones, and what reaches them
# meanwhile - queries, signals, updates, cancel requests, termination.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use List::Util qw(max sum0);
use Opdata::Credentials qw(literal reader);
use Opdata::Faults qw(session sockets_to);
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# A beat brings what has happened after a second; the rest is for a busy machine.
my $soon = 6;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});

my $tenant = tenant('acme');
my $agent = $tenant->agent;
my $client = $tenant->client;
my $credentials = reader($source);
my $number = 0;

$agent->safe_psql('postgres',
		"select opdata_store_creds('shop', "
	  . literal($credentials)
	  . '::jsonb)');

many_at_once();
slow_beside_short();
time_limits();
queries();
cancel_preview();
cancel_store();
agent_away();
signals(2);
updates();
long_history();

$agent->append_conf('postgresql.conf', "opdata.interactive_workers = 1\n");
$agent->restart;
signals(1);
done_testing();

# A preview that takes so many seconds, with a mark by which the source knows it.
sub slow
{
	my ($seconds) = @_;
	my $mark = 'mark_' . ++$number;

	return (
		$mark,
		{   connectionId => 'shop',
			sql => "select /* $mark */ pg_sleep($seconds)::text, $number as n"
		}
	);
}

# Begin one, and wait until the source runs it.
sub start_slow
{
	my ($seconds, %more) = @_;
	my ($mark, $input) = slow($seconds);
	my $started = $tenant->start('previewQueryWorkflow', $input, %more);

	wait_until(sub { at_source($mark) })
	  or die "the source does not run $mark\n";
	return ($mark, $started);
}

# Is the source running it now?
sub at_source
{
	my ($mark) = @_;
	return $source->safe_psql('postgres',
			"select count(*) from pg_stat_activity where usename = 'reader'"
		  . " and state = 'active' and query ~ '/\\* $mark \\*/'");
}

# Tasks that the server took away, since a machine with other things to do did not
# answer them in time. What they did is done again.
sub n_timeouts
{
	my ($started) = @_;
	return scalar(grep { $_ eq 'WORKFLOW_TASK_TIMED_OUT' } events($started));
}

# How often the source has begun to run it.
sub n_runs
{
	my ($mark) = @_;
	my @lines =
	  grep { m{LOG:  execute .*/\* $mark \*/} }
	  split(/\n/, slurp_file($source->logfile));

	return scalar @lines;
}

# The types of the events of a workflow.
sub events
{
	my ($workflow) = @_;
	return
	  map { $_->{event_type} }
	  @{ $client->history(workflow_id => $workflow->{workflow_id}) };
}

# 200 previews, each of its own number. Meanwhile no worker may have more than
# 16 in hand, by the table of jobs and by its own account.
sub many_at_once
{
	my @workflows = map {
		{
			$tenant->arguments(
				'previewQueryWorkflow',
				{   connectionId => 'shop',
					sql =>
					  "select $_ as n, pg_sleep(0.2)::text, repeat('x', $_)"
				}
			)
		}
	} 1 .. 200;
	my $session = session($agent);
	my ($most_jobs, $most_in_hand, $most_in_all) = (0, 0, 0);
	my $ticket = $client->send('execute_many', workflows => \@workflows);

	ok( wait_until(
			sub {
				my $told = $session->run(
					q{select (select count(*) from opdata_jobs where workflow_id is not null and state = 'succeeded'),
					(select coalesce(max(n), 0)
						from (select count(*) as n from opdata_jobs where state = 'running' group by worker) as j),
					max((w->>'running')::int), max((w->>'running')::int + (w->>'polls')::int), sum((w->>'running')::int)
					from jsonb_array_elements(opdata_status()->'workers') as w
					where w->>'kind' = 'interactive'}
				)->{out};
				my ($done, $jobs, $running, $in_hand, $in_all) =
				  split(/\|/, $told);

				$most_jobs = max($most_jobs, $jobs, $running);
				$most_in_hand = max($most_in_hand, $in_hand);
				$most_in_all = max($most_in_all, $in_all);
				return $done == 200;
			},
			undef,
			0.05
		),
		'200 previews at once are done'
	);
	$session->quit;

	my $ended = $client->receive($ticket);
	my @failed = grep { code_of($_) ne 'ok' } @$ended;
	my @mixed = grep {
		my $row =
		  ($ended->[$_]{result} // { rows => [ [ -1, '', '' ] ] })->{rows}[0];
		$row->[0] != $_ + 1 || length $row->[2] != $_ + 1
	} 0 .. $#$ended;
	is_deeply([ map { code_of($_) } @failed ], [], 'none of them failed');
	is_deeply(\@mixed, [], 'none got what another asked for');
	cmp_ok($most_jobs, '<=', 16, 'no worker ran more than 16 at once');
	cmp_ok($most_in_hand, '<=', 16,
		'nor did it ask for more than it had room for');
	cmp_ok($most_in_all, '>', 1, 'but more than one');
	is($agent->safe_psql('postgres', 'select count(distinct worker) from opdata_jobs'), 2, 'both worked');
	is( $agent->safe_psql(
			'postgres',
			q{select count(*) || ' ' || count(distinct workflow_id) from opdata_jobs
			  where kind = 'preview' and state = 'succeeded' and row_count = 1
				and attempt = 1 and workflow_id is not null}
		),
		'200 200',
		'each is recorded once'
	);
	ok( wait_until(
			sub {
				$source->safe_psql('postgres',
					q{select count(*) from pg_stat_activity where usename = 'reader'}
				) == 0;
			}
		),
		'no connection is left at the source'
	);
	return;
}

# One that takes 9.5 of its ten seconds is done, and nobody waits for it.
sub slow_beside_short
{
	my ($mark, $started) = start_slow(9.5);
	my $short = $client->execute_many(
		workflows => [
			map {
				{
					$tenant->arguments('previewQueryWorkflow',
						{ connectionId => 'shop', sql => "select $_ as n" })
				}
			} 1 .. 40
		]
	);

	is( join(' ', map { $_->{result}{rows}[0][0] // code_of($_) } @$short),
		join(' ', 1 .. 40),
		'forty short previews are done'
	);
	my $ended = $client->result(%$started);
	is(code_of($ended), 'ok', 'and the slow one');
	# on a machine with other things to do not all of them are that fast
	cmp_ok(
		$agent->safe_psql(
			'postgres', qq{
			select count(*) from opdata_jobs short, opdata_jobs slow
			where slow.workflow_id = '$started->{workflow_id}' and short.kind = 'preview'
				and short.started_at > slow.started_at and short.finished_at < slow.finished_at}),
		'>=', 20, 'most of them while it ran');
	is($ended->{result}{rows}[0][1], $number, 'with its own row');
	cmp_ok($ended->{result}{durationMs},
		'>=', 9500, 'and told how long it took');
	is(n_runs($mark), 1, 'it ran once');
	return;
}

sub time_limits
{

	# ours
	my ($mark, $input) = slow(60);
	my $ended = $tenant->run('previewQueryWorkflow', $input);
	is( failure_of($ended),
		'query_timeout, final',
		'a preview of more than ten seconds is given up'
	);
	cmp_ok($ended->{seconds}, '>=', 9.5, 'not earlier');
	cmp_ok($ended->{seconds}, '<', 20, 'nor much later');
	ok(wait_until(sub { !at_source($mark) }, $soon), 'nothing of it is left at the source');
	is(n_runs($mark), 1, 'it ran once');
	is($tenant->job_of($ended)->{error_code},
		'query_timeout', 'which is recorded');

	# The server takes a task back that is not answered in the time that the
	# starter chose.
	foreach my $timeout (1, 2)
	{
		my ($mark, $input) = slow(4);
		my $ended = $tenant->run('previewQueryWorkflow', $input,
			task_timeout => $timeout);

		is(code_of($ended), 'ok',
			"a preview of 4 s with a task timeout of $timeout s is done");
		is($ended->{result}{rows}[0][1], $number, 'with its own row');
		is(n_runs($mark), 1, 'it ran once');
	}

	# the starter's own
	my $started;
	($mark, $started) = start_slow(9.5, run_timeout => 2);
	is($client->result(%$started)->{error}{class},
		'TimeoutError', 'a workflow may have less time');
	ok( wait_until(sub { !at_source($mark) }, $soon),
		'then its query is stopped as well'
	);

	# a workflow that its starter wants to be retried
	my %retry = (
		retry_policy => {
			initial_interval => 0.1,
			maximum_attempts => 2
		}
	);
	$ended = $tenant->run('previewQueryWorkflow',
		{ connectionId => 'nowhere', sql => 'select 1' }, %retry);
	is(code_of($ended), 'connection_not_found', 'what no retry can mend');
	is(scalar $tenant->jobs_of($ended), 1, 'is not retried');
	$ended =
	  $tenant->run('previewQueryWorkflow',
		{ credentials => { %$credentials, port => 1 }, sql => 'select 1' },
		%retry);
	is(code_of($ended), 'connection_refused', 'what may become better');
	is(scalar $tenant->jobs_of($ended),
		2, 'is, as often as its starter wants');
	return;
}

sub queries
{
	my $status = sub {
		my ($workflow, $name) = @_;
		my $begun = time();
		my $answer = $client->query(
			workflow_id => $workflow->{workflow_id},
			name => $name // 'status'
		);

		$answer->{seconds} = time() - $begun;
		return $answer;
	};

	my ($mark, $started) = start_slow(8);
	my $answer = $status->($started);
	is_deeply(
		[ @{ $answer->{result} }{qw(workflowType state step phase)} ],
		[ 'previewQueryWorkflow', 'running', 'previewQuery', 'querying' ],
		'a running preview tells its status, in its first task'
	);
	cmp_ok($answer->{seconds}, '<', $soon, 'soon');
	my $now = time();
	cmp_ok(abs($answer->{result}{startedAtMs} / 1000 - $now),
		'<', 60, 'since when it runs');
	like($answer->{result}{agent}, qr/^opdata-\d/, 'and who runs it');

	my $job = $tenant->job_of($started);
	is( join(' ',
			map { $_ // 'null' }
			  @$job{qw(kind state connection_id finished_at error_code)}),
		'preview running shop null null',
		'the table of jobs shows it too'
	);
	is($job->{run_id}, $started->{run_id}, 'with its run');
	like($job->{worker}, qr/^interactive [12]$/, 'and its worker');
	is( sum0(
			map  { $_->{running} }
			grep { $_->{name} eq $job->{worker} } $tenant->agent->workers
		),
		1,
		'which says so itself'
	);

	# Once more, with arguments. Only one at a time: more the server refuses,
	# and its client tries again later.
	$answer = $client->query(
		workflow_id => $started->{workflow_id},
		name => 'status',
		inputs => [ 1, {} ]
	);
	is($answer->{result}{state}, 'running', 'it tells it again');
	$answer = $status->($started, 'nonsense');
	is($answer->{error}{class},
		'WorkflowQueryFailedError', 'an unknown query fails');
	like($answer->{error}{message},
		qr/nonsense.*status/, 'its message has the known one');
	cmp_ok($answer->{seconds}, '<', $soon, 'soon, too');
	is(at_source($mark), 1, 'all that while it runs');
	is(code_of($client->result(%$started)),
		'ok', 'the preview is done after all');
	is(n_runs($mark), 1, 'it ran once');
	$job = $tenant->job_of($started);
	is("$job->{state} $job->{row_count}", 'succeeded 1', 'and is recorded');

	# asked for before anybody has looked at the workflow
	($mark, my $input) = slow(2);
	$started = $tenant->start('previewQueryWorkflow', $input);
	is($status->($started)->{result}{state},
		'running', 'a query may come with the first task');
	$client->result(%$started);
	is(n_runs($mark), 1, 'which runs its step once');

	# closed ones
	my %ended = (completed => $started);
	$ended{failed} = $tenant->run('previewQueryWorkflow',
		{ connectionId => 'nowhere', sql => 'select 1' });
	foreach my $how ([ 'cancel', 'canceled' ], [ 'terminate', 'terminated' ])
	{
		my ($method, $state) = @$how;

		# the server answers nothing of a run none of whose tasks was completed
		(undef, $ended{$state}) = start_slow(9);
		$status->($ended{$state});
		$client->$method(workflow_id => $ended{$state}{workflow_id});
		$client->result(workflow_id => $ended{$state}{workflow_id});
	}
	foreach my $state (sort keys %ended)
	{
		$answer = $status->($ended{$state});
		is($answer->{result}{state} // code_of($answer),
			$state, "a $state workflow tells its status");
	}
	is($status->($started, 'nonsense')->{error}{class},
		'WorkflowQueryFailedError', 'an unknown query of a closed one fails');

	# one that waits for its activity
	my $silent = silent_server(at => 'connect');
	$started = $tenant->start(
		'storeCredsWorkflow',
		{   connectionId => 'silent',
			credentials => { %$credentials, port => $silent->port }
		}
	);
	ok(wait_until(sub { $tenant->jobs_of($started) > 0 }),
		'a store is under way');
	$answer = $status->($started);
	is_deeply(
		[ @{ $answer->{result} }{qw(workflowType state step phase)} ],
		[ 'storeCredsWorkflow', 'running', 'storeCreds', 'scheduled' ],
		'it tells its status'
	);
	my ($pending) =
	  @{ $client->describe(workflow_id => $started->{workflow_id})
		  ->{pending_activities} };
	ok( wait_until(
			sub {
				($pending) =
				  @{ $client->describe(workflow_id => $started->{workflow_id})
					  ->{pending_activities} };
				return $pending->{heartbeat_details};
			},
			$soon
		),
		'its activity shows signs of life'
	);
	is($pending->{heartbeat_details}[0]{phase},
		'testing', 'and what it does');
	$client->terminate(workflow_id => $started->{workflow_id});
	ok( wait_until(
			sub { sockets_to($silent->port, 'connected') == 0 }, $soon
		),
		'when it is terminated, the source is let go'
	);
	$silent->stop;
	return;
}

# Cancelled or terminated, the query ends at the source.
sub cancel_preview
{
	my %ways = (
		cancel => [ 'CancelledError', 'CANCELED' ],
		terminate => [ 'TerminatedError', 'TERMINATED' ]
	);

	foreach my $method (sort keys %ways)
	{
		my ($class, $status) = @{ $ways{$method} };
		my ($mark, $started) = start_slow(9.5);
		my $begun = time();

		$client->$method(workflow_id => $started->{workflow_id});
		ok( wait_until(sub { !at_source($mark) }, $soon),
			sprintf(
				'%s: its query is gone, after %.1f s',
				$method, time() - $begun
			)
		);
		is($client->result(%$started)->{error}{class},
			$class, "$method: the workflow ends so");
		is( $client->describe(workflow_id => $started->{workflow_id})
			  ->{status},
			$status,
			"$method: and is described so"
		);
		ok( wait_until(
				sub { $tenant->job_of($started)->{state} eq 'canceled' },
				$soon
			),
			"$method: its record says canceled"
		);
		is(n_runs($mark), 1, "$method: it ran once");
	}
	is( code_of(
			$tenant->run(
				'previewQueryWorkflow',
				{ connectionId => 'shop', sql => 'select 1' }
			)
		),
		'ok',
		'then previews go on'
	);
	ok( wait_until(
			sub {
				sum0(map { $_->{running} } $tenant->agent->workers) == 0;
			}
		),
		'and no worker has anything in hand'
	);
	return;
}

# A store that waits for its source.
sub cancel_store
{
	my $silent = silent_server(at => 'connect');
	my $started = $tenant->start(
		'storeCredsWorkflow',
		{   connectionId => 'silent',
			credentials => { %$credentials, port => $silent->port }
		}
	);

	ok(wait_until(sub { sockets_to($silent->port, 'connected') > 0 }),
		'a store waits for its source');
	is($tenant->job_of($started)->{state}, 'running', 'its record says so');
	$client->cancel(workflow_id => $started->{workflow_id});
	ok( wait_until(
			sub { sockets_to($silent->port, 'connected') == 0 }, $soon
		),
		'a cancel request ends that'
	);
	is($client->result(%$started)->{error}{class},
		'CancelledError', 'and the workflow');
	ok(wait_until(sub { $tenant->job_of($started)->{state} eq 'canceled' }, $soon), 'and is recorded');
	is( $agent->safe_psql(
			'postgres',
			q{select count(*) from opdata_connections where id = 'silent'}
		),
		0,
		'nothing is stored'
	);
	$silent->stop;

	# while it waits to be tried again
	my $port = $silent->port;
	$started = $tenant->start(
		'storeCredsWorkflow',
		{   connectionId => 'silent',
			credentials => { %$credentials, port => $port }
		}
	);
	ok( wait_until(
			sub {
				my ($job) = $tenant->jobs_of($started);
				return $job && $job->{state} eq 'failed';
			}
		),
		'a store has failed once'
	);
	$client->cancel(workflow_id => $started->{workflow_id});
	is($client->result(%$started)->{error}{class},
		'CancelledError', 'and is canceled before the next attempt');
	return;
}

# The setting, and wait until the workers have followed.
sub enable
{
	my ($value) = @_;
	my $state = $value eq 'on' ? 'polling' : 'disabled';

	$agent->safe_psql('postgres', "alter system set opdata.enabled = $value");
	$agent->reload;
	wait_until(
		sub {
			!grep { $_->{state} ne $state } $tenant->agent->workers;
		}
	) or die "the workers are not $state\n";
	return;
}

# What happens to workflows before an agent is there to see them.
sub agent_away
{
	my ($mark, $input) = slow(0);
	my %store = (connectionId => 'away', credentials => $credentials);

	enable('off');
	my %started = (
		'a canceled preview' =>
		  $tenant->start('previewQueryWorkflow', $input),
		'a canceled store' => $tenant->start('storeCredsWorkflow', {%store}),
		'a terminated store' => $tenant->start('storeCredsWorkflow', {%store})
	);
	foreach my $what (sort keys %started)
	{
		my $method = $what =~ /terminated/ ? 'terminate' : 'cancel';
		$client->$method(workflow_id => $started{$what}{workflow_id});
	}
	my $waiting = $tenant->start('previewQueryWorkflow',
		{ connectionId => 'shop', sql => 'select 8' });
	$client->signal(workflow_id => $waiting->{workflow_id}, name => 'hello');
	enable('on');

	is($client->result(%$waiting)->{result}{rows}[0][0],
		8, 'a workflow waits for an agent');
	foreach my $what (sort keys %started)
	{
		my $class =
		  $what =~ /terminated/ ? 'TerminatedError' : 'CancelledError';

		is($client->result(%{ $started{$what} })->{error}{class},
			$class, "$what ends so when an agent comes");
		is(scalar $tenant->jobs_of($started{$what}),
			0, 'and nothing was done');
	}
	is(n_runs($mark), 0, 'nothing ran at the source');
	is( $agent->safe_psql(
			'postgres',
			q{select count(*) from opdata_connections where id = 'away'}
		),
		0,
		'nothing is stored'
	);

	# The agent leaves while it works. What it cannot finish it gives back.
	($mark, my $started) = start_slow(8);
	enable('off');
	ok( wait_until(sub { !at_source($mark) }, $soon),
		'an agent that leaves stops its query'
	);
	enable('on');
	is(code_of($client->result(%$started)),
		'ok', 'and does it again when it is back');
	is(n_runs($mark), 2, 'from the start');
	return;
}

# Signals that nobody waits for are ignored. One that comes while a task is in
# hand makes the server refuse its answer and give the task out again: the step
# is not run again for that by a worker that has its outcome; another worker has
# not, and a preview has no effect.
sub signals
{
	my ($n_workers) = @_;
	my $refused = 0;

	foreach (1 .. 8)
	{
		my ($mark, $started) = start_slow(0.6);

		$client->signal(
			workflow_id => $started->{workflow_id},
			name => 'hello',
			input => { n => 1 }
		);
		my $ended = $client->result(%$started);
		is(code_of($ended), 'ok',
			'a signal during a short preview is ignored');
		is($ended->{result}{rows}[0][1], $number, 'it has its own row');
		cmp_ok(n_runs($mark), '<=', $n_workers + n_timeouts($started),
			"it ran once in each of $n_workers workers at most");
		is($tenant->job_of($started)->{state},
			'succeeded', 'it is recorded once');
		$refused += grep {
				 $_->{event_type} eq 'WORKFLOW_TASK_FAILED'
			  && $_->{attributes}{cause} =~ /UNHANDLED_COMMAND/
		} @{ $client->history(workflow_id => $started->{workflow_id}) };
	}
	cmp_ok($refused, '>', 0, 'of these, some answers were refused for it');

	my ($mark, $started) = start_slow(4);
	my @tickets = map {
		$client->send(
			'signal',
			workflow_id => $started->{workflow_id},
			name => "signal $_"
		)
	} 1 .. 300;
	$client->receive($_) foreach @tickets;
	is(code_of($client->result(%$started)),
		'ok', '300 signals during a long one are ignored');
	cmp_ok(n_runs($mark), '<=', $n_workers + n_timeouts($started),
		"it ran once in each of $n_workers workers at most");
	is( scalar(grep { $_ eq 'WORKFLOW_EXECUTION_SIGNALED' } events($started)),
		300,
		'all of them stand in its history'
	);

	# a cancel request into the same gap: done or canceled, but not twice
	($mark, $started) = start_slow(0.6);
	$client->cancel(workflow_id => $started->{workflow_id});
	my $ended = $client->result(%$started);
	ok( code_of($ended) eq 'ok' || $ended->{error}{class} eq 'CancelledError',
		'a cancel request during a short preview comes in time or not'
	);
	cmp_ok(n_runs($mark), '<=', $n_workers,
		"it ran once in each of $n_workers workers at most");
	return;
}

# Nobody takes updates: their callers are told, not kept waiting.
sub updates
{
	my $update = sub {
		my ($workflow) = @_;
		my $begun = time();
		my $answer = $client->update(
			workflow_id => $workflow->{workflow_id},
			name => 'change',
			input => { to => 1 },
			timeout => 30
		);

		$answer->{seconds} = time() - $begun;
		return $answer;
	};

	my ($mark, $started) = start_slow(7);
	my $answer = $update->($started);
	is( failure_of($answer),
		'unsupported, final',
		'an update of a running preview is refused'
	);
	cmp_ok($answer->{seconds}, '<', $soon, 'soon');
	is(at_source($mark), 1, 'while it runs');
	is(code_of($client->result(%$started)), 'ok', 'it is done');
	is(n_runs($mark), 1, 'it ran once');

	my $silent = silent_server(at => 'connect');
	$started = $tenant->start(
		'storeCredsWorkflow',
		{   connectionId => 'silent',
			credentials => { %$credentials, port => $silent->port }
		}
	);
	wait_until(sub { $tenant->jobs_of($started) > 0 });
	$answer = $update->($started);
	is( failure_of($answer),
		'unsupported, final',
		'an update of a store that waits is refused'
	);
	cmp_ok($answer->{seconds}, '<', $soon, 'soon');
	$client->terminate(workflow_id => $started->{workflow_id});
	$silent->stop;
	return;
}

# A workflow to which thousands of things happen. Its history comes in pages.
sub long_history
{
	my $session = session($source);
	my $signal = sub {
		my ($workflow, $n) = @_;
		my @tickets = map {
			$client->send(
				'signal',
				workflow_id => $workflow->{workflow_id},
				name => 'more',
				input => 'x' x 100
			)
		} 1 .. $n;
		$client->receive($_) foreach @tickets;
		return;
	};

	# the test of the credential waits for what the audit reads
	$session->run('begin; lock table pg_shdepend in access exclusive mode');
	my $started = $tenant->start('storeCredsWorkflow',
		{ connectionId => 'long', credentials => $credentials });
	ok( wait_until(
			sub {
				my ($job) = $tenant->jobs_of($started);
				return $job && $job->{state} eq 'running';
			}
		),
		'a store is under way'
	);
	$signal->($started, 400);
	is( $client->query(
			workflow_id => $started->{workflow_id},
			name => 'status'
		)->{result}{step},
		'storeCreds',
		'after 400 signals it still waits'
	);

	# and the rest at once
	enable('off');
	$signal->($started, 2500);
	$session->run('rollback');
	enable('on');
	my $ended = $client->result(%$started);
	is(code_of($ended), 'ok', 'after 2,900 it is done');
	is($ended->{result}{connectionId}, 'long', 'with its own result');
	my @events = events($started);
	is(scalar(grep { $_ eq 'WORKFLOW_EXECUTION_SIGNALED' } @events),
		2900, 'all of them stand in its history');
	is( $agent->safe_psql(
			'postgres',
			q{select count(*) from opdata_connections where id = 'long'}
		),
		1,
		'what it did is there'
	);
	is(scalar(grep { $_ eq 'ACTIVITY_TASK_SCHEDULED' } @events),
		1, 'its activity was begun once');
	is( $client->query(
			workflow_id => $started->{workflow_id},
			name => 'status'
		)->{result}{state},
		'completed',
		'and it tells its status'
	);
	$session->quit;
	return;
}
