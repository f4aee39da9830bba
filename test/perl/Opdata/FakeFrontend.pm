
=pod

=head1 NAME

Opdata::FakeFrontend - a Temporal frontend that fails as a test wants it to

=head1 SYNOPSIS

  use Opdata::FakeFrontend;

  my $frontend = fake_frontend();
  my $agent = agent_cluster('agent', conf => worker_conf($frontend->address));

  my $token = $frontend->workflow_task('deleteConnectionWorkflow', { connectionId => 'crm' });
  my $answer = $frontend->answer_to($token);
  is($answer->{rpc}, 'RespondWorkflowTaskCompleted', 'the task is answered');

  $frontend->fault('status', rpc => 'Poll*', count => 1, code => 14, message => 'gone');
  ok($frontend->waits(sub { $frontend->faults_met }), 'a poll met the fault');

=head1 DESCRIPTION

Runs test/python/fake_frontend.py, whose header lists the faults, and keeps
what that one writes down. Tasks are handed out as they are given: nothing is
scheduled, retried or timed out as a real server would.

=cut

package Opdata::FakeFrontend;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use JSON::PP;
use MIME::Base64;
use Opdata::Test;
use POSIX qw(strftime);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use parent 'Opdata::Process';

our @EXPORT = qw(
  fake_frontend
  worker_conf
);

my $json = JSON::PP->new->utf8->canonical;
my $last_id = 0;

=pod

=head1 FUNCTIONS

=over

=item fake_frontend()

A frontend on a port of its own on 127.0.0.1. It is none of those that the kernel
gives away: nobody may sit on it while the frontend does not listen.

=cut

sub fake_frontend
{
	my $answer;

	for (1 .. 10)
	{
		my $port = PostgreSQL::Test::Cluster::get_free_port();
		my $self = __PACKAGE__->new('fake_frontend', entries => [], port => $port)->converse;

		$answer = $json->decode($self->hear('its port'));
		return $self if $answer->{port};
	}
	die "fake_frontend: $answer->{error}";
}

sub command
{
	my ($self) = @_;
	return (Opdata::Process::program('OPD_PYTHON'),
		'-B', "$FindBin::RealBin/../python/fake_frontend.py", $self->{port});
}

=pod

=item worker_conf(address, setting => value, ...)

Configuration of an agent of organisation "acme" that polls there, without TLS.

=back

=cut

sub worker_conf
{
	my ($address, %settings) = @_;

	return conf_lines(
		org_id => 'acme',
		temporal_address => $address,
		temporal_tls => 'off',
		%settings);
}

=pod

=head1 METHODS

=over

=item port, address, kill

Those of Opdata::Process.

=item ask(do, argument => value, ...)

A request of class Control in fake_frontend.py; dies when that is refused.

=cut

sub ask
{
	my ($self, $do, %arguments) = @_;
	my $answer = $json->decode($self->exchange($json->encode({ do => $do, %arguments }), $do));

	die "$do: $answer->{error}" if exists $answer->{error};
	return $answer->{result};
}

=pod

=item fault(kind, rpc => pattern, ...), clear

Script a fault for the calls that C<rpc> fits, and take back all faults.

=cut

sub fault
{
	my ($self, $kind, %opts) = @_;
	return $self->ask('fault', kind => $kind, %opts);
}

sub clear { return $_[0]->ask('clear'); }

=pod

=item workflow_task(type, input, ...)

Hand out the first task of a run of workflow C<type>; returns its token. Options:

  queue      task queue (tenant-acme)
  timeout    of the task, in seconds (10)
  events     events (protobuf's JSON) that stand behind the first one
  pages      number of pages that the history is cut into (1)
  message    keys to be merged into the answer of the poll

An input that is not a reference is taken as the text of the payload.

=cut

sub workflow_task
{
	my ($self, $type, $input, %opts) = @_;
	my $queue = $opts{queue} // 'tenant-acme';
	my $run = new_id();
	my @events = (
		{
			eventType => 'EVENT_TYPE_WORKFLOW_EXECUTION_STARTED',
			workflowExecutionStartedEventAttributes => {
				workflowType => { name => $type },
				taskQueue => { name => $queue },
				input => payloads($input),
				workflowTaskTimeout => ($opts{timeout} // 10) . 's',
				originalExecutionRunId => $run,
				firstExecutionRunId => $run,
				workflowId => "$type-$run",
				attempt => 1
			}
		},
		@{ $opts{events} // [] },
		{
			eventType => 'EVENT_TYPE_WORKFLOW_TASK_SCHEDULED',
			workflowTaskScheduledEventAttributes => {
				taskQueue => { name => $queue },
				startToCloseTimeout => ($opts{timeout} // 10) . 's',
				attempt => 1
			}
		},
		{
			eventType => 'EVENT_TYPE_WORKFLOW_TASK_STARTED',
			workflowTaskStartedEventAttributes => {}
		});
	my $n_events = @events;
	my $id = 0;
	my @pages;

	foreach my $event (@events)
	{
		$event->{eventId} = '' . ++$id;
		$event->{eventTime} //= strftime('%Y-%m-%dT%H:%M:%SZ', gmtime);
	}
	$events[-1]{workflowTaskStartedEventAttributes}{scheduledEventId} = $n_events - 1 . '';
	my $per_page = int((@events + ($opts{pages} // 1) - 1) / ($opts{pages} // 1));
	push @pages, { events => [ splice @events, 0, $per_page ] } while @events;

	return $self->task(
		'PollWorkflowTaskQueue',
		$queue,
		{
			workflowExecution => { workflowId => "$type-$run", runId => $run },
			workflowType => { name => $type },
			startedEventId => "$n_events",
			attempt => 1,
			workflowExecutionTaskQueue => { name => $queue },
			history => shift @pages,
			%{ $opts{message} // {} }
		},
		pages => \@pages);
}

=pod

=item activity_task(type, input, queue => name, message => {...})

Hand out the first try of an activity of a minute; returns its token.

=cut

sub activity_task
{
	my ($self, $type, $input, %opts) = @_;
	my $run = new_id();

	return $self->task(
		'PollActivityTaskQueue',
		$opts{queue} // 'tenant-acme',
		{
			workflowNamespace => 'default',
			workflowType => { name => "${type}Workflow" },
			workflowExecution => { workflowId => "${type}Workflow-$run", runId => $run },
			activityType => { name => $type },
			activityId => $type,
			input => payloads($input),
			attempt => 1,
			scheduleToCloseTimeout => '60s',
			startToCloseTimeout => '60s',
			heartbeatTimeout => '10s',
			%{ $opts{message} // {} }
		});
}

=pod

=item task(rpc, queue, message, pages => [...])

Hand out any answer to a poll; returns its token. C<message> is protobuf's JSON,
decoded, or the message itself in base64.

=cut

sub task
{
	my ($self, $rpc, $queue, $message, %opts) = @_;

	return $self->ask(
		'task',
		rpc => $rpc,
		queue => $queue,
		(ref $message ? 'message' : 'as_bytes') => $message,
		%opts)->{taskToken};
}

sub payloads
{
	my ($value) = @_;
	my $text = ref $value ? $json->encode($value) : $value;

	return {
		payloads => [
			{
				metadata => { encoding => base64('json/plain') },
				data => base64($text)
			}
		]
	};
}

sub base64 { return encode_base64($_[0], ''); }

# Looks like a UUID, and is another one each time.
sub new_id { return sprintf('00000000-0000-4000-8000-%012x', ++$last_id); }

=pod

=item calls(rpc => pattern, since => n, where => sub)

What came in: entries of the log with C<connection>, C<stream>, C<rpc>,
C<request> (protobuf's JSON), C<headers>, C<time>. C<rpc> is a regular
expression; C<since> is what C<mark> returned before.

=item ends(...)

The same for the ends of calls: C<how> is C<answered>, C<refused>, C<fault>,
C<connection closed> or C<stream reset> by the client.

=item log(event, ...)

The same for any event.

=item mark

The number of entries in the log.

=cut

sub calls { my ($self, %opts) = @_; return $self->log('rpc', %opts); }

sub ends { my ($self, %opts) = @_; return $self->log('end', %opts); }

sub log
{
	my ($self, $event, %opts) = @_;
	my $rpc = $opts{rpc} // qr//;
	my $where = $opts{where} // sub { 1 };
	my $since = $opts{since} // 0;
	my $n = $self->mark;

	return grep { $_->{event} eq $event and ($_->{rpc} // '') =~ $rpc and $where->($_) }
	  @{ $self->{entries} }[ $since .. $n - 1 ];
}

sub mark
{
	my ($self) = @_;

	push @{ $self->{entries} }, @{ $self->ask('log', since => scalar @{ $self->{entries} }) };
	return scalar @{ $self->{entries} };
}

=pod

=item answers_to(token)

The calls that answered a task.

=item answer_to(token, timeout)

Wait for the first of them; undef when none comes in time.

=item called(since, rpc => pattern, ...)

Wait for a call as C<calls> describes; undef when none comes in time.

=item ended(since, ...)

The same for the end of a call.

=cut

sub answers_to
{
	my ($self, $token) = @_;

	return $self->calls(
		rpc => qr/^Respond/,
		where => sub { $_[0]->{request}{taskToken} eq $token });
}

sub answer_to
{
	my ($self, $token, $timeout) = @_;
	my $answer;

	wait_until(sub { ($answer) = $self->answers_to($token) }, $timeout);
	return $answer;
}

sub called
{
	my ($self, $since, %opts) = @_;
	my $call;

	wait_until(sub { ($call) = $self->calls(%opts, since => $since) }, $opts{timeout});
	return $call;
}

sub ended
{
	my ($self, $since, %opts) = @_;
	my $end;

	wait_until(sub { ($end) = $self->ends(%opts, since => $since) }, $opts{timeout});
	return $end;
}

=pod

=item open_polls(queue => name, pid => pid)

Polls that wait for a task, all or those of a queue or a worker process.

=item pid_of(identity)

The process that an identity names.

=back

=cut

sub open_polls
{
	my ($self, %opts) = @_;

	return grep {
			  $_->{rpc} =~ /^Poll/
		  and $_->{queue} eq ($opts{queue} // $_->{queue})
		  and pid_of($_->{identity}) == ($opts{pid} // pid_of($_->{identity}))
	} @{ $self->ask('open') };
}

sub pid_of
{
	my ($pid) = $_[0] =~ /^(\d+)@/ or die "identity \"$_[0]\"";
	return $pid;
}

1;
