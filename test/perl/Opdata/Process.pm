
=pod

=head1 NAME

Opdata::Process - a process that a test starts, and which ends with it

=head1 SYNOPSIS

  package Opdata::Jose::Node;
  use parent 'Opdata::Process';

  sub command { return (Opdata::Process::program('OPD_NODE'), 'sealer.mjs'); }

  package main;
  my $sealer = Opdata::Jose::Node->new('sealer')->converse;
  my $answer = $sealer->exchange('{"op": "generate"}', 'generate');

=head1 DESCRIPTION

The base of everything that is a process of its own: the servers (Opdata::Program)
and the programs that take a line and answer with one. A class gives C<command>,
the program and its arguments. Nothing outlives the test, however it ends.

=cut

package Opdata::Process;

use strict;
use warnings;

use Errno;
use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Scalar::Util ();
use Time::HiRes  qw(sleep time);

# Those that are running: [process of the test, object]. Their objects may be
# lost without their destructors being called.
my %running;

END
{
	foreach my $entry (values %running)
	{
		my ($owner, $object) = @$entry;
		$object->kill if $object && $owner == $$;
	}
}

=pod

=head1 FUNCTIONS

=over

=item Opdata::Process::program(variable)

Path of a program of the harness, which names it in this variable of the
environment.

=cut

sub program
{
	my ($variable) = @_;
	my $path = $ENV{$variable} // '';

	die
	  "$variable is not set to a program (\"$path\"): run the tests by make, after \"make deps\"\n"
	  unless -x $path;
	return $path;
}

=pod

=back

=head1 METHODS

=over

=item Opdata::Process->new(name, key => value, ...)

Keys and values become those of the object. It is not started. Its log is
"TEST_name.log" in the folder of the logs: test files run side by side.

=cut

sub new
{
	my ($class, $name, %keys) = @_;
	my ($test) = $0 =~ m{([^/]+?)(?:\.pl)?$};

	return bless {
		%keys,
		name => $name,
		owner => $$,
		log => "$PostgreSQL::Test::Utils::log_path/${test}_$name.log"
	}, $class;
}

=pod

=item $process->log_file

=item $process->log_since(n)

What the log has had since it was n bytes long.

=cut

sub log_file { return $_[0]->{log}; }

sub log_since
{
	my ($self, $from) = @_;
	return -e $self->{log} ? substr(slurp_file($self->{log}), $from) : '';
}

# It is of no more use: die with the end of its log.
sub lost
{
	my ($self, $what) = @_;
	my @lines = split /^/, $self->log_since(0);

	$self->kill;
	splice @lines, 0, -15 if @lines > 15;
	die join('', "$what, the end of $self->{log}:\n", @lines);
}

# Start it with its output going to the log; "in" and "out" are handles for the
# descriptors 0 and 1 in place of nothing and the log.
sub spawn
{
	my ($self, $in, $out) = @_;
	my @command = $self->command;

	open my $to, '>>', $self->{log} or die "could not open $self->{log}: $!";
	open my $nothing, '<', '/dev/null' or die "could not open /dev/null: $!";
	return $self->begin(
		sub {
			open STDIN, '<&', $in // $nothing;
			open STDOUT, '>&', $out // $to;
			open STDERR, '>&', $to;
			{ no warnings 'exec'; exec @command; }
			die "could not run $command[0]: $!\n";
		});
}

# A new process for this sub, which does not return from it.
sub begin
{
	my ($self, $work) = @_;

	$self->{pid} = fork() // die "could not fork: $!";
	if ($self->{pid} == 0)
	{
		# neither the test's clusters nor its plan are this process's to end
		eval { $work->(); 1 } or print STDERR $@;
		POSIX::_exit(127);
	}
	$running{ 0 + $self } = [ $$, $self ];
	Scalar::Util::weaken($running{ 0 + $self }[1]);
	return;
}

# Wait for its end; false if it goes on after "timeout" seconds.
sub has_ended
{
	my ($self, $timeout) = @_;
	my $deadline = time() + $timeout;

	# leaves the exit status of the test alone when called at its end
	local ($?, $!);
	while (waitpid($self->{pid}, POSIX::WNOHANG()) == 0)
	{
		return 0 if time() >= $deadline;
		sleep 0.02;
	}
	delete $self->{pid};
	delete $running{ 0 + $self };
	return 1;
}

=pod

=item $process->kill

As a crash ends it.

=cut

sub kill
{
	my ($self) = @_;
	my $pid = $self->{pid} // return;

	CORE::kill('KILL', $pid);
	$self->has_ended(60);
	return;
}

sub DESTROY
{
	my ($self) = @_;
	$self->kill if $self->{owner} == $$;
	return;
}

=pod

=item $process->port, $process->address

The key C<port>, alone and as "127.0.0.1:port".

=back

=head1 WITHOUT A PROGRAM

=over

=item Opdata::Process->listening(name, sub)

A listening socket on 127.0.0.1, and a process for the sub, which is called with
the socket.

=cut

sub port { return $_[0]->{port}; }
sub address { return "127.0.0.1:$_[0]->{port}"; }

sub listening
{
	my ($class, $name, $serve) = @_;
	my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64)
	  or die "could not listen: $!";
	my $self = $class->new($name, port => $listener->sockport);

	$self->begin(
		sub {
			$SIG{PIPE} = 'IGNORE';
			$serve->($listener);
		});
	return $self;
}

=pod

=back

=head1 IN LINES

=over

=item $process->converse

Start it with pipes at its input and output; returns it. Only what it complains
of goes to the log.

=item $process->exchange(line, what)

Give it a line, and wait for the one that it answers with. It dies with the end of
the log, and says that C<what> was not answered, if the process ends or says
nothing for PG_TEST_TIMEOUT_DEFAULT seconds.

=item $process->tell(line, what), $process->hear(what, deadline)

One half each. The deadline, if it is another one, is a time of Time::HiRes.

=back

=cut

sub converse
{
	my ($self) = @_;

	pipe(my $in, $self->{to}) or die "could not make a pipe: $!";
	pipe($self->{from}, my $out) or die "could not make a pipe: $!";
	$self->{unread} = '';
	$self->spawn($in, $out);
	return $self;
}

sub exchange
{
	my ($self, $line, $what) = @_;

	$self->tell($line, $what);
	return $self->hear($what);
}

sub tell
{
	my ($self, $line, $what) = @_;

	local $SIG{PIPE} = 'IGNORE';
	$line .= "\n";
	while (length $line)
	{
		my $n = syswrite($self->{to}, $line);

		next if !defined $n && $!{EINTR};
		$self->lost("$what was not sent ($!)") unless defined $n;
		substr($line, 0, $n, '');
	}
	return;
}

sub hear
{
	my ($self, $what, $deadline) = @_;
	my $select = IO::Select->new($self->{from});
	my ($seen, $end) = (0);

	$deadline //= time() + $PostgreSQL::Test::Utils::timeout_default;
	while (($end = index($self->{unread}, "\n", $seen)) < 0)
	{
		my $left = $deadline - time();

		$self->lost("$what was not answered") if $left <= 0;
		next unless $select->can_read($left);

		# only what has just come may hold the end of the line
		$seen = length $self->{unread};
		my $n = sysread($self->{from}, $self->{unread}, 65536, $seen);
		next if !defined $n && $!{EINTR};
		$self->lost("$what was not answered, $self->{name} ended") unless $n;
	}
	return substr($self->{unread}, 0, $end + 1, '');
}

1;
