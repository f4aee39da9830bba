
# Workflows while they run: many at once, slow ones, and what reaches them
# meanwhile - queries, signals, updates, cancel requests, termination.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use List::Util qw(max min sum0);
use Opdata::Credentials qw(literal reader);
use Opdata::Faults qw(in_time n_begun session sockets_to);
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# A beat brings what has happened after a second; the rest is for a busy machine. What
# is to be ended within that time would by itself last for twice as long.
my $soon = 30;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});

my $tenant = tenant('acme', task_timeout => 60);
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

	wait_until(sub { n_runs($mark) }, undef, 0.1)
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
# answer them in time, or the server itself was too slow. What they did is done again.
# Of several timeouts in a row the history has the first, and the number of the one that
# was answered. Of a task that the server knows no more it has nothing: what it ran is
# canceled at the source.
sub n_lost
{
	my ($mark, $started) = @_;
	my @history = @{ $client->history(workflow_id => $started->{workflow_id}) };
	my @again = map { $_->{attributes}{attempt} - 1 } grep { $_->{event_type} eq 'WORKFLOW_TASK_SCHEDULED' } @history;

	my $canceled = () = slurp_file($source->logfile) =~ m{canceling statement due to user request\n.*STATEMENT:.*/\* $mark \*/}g;
	return $canceled + max(sum0(@again), scalar grep { $_->{event_type} eq 'WORKFLOW_TASK_TIMED_OUT' } @history);
}

# How often the source has begun to run it.
sub n_runs { return n_begun($source, "/* $_[0] */"); }

sub ran_once
{
	my ($mark, $started, $name) = @_;
	my ($n, $n_lost) = (n_runs($mark), n_lost($mark, $started));

	ok($n >= 1 && $n <= 1 + $n_lost, $name) or diag("$n times, with $n_lost tasks lost");
	return;
}

# The state of its only job when that has ended.
sub end_of_job
{
	my ($started) = @_;
	my $state;

	wait_until(sub { ($state = $tenant->job_of($started)->{state}) ne 'running' });
	return $state;
}

# Ask it for something that is refused when it has ended.
sub ask_to_end
{
	my ($method, $started) = @_;
	return eval { $client->$method(workflow_id => $started->{workflow_id}); 1 };
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
	$agent->workers_get('polling', 'all workers poll');
	my $session = session($agent);
	my ($most_jobs, $most_in_hand) = (0, 0);
	my $ticket = $client->send('execute_many', workflows => \@workflows);

	ok( wait_until(
			sub {
				my $told = $session->run(
					q{select (select count(*) from opdata_jobs where workflow_id is not null and state = 'succeeded'),
					(select coalesce(max(n), 0)
						from (select count(*) as n from opdata_jobs where state = 'running' group by worker) as j),
					max((w->>'running')::int), max((w->>'running')::int + (w->>'polls')::int)
					from jsonb_array_elements(opdata_status()->'workers') as w
					where w->>'kind' = 'interactive'}
				)->{out};
				my ($done, $jobs, $running, $in_hand) =
				  split(/\|/, $told);

				$most_jobs = max($most_jobs, $jobs, $running);
				$most_in_hand = max($most_in_hand, $in_hand);
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
	is( $agent->safe_psql(
			'postgres',
			q{select exists (select from opdata_jobs one, opdata_jobs other
				where one.workflow_id <> other.workflow_id
					and other.started_at > one.started_at and other.started_at < one.finished_at)}
		),
		't',
		'but more than one');
	is( $agent->safe_psql(
			'postgres',
			q{select count(*) || ' ' || count(distinct workflow_id) from opdata_jobs
			  where kind = 'preview' and state = 'succeeded' and row_count = 1
				and workflow_id is not null}
		),
		'200 200',
		'each is recorded once'
	);
	cmp_ok($agent->safe_psql('postgres', q{select count(*) from opdata_jobs where attempt > 1 and workflow_id is not null}),
		'<=', 20, 'and hardly one done again, for a task that was lost');

	# one of them may have been slow to ask for its share
	ok( wait_until(
			sub {
				return 1 if $agent->safe_psql('postgres', 'select count(distinct worker) from opdata_jobs') == 2;
				$client->execute_many(workflows => [ map { { $tenant->arguments('previewQueryWorkflow', (slow(0.2))[1]) } } 1 .. 32 ]);
				return 0;
			}
		),
		'both worked');
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

# Nobody waits for one that is slow.
sub slow_beside_short
{
	my ($mark, $started, $short, $ended);

	# on a machine with other things to do not all of them are that fast
	ok( in_time(
			sub {
				($mark, $started) = start_slow(7);
				$short = $client->execute_many(
					workflows => [
						map {
							{
								$tenant->arguments('previewQueryWorkflow',
									{ connectionId => 'shop', sql => "select $_ as n" })
							}
						} 1 .. 40
					]
				);
				$ended = $client->result(%$started);
				return code_of($ended) eq 'ok' && $agent->safe_psql(
					'postgres', qq{
					select count(*) from opdata_jobs short, opdata_jobs slow
					where slow.workflow_id = '$started->{workflow_id}' and short.kind = 'preview'
						and short.started_at > slow.started_at and short.finished_at < slow.finished_at}) >= 20;
			}
		),
		'most of forty short previews are done while a slow one runs');
	is( join(' ', map { $_->{result}{rows}[0][0] // code_of($_) } @$short),
		join(' ', 1 .. 40),
		'the others, too'
	);
	is(code_of($ended), 'ok', 'and the slow one');
	is($ended->{result}{rows}[0][1], $number, 'with its own row');
	cmp_ok($ended->{result}{durationMs},
		'>=', 7000, 'and told how long it took');
	ran_once($mark, $started, 'it ran once');
	return;
}

sub time_limits
{

	# ours
	my ($mark, $input) = slow(120);
	my $ended = $tenant->run('previewQueryWorkflow', $input);
	is( failure_of($ended),
		'query_timeout, final',
		'a preview of more than ten seconds is given up'
	);
	cmp_ok($ended->{seconds}, '>=', 9.5, 'not earlier');
	cmp_ok($ended->{seconds}, '<', 60, 'nor much later');
	ok(wait_until(sub { !at_source($mark) }, $soon), 'nothing of it is left at the source');
	ran_once($mark, $ended, 'it ran once');
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
		ran_once($mark, $ended, 'it ran once');
	}

	# the starter's own
	my $started;
	ok( in_time(
			sub {
				($mark, $input) = slow(60);
				$started = $tenant->start('previewQueryWorkflow', $input, run_timeout => 3);
				$ended = $client->result(%$started);
				return n_runs($mark) > 0 && end_of_job($started) eq 'canceled';
			}
		),
		'a preview is canceled when its workflow has no more time');
	is($ended->{error}{class}, 'TimeoutError', 'as its starter chose');
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
		{ credentials => { %$credentials, port => closed_port() }, sql => 'select 1' },
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
		return $client->query(
			workflow_id => $workflow->{workflow_id},
			name => $name // 'status'
		);
	};

	my ($mark, $started, $answer, $job, $now);
	ok( in_time(
			sub {
				($mark, $started) = start_slow(8);
				$answer = $status->($started);
				$now = time();
				$job = $tenant->job_of($started);
				my ($worker) = grep { $_->{name} eq $job->{worker} } $agent->workers;
				return $worker->{running} == 1 && at_source($mark);
			}
		),
		'a running preview is asked for its status, and its worker says that it has one in hand');
	is_deeply(
		[ @{ $answer->{result} }{qw(workflowType state step phase)} ],
		[ 'previewQueryWorkflow', 'running', 'previewQuery', 'querying' ],
		'it tells its status, in its first task'
	);
	cmp_ok(abs($answer->{result}{startedAtMs} / 1000 - $now),
		'<', 60, 'since when it runs');
	like($answer->{result}{agent}, qr/^opdata-\d/, 'and who runs it');
	is( join(' ',
			map { $_ // 'null' }
			  @$job{qw(kind state connection_id finished_at error_code)}),
		'preview running shop null null',
		'the table of jobs shows it too'
	);
	is($job->{run_id}, $started->{run_id}, 'with its run');
	like($job->{worker}, qr/^interactive [12]$/, 'and its worker');

	# Once more, with arguments. Only one at a time: more the server refuses,
	# and its client tries again later.
	my ($again, $nonsense, $ended);
	ok( in_time(
			sub {
				($mark, $started) = start_slow(8);
				$again = $client->query(
					workflow_id => $started->{workflow_id},
					name => 'status',
					inputs => [ 1, {} ]
				);
				$nonsense = $status->($started, 'nonsense');
				my $running = at_source($mark);
				$ended = $client->result(%$started);
				return $running && code_of($ended) eq 'ok';
			}
		),
		'another one is asked twice, all that while it runs, and done after all');
	is($again->{result}{state}, 'running', 'it tells its status');
	is($nonsense->{error}{class},
		'WorkflowQueryFailedError', 'an unknown query fails');
	like($nonsense->{error}{message},
		qr/nonsense.*status/, 'its message has the known one');
	ran_once($mark, $started, 'it ran once');
	$job = $tenant->job_of($started);
	is("$job->{state} $job->{row_count}", 'succeeded 1', 'and is recorded');

	# asked for before anybody has looked at the workflow
	ok( in_time(
			sub {
				($mark, my $input) = slow(4);
				$started = $tenant->start('previewQueryWorkflow', $input);
				$answer = $status->($started);
				return $client->describe(workflow_id => $started->{workflow_id})->{status} eq 'RUNNING';
			}
		),
		'a query may come with the first task');
	is($answer->{result}{state}, 'running', 'and is answered');
	$client->result(%$started);
	ran_once($mark, $started, 'which runs its step once');

	# closed ones
	my %ended = (completed => $started);
	$ended{failed} = $tenant->run('previewQueryWorkflow',
		{ connectionId => 'nowhere', sql => 'select 1' });
	foreach my $how ([ 'cancel', 'canceled' ], [ 'terminate', 'terminated' ])
	{
		my ($method, $state) = @$how;

		# the server answers nothing of a run none of whose tasks was completed
		ok( in_time(
				sub {
					(undef, $ended{$state}) = start_slow(60);
					$status->($ended{$state});
					return 0 unless ask_to_end($method, $ended{$state});
					$client->result(%{ $ended{$state} });
					return end_of_job($ended{$state}) eq 'canceled';
				}
			),
			"one is $state");
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
	my $phase;
	ok( in_time(
			sub {
				$started = $tenant->start(
					'storeCredsWorkflow',
					{   connectionId => 'silent',
						credentials => { %$credentials, port => $silent->port }
					}
				);
				wait_until(sub { $tenant->jobs_of($started) > 0 }) or return 0;
				$answer = $status->($started);
				wait_until(
					sub {
						my ($pending) =
						  @{ $client->describe(workflow_id => $started->{workflow_id})
							  ->{pending_activities} };
						$phase = $pending->{heartbeat_details}[0]{phase};
					},
					$soon
				);
				return ask_to_end('terminate', $started) && end_of_job($started) eq 'canceled';
			}
		),
		'a store that waits for its source is asked for its status, and terminated');
	is_deeply(
		[ @{ $answer->{result} }{qw(workflowType state step phase)} ],
		[ 'storeCredsWorkflow', 'running', 'storeCreds', 'scheduled' ],
		'it tells its status'
	);
	is($phase, 'testing', 'its activity shows signs of life, and what it does');
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
		my ($mark, $started, $ended);

		ok( in_time(
				sub {
					($mark, $started) = start_slow(60);
					return 0 unless ask_to_end($method, $started);
					$ended = $client->result(%$started);
					return end_of_job($started) eq 'canceled';
				}
			),
			"$method: the record of its job says canceled");
		ok(wait_until(sub { !at_source($mark) }, $soon), "$method: its query is gone");
		is($ended->{error}{class}, $class, "$method: the workflow ends so");
		is( $client->describe(workflow_id => $started->{workflow_id})
			  ->{status},
			$status,
			"$method: and is described so"
		);
		ran_once($mark, $started, "$method: it ran once");
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
	my ($started, $ended, $state);
	my $start = sub {
		my ($port) = @_;
		return $tenant->start(
			'storeCredsWorkflow',
			{   connectionId => 'silent',
				credentials => { %$credentials, port => $port }
			}
		);
	};

	ok( in_time(
			sub {
				$started = $start->($silent->port);
				wait_until(sub { sockets_to($silent->port, 'connected') > 0 }) or return 0;
				$state = $tenant->job_of($started)->{state};
				return 0 unless ask_to_end('cancel', $started);
				$ended = $client->result(%$started);
				return end_of_job($started) eq 'canceled';
			}
		),
		'a store that waits for its source is canceled, which is recorded');
	is($state, 'running', 'as it was that it runs');
	is($ended->{error}{class}, 'CancelledError', 'so is the workflow');
	ok( wait_until(
			sub { sockets_to($silent->port, 'connected') == 0 }, $soon
		),
		'the source is let go'
	);
	is( $agent->safe_psql(
			'postgres',
			q{select count(*) from opdata_connections where id = 'silent'}
		),
		0,
		'nothing is stored'
	);
	$silent->stop;

	# while it waits to be tried again, which is for a second or two; a port that
	# nobody has
	ok( in_time(
			sub {
				$started = $start->(1);
				wait_until(sub { grep { $_->{state} eq 'failed' } $tenant->jobs_of($started) }) or return 0;
				return 0 unless ask_to_end('cancel', $started);
				return code_of($client->result(%$started)) =~ /^CancelledError/;
			}
		),
		'one that has failed once is canceled before the next attempt');
	return;
}

# The setting, and wait until the workers have followed.
sub enable
{
	my ($value) = @_;

	# who leaves says for a moment already that it is disabled
	if ($value eq 'off')
	{
		$agent->renew(enabled => 'off');
		return;
	}
	$agent->set(enabled => 'on');
	wait_until(sub { $agent->all_are('polling') }) or die "the workers do not poll\n";
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
	my ($stopped, $ended);
	ok( in_time(
			sub {
				($mark, my $started) = start_slow(8);
				enable('off');
				$stopped = wait_until(sub { !at_source($mark) }, $soon);
				enable('on');
				$ended = $client->result(%$started);
				return n_runs($mark) == 2;
			}
		),
		'an agent that leaves and comes back does a preview from the start');
	ok($stopped, 'it has stopped its query');
	is(code_of($ended), 'ok', 'and does it again');
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

	# until one has met an answer
	for (my $n = 1; $n <= 8 || ($refused == 0 && $n <= 50); $n++)
	{
		my ($mark, $started) = start_slow(0.6);

		# it may have ended meanwhile
		eval {
			$client->signal(
				workflow_id => $started->{workflow_id},
				name => 'hello',
				input => { n => 1 }
			);
		};
		my $ended = $client->result(%$started);
		is(code_of($ended), 'ok',
			'a signal during a short preview is ignored');
		is($ended->{result}{rows}[0][1], $number, 'it has its own row');
		cmp_ok(n_runs($mark), '<=', $n_workers + n_lost($mark, $started),
			"it ran once in each of $n_workers workers at most");
		is($tenant->job_of($started)->{state},
			'succeeded', 'it is recorded once');
		$refused += grep {
				 $_->{event_type} eq 'WORKFLOW_TASK_FAILED'
			  && $_->{attributes}{cause} =~ /UNHANDLED_COMMAND/
		} @{ $client->history(workflow_id => $started->{workflow_id}) };
	}
	cmp_ok($refused, '>', 0, 'of these, some answers were refused for it');

	my ($mark, $started);
	ok( in_time(
			sub {
				($mark, $started) = start_slow(8);
				my @tickets = map {
					$client->send(
						'signal',
						workflow_id => $started->{workflow_id},
						name => "signal $_"
					)
				} 1 .. 300;
				my $n_taken = grep { eval { $client->receive($_); 1 } } @tickets;
				return $n_taken == 300 && code_of($client->result(%$started)) eq 'ok';
			}
		),
		'300 signals during a long one are ignored');
	cmp_ok(n_runs($mark), '<=', $n_workers + n_lost($mark, $started),
		"it ran once in each of $n_workers workers at most");
	is( scalar(grep { $_ eq 'WORKFLOW_EXECUTION_SIGNALED' } events($started)),
		300,
		'all of them stand in its history'
	);

	# a cancel request into the same gap: done or canceled, but not twice
	($mark, $started) = start_slow(0.6);
	ask_to_end('cancel', $started);
	my $ended = $client->result(%$started);
	ok( code_of($ended) eq 'ok' || $ended->{error}{class} eq 'CancelledError',
		'a cancel request during a short preview comes in time or not'
	);
	cmp_ok(n_runs($mark), '<=', $n_workers + n_lost($mark, $started),
		"it ran once in each of $n_workers workers at most");
	return;
}

# Nobody takes updates: their callers are told, not kept waiting.
sub updates
{
	my $update = sub {
		my ($workflow) = @_;
		return $client->update(
			workflow_id => $workflow->{workflow_id},
			name => 'change',
			input => { to => 1 }
		);
	};

	my ($mark, $started, $answer, $ended);
	ok( in_time(
			sub {
				($mark, $started) = start_slow(8);
				$answer = $update->($started);
				my $running = at_source($mark);
				$ended = $client->result(%$started);
				return $running && code_of($ended) eq 'ok';
			}
		),
		'an update comes while a preview runs, which is done');
	is( failure_of($answer),
		'unsupported, final',
		'it is refused'
	);
	ran_once($mark, $started, 'the preview ran once');

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
	is($client->describe(workflow_id => $started->{workflow_id})->{status}, 'RUNNING', 'while it waits');
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

		while ($n > 0)
		{
			my @tickets = map {
				$client->send(
					'signal',
					workflow_id => $workflow->{workflow_id},
					name => 'more',
					input => 'x' x 100
				)
			} 1 .. min($n, 100);

			# what is too much for a server with other things to do is sent again
			foreach my $ticket (@tickets)
			{
				eval { $client->receive($ticket); $n--; 1 } or $@ =~ /RESOURCE_EXHAUSTED/ or die $@;
			}
		}
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
