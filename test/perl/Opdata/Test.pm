
=pod

=head1 NAME

Opdata::Test - clusters and peers for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Test;
  use Test::More;

  my $source = source_cluster('source', tls => 1);
  my $agent = agent_cluster('agent');

  my $result = json($agent, q{select opdata_test('crm')});
  ok($result->{ok}, 'the stored connection works');

  my $error = error_of($agent, q{select opdata_preview('nope', 'select 1')});
  is($error->{code}, 'connection_not_found', 'an unknown id is an error');

=head1 DESCRIPTION

A thin layer over PostgreSQL::Test::Cluster. Everything it starts ends with
the test. The agent and the source are clusters of their own, because a login
that a server on the agent's own host grants unchecked is refused.

=cut

package Opdata::Test;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(basename);
use File::Path qw(mkpath);
use FindBin;
use IO::Select;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use List::Util qw(min);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  agent_cluster
  source_cluster
  make_certs
  silent_server
  json
  error_of
  connection_error
  wait_until
  closed_port
  conf_lines
  replace_file
);

# Sources listen here only.
my $localhost = '127.0.0.1';

# psql may end before it has read its input, as it does when the server goes away.
# IPC::Run would end the test for that; how psql has ended tells enough.
{
	no warnings 'redefine';
	my $write = \&IPC::Run::_write;

	*IPC::Run::_write = sub {
		my $written = eval { $write->(@_) };

		return $written if defined $written;
		die $@ unless $@ =~ /^Broken pipe: write/;
		return length $_[1];
	};
}

# A folder for each test file, since several run at once.
INIT
{
	$PostgreSQL::Test::Utils::tmp_check .= '/' . basename($0, '.pl');
	mkpath($PostgreSQL::Test::Utils::tmp_check);
}

=pod

=head1 CLUSTERS

=over

=item agent_cluster(name, conf => text, ...)

A running cluster with opdata preloaded and created in database "postgres", an
Opdata::Agent, for which further options are. C<conf> is appended to
postgresql.conf. Its clients use the socket, as the bootstrap superuser.

=cut

sub agent_cluster
{
	my ($name, %opts) = @_;

	# which uses this module
	require Opdata::Agent;
	my $node = Opdata::Agent->new($name, %opts);

	$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'opdata'\n" . ($opts{conf} // ''));
	$node->start;
	$node->safe_psql('postgres', 'create extension opdata cascade');
	return $node;
}

=pod

=item source_cluster(name, conf => text, hba => text, tls => bool, encryption => 'md5')

A running cluster that plays the customer's database, on 127.0.0.1 and
C<< $node->port >>. C<hba> replaces the lines for TCP, which by default ask
everybody for a password; the socket, for the test's own set-up, is trusted.
C<encryption> is how passwords are stored (default scram-sha-256). With C<tls>
it has the certificates of make_certs() in C<< $node->data_dir . '/certs' >>.

=cut

sub source_cluster
{
	my ($name, %opts) = @_;
	my $encryption = $opts{encryption} // 'scram-sha-256';
	my $hba = $opts{hba} // "host all all $localhost/32 $encryption\n";
	my $conf = "listen_addresses = '$localhost'\n"
	  . "password_encryption = '$encryption'\n";
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
	if ($opts{tls})
	{
		make_certs($node->data_dir . '/certs');
		$conf .= "ssl = on\n"
		  . "ssl_ca_file = 'certs/ca.crt'\n"
		  . "ssl_cert_file = 'certs/server.crt'\n"
		  . "ssl_key_file = 'certs/server.key'\n";
	}
	$node->append_conf('postgresql.conf', $conf . ($opts{conf} // ''));

	unlink $node->data_dir . '/pg_hba.conf';
	$node->append_conf('pg_hba.conf', "local all all trust\n$hba");
	$node->start;
	return $node;
}

=pod

=item make_certs(dir)

Certificates for TLS tests; test/harness/make-certs.sh lists the files.

=cut

sub make_certs
{
	my ($dir) = @_;
	system_or_bail("$FindBin::RealBin/../harness/make-certs.sh", $dir);
	return;
}

=pod

=back

=head1 QUESTIONS

Options of both are handed to C<< $node->psql >>, for example
C<< extra_params => ['-U', 'alice'] >>; C<dbname> chooses the database.

=over

=item json(node, sql)

The decoded value of a query that returns one json or jsonb.

=cut

sub json
{
	my ($node, $sql, %opts) = @_;
	my $dbname = delete $opts{dbname} // 'postgres';

	return JSON::PP->new->utf8->allow_nonref->decode(
		$node->safe_psql($dbname, $sql, %opts));
}

=pod

=item error_of(node, sql)

The first error of a script as C<{sqlstate, message, detail, hint, code}>, or
undef when there is none. C<code> is opdata's error code, which is the first
word of the detail.

=cut

sub error_of
{
	my ($node, $sql, %opts) = @_;
	my $dbname = delete $opts{dbname} // 'postgres';
	my ($stdout, $stderr);

	$node->psql(
		$dbname, "\\set VERBOSITY verbose\n$sql",
		stdout => \$stdout,
		stderr => \$stderr,
		%opts);

	# Each field begins a line with its name and goes on until the next one.
	my $next = qr/(?=\n[A-Z][A-Z ]+:  |\nLINE \d+: |\z)/;
	return unless $stderr =~ /(?:ERROR|FATAL):  ([0-9A-Z]{5}): (.*?)$next/s;
	my %error = (sqlstate => $1, message => $2);
	($error{detail}) = $stderr =~ /\nDETAIL:  (.*?)$next/s;
	($error{hint}) = $stderr =~ /\nHINT:  (.*?)$next/s;
	($error{code}) = ($error{detail} // '') =~ /^(\w+)/;
	return \%error;
}

=pod

=item connection_error(node)

What psql says when it connects, in an environment in which it should not get in.
The methods of the node die when psql ends before it has read its query, which is a
matter of chance.

=cut

sub connection_error
{
	my ($node) = @_;
	my ($stdout, $stderr) = ('', '');

	IPC::Run::run(
		[ 'psql', '-X', '-w', '-d', $node->connstr('postgres'), '-c', 'select 1' ],
		'<', '/dev/null', '>', \$stdout, '2>', \$stderr);
	return $stderr;
}

=pod

=item wait_until(sub, timeout, pause)

Call the sub until it returns true; false when that does not happen within
C<timeout> seconds (default PG_TEST_TIMEOUT_DEFAULT). The pauses between two calls
grow up to C<pause> seconds, default 0.25: a call is often the start of a psql. A
sub that is to see what lasts no longer than that wants shorter ones.

=cut

sub wait_until
{
	my ($condition, $timeout, $longest) = @_;
	my $deadline =
	  time() + ($timeout // $PostgreSQL::Test::Utils::timeout_default);
	my $pause = 0.05;

	until ($condition->())
	{
		return 0 if time() >= $deadline;
		sleep $pause;
		$pause = min($pause * 1.3, $longest // 0.25);
	}
	return 1;
}

=pod

=item closed_port()

A port of 127.0.0.1 that refuses connections until the test ends: it is taken, and
nobody listens there.

=cut

my @closed;

sub closed_port
{
	push @closed, IO::Socket::INET->new(LocalAddr => $localhost, Proto => 'tcp')
	  // die "could not take a port: $!";
	return $closed[-1]->sockport;
}

=pod

=back

=head1 FILES

=over

=item conf_lines(name => value, ...)

Lines of postgresql.conf for settings of opdata, named without "opdata.".

=item replace_file(path, content, mode)

Write a file in one step: whoever reads it at any time finds the old content or
the new one. Returns the path.

=cut

sub conf_lines
{
	my (%settings) = @_;
	return join('', map { "opdata.$_ = '$settings{$_}'\n" } sort keys %settings);
}

sub replace_file
{
	my ($path, $content, $mode) = @_;

	open my $file, '>:raw', "$path.new" or die "$path.new: $!";
	print $file $content;
	close $file or die "$path.new: $!";
	chmod $mode, "$path.new" or die "$path.new: $!" if defined $mode;
	rename "$path.new", $path or die "$path: $!";
	return $path;
}

=pod

=back

=head1 A SERVER THAT FALLS SILENT

=over

=item silent_server(at => stage, upstream => port, bytes => n)

A server on 127.0.0.1 that accepts every connection, keeps it open and, from
C<at> on, says nothing more on it:

  connect   nothing is ever answered
  tls       a request for TLS is answered 'S', then nothing
  bytes     relayed to the port C<upstream>; silent after n bytes from there
  freeze    the same; silent when C<freeze> is called, on the connections open
            then (later ones, such as a cancel request, pass)

Methods: C<port>; C<freeze>; C<stop>, which the end of the test calls too.

=back

=cut

sub silent_server
{
	return Opdata::Test::SilentServer->silent(@_);
}

package Opdata::Test::SilentServer;

use IO::Socket::INET;
use parent 'Opdata::Process';

sub silent
{
	my ($class, %opts) = @_;
	return $class->listening('silent_server', sub { serve($_[0], %opts) });
}

sub freeze { kill 'USR1', $_[0]->{pid}; return; }
sub stop { $_[0]->kill; return; }

# One process serves all connections. Each pair of sockets is two entries of
# %peer; a socket that is not in $select is silent, yet stays open.
sub serve
{
	my ($listener, %opts) = @_;
	my $at = $opts{at};
	my $select = IO::Select->new($listener);
	my (@kept, %peer, %left);
	my $freeze = 0;
	local $SIG{USR1} = sub { $freeze = 1 };

	# ends with the test even if that one is killed
	my $parent = getppid();
	while (getppid() == $parent)
	{
		my @ready = $select->can_read(0.1);
		if ($freeze)
		{
			$freeze = 0;
			$select->remove(grep { $_ != $listener } $select->handles);
			next;
		}
		foreach my $socket (@ready)
		{
			if ($socket == $listener)
			{
				my $client = $listener->accept or next;
				push @kept, $client;
				$select->add($client) if $at eq 'tls';
				next unless $at eq 'bytes' or $at eq 'freeze';

				my $server = IO::Socket::INET->new(
					PeerAddr => $localhost,
					PeerPort => $opts{upstream}) or next;
				($peer{$client}, $peer{$server}) = ($server, $client);
				$left{$server} = $opts{bytes} if $at eq 'bytes';
				$select->add($client, $server);
				next;
			}

			my $n = sysread($socket, my $data, 65536);
			if ($at eq 'tls')
			{
				syswrite($socket, 'S') if $n;
				$select->remove($socket);
				next;
			}
			my $other = $peer{$socket};
			if (!$n)
			{
				$select->remove($socket, $other);
				shutdown($other, 2);
				next;
			}
			if (defined $left{$socket})
			{
				$data = substr($data, 0, $left{$socket});
				$left{$socket} -= length $data;
				$select->remove($socket, $other) if $left{$socket} == 0;
			}
			write_all($other, $data);
		}
	}
}

sub write_all
{
	my ($socket, $data) = @_;

	while (length $data)
	{
		my $n = syswrite($socket, $data) // return;
		substr($data, 0, $n, '');
	}
	return;
}

1;
