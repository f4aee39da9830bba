
=pod

=head1 NAME

Opdata::Faults - sessions to interrupt and peers that misbehave

=head1 SYNOPSIS

  use Opdata::Test;
  use Opdata::Faults;

  store($agent, 'crm', port => $source->port, username => 'reader');

  my $session = session($agent);
  $session->start(q{select opdata_preview('crm', 'select pg_sleep(60)')});
  $agent->safe_psql('postgres', 'select pg_cancel_backend(' . $session->pid . ')');
  is($session->finish->{error}{sqlstate}, '57014', 'it was cancelled');

  my $server = hostile_server('http');
  ok($server->reached('startup'), 'the agent came');

=cut

package Opdata::Faults;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Socket;

our @EXPORT = qw(
  payload
  store
  session
  hostile_server
  black_hole
  sockets_to
  status_kb
  count_entries
  sleeping
  n_canceled
  n_begun
  in_time
);

my $localhost = '127.0.0.1';

=pod

=head1 CONNECTIONS

=over

=item payload(port => port, ...)

A credential payload as an SQL literal of type jsonb: role "reader" with
password "reader_pw" in database "postgres" on 127.0.0.1, without TLS, unless
the options say otherwise. An option that is undef leaves the key out.

=cut

sub payload
{
	my (%opts) = @_;
	my %keys = (
		host => $localhost,
		database => 'postgres',
		username => 'reader',
		password => 'reader_pw',
		sslMode => 'disable',
		%opts);
	delete @keys{ grep { !defined $keys{$_} } keys %keys };
	$keys{port} += 0 if exists $keys{port};
	my $json = JSON::PP->new->canonical->ascii->encode(\%keys);

	$json =~ s/'/''/g;
	return "'$json'::jsonb";
}

=item store(node, id, port => port, ...)

Store such a payload without testing it.

=cut

sub store
{
	my ($node, $id, %opts) = @_;

	$node->safe_psql('postgres',
		"select opdata_store_creds('$id', " . payload(%opts) . ', test => false)');
	return;
}

=pod

=back

=head1 SESSIONS

=over

=item session(node, dbname)

A psql session that runs one script at a time while the test goes on.

=back

Its methods:

  pid           of the server process
  start(sql)    begin to run a script, which may hold psql commands
  running       has it not ended yet?
  finish        wait for its end; returns {out, text, error, seconds}: text is
                what psql said on standard error, error its first error
                as error_of() gives it, or undef, and seconds is the time that
                the statements took
  run(sql)      start and finish
  quit

=cut

sub session
{
	my ($node, $dbname) = @_;
	my $self = bless { in => '', out => '', err => '', number => 0 },
	  'Opdata::Faults::Session';

	$self->{handle} = IPC::Run::start(
		[
			$node->installed_command('psql'), '-XqAt', '-d',
			$node->connstr($dbname // 'postgres'), '-f', '-'
		],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err},
		IPC::Run::timeout(5 * $PostgreSQL::Test::Utils::timeout_default));
	$self->{pid} =
	  $self->run("\\set VERBOSITY verbose\n\\timing on\nselect pg_backend_pid()")->{out};
	return $self;
}

package Opdata::Faults::Session;

sub pid { return $_[0]->{pid}; }

sub start
{
	my ($self, $sql) = @_;

	$self->{number}++;
	$self->{out} = $self->{err} = '';
	$self->{in} .= "$sql\n;\n\\echo end $self->{number}\n\\warn end $self->{number}\n";
	$self->{handle}->pump_nb;
	return $self;
}

# Did psql print the marks of the end, or end itself?
sub running
{
	my ($self) = @_;
	my $end = qr/^end $self->{number}\n/m;

	# dies when psql is gone
	eval { $self->{handle}->pump_nb; 1 } or return 0;
	return !($self->{out} =~ $end and $self->{err} =~ $end);
}

sub finish
{
	my ($self) = @_;
	my $end = qr/^end $self->{number}\n/m;
	my %result;

	until ($self->{out} =~ $end and $self->{err} =~ $end)
	{
		eval { $self->{handle}->pump; 1 } or last;
	}
	$self->{out} =~ s/\n?$end//;
	$result{seconds} += $1 / 1000
	  while $self->{out} =~ s/^Time: ([0-9.]+) ms.*\n?//m;
	($result{out} = $self->{out}) =~ s/\n\z//;
	($result{text} = $self->{err}) =~ s/$end//;
	$result{error} = Opdata::Faults::parse_error($result{text});
	return \%result;
}

sub run
{
	my ($self, $sql) = @_;
	return $self->start($sql)->finish;
}

sub quit
{
	my ($self) = @_;
	my $handle = delete $self->{handle} // return;

	$self->{in} .= "\\q\n";
	eval { $handle->finish };
	return;
}

sub DESTROY
{
	local ($?, $!, $@);
	my $handle = delete $_[0]->{handle} // return;
	$handle->kill_kill(grace => 1);
	return;
}

package Opdata::Faults;

# The first error that psql printed, as Opdata::Test::error_of() has it.
sub parse_error
{
	my ($text) = @_;
	my $next = qr/(?=\n[A-Z][A-Z ]+:  |\nLINE \d+: |\n?\z)/;
	my %error;

	return unless $text =~ /(?:ERROR|FATAL):  ([0-9A-Za-z?]{5}): (.*?)$next/s;
	@error{qw(sqlstate message)} = ($1, $2);
	($error{detail}) = $text =~ /\nDETAIL:  (.*?)$next/s;
	($error{hint}) = $text =~ /\nHINT:  (.*?)$next/s;
	($error{code}) = ($error{detail} // '') =~ /^(\w+)/;
	return \%error;
}

=pod

=head1 PEERS

=over

=item hostile_server(mode)

A server on 127.0.0.1 as test/harness/hostile-server.pl describes it. Methods:
C<port>; C<reached(event)>, which waits until the server said C<event> once
more than at the last call, and is false when it does not in time; C<stop>.

=cut

sub hostile_server
{
	my ($mode) = @_;
	my $self = bless { in => '', out => '', mode => $mode },
	  'Opdata::Faults::HostileServer';

	$self->{handle} = IPC::Run::start(
		[ $^X, "$FindBin::RealBin/../harness/hostile-server.pl", $mode ],
		'<', \$self->{in}, '>', \$self->{out});
	$self->{handle}->pump until $self->{out} =~ s/^port (\d+)\n//;
	$self->{port} = $1;
	return $self;
}

package Opdata::Faults::HostileServer;

sub port { return $_[0]->{port}; }

sub reached
{
	my ($self, $event) = @_;

	return Opdata::Test::wait_until(
		sub {
			$self->{handle}->pump_nb;
			return $self->{out} =~ s/^\Q$event\E\n//m;
		});
}

sub stop
{
	my ($self) = @_;
	my $handle = delete $self->{handle} // return;
	local ($?, $!, $@);

	$handle->kill_kill(grace => 2);
	return;
}

sub DESTROY { $_[0]->stop; return; }

package Opdata::Faults;

=item black_hole()

A port of 127.0.0.1 at which connection attempts get no answer at all: its
queue of connections is full. Method: C<port>.

=back

=cut

sub black_hole
{
	my $listener = IO::Socket::INET->new(LocalAddr => $localhost, Listen => 1)
	  or die "could not listen: $!";
	my $self = bless { port => $listener->sockport, kept => [$listener] },
	  'Opdata::Faults::BlackHole';

	# connect until an attempt stays without an answer; sockets_to() is not to find that one
	foreach (1 .. 10)
	{
		my $socket = IO::Socket::INET->new(Proto => 'tcp') or die "socket: $!";
		$socket->blocking(0);
		connect($socket, pack_sockaddr_in($self->port, inet_aton($localhost)));
		return $self if !wait_until(sub { getpeername($socket) }, 0.5);
		push @{ $self->{kept} }, $socket;
	}
	die "the queue of port $self->{port} does not fill";
}

sub Opdata::Faults::BlackHole::port { return $_[0]->{port}; }

=pod

=head1 LOOKING AT PROCESSES

=over

=item sockets_to(port, state)

How many TCP sockets on this machine have C<port> as their peer's; C<state> is
C<connecting> or C<connected>.

=cut

sub sockets_to
{
	my ($port, $state) = @_;
	my $wanted = { connecting => '02', connected => '01' }->{$state};
	my $peer = sprintf('0100007F:%04X', $port);

	return scalar grep { (split)[2] eq $peer and (split)[3] eq $wanted }
	  split(/\n/, slurp_file('/proc/net/tcp'));
}

=item status_kb(pid, name)

A line of /proc/PID/status in kB, such as VmHWM.

=cut

sub status_kb
{
	my ($pid, $name) = @_;
	my ($kb) = slurp_file("/proc/$pid/status") =~ /^\Q$name\E:\s+(\d+) kB$/m;
	return $kb;
}

=item count_entries(pid, folder)

Entries of a folder of /proc/PID: open files (C<fd>), threads (C<task>).

=item sleeping(source)

How many sessions of role "reader" are within pg_sleep() at this source.

=item n_canceled(source)

How many statements have been canceled there, as its log tells.

=item n_begun(source, words)

How often a statement with these words has begun at this source, by its log: one that
is over by the time that somebody looks has begun, too.

=back

=head1 WHAT HAS LITTLE TIME

=over

=item in_time(sub)

A preview has ten seconds and no more, in which a machine with other things to do may
not get round to what is to happen meanwhile. The sub tries, and tells whether it was
in time; five times at most. False if it never was.

=back

=cut

sub count_entries
{
	my ($pid, $folder) = @_;

	opendir(my $dir, "/proc/$pid/$folder") or die "/proc/$pid/$folder: $!";
	return scalar grep { /^\d+$/ } readdir($dir);
}

sub sleeping
{
	my ($source) = @_;
	return $source->safe_psql('postgres',
		q{select count(*) from pg_stat_activity where usename = 'reader' and wait_event = 'PgSleep'});
}

sub n_canceled
{
	my ($source) = @_;
	return scalar(() = slurp_file($source->logfile) =~ /canceling statement due to user request/g);
}

sub n_begun
{
	my ($source, $words) = @_;
	return scalar(() = slurp_file($source->logfile) =~ /LOG:  execute .*\Q$words\E/g);
}

sub in_time
{
	my ($try) = @_;

	foreach (1 .. 5)
	{
		return 1 if $try->();
	}
	return 0;
}

1;
