
# Recorded histories, written by this and earlier versions on a real Temporal
# server, replayed with the workflows of today. At each of their workflow tasks
# the workflow must fit what was there then, and give the commands that it gave
# then: what fails here would break runs that are under way at an upgrade. A
# change of a workflow's steps goes behind opd_workflow_patched(); a history
# is never removed. test/histories/record.sh records new ones.

use strict;
use warnings;

use Encode qw(decode_utf8);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use MIME::Base64 qw(decode_base64);
use Opdata::Engine;
use Test::More;

my $engine = engine();
my @files = sort glob "$FindBin::RealBin/../histories/*/*.txt";

# What has been met: "storeCredsWorkflow completed" and so on.
my %met;

replay_file($_) foreach @files;
coverage();
broken_on_purpose();

$engine->node->stop;
done_testing();

# Every workflow task of a history, as its worker was asked it.
sub replay_file
{
	my ($file) = @_;
	my ($name) = $file =~ m{([^/]+/[^/]+)\.txt$};
	my $history = $engine->read($file);
	my @events = @{ $history->{events} };
	my $workflow = workflow_of(@events);
	my @tasks = tasks(@events);
	my $calls = $engine->replays(map { [ $workflow, [ [ @{ $history->{pieces} }[ 0 .. $_ ] ] ] ] } @tasks);

	cmp_ok(scalar @tasks, '>', 0, "$name has workflow tasks");
	for my $n (0 .. $#tasks)
	{
		my $what = "$name, task " . ($n + 1) . ' of ' . @tasks;
		my $decision = $calls->[$n];

		is($decision->{problem}, undef, "$what: the history is read");
		is($decision->{misfit}, undef, "$what: it fits");
		compare($what, $workflow, $history, $tasks[$n], $decision);
	}
	$met{"$workflow $1"} = 1
	  if $events[-1]{eventType} =~ /^EVENT_TYPE_WORKFLOW_EXECUTION_(\w+)$/;
	$met{"$workflow beats"} = 1
	  if (grep { $_->{eventType} eq 'EVENT_TYPE_WORKFLOW_TASK_COMPLETED' } @events) > 3;
	return;
}

sub workflow_of
{
	return $_[0]{workflowExecutionStartedEventAttributes}{workflowType}{name};
}

# Places of the events with which workflow tasks were given to a worker.
sub tasks
{
	my (@events) = @_;
	return grep { $events[$_]{eventType} eq 'EVENT_TYPE_WORKFLOW_TASK_STARTED' } 0 .. $#events;
}

# The commands of a task, and the commands that it was answered with.
sub compare
{
	my ($what, $workflow, $history, $task, $decision) = @_;
	my $answer = $history->{events}[ $task + 1 ];
	my $local = $decision->{local};

	# nobody answered it, or not with commands
	return
	  unless $answer
	  && $answer->{eventType} eq 'EVENT_TYPE_WORKFLOW_TASK_COMPLETED';

	my @given = commands_after($history, $task + 1);
	if (my $patch = new_patch($decision, @given))
	{
		pass("$what: a run that is there now would go on by $patch");
		return;
	}
	if (!$local)
	{
		is_deeply(
			[ map { command_text($_) } @{ $decision->{commands} } ],
			[ map { event_text($_) } @given ],
			"$what: the commands are those of then"
		);
		return;
	}

	# a local step: either it went on, or here is what came of it
	if (!@given)
	{
		is_deeply($decision->{commands}, [], "$what: the local step goes on");
		return;
	}
	my $outcome = outcome_of(grep { event_text($_) !~ /^patch/ } @given);
	$outcome->{id} = $local->{id};
	my $again = $engine->replay($workflow, [ [ @{ $history->{pieces} }[ 0 .. $task ] ] ], $outcome);
	is($again->{misfit}, undef, "$what: it fits with the outcome of its local step");
	if (my $patch = new_patch($again, @given))
	{
		pass("$what: with that outcome it would go on by $patch");
		return;
	}
	is_deeply(
		[ map { command_text($_) } @{ $again->{commands} } ],
		[ map { event_text($_) } @given ],
		"$what: with that outcome the commands are those of then"
	);
	return;
}

# At the end of its history a run may take a branch that was not there then, if
# it says so by a patch. What it says, or undef.
sub new_patch
{
	my ($decision, @given) = @_;
	my %then = map { event_text($_) => 1 } @given;
	my ($patch) = grep { /^patch/ && !$then{$_} } map { command_text($_) } @{ $decision->{commands} };

	return $patch;
}

# Events that an answered task wrote.
sub commands_after
{
	my ($history, $answer) = @_;
	my $id = $history->{events}[$answer]{eventId};

	return grep { (attributes($_)->{workflowTaskCompletedEventId} // 0) == $id } @{ $history->{events} };
}

sub attributes
{
	my ($event) = @_;
	my ($member) = grep { /EventAttributes$/ } keys %$event;
	return $member ? $event->{$member} : {};
}

# The outcome of a local step from what it became: its marker, or the end.
sub outcome_of
{
	my ($event) = @_;
	my $attributes = attributes($event);
	my $failure = $attributes->{failure};

	return {
		failure => $failure->{applicationFailureInfo}{type},
		message => $failure->{message}
	  }
	  if $failure;
	return { text => data($attributes->{result} // $attributes->{details}{result}) };
}

# What the first payload holds.
sub data
{
	my ($payloads) = @_;
	return $payloads ? decode_utf8(decode_base64($payloads->{payloads}[0]{data})) : '';
}

# A command as text, without what may change without harm: an activity's time
# limits and its retries.
sub command_text
{
	my ($command) = @_;
	my $failure = $command->{failure};

	return join ' ',
	  map { $_ // '' }
	  $command->{type}   =~ /^SCHEDULE/       ? ('activity', @$command{qw(id activityType queue input)})
	  : $command->{type} =~ /^REQUEST_CANCEL/ ? ('stop', $command->{scheduledEventId})
	  : $command->{type} eq 'START_TIMER'  ? ('timer', @$command{qw(id afterMs)})
	  : $command->{type} eq 'CANCEL_TIMER' ? ('untimer', $command->{id})
	  : $command->{type} eq 'RECORD_MARKER'
	  ? ($command->{name} eq 'opdata_patch' ? 'patch' : 'step', @$command{qw(id result)}, failed($failure))
	  : $command->{type} =~ /^COMPLETE/ ? ('complete', $command->{result})
	  : $command->{type} =~ /^FAIL/     ? ('fail', failed($failure))
	  : $command->{type} =~ /^CANCEL/   ? 'cancel'
	  :                                   $command->{type};
}

# The same of an event.
sub event_text
{
	my ($event) = @_;
	my $type = $event->{eventType} =~ s/^EVENT_TYPE_//r;
	my $a = attributes($event);
	my $failure = $a->{failure};

	$failure = {
		type => $failure->{applicationFailureInfo}{type},
		message => $failure->{message}
	  }
	  if $failure;
	return join ' ',
	  map { $_ // '' }
	  $type eq 'ACTIVITY_TASK_SCHEDULED'
	  ? ('activity', $a->{activityId}, $a->{activityType}{name}, $a->{taskQueue}{name}, data($a->{input}))
	  : $type eq 'ACTIVITY_TASK_CANCEL_REQUESTED' ? ('stop', $a->{scheduledEventId})
	  : $type eq 'TIMER_STARTED'   ? ('timer', $a->{timerId}, milliseconds($a->{startToFireTimeout}))
	  : $type eq 'TIMER_CANCELED'  ? ('untimer', $a->{timerId})
	  : $type eq 'MARKER_RECORDED' ? (
		$a->{markerName} eq 'opdata_patch' ? 'patch' : 'step',
		data($a->{details}{id}),
		data($a->{details}{result}),
		failed($failure)
	  )
	  : $type eq 'WORKFLOW_EXECUTION_COMPLETED' ? ('complete', data($a->{result}))
	  : $type eq 'WORKFLOW_EXECUTION_FAILED'    ? ('fail', failed($failure))
	  : $type eq 'WORKFLOW_EXECUTION_CANCELED'  ? 'cancel'
	  :                                           $type;
}

sub failed
{
	my ($failure) = @_;
	return $failure ? @$failure{qw(type message)} : ();
}

# Durations of protobuf's JSON: "1.500s".
sub milliseconds
{
	my ($duration) = @_;
	return ($duration =~ s/s$//r) * 1000;
}

# The recordings have of each workflow what it may come to.
sub coverage
{
	my %wanted = (
		storeCredsWorkflow => [qw(COMPLETED FAILED CANCELED TERMINATED)],
		testCredentialsWorkflow => [qw(COMPLETED FAILED CANCELED beats)],
		previewQueryWorkflow => [qw(COMPLETED FAILED CANCELED beats)],
		deleteConnectionWorkflow => [qw(COMPLETED FAILED CANCELED)]
	);

	foreach my $workflow (sort keys %wanted)
	{
		ok($met{"$workflow $_"}, "there is a history of $workflow: $_") foreach @{ $wanted{$workflow} };
	}
	return;
}

# Changes that would break runs under way do not pass unseen here.
sub broken_on_purpose
{
	my %broken = (
		'store renamed' => qr/^store-/,
		'store after test' => qr/^store-/,
		'store local' => qr/^store-/,
		'preview remote' => qr/^preview-slow\b/
	);

	foreach my $workflow (sort keys %broken)
	{
		my ($n, @missed) = (0);

		foreach my $file (@files)
		{
			my ($name) = $file =~ m{([^/]+)\.txt$};
			next unless $name =~ $broken{$workflow};
			my $history = $engine->read($file);

			# the first task has no history that could tell
			my (undef, @tasks) = tasks(@{ $history->{events} });
			foreach my $decision (
				@{  $engine->replays(
						map { [ $workflow, [ [ @{ $history->{pieces} }[ 0 .. $_ ] ] ] ] } @tasks
					)
				}
			  )
			{
				$n++;
				push @missed, $name unless $decision->{misfit};
			}
		}
		cmp_ok($n, '>', 0, "\"$workflow\" is tried on recorded histories");
		is_deeply(\@missed, [], 'and none takes it for what it was');
	}
	return;
}
