
=pod

=head1 NAME

Opdata::Program - a program that a test starts, stops and starts again

=head1 SYNOPSIS

  package Opdata::Toxiproxy::Server;
  use parent 'Opdata::Program';

  sub port_names { return ('port'); }
  sub command { return (Opdata::Process::program('OPD_TOXIPROXY'), ...); }
  sub is_ready { ... }

=head1 DESCRIPTION

What servers have in common that are one process and listen on 127.0.0.1: the
base of their classes, on top of Opdata::Process.

A class gives C<port_names>, the keys that get a free port each; C<command>, the
program and its arguments; and C<is_ready>, which is told how long the log was
when the program was started.

=cut

package Opdata::Program;

use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);
use parent 'Opdata::Process';

=pod

=head1 METHODS

=over

=item Opdata::Program->new(name, key => value, ...)

Keys and values become those of the object. It is not started.

=item Opdata::Program->launch(name, key => value, ...)

The same, and start it, unless C<< start => 0 >> is among them.

=cut

sub new
{
	my ($class, $name, %keys) = @_;
	my $self = $class->SUPER::new($name, %keys);

	$self->choose_ports;
	return $self;
}

sub launch
{
	my ($class, $name, %keys) = @_;
	my $start = delete $keys{start} // 1;
	my $self = $class->new($name, %keys);

	return $start ? $self->start : $self;
}

sub choose_ports
{
	my ($self) = @_;

	$self->{$_} = PostgreSQL::Test::Cluster::get_free_port()
	  foreach $self->port_names;
	return;
}

=pod

=item $program->start

Start it, or start it again, and wait until it is ready. Its ports are those that
it had before. Returns it.

=cut

sub start
{
	my ($self) = @_;
	my $deadline = time() + $PostgreSQL::Test::Utils::timeout_default;

	die "$self->{name} is running" if $self->{pid};
	while (1)
	{
		my $said = -s $self->{log} // 0;

		$self->spawn;
		last if $self->gets_ready($said, $deadline);

		# Whoever took a port since we looked does not respect our locks; and
		# servers find ports for inner services as we do. The address cannot be
		# another one after the first time.
		$self->lost("$self->{name} ended")
		  if time() >= $deadline || $self->log_since($said) !~ /address already in use|EADDRINUSE/i;
		$self->choose_ports unless $self->{was_ready};
		sleep 0.2;
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
		return 0 if $self->has_ended(0);
		$self->lost("$self->{name} did not get ready") if time() >= $deadline;
		sleep 0.05;
	}
	return 1;
}

=pod

=item $program->stop

As an operator stops it. C<kill> is that of Opdata::Process.

=item $program->freeze, $program->thaw

It stays connected and says nothing, until it goes on.

=back

=cut

sub stop
{
	my ($self) = @_;
	my $pid = $self->{pid} // return;

	CORE::kill('TERM', $pid);
	$self->lost("$self->{name} did not stop")
	  unless $self->has_ended($PostgreSQL::Test::Utils::timeout_default);
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

1;
