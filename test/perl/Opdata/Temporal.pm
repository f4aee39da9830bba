
=pod

=head1 NAME

Opdata::Temporal - a Temporal development server and its client for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Temporal;

  my $temporal = temporal_server('temporal');
  my $agent = agent_cluster('agent',
	conf => "opdata.temporal_address = '" . $temporal->address . "'\n");

  my $client = $temporal->client;
  my $ended = $client->execute(
	type => 'previewQueryWorkflow',
	workflow_id => 'preview 1',
	task_queue => 'tenant-acme',
	input => { orgId => 'acme', connectionId => 'shop', sql => 'select 1' });
  is($ended->{result}{rowCount}, 1, 'a preview comes back by the workflow');

  $ended = $client->execute(...);
  is($ended->{error}{type}, 'connection_not_found', 'an unknown id is an error');

=head1 DESCRIPTION

The real server, and the real client of Temporal's Python library, which one
process for each server (test/python/driver.py) holds ready: a call costs no
start of Python. Everything ends with the test.

The programs are those of test/harness/install-temporal.sh. The harness names
them in the environment: C<OPD_TEMPORAL> and C<OPD_PYTHON>.

=cut

package Opdata::Temporal;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(temporal_server);

=pod

=head1 THE SERVER

=over

=item temporal_server(name, option => value, ...)

A development server that is ready for work, on 127.0.0.1 and ports of its own,
with the namespace "default". C<stop>, C<kill>, C<freeze>, C<thaw>, C<log_file>
and C<start>, at the same address, are those of Opdata::Program; it knows what it
knew. (Its database is a file: one in memory is gone with the only connection to it,
which a slow machine may cost.)

  partitions => n      of each task queue, default 1: with more and few pollers
                       a task may wait for seconds
  config => {key => json}
                       further dynamic configuration
  start => 0           have it ready for start() only

By default such a server lets every task wait for some 50 ms as soon as there
are twenty a second. That limit, history.transferProcessorMaxPollRPS and its
kin for timers and visibility, is raised.

=cut

sub temporal_server { return Opdata::Temporal::Server->launch(@_); }

# Settings without which a server is slow for reasons of its own.
sub dynamic_config
{
	my ($partitions) = @_;

	return (
		'history.transferProcessorMaxPollRPS' => 2000,
		'history.timerProcessorMaxPollRPS' => 2000,
		'history.visibilityProcessorMaxPollRPS' => 2000,
		'matching.numTaskqueueReadPartitions' => $partitions,
		'matching.numTaskqueueWritePartitions' => $partitions
	);
}

package Opdata::Temporal::Server;

use HTTP::Tiny;
use PostgreSQL::Test::Utils;
use parent 'Opdata::Program';

sub new
{
	my ($class, $name, %opts) = @_;
	my $self = $class->SUPER::new($name, %opts);

	$self->{config} = {
		Opdata::Temporal::dynamic_config($opts{partitions} // 1),
		%{ $opts{config} // {} }
	};
	$self->{db} = PostgreSQL::Test::Utils::tempdir($name) . '/temporal.db';
	return $self;
}

=pod

=item $temporal->address, $temporal->port, $temporal->namespace

Where clients find it, as "host:port" and port; and "default".

=cut

sub namespace { return 'default'; }

sub port_names { return ('port', 'http-port', 'metrics-port'); }

# The program and its arguments, with the ports of now.
sub command
{
	my ($self) = @_;

	return (
		Opdata::Process::program('OPD_TEMPORAL'),
		qw(server start-dev --headless --ip 127.0.0.1 --log-level warn),
		qw(--disable-config-file --disable-config-env),
		# what is not synced is lost with the machine only, and the tests' clusters do not sync either
		'--db-filename', $self->{db}, '--sqlite-pragma', 'synchronous=OFF',
		(map { ('--dynamic-config-value', "$_=$self->{config}{$_}") } sort keys %{ $self->{config} }),
		map { ("--$_", $self->{$_}) } qw(port http-port metrics-port)
	);
}

# It has told its address after byte "said" of its log, so that it is not
# another server which answers there, and nothing will end its start any more.
# Each of its services has answered: frontend, history, matching, visibility.
sub is_ready
{
	my ($self, $said) = @_;
	my $http = HTTP::Tiny->new(timeout => 5);
	my $root =
	  "http://127.0.0.1:$self->{'http-port'}/api/v1/namespaces/default";
	my %wanted = (
		'' => 200,
		'/workflows/none' => 404,
		'/task-queues/none' => 200,
		'/workflows?pageSize=1' => 200
	);

	return 0
	  unless $self->log_since($said) =~ /^Server: +\S+:$self->{port}$/m;
	foreach my $path (sort keys %wanted)
	{
		my $response = $http->get($root . $path);

		return 0 unless $response->{status} == $wanted{$path};

		# "workflow not found", not "no such page" or "no such namespace"
		return 0
		  if $wanted{$path} == 404
		  && $response->{content} !~ /workflow not found/i;
	}
	return 1;
}

=pod

=item $temporal->client

The client of this server, the same one at each call. It needs no running
server to be made, and outlives a stop.

=back

=cut

sub client
{
	my ($self) = @_;
	$self->{client} //= Opdata::Temporal::Client->new(
		"$self->{name}_driver",
		address => $self->address,
		namespace => $self->namespace);
	return $self->{client};
}

=pod

=head1 THE CLIENT

Methods take names and values, and return what is in JSON. All take C<timeout>,
in seconds (default PG_TEST_TIMEOUT_DEFAULT): no call lasts longer. Times are
seconds everywhere. C<run_id> may be given beside any C<workflow_id>.

A method dies when it fails, with the error's class, type and message, but for
those that say "outcome": they return C<< {result => value} >> or
C<< {error => error} >>, whatever went wrong, where an error is

  class          of the Python library: ApplicationError, CancelledError,
                 TerminatedError, TimeoutError (the workflow's), ActivityError,
                 WorkflowQueryFailedError, RPCError (the server refused, or is
                 away), RequestTimeout (nothing came within the timeout), ...
  type           of an ApplicationError its type, of an RPCError the status,
                 of an ActivityError the activity's type
  message
  non_retryable  true, false, or null if the class has none
  details        list, of an ApplicationError
  cause          the next error of the chain, or null

That a workflow or an update failed is not an error of its own here: the error
is the reason.

=over

=item $client->start(type, workflow_id, task_queue, ...)

Start a workflow; C<{workflow_id, run_id}>. Further arguments:

  input          its one argument, any JSON
  inputs         or a list of arguments
  payloads       or a list of payloads as they go over the wire:
                 {encoding, data => base64, metadata => {further => text}}
  task_timeout, run_timeout, execution_timeout, start_delay
  retry_policy   {initial_interval, backoff_coefficient, maximum_interval,
                 maximum_attempts, non_retryable_error_types}
  cron_schedule
  memo           object

=item $client->result(workflow_id, follow_runs)

Outcome: wait for the end of a workflow, and of the runs that continue it
unless C<follow_runs> is false. It goes on waiting while the server is down.

=item $client->execute(...)

Outcome: start() and result() in one, with C<workflow_id>, C<run_id> and
C<seconds> beside it.

=item $client->execute_many(workflows => [{...}, ...])

A list of what execute() would return, all run at once.

=item $client->cancel(workflow_id), $client->terminate(workflow_id, reason)

=item $client->signal(workflow_id, name, input)

=item $client->query(workflow_id, name, input), $client->update(workflow_id, name, input, update_id)

Outcomes. These and signal() take C<input>, C<inputs> or C<payloads> as start() does.

=item $client->describe(workflow_id)

C<{status, run_id, history_length, pending_activities, pending_workflow_task,
info}>: status is RUNNING, COMPLETED, FAILED, CANCELED, TERMINATED,
CONTINUED_AS_NEW or TIMED_OUT; the last three are Temporal's messages
PendingActivityInfo, PendingWorkflowTaskInfo and WorkflowExecutionInfo.

In messages of Temporal what is not set is absent, payloads are their JSON
values, bytes are base64, and enums the official names.

=item $client->history(workflow_id)

The events, C<[{event_id, event_time, event_type, attributes}, ...]>; the type is
for example WORKFLOW_TASK_STARTED.

=item $client->history_bytes(workflow_id, path)

The same as a serialized temporal.api.history.v1.History. It is written to the
file C<path>, or else returned as C<base64>, beside C<{events, bytes}>, their numbers.

=item $client->pollers(task_queue)

Who polls, or did in the last five minutes: C<{workflow, activity}>, each a list
of PollerInfo with C<identity>.

=item $client->create_schedule(schedule_id, type, workflow_id, task_queue, input, cron_expressions)

A schedule, which acts only when triggered unless there are cron expressions.
It takes C<input>, C<inputs>, C<payloads> and C<task_timeout> for its workflow.

=item $client->trigger_schedule(schedule_id)

Let it act now; the C<{workflow_id, run_id}> of the workflow that it started.

=item $client->delete_schedule(schedule_id)

=item $client->start_worker(task_queue, only), $client->stop_worker(task_queue)

A worker on Temporal's Python library for the workflows of
test/python/peer_worker.py, or those that the list C<only> names.

=item $client->sign_in(authorization)

Send this as the header "authorization" from now on, or none.

=item $client->healthy

Does the server's frontend say that it serves? Nobody is too unknown to ask.

=item $client->make_namespace(name)

Make it, and wait until every service knows it.

=item $client->send(op, ...), $client->receive(ticket)

A call in two: send() begins the method named and returns a ticket, receive()
waits for its end and returns what the method would.

=back

=cut

package Opdata::Temporal::Client;

use FindBin;
use JSON::PP;
use Time::HiRes qw(time);
use parent 'Opdata::Process';

# How much longer than the driver this side waits for an answer.
my $grace = 30;

foreach my $op (
	qw(start result execute execute_many cancel terminate signal query update
	describe history history_bytes pollers create_schedule trigger_schedule
	delete_schedule start_worker stop_worker sign_in healthy make_namespace)
  )
{
	no strict 'refs';
	*{$op} = sub {
		my ($self, @args) = @_;
		return $self->receive($self->send($op, @args));
	};
}

# "sign_in" is described in driver.py.
sub new
{
	my ($class, $name, %keys) = @_;
	my $self = $class->SUPER::new(
		$name, %keys,
		json => JSON::PP->new->utf8->allow_nonref,
		last => 0,
		expected => {},
		answers => {});

	return $self->converse;
}

sub command
{
	my ($self) = @_;

	return (Opdata::Process::program('OPD_PYTHON'),
		'-B', "$FindBin::RealBin/../python/driver.py",
		@$self{qw(address namespace)}, $self->{json}->encode($self->{sign_in} // {}));
}

sub send
{
	my ($self, $op, %args) = @_;
	my $timeout = delete $args{timeout}
	  // $PostgreSQL::Test::Utils::timeout_default;
	my $ticket = ++$self->{last};

	$self->tell(
		$self->{json}->encode(
			{   id => $ticket,
				op => $op,
				timeout => $timeout + 0,
				args => \%args
			}
		),
		$op);
	$self->{expected}{$ticket} = [ $op, time() + $timeout + $grace ];
	return $ticket;
}

sub receive
{
	my ($self, $ticket) = @_;
	my ($op, $deadline) =
	  @{ $self->{expected}{$ticket} // die "no request has ticket $ticket" };

	until ($self->{answers}{$ticket})
	{
		my $answer = $self->{json}->decode($self->hear($op, $deadline));
		$self->{answers}{ $answer->{id} } = $answer;
	}

	my $answer = delete $self->{answers}{$ticket};
	my $error = $answer->{error};
	delete $self->{expected}{$ticket};
	die join(' ',
		"$op:", $error->{class}, $error->{type} // (),
		$error->{message})
	  . "\n"
	  if $error;
	return $answer->{value};
}

1;
