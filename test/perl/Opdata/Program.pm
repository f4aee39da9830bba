
=pod

=head1 NAME

Opdata::Program - a program that a test starts, stops and starts again

=head1 SYNOPSIS

  package Opdata::Toxiproxy::Server;
  use parent -norequire, 'Opdata::Program';

  sub port_names { return ('port'); }
  sub command { return (Opdata::Temporal::program('OPD_TOXIPROXY'), ...); }
  sub is_ready { ... }

=head1 DESCRIPTION

What servers have in common that are one process, listen on 127.0.0.1 and have
a log: the base of their classes. They end with the test.

A class gives C<port_names>, the keys that get a free port each; C<command>, the
program and its arguments; and C<is_ready>, which is told how long the log was
when the program was started.

=cut

package Opdata::Program;

use strict;
use warnings;

use Opdata::Temporal;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

=pod

=head1 METHODS

=over

=item Opdata::Program->new(name, key => value, ...)

Keys and values become those of the object. It is not started.

=item $program->port, $program->address, $program->log_file

The key C<port>, alone and as "127.0.0.1:port".

=cut

sub new
{
	my ($class, $name, %keys) = @_;
	my $self = bless {
		%keys,
		name => $name,
		owner => $$,
		log => Opdata::Temporal::log_of($name)
	}, $class;

	$self->choose_ports;
	return $self;
}

sub choose_ports
{
	my ($self) = @_;

	$self->{$_} = PostgreSQL::Test::Cluster::get_free_port()
	  foreach $self->port_names;
	return;
}

sub port { return $_[0]->{port}; }
sub address { return "127.0.0.1:$_[0]->{port}"; }
sub log_file { return $_[0]->{log}; }

# What the log has had since it was "from" bytes long.
sub log_since
{
	my ($self, $from) = @_;
	return -e $self->{log} ? substr(slurp_file($self->{log}), $from) : '';
}

=item $program->start

Start it, or start it again, and wait until it is ready. Its ports are those that
it had before.

=cut

sub start
{
	my ($self) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;
	my $said;

	die "$self->{name} is running" if $self->{pid};
	while (1)
	{
		$said = -s $self->{log} // 0;
		$self->{pid} =
		  Opdata::Temporal::spawn($self->{log}, undef, undef, $self->command);
		Opdata::Temporal::remember($self);
		last if $self->gets_ready($said, $deadline);

		# Whoever took the port since we looked does not respect our locks.
		die "$self->{name} ended, " . Opdata::Temporal::tail($self->{log})
		  if $self->{was_ready}
		  || $self->log_since($said) !~ /address already in use|EADDRINUSE/i;
		$self->choose_ports;
	}
	$self->{was_ready} = 1;
	return $self;
}

# False if it has ended.
sub gets_ready
{
	my ($self, $said, $deadline) = @_;

	until ($self->is_ready($said))
	{
		if (Opdata::Temporal::ended($self->{pid}, 0))
		{
			delete $self->{pid};
			Opdata::Temporal::forget($self);
			return 0;
		}
		if (time() >= $deadline)
		{
			$self->kill;
			die "$self->{name} did not get ready, "
			  . Opdata::Temporal::tail($self->{log});
		}
		sleep 0.05;
	}
	return 1;
}

=item $program->stop

As an operator stops it.

=item $program->kill

As a crash ends it.

=item $program->freeze, $program->thaw

It stays connected and says nothing, until it goes on.

=back

=cut

sub stop
{
	my ($self) = @_;
	my $pid = $self->{pid} // return;

	CORE::kill('TERM', $pid);
	if (!Opdata::Temporal::ended($pid, $PostgreSQL::Test::Utils::timeout_default))
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
# the process.
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

1;
