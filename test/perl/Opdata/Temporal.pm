
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
use POSIX ();
use PostgreSQL::Test::Utils;
use Scalar::Util ();
use Time::HiRes  qw(sleep time);

our @EXPORT = qw(temporal_server);

# Test files run side by side, with one folder for their logs.
sub log_of
{
	my ($name) = @_;
	my ($test) = $0 =~ m{([^/]+?)(?:\.pl)?$};
	return "$PostgreSQL::Test::Utils::log_path/${test}_$name.log";
}

# Servers, and drivers, that are running: [process of the test, object]. Their
# objects may be lost without their destructors being called.
my %running;

=pod

=head1 THE SERVER

=over

=item temporal_server(name, option => value, ...)

A development server that is ready for work, on 127.0.0.1 and ports of its own,
with the namespace "default". Its log is "name.log" in the folder of the logs.

  persistent => 1      workflows outlive stop() and start(); otherwise they are
                       in memory and gone with the process
  partitions => n      of each task queue, default 1: with more and few pollers
                       a task may wait for seconds
  config => {key => json}
                       further dynamic configuration
  start => 0           have it ready for start() only

By default such a server lets every task wait for some 50 ms as soon as there
are twenty a second. That limit, history.transferProcessorMaxPollRPS and its
kin for timers and visibility, is raised.

=cut

sub temporal_server
{
	my ($name, %opts) = @_;
	return Opdata::Temporal::Server->new($name, %opts);
}

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

# Path of a program of install-temporal.sh.
sub program
{
	my ($variable) = @_;
	my $path = $ENV{$variable} // '';

	die
	  "$variable is not set to a program (\"$path\"): run the tests by make, after \"make deps\"\n"
	  unless -x $path;
	return $path;
}

# The end of a log, for a message.
sub tail
{
	my ($file) = @_;
	my @lines = split /^/, -e $file ? slurp_file($file) : '';

	splice @lines, 0, -15 if @lines > 15;
	return join('', "the end of $file:\n", @lines);
}

# Start a program with its output going to a log; "in" and "out" are handles
# for the descriptors 0 and 1 in place of nothing and the log.
sub spawn
{
	my ($log, $in, $out, @command) = @_;
	open my $to, '>>', $log or die "could not open $log: $!";
	open my $nothing, '<', '/dev/null' or die "could not open /dev/null: $!";
	my $pid = fork() // die "could not fork: $!";

	if ($pid == 0)
	{
		open STDIN, '<&', $in // $nothing;
		open STDOUT, '>&', $out // $to;
		open STDERR, '>&', $to;
		{ no warnings 'exec'; exec @command; }
		print STDERR "could not run $command[0]: $!\n";
		POSIX::_exit(127);
	}
	return $pid;
}

# Wait for the end of a process of ours; false if it goes on after "timeout" seconds.
sub ended
{
	my ($pid, $timeout) = @_;
	my $deadline = time() + $timeout;

	# leaves the exit status of the test alone when called at its end
	local ($?, $!);
	while (waitpid($pid, POSIX::WNOHANG()) == 0)
	{
		return 0 if time() >= $deadline;
		sleep 0.02;
	}
	return 1;
}

sub remember
{
	my ($object) = @_;
	$running{ 0 + $object } = [ $$, $object ];
	Scalar::Util::weaken($running{ 0 + $object }[1]);
	return;
}

sub forget
{
	my ($object) = @_;
	delete $running{ 0 + $object };
	return;
}

END
{
	foreach my $entry (values %running)
	{
		my ($owner, $object) = @$entry;
		$object->kill if $object && $owner == $$;
	}
}

package Opdata::Temporal::Server;

use HTTP::Tiny;
use IO::Socket::INET;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, $name, %opts) = @_;
	my $self = bless {
		name => $name,
		owner => $$,
		log => Opdata::Temporal::log_of($name),
		config => {
			Opdata::Temporal::dynamic_config($opts{partitions} // 1),
			%{ $opts{config} // {} }
		}
	}, $class;

	$self->{db} = PostgreSQL::Test::Utils::tempdir($name) . '/temporal.db'
	  if $opts{persistent};
	$self->choose_ports;
	$self->start unless defined $opts{start} && !$opts{start};
	return $self;
}

=pod

=item $temporal->address, $temporal->port, $temporal->namespace

Where clients find it, as "host:port" and port; and "default".

=item $temporal->log_file

=cut

sub address { return "127.0.0.1:$_[0]->{port}"; }
sub port { return $_[0]->{port}; }
sub namespace { return 'default'; }
sub log_file { return $_[0]->{log}; }

# Below the ports that the kernel gives to outgoing connections: one of those
# must not sit on a port while its server is stopped.
sub choose_ports
{
	my ($self) = @_;
	my %taken;

	foreach my $use ('port', 'http-port', 'metrics-port')
	{
		for (1 .. 1000)
		{
			my $port = 20000 + int(rand(12000));
			next if $taken{$port}++;
			my $socket = IO::Socket::INET->new(
				LocalAddr => '127.0.0.1',
				LocalPort => $port,
				Listen => 1
			) or next;
			close $socket;
			$self->{$use} = $port;
			last;
		}
		die "found no free port\n" unless $self->{$use};
	}
	return;
}

=pod

=item $temporal->start

Start it again after stop() or kill(), at the same address, and wait until it
is ready. It knows what it knew if it is persistent.

=cut

sub start
{
	my ($self) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	die "$self->{name} is running" if $self->{pid};
	while (1)
	{
		my $said = -s $self->{log} // 0;

		$self->{pid} =
		  Opdata::Temporal::spawn($self->{log}, undef, undef, $self->command);
		Opdata::Temporal::remember($self);

		while (1)
		{
			if (Opdata::Temporal::ended($self->{pid}, 0))
			{
				delete $self->{pid};
				last;
			}
			if ($self->is_ready($said))
			{
				$self->{address_is_known} = 1;
				return $self;
			}
			if (time() >= $deadline)
			{
				$self->kill;
				die "$self->{name} did not get ready, "
				  . Opdata::Temporal::tail($self->{log});
			}
			sleep 0.05;
		}

		# The server finds ports for its inner services before it uses them, as
		# we do. The address cannot be another one after the first time.
		my $new = substr(slurp_file($self->{log}), $said);
		die "$self->{name} ended, " . Opdata::Temporal::tail($self->{log})
		  if time() >= $deadline || $new !~ /address already in use/;
		$self->choose_ports unless $self->{address_is_known};
		sleep 0.2;
	}
}

# The program and its arguments, with the ports of now.
sub command
{
	my ($self) = @_;

	return (
		Opdata::Temporal::program('OPD_TEMPORAL'),
		qw(server start-dev --headless --ip 127.0.0.1 --log-level warn),
		qw(--disable-config-file --disable-config-env),
		$self->{db} ? ('--db-filename', $self->{db}) : (),
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
	  unless substr(slurp_file($self->{log}), $said) =~
	  /^Server: +\S+:$self->{port}$/m;
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

=item $temporal->stop

As an operator stops it; it takes leave of its clients.

=item $temporal->kill

As a crash ends it.

=item $temporal->freeze, $temporal->thaw

It stays connected and says nothing, until it goes on.

=cut

sub stop
{
	my ($self) = @_;
	my $pid = $self->{pid} // return;

	CORE::kill('TERM', $pid);
	if (!Opdata::Temporal::ended($pid, 60))
	{
		$self->kill;
		die "$self->{name} did not stop, "
		  . Opdata::Temporal::tail($self->{log});
	}
	delete $self->{pid};
	Opdata::Temporal::forget($self);
	return;
}

sub kill
{
	my ($self) = @_;
	my $pid = delete $self->{pid} // return;

	CORE::kill('KILL', $pid);
	Opdata::Temporal::ended($pid, 60);
	Opdata::Temporal::forget($self);
	return;
}

# A signal has its effect later: all threads have stopped when waitpid tells of
# the process. If it has ended instead, there is nothing more to wait for.
sub freeze
{
	my ($self) = @_;

	local $?;
	CORE::kill('STOP', $self->{pid});
	waitpid $self->{pid}, POSIX::WUNTRACED();
	die "$self->{name} has ended"
	  if waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
	return;
}

sub thaw { CORE::kill('CONT', $_[0]->{pid}); return; }

sub DESTROY
{
	my ($self) = @_;
	$self->kill if $self->{owner} == $$;
	return;
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
	$self->{client} //=
	  Opdata::Temporal::Client->new($self->address, $self->namespace,
		Opdata::Temporal::log_of("$self->{name}_driver"));
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
use IO::Select;
use JSON::PP;
use Time::HiRes qw(time);

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
	my ($class, $address, $namespace, $log, $sign_in) = @_;
	my $self = bless {
		owner => $$,
		log => $log,
		json => JSON::PP->new->utf8->allow_nonref,
		last => 0,
		unread => '',
		expected => {},
		answers => {}
	}, $class;

	pipe(my $child_in, $self->{to}) or die "could not make a pipe: $!";
	pipe($self->{from}, my $child_out) or die "could not make a pipe: $!";
	$self->{to}->autoflush(1);
	$self->{pid} = Opdata::Temporal::spawn(
		$log, $child_in,
		$child_out, Opdata::Temporal::program('OPD_PYTHON'),
		'-B', "$FindBin::RealBin/../python/driver.py",
		$address, $namespace, $self->{json}->encode($sign_in // {})
	);
	Opdata::Temporal::remember($self);
	return $self;
}

sub send
{
	my ($self, $op, %args) = @_;
	my $timeout = delete $args{timeout}
	  // $PostgreSQL::Test::Utils::timeout_default;
	my $ticket = ++$self->{last};
	my $line = $self->{json}->encode(
		{   id => $ticket,
			op => $op,
			timeout => $timeout + 0,
			args => \%args
		}
	) . "\n";

	local $SIG{PIPE} = 'IGNORE';
	while (length $line)
	{
		my $n = syswrite($self->{to}, $line);

		next if !defined $n && $!{EINTR};
		$self->lost("$op was not sent ($!)") unless defined $n;
		substr($line, 0, $n, '');
	}
	$self->{expected}{$ticket} = [ $op, time() + $timeout + $grace ];
	return $ticket;
}

sub receive
{
	my ($self, $ticket) = @_;
	my ($op, $deadline) =
	  @{ $self->{expected}{$ticket} // die "no request has ticket $ticket" };
	my $select = IO::Select->new($self->{from});

	until ($self->{answers}{$ticket})
	{
		my $left = $deadline - time();

		$self->lost("$op was not answered") if $left <= 0;
		next unless $select->can_read($left);
		my $n = sysread($self->{from}, $self->{unread}, 65536,
			length $self->{unread});
		next if !defined $n && $!{EINTR};
		$self->lost("$op was not answered, the driver ended") unless $n;

		# only what has just come may hold the end of a line
		next if rindex($self->{unread}, "\n") < length($self->{unread}) - $n;
		while ($self->{unread} =~ s/\A([^\n]*)\n//)
		{
			my $answer = $self->{json}->decode($1);
			$self->{answers}{ $answer->{id} } = $answer;
		}
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

# There is no use in going on with a driver that does not answer.
sub lost
{
	my ($self, $what) = @_;
	$self->kill;
	die "$what, " . Opdata::Temporal::tail($self->{log});
}

sub kill
{
	my ($self) = @_;
	my $pid = delete $self->{pid} // return;

	CORE::kill('KILL', $pid);
	Opdata::Temporal::ended($pid, 60);
	Opdata::Temporal::forget($self);
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->kill if $self->{owner} == $$;
	return;
}

1;
