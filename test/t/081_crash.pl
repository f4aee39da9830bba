
# Workers that are killed: every workflow ends all the same, and what it does
# is done once. A worker that dies takes all sessions of its cluster with it,
# which starts anew by itself.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Credentials qw(reader);
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $json = JSON::PP->new->canonical->allow_nonref;

my $source = source_cluster('source');
$source->safe_psql(
	'postgres', q{
	create role reader login password 'reader_pw';
	create table held as select 'read' as state;
	grant select on held to reader;
});

# Temporal is away for a while now and then.
my $tenant = tenant('acme', conf => "restart_after_crash = on\n");
my ($temporal, $client, $agent) = map { $tenant->$_ } qw(temporal client agent);

# What is done to the table of connections is written down. While the file
# "gate" exists, a transaction waits there, just before its commit.
$agent->safe_psql(
	'postgres', q{
	create table public.effect (n bigint generated always as identity, id text, operation text);
	create function public.note_effect() returns trigger language plpgsql as $$
	begin
		insert into public.effect (id, operation) values (coalesce(new.id, old.id), tg_op);
		while (pg_stat_file('gate', true)).size is not null loop
			perform pg_sleep(0.02);
		end loop;
		return null;
	end $$;
	create trigger note_effect after insert or update or delete on opdata.connection
		for each row execute function public.note_effect();
});

$agent->workers_get('polling', 'the workers poll');
store_killed_before_the_commit();
store_killed_in_the_transaction();
store_killed_after_the_commit();
delete_killed();
preview_killed();
immediate_shutdown();
many_kills();
log_of_crashes();
done_testing();

# ---------------------------------------------------------------- questions

# Rows of a query, as hashes; undef while the cluster takes no connections.
sub rows
{
	my ($sql) = @_;
	my ($stdout, $stderr, $status);

	# dies when psql ends before it has read the query
	eval {
		$status = $agent->psql(
			'postgres', "select coalesce(json_agg(r), '[]') from ($sql) r",
			stdout => \$stdout,
			stderr => \$stderr);
	};
	return unless defined $status && $status == 0;
	return $json->decode($stdout);
}

# The job of a workflow, which has one.
sub job
{
	my ($workflow_id) = @_;
	my $jobs = rows("select * from opdata.job where workflow_id = '$workflow_id'") // return;
	return $jobs->[0];
}

# None while the cluster takes no connections.
sub workers { return eval { $agent->workers }; }

# ---------------------------------------------------------------- workflows

sub workflow
{
	my ($type, %input) = @_;
	return $tenant->arguments($type, \%input);
}

sub store
{
	my ($id) = @_;
	return workflow('storeCredsWorkflow',
		connectionId => $id, name => "name of $id", credentials => reader($source));
}

sub preview
{
	my ($sql) = @_;
	return workflow('previewQueryWorkflow', credentials => reader($source), sql => $sql);
}

# Number of the last attempt of a workflow's activity.
sub attempts
{
	my ($workflow_id) = @_;
	my $last = 0;

	foreach my $event (@{ $client->history(workflow_id => $workflow_id) })
	{
		$last = $event->{attributes}{attempt}
		  if $event->{event_type} eq 'ACTIVITY_TASK_STARTED';
	}
	return $last;
}

# How often something stands in a history.
sub events
{
	my ($workflow_id, $type) = @_;
	return scalar grep { $_->{event_type} eq $type }
	  @{ $client->history(workflow_id => $workflow_id) };
}

# ---------------------------------------------------------------- faults

sub close_gate { append_to_file($agent->data_dir . '/gate', ''); return; }
sub open_gate  { unlink($agent->data_dir . '/gate');             return; }

sub at_the_gate
{
	ok( wait_until(
			sub {
				@{
					rows(q{
					select 1 from pg_stat_activity
					where backend_type = 'opdata worker' and wait_event = 'PgSleep'}) // []
				};
			}),
		'its transaction is about to commit');
	return;
}

# A source that accepts connections and answers nothing.
sub freeze_source { kill 'STOP', $source->{_pid}; return; }
sub thaw_source   { kill 'CONT', $source->{_pid}; return; }

# Kill the worker that runs this job, or any, which all the others do not survive
# either, and wait until the cluster has started anew.
sub kill_worker
{
	my ($job) = @_;
	my ($worker) =
	  $job ? grep { $_->{name} eq $job->{worker} } workers() : (workers())[ int(rand(3)) ];

	kill 'KILL', $worker->{pid};
	ok( wait_until(
			sub {
				my @workers = workers();
				return @workers == 3
				  && !grep { !$_->{pid} || $_->{pid} == $worker->{pid} || $_->{state} ne 'polling' } @workers;
			}
		),
		"$worker->{name} is killed, and all are back");
	return;
}

# ---------------------------------------------------------------- tests

sub store_killed_before_the_commit
{
	my %store = store('tested');
	my $job;

	freeze_source();
	my $ticket = $client->send('execute', %store);
	ok(wait_until(sub { $job = job($store{workflow_id}) }), 'a store waits for the source');
	is($job->{state}, 'running', 'its job runs');
	is($job->{attempt}, 1, 'for the first time');

	# that a job has begun is not waited for to reach the disk
	$agent->safe_psql('postgres', 'checkpoint');
	kill_worker($job);

	# the server notices after some 10 seconds only that the worker is gone
	ok( wait_until(
			sub {
				$job = job($store{workflow_id});
				return "$job->{state} $job->{error_code}" eq 'failed internal';
			}
		),
		'the job that was left is closed when its worker is back');
	isnt($job->{finished_at}, undef, 'with the time');
	is_deeply([ map { $_->{running} } workers() ], [ 0, 0, 0 ], 'the status shows nothing of it');
	is($agent->effects('tested'), '', 'nothing is stored');
	thaw_source();

	my $ended = $client->receive($ticket);
	is($ended->{result}{connectionId}, 'tested', 'the store is done after the crash')
	  or diag($json->encode($ended));
	is($ended->{result}{test}{ok}, JSON::PP::true, 'with the test');
	is($agent->effects('tested'), 'INSERT', 'once');
	cmp_ok(attempts($store{workflow_id}), '>=', 2, 'by a further attempt');
	$job = job($store{workflow_id});
	is($job->{state}, 'succeeded', 'its job has succeeded');
	is($job->{error_code}, undef, 'with nothing left of the failure');
	is($job->{attempt}, attempts($store{workflow_id}), 'at that attempt');
	return;
}

sub store_killed_in_the_transaction
{
	my %store = store('half');

	close_gate();
	my $ticket = $client->send('execute', %store);
	at_the_gate();
	kill_worker(job($store{workflow_id}));
	is($agent->effects('half'), '', 'what was not committed is gone');
	open_gate();

	my $ended = $client->receive($ticket);
	is($ended->{result}{connectionId}, 'half', 'the store is done after the crash')
	  or diag($json->encode($ended));
	is($agent->effects('half'), 'INSERT', 'once');
	is(attempts($store{workflow_id}), 2, 'by the second attempt');
	return;
}

# Let a job commit while Temporal is away, and kill its worker: it cannot have
# told the result.
sub kill_between_commit_and_answer
{
	my (%workflow) = @_;
	my $job;

	close_gate();
	my $ticket = $client->send('execute', %workflow);
	at_the_gate();
	$temporal->kill;
	open_gate();
	ok( wait_until(
			sub {
				$job = job($workflow{workflow_id});
				return $job->{state} eq 'succeeded';
			}
		),
		'it commits while Temporal is away');
	my ($worker) = grep { $_->{name} eq $job->{worker} } workers();
	is($worker->{running}, 1, 'its worker still has the answer');
	kill 'KILL', $worker->{pid};
	ok( wait_until(
			sub {
				my @workers = workers();
				return @workers && !grep { ($_->{pid} // 0) == $worker->{pid} } @workers;
			}
		),
		'and is killed');
	$temporal->start;
	my $ended = $client->receive($ticket);
	is(attempts($workflow{workflow_id}), 2, 'the workflow ends by a second attempt');
	is_deeply(
		$ended->{result}, $job->{result},
		'which reports what the first one recorded'
	) or diag($json->encode($ended));
	is_deeply(job($workflow{workflow_id}), $job, 'and leaves the record alone');
	return $ended->{result};
}

sub store_killed_after_the_commit
{
	my $result = kill_between_commit_and_answer(store('committed'));

	is($result->{connectionId}, 'committed', 'the result is that of the store');
	is($agent->effects('committed'), 'INSERT', 'which is done once');
	$agent->workers_get('polling', 'all workers poll');

	# the same over an existing connection
	kill_between_commit_and_answer(store('committed'));
	is($agent->effects('committed'), 'INSERT UPDATE', 'a connection is replaced once');
	$agent->workers_get('polling', 'all workers poll');
	return;
}

sub delete_killed
{
	my $result =
	  kill_between_commit_and_answer(workflow('deleteConnectionWorkflow', connectionId => 'committed'));

	is_deeply($result, { deleted => JSON::PP::true }, 'a delete that was done tells so, though there is nothing left');
	is($agent->effects('committed'), 'INSERT UPDATE DELETE', 'it is done once');
	$agent->workers_get('polling', 'all workers poll');

	my %delete = workflow('deleteConnectionWorkflow', connectionId => 'half');
	close_gate();
	my $ticket = $client->send('execute', %delete);
	at_the_gate();
	kill_worker();
	is($agent->effects('half'), 'INSERT', 'a delete that was not committed is not done');
	open_gate();
	is_deeply(
		$client->receive($ticket)->{result},
		{ deleted => JSON::PP::true },
		'until its second attempt');
	is($agent->effects('half'), 'INSERT DELETE', 'which does it once');
	is(attempts($delete{workflow_id}), 2, 'and is the last one');
	return;
}

# Begin a preview of the table held, which nobody can read until it is released;
# [its workflow id, its ticket].
sub begin_held
{
	my %preview = preview('select state from held');
	my $ticket = $client->send('execute', %preview);

	ok( wait_until(
			sub {
				my $job = job($preview{workflow_id}) // return 0;
				return $job->{state} eq 'running';
			}
		),
		'a preview runs');
	return ($preview{workflow_id}, $ticket);
}

sub preview_killed
{
	my $holder = $source->background_psql('postgres');

	$holder->query_safe('begin; lock table held');
	my ($id, $ticket) = begin_held();
	kill_worker(job($id));
	$holder->query_safe('commit');
	my $ended = $client->receive($ticket);
	is($ended->{result}{rows}[0][0], 'read', 'it is done anew after the crash')
	  or diag($json->encode($ended));
	cmp_ok(events($id, 'WORKFLOW_TASK_TIMED_OUT'), '>=', 1, 'since the first try was not heard of any more');
	is(events($id, 'WORKFLOW_EXECUTION_COMPLETED'), 1, 'the workflow ends once');
	is(job($id)->{state}, 'succeeded', 'so does its job');

	# of a workflow that nobody waits for any more the job is all that is left
	$holder->query_safe('begin; lock table held');
	($id, $ticket) = begin_held();
	my $job = job($id);
	$agent->safe_psql('postgres', 'checkpoint');
	$client->terminate(workflow_id => $id);
	is($client->receive($ticket)->{error}{class}, 'TerminatedError', 'a workflow is terminated');
	kill_worker($job);
	ok(wait_until(sub { job($id)->{state} ne 'running' }), 'its job does not run for ever');
	$job = job($id);
	is("$job->{state} $job->{error_code}", 'failed internal', 'but has failed');
	$holder->quit;
	return;
}

sub immediate_shutdown
{
	freeze_source();
	my %store = store('immediate');
	my %preview = preview("select 'slept'");
	my @tickets = map { $client->send('execute', %$_) } \%store, \%preview;

	foreach my $workflow (\%store, \%preview)
	{
		ok(wait_until(sub { job($workflow->{workflow_id}) }), "$workflow->{type} waits for the source");
	}
	$agent->stop('immediate');
	thaw_source();
	$agent->start;
	my ($stored, $previewed) = map { $client->receive($_) } @tickets;
	is($stored->{result}{connectionId}, 'immediate', 'the store is done after an immediate shutdown');
	is($previewed->{result}{rows}[0][0], 'slept', 'so is the preview');
	is($agent->effects('immediate'), 'INSERT', 'what was stored is stored once');
	cmp_ok(attempts($store{workflow_id}), '>=', 2, 'by a further attempt');
	$agent->workers_get('polling', 'all workers poll');
	return;
}

# An activity is tried three times. That all three are killed is rare, and the
# one reason for which a store may fail here. The last one may have been killed after
# it had committed.
sub killed_thrice
{
	my ($ended) = @_;
	my $error = $ended->{error} // return 0;

	return
		 $error->{class} eq 'ApplicationError'
	  && $error->{type} eq 'timeout'
	  && attempts($ended->{workflow_id}) == 3
	  && events($ended->{workflow_id}, 'ACTIVITY_TASK_TIMED_OUT') == 1;
}

sub many_kills
{
	my $kills = 20;
	my $seed = srand();
	my (@tickets, @stored, @wrong);
	my ($again, $thrice) = (0, 0);

	note("random seed $seed");
	foreach my $kill (1 .. $kills)
	{
		my $certain = $kill % 7 == 1;
		my @workflows;

		foreach my $n (map { 10 * $kill + $_ } 1 .. 4)
		{
			push @workflows, { store("load $n") }, { preview("select $n") };
		}
		# where chance may hit no store at all, some kills do for certain; seldom
		# enough that a store is tried again in between
		close_gate() if $certain;
		push @tickets, $client->send('execute_many', workflows => \@workflows);

		# right then, or later, when killed ones are tried again
		if   ($certain) { at_the_gate(); }
		else            { sleep(rand() < 0.5 ? rand(0.1) : rand(1.5)); }
		kill_worker();
		open_gate();
	}

	foreach my $kill (1 .. $kills)
	{
		my @ended = @{ $client->receive($tickets[ $kill - 1 ]) };

		foreach my $n (map { 10 * $kill + $_ } 1 .. 4)
		{
			my ($store, $preview) = splice(@ended, 0, 2);

			$again++ if attempts($store->{workflow_id}) > 1;
			if (killed_thrice($store))
			{
				$thrice++;
			}
			elsif (($store->{result}{connectionId} // '') ne "load $n"
				|| $agent->effects("load $n") ne 'INSERT')
			{
				push @wrong, [ $store, $agent->effects("load $n") ];
			}
			push @wrong, $preview
			  if !$preview->{result} || $preview->{result}{rows}[0][0] != $n;
		}
	}
	is_deeply(\@wrong, [], "$kills kills under load: every workflow ends right, and is done once")
	  or diag($json->encode(\@wrong));
	cmp_ok($again, '>', 0, "attempts at $again of the stores were killed");
	cmp_ok($thrice, '<=', 3, 'hardly a store has all its attempts killed');
	note("$thrice have");
	is_deeply(
		rows('select id from public.effect group by id, operation having count(*) > 1'), [],
		'nothing is done twice');
	ok(wait_until(sub { !@{ rows(q{select 1 from opdata_jobs where state = 'running'}) } }),
		'no job is left running');
	return;
}

sub log_of_crashes
{
	my $log = slurp_file($agent->logfile);
	my %signals;

	$signals{$1}++ while $log =~ /terminated by signal (\d+)/g;
	is_deeply([ keys %signals ], [9], 'no process died but those that the test killed');
	unlike($log, qr/PANIC|reader_pw/, 'no panic, and no password, is in the log');
	return;
}
