
=pod

=head1 NAME

Opdata::Engine - replay workflows over made-up and recorded histories, for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Engine;

  my $engine = engine();

  is($engine->decide('sequence', 'start now'),
	'schedule one', 'a new run begins with its first step');

  my $decision = $engine->replay('storeCredsWorkflow',
	[ $engine->build('start task schedule:storeCreds:storeCreds now')->{pieces} ]);
  is($decision->{misfit}, undef, 'it fits');

=head1 DESCRIPTION

A cluster without opdata, in which test/modules/engine has been loaded: the
library's engine, its workflows and some workflows of the tests. There is no
Temporal server; test/python/histories.py makes protobuf of what is said here.

=cut

package Opdata::Engine;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(engine);

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

=pod

=over

=item engine()

=item $engine->node

The engine, and its cluster. Freed memory is overwritten in it (MALLOC_PERTURB_),
so that what is used after it was freed does not look right by chance. Besides
engine_replay(), engine_decode() and engine_limits() there are SQL functions
varint(), field() and event(), which make bytes of protobuf.

=cut

sub engine
{
	my $module = "$FindBin::RealBin/../modules/engine/opdata_engine.so";
	my $node = PostgreSQL::Test::Cluster->new('engine');
	my $self = bless { node => $node }, __PACKAGE__;

	die "there is no $module: run the tests by make\n" unless -e $module;
	$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
	{
		local $ENV{MALLOC_PERTURB_} = 165;
		$node->start;
	}
	$node->safe_psql('postgres', <<~"SQL");
		CREATE FUNCTION engine_replay(workflow text, pieces bytea[], outcome jsonb) RETURNS jsonb
			LANGUAGE c AS '$module';
		CREATE FUNCTION engine_decode(message text, bytes bytea) RETURNS jsonb
			LANGUAGE c STRICT AS '$module';
		CREATE FUNCTION engine_limits() RETURNS jsonb LANGUAGE c STRICT AS '$module';

		-- protobuf by hand, for what is too large to be carried here
		CREATE FUNCTION varint(n bigint) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS \$\$
		DECLARE
			bytes bytea := '';
		BEGIN
			WHILE n > 127 LOOP
				bytes := bytes || set_byte('\\x00', 0, (n & 127 | 128)::int);
				n := n >> 7;
			END LOOP;
			RETURN bytes || set_byte('\\x00', 0, n::int);
		END \$\$;
		CREATE FUNCTION field(number int, value bytea) RETURNS bytea
			LANGUAGE sql IMMUTABLE RETURN varint(number << 3 | 2) || varint(length(value)) || value;
		CREATE FUNCTION event(id int, type int, number int, attributes bytea) RETURNS bytea
			LANGUAGE sql IMMUTABLE RETURN field(1,
				'\\x08' || varint(id) || '\\x18' || varint(type) || field(number, attributes));
		SQL
	return $self;
}

sub node { return $_[0]->{node}; }

=pod

=item $engine->limits

What the library takes at most: C<{receiveBytes, decodedBytes, historyBytes,
historyEvents}>.

=cut

sub limits
{
	my ($self) = @_;
	return $json->decode($self->node->safe_psql('postgres', 'SELECT engine_limits()'));
}

=pod

=item Opdata::Engine->translator

One that has no cluster and only asks.

=cut

sub translator { return bless {}, shift; }

=pod

=item $engine->ask(request)

What test/python/histories.py answers.

=cut

sub ask
{
	my ($self, $request) = @_;

	$self->{python} //= Opdata::Engine::Python->new('histories')->converse;
	return $json->decode($self->{python}->exchange($json->encode($request), 'a history'));
}

=pod

=item $engine->build(words)

A history as C<{pieces, events}>: hexadecimal bytes, and the JSON of protobuf, of
each event. The words, separated by space, are

  start:JSON             the run's begin, with this input (default {"n":1})
  task                   a workflow task: scheduled, started, completed
  now                    one that is to be answered: scheduled, started
  wait                   one that is not started yet: scheduled
  lost:failed            one that was not answered: scheduled, started and
  lost:late              failed, or timed out
  unseen                 scheduled, and timed out before it was started

  schedule:ID:TYPE       an activity; done and so on begin it, too
  done:ID:JSON           its end (default result {"of":"ID"})
  failed:ID:TYPE         failed with this type of application failure
  slow:ID:KIND           timed out; KIND as in START_TO_CLOSE
  stop:ID, stopped:ID    asked to cancel; canceled

  timer:ID, fired:ID, untimer:ID

  step:ID:JSON           marker of a local step
  stepfailed:ID:TYPE
  patch:ID               marker of a patch
  marker:NAME            another worker's marker

  cancel                 the workflow is asked to cancel
  signal, child, external, signalexternal, search, properties, nexus, update
  complete, fail, canceled, terminated, timedout, continued

  bare:TYPE              an event of this type and nothing else
  gap, again             the next event's id leaves one out, is the last one

=cut

sub build
{
	my ($self, $words) = @_;
	my $history = Opdata::Engine::History->new;

	foreach my $word (split ' ', $words)
	{
		my ($method, $rest) = split /:/, $word, 2;

		die "no word \"$method\" in histories\n"
		  unless Opdata::Engine::History->can("on_$method");
		$method = "on_$method";
		$history->$method($rest // ());
	}
	return $self->ask({ op => 'build', events => $history->{events} });
}

=pod

=item $engine->replay(workflow, pieces, outcome)

Decode the pieces (hexadecimal; a piece may be a list, which is joined), add
them one by one to a history and replay the workflow over it, given the outcome
of a local step as C<< {id, result} >> or
C<< {id, text} >>, the result as JSON text, or C<< {id, failure, message} >> or nothing. What
comes back is in test/modules/engine/engine.c.

=cut

sub replay
{
	my ($self, @args) = @_;
	return $self->replays(\@args)->[0];
}

=pod

=item $engine->replays([workflow, pieces, outcome], ...)

A list of what replay() returns for each.

=cut

sub replays
{
	my ($self, @calls) = @_;
	my @rows = map {
		my ($workflow, $pieces, $outcome) = @$_;
		my $array = join ',', map { '\\x' . (ref ? join('', @$_) : $_) } @$pieces;

		$array =~ s/\\/\\\\/g;
		sprintf("SELECT engine_replay(%s, %s, %s);\n",
			literal($workflow), literal("{$array}"), $outcome ? literal($json->encode($outcome)) : 'NULL');
	} @calls;
	my $out = $self->node->safe_psql('postgres', join '', @rows);

	return [ map { $json->decode($_) } split /\n/, $out ];
}

sub literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

=pod

=item $engine->read(file)

A recorded history, as build() returns one, of a file of test/histories: a line
that says what it is, and base64.

=cut

sub read
{
	my ($self, $file) = @_;
	my (undef, $base64) = split /\n/, slurp_file($file), 2;

	return $self->ask({ op => 'read', bytes => unpack('H*', decode_base64($base64)) });
}

=pod

=item $engine->decide(workflow, words, outcome)

What a worker does at the end of that history, in short: the commands and the
local step, separated by commas,

  schedule ID, stop EVENT-ID, timer ID, untimer ID, step ID JSON, step ID
  failed TYPE, patch ID, complete JSON, fail TYPE, canceled, run ID JSON

or "nothing"; or "misfit: why", or "problem: why" of a history that is refused.

The history is added in one piece, and again event by event: it dies when that
is not the same.

=cut

sub decide
{
	my ($self, $workflow, $words, $outcome) = @_;
	my $pieces = $self->build($words)->{pieces};
	my ($whole, $pages) =
	  @{ $self->replays([ $workflow, [$pieces], $outcome ], [ $workflow, $pieces, $outcome ]) };

	delete $_->{allocated} foreach $whole, $pages;
	my ($one, $other) = map { $json->encode($_) } $whole, $pages;
	die "by pages another decision\n$one\n$other\n" if $one ne $other;
	return in_short($whole);
}

sub in_short
{
	my ($decision) = @_;

	return "problem: $decision->{problem}" if defined $decision->{problem};
	return "misfit: $decision->{misfit}" if defined $decision->{misfit};

	my @commands = @{ $decision->{commands} };
	my @said = map { command_in_short($_) } @commands;
	my $local = $decision->{local};

	# what must be so whatever was decided
	my $closes =
	  grep { $_->{type} =~ /_WORKFLOW_EXECUTION$/ } @commands;
	die 'closed, and not by its last command: ' . $json->encode($decision) . "\n"
	  if ($decision->{closed} ? 1 : 0) != $closes
	  || $closes && $commands[-1]{type} !~ /_WORKFLOW_EXECUTION$/;
	die 'closed with a step to run: ' . $json->encode($decision) . "\n"
	  if $local && $decision->{closed};

	push @said, join ' ', 'run', $local->{id}, $local->{input} // ()
	  if $local;
	return @said ? join(', ', @said) : 'nothing';
}

sub command_in_short
{
	my ($command) = @_;
	my ($type, $id) = @$command{qw(type id)};
	my $failure = $command->{failure};

	return "schedule $id" if $type eq 'SCHEDULE_ACTIVITY_TASK';
	return "stop $command->{scheduledEventId}"
	  if $type eq 'REQUEST_CANCEL_ACTIVITY_TASK';
	return "timer $id" if $type eq 'START_TIMER';
	return "untimer $id" if $type eq 'CANCEL_TIMER';
	return 'canceled' if $type eq 'CANCEL_WORKFLOW_EXECUTION';
	return "fail $failure->{type}" if $type eq 'FAIL_WORKFLOW_EXECUTION';
	return join ' ', 'complete', $command->{result} // ()
	  if $type eq 'COMPLETE_WORKFLOW_EXECUTION';

	if ($type eq 'RECORD_MARKER')
	{
		return "patch $id" if $command->{name} eq 'opdata_patch';
		return "step $id failed $failure->{type}" if $failure;
		return join ' ', 'step', $id, $command->{result} // ()
		  if $command->{name} eq 'opdata_step';
	}
	die 'unknown command: ' . $json->encode($command) . "\n";
}

package Opdata::Engine::Python;

use parent 'Opdata::Process';

sub command
{
	return (Opdata::Process::program('OPD_PYTHON'), '-B', "$FindBin::RealBin/../python/histories.py");
}

# The words of build(), each a method.
package Opdata::Engine::History;

use Encode       qw(encode_utf8);
use MIME::Base64 qw(encode_base64);

sub new
{
	return
	  bless { events => [], next => 1, completed => 0, at => {}, begun => {} },
	  shift;
}

# EVENT_TYPE_... without its prefix; returns the event's id.
sub add
{
	my ($self, $type, $attributes) = @_;
	my $id = $self->{next}++;
	my $member = lc($type) =~ s/_(\w)/\u$1/gr . 'EventAttributes';

	push @{ $self->{events} },
	  { eventId => $id,
		eventTime => sprintf('2026-01-02T%02d:%02d:%02d.250Z', $id / 3600 % 24, $id / 60 % 60, $id % 60),
		eventType => "EVENT_TYPE_$type",
		$attributes ? ($member => $attributes) : ()
	  };
	return $id;
}

# A command that was given in the last completed task.
sub add_command
{
	my ($self, $type, $attributes) = @_;
	return $self->add($type, { workflowTaskCompletedEventId => $self->{completed}, %$attributes });
}

sub payloads
{
	my ($text) = @_;
	return {
		payloads => [
			{   metadata => { encoding => encode_base64('json/plain', '') },
				data => encode_base64(encode_utf8($text), '')
			}
		]
	};
}

sub failure
{
	my ($type) = @_;
	return {
		message => 'it failed',
		source => 'opdata',
		applicationFailureInfo =>
		  { type => $type, nonRetryable => JSON::PP::true, details => payloads('{"code":1}') }
	};
}

sub on_start
{
	my ($self, $input) = @_;

	$self->add(
		'WORKFLOW_EXECUTION_STARTED',
		{   workflowType => { name => 'some workflow' },
			taskQueue => { name => 'tenant-acme' },
			input => payloads($input // '{"n":1}'),
			workflowTaskTimeout => '7.500s',
			identity => 'somebody',
			attempt => 1
		}
	);
	return;
}

sub on_wait
{
	my ($self) = @_;
	$self->{scheduled} = $self->add('WORKFLOW_TASK_SCHEDULED', { attempt => 1 });
	return;
}

sub on_now
{
	my ($self) = @_;

	$self->on_wait;
	$self->{started} =
	  $self->add('WORKFLOW_TASK_STARTED', { scheduledEventId => $self->{scheduled} });
	return;
}

sub task_over
{
	my ($self, $type, %attributes) = @_;

	return $self->add(
		$type,
		{   scheduledEventId => $self->{scheduled},
			startedEventId => $self->{started},
			%attributes
		}
	);
}

sub on_task
{
	my ($self) = @_;

	$self->on_now;
	$self->{completed} = $self->task_over('WORKFLOW_TASK_COMPLETED');
	return;
}

sub on_lost
{
	my ($self, $how) = @_;

	$self->on_now;
	if ($how eq 'failed')
	{
		$self->task_over('WORKFLOW_TASK_FAILED',
			cause => 'WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR');
	}
	else
	{
		$self->task_over('WORKFLOW_TASK_TIMED_OUT', timeoutType => 'TIMEOUT_TYPE_START_TO_CLOSE');
	}
	return;
}

sub on_unseen
{
	my ($self) = @_;

	$self->on_wait;
	$self->add(
		'WORKFLOW_TASK_TIMED_OUT',
		{   scheduledEventId => $self->{scheduled},
			timeoutType => 'TIMEOUT_TYPE_SCHEDULE_TO_START'
		}
	);
	return;
}

sub on_schedule
{
	my ($self, $rest) = @_;
	my ($id, $type) = split /:/, $rest;

	delete $self->{begun}{$id};
	$self->{at}{$id} = $self->add_command(
		'ACTIVITY_TASK_SCHEDULED',
		{   activityId => $id,
			activityType => { name => $type },
			taskQueue => { name => 'tenant-acme' }
		}
	);
	return;
}

# The server writes that an activity began when it has ended.
sub activity_over
{
	my ($self, $type, $id, %attributes) = @_;

	$self->{begun}{$id} //=
	  $self->add('ACTIVITY_TASK_STARTED', { scheduledEventId => $self->{at}{$id}, attempt => 1 });
	$self->add(
		"ACTIVITY_TASK_$type",
		{   scheduledEventId => $self->{at}{$id},
			startedEventId => $self->{begun}{$id},
			%attributes
		}
	);
	return;
}

sub on_done
{
	my ($self, $rest) = @_;
	my ($id, $result) = split /:/, $rest, 2;

	$self->activity_over('COMPLETED', $id, result => payloads($result // qq({"of":"$id"})));
	return;
}

sub on_failed
{
	my ($self, $rest) = @_;
	my ($id, $type) = split /:/, $rest;

	$self->activity_over('FAILED', $id, $type ? (failure => failure($type)) : ());
	return;
}

sub on_slow
{
	my ($self, $rest) = @_;
	my ($id, $kind) = split /:/, $rest;

	$self->activity_over(
		'TIMED_OUT',
		$id,
		failure => {
			message => 'activity timeout',
			timeoutFailureInfo => { timeoutType => "TIMEOUT_TYPE_$kind" }
		}
	);
	return;
}

sub on_stop
{
	my ($self, $id) = @_;

	$self->add_command('ACTIVITY_TASK_CANCEL_REQUESTED', { scheduledEventId => $self->{at}{$id} });
	return;
}

sub on_stopped
{
	my ($self, $id) = @_;
	$self->activity_over('CANCELED', $id);
	return;
}

sub on_timer
{
	my ($self, $id) = @_;

	$self->{at}{$id} = $self->add_command('TIMER_STARTED', { timerId => $id, startToFireTimeout => '1s' });
	return;
}

sub on_fired
{
	my ($self, $id) = @_;
	$self->add('TIMER_FIRED', { timerId => $id, startedEventId => $self->{at}{$id} });
	return;
}

sub on_untimer
{
	my ($self, $id) = @_;

	$self->add_command('TIMER_CANCELED', { timerId => $id, startedEventId => $self->{at}{$id} });
	return;
}

sub marker
{
	my ($self, $name, $details, %attributes) = @_;

	$self->add_command(
		'MARKER_RECORDED',
		{   markerName => $name,
			details => { map { $_ => payloads($details->{$_}) } keys %$details },
			%attributes
		}
	);
	return;
}

sub on_step
{
	my ($self, $rest) = @_;
	my ($id, $result) = split /:/, $rest, 2;

	$self->marker('opdata_step', { id => $id, result => $result // qq({"of":"$id"}) });
	return;
}

sub on_stepfailed
{
	my ($self, $rest) = @_;
	my ($id, $type) = split /:/, $rest;

	$self->marker('opdata_step', { id => $id }, failure => failure($type));
	return;
}

sub on_patch
{
	my ($self, $id) = @_;
	$self->marker('opdata_patch', { id => $id });
	return;
}

sub on_marker
{
	my ($self, $name) = @_;
	$self->marker($name, { data => '{"id":"p"}', id => 'p', result => '1' });
	return;
}

sub on_cancel
{
	my ($self) = @_;
	$self->add('WORKFLOW_EXECUTION_CANCEL_REQUESTED', { identity => 'somebody' });
	return;
}

sub on_signal
{
	my ($self) = @_;

	$self->add('WORKFLOW_EXECUTION_SIGNALED', { signalName => 'hello', input => payloads('1') });
	return;
}

sub on_child
{
	my ($self) = @_;

	$self->add_command('START_CHILD_WORKFLOW_EXECUTION_INITIATED',
		{ workflowId => 'child', workflowType => { name => 'x' } });
	return;
}

sub on_external
{
	my ($self) = @_;
	$self->add_command('REQUEST_CANCEL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED', {});
	return;
}

sub on_signalexternal
{
	my ($self) = @_;
	$self->add_command('SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_INITIATED', { signalName => 'hello' });
	return;
}

sub on_search
{
	my ($self) = @_;
	$self->add_command('UPSERT_WORKFLOW_SEARCH_ATTRIBUTES', {});
	return;
}

sub on_properties
{
	my ($self) = @_;
	$self->add_command('WORKFLOW_PROPERTIES_MODIFIED', {});
	return;
}

sub on_nexus
{
	my ($self) = @_;
	$self->add_command('NEXUS_OPERATION_SCHEDULED', { endpoint => 'x' });
	return;
}

sub on_update
{
	my ($self) = @_;

	$self->add('WORKFLOW_EXECUTION_UPDATE_ACCEPTED', { protocolInstanceId => 'x' });
	return;
}

sub on_complete
{
	my ($self) = @_;
	$self->add_command('WORKFLOW_EXECUTION_COMPLETED', {});
	return;
}

sub on_fail
{
	my ($self) = @_;
	$self->add_command('WORKFLOW_EXECUTION_FAILED', {});
	return;
}

sub on_canceled
{
	my ($self) = @_;
	$self->add_command('WORKFLOW_EXECUTION_CANCELED', {});
	return;
}

sub on_terminated
{
	my ($self) = @_;
	$self->add('WORKFLOW_EXECUTION_TERMINATED', { reason => 'no more' });
	return;
}

sub on_timedout
{
	my ($self) = @_;
	$self->add('WORKFLOW_EXECUTION_TIMED_OUT', {});
	return;
}

sub on_continued
{
	my ($self) = @_;
	$self->add_command('WORKFLOW_EXECUTION_CONTINUED_AS_NEW', {});
	return;
}

sub on_bare  { my ($self, $type) = @_; $self->add($type); return; }
sub on_gap   { my ($self) = @_;        $self->{next}++;   return; }
sub on_again { my ($self) = @_;        $self->{next}--;   return; }

1;

=pod

=back

=cut
