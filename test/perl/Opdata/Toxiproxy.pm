
=pod

=head1 NAME

Opdata::Toxiproxy - faults of the network for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Toxiproxy;

  my $faults = toxiproxy('faults');
  my $address = $faults->add('temporal', $temporal->address);

  $faults->toxic('temporal', 'latency', { latency => 400 });
  $faults->clear('temporal');
  $faults->disable('temporal');

=head1 DESCRIPTION

Shopify's toxiproxy: a server that relays TCP connections, and does to them what
it is told through an HTTP API. The harness names the program in the environment:
C<OPD_TOXIPROXY>.

=cut

package Opdata::Toxiproxy;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(toxiproxy);

=pod

=head1 METHODS

=over

=item toxiproxy(name)

A running server without any proxy. Its log is "name.log" in the folder of the
logs. C<stop>, C<kill>, C<freeze>, C<thaw> and C<start> are those of
Opdata::Program; a server that is started again has no proxies.

=cut

sub toxiproxy { return Opdata::Toxiproxy::Server->launch(@_); }

package Opdata::Toxiproxy::Server;

use HTTP::Tiny;
use JSON::PP;
use PostgreSQL::Test::Cluster;
use parent 'Opdata::Program';

sub port_names { return ('port'); }

sub command
{
	my ($self) = @_;
	return (Opdata::Process::program('OPD_TOXIPROXY'),
		'-host', '127.0.0.1', '-port', $self->{port});
}

sub is_ready
{
	my ($self) = @_;
	return HTTP::Tiny->new(timeout => 5)->get('http://' . $self->address . '/version')
	  ->{success};
}

# One request of its API; dies unless it succeeds.
sub api
{
	my ($self, $method, $path, $body) = @_;
	my $response = $self->try_api($method, $path, $body);

	die "toxiproxy: $method $path: $response->{status} $response->{content}\n"
	  unless $response->{success};
	return ($response->{content} // '') eq '' ? undef : decode_json($response->{content});
}

sub try_api
{
	my ($self, $method, $path, $body) = @_;
	my %options = (headers => { 'content-type' => 'application/json' });

	$options{content} = encode_json($body) if $body;
	return HTTP::Tiny->new(timeout => 30)
	  ->request($method, 'http://' . $self->address . $path, \%options);
}

=pod

=item $faults->add(name, upstream)

Relay to the address C<upstream>, "host:port". The result is the address to
connect to instead.

=cut

sub add
{
	my ($self, $name, $upstream) = @_;

	for (1 .. 10)
	{
		my $listen = '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
		my $response = $self->try_api('POST', '/proxies',
			{ name => $name, listen => $listen, upstream => $upstream });

		return $listen if $response->{success};
		die "toxiproxy: could not add $name: $response->{content}\n"
		  unless $response->{content} =~ /address already in use/;
	}
	die "toxiproxy: found no free port for $name\n";
}

=item $faults->toxic(name, type, {attribute => value}, direction)

Do this to the connections of a proxy, also to those that are open. Its
direction is C<downstream> (default), from the server to the client, or
C<upstream>. The same type in the same direction again has other attributes from
then on. Types, with times in ms:

  latency     latency, jitter: each piece of data comes later
  bandwidth   rate in kB/s
  timeout     timeout: no data passes, and after that time the connection is
              closed; 0: it is not, as long as this lasts. That the sender closes
              it does pass
  reset_peer  timeout: after it the connection is reset
  slow_close  delay of the close
  slicer      average_size, size_variation, delay in us: small pieces
  limit_data  bytes: closed after so many

=cut

sub toxic
{
	my ($self, $name, $type, $attributes, $direction) = @_;
	my $stream = $direction // 'downstream';
	my $toxic = "${type}_$stream";
	my $known = grep { $_ eq $toxic } $self->toxics($name);
	my $path = "/proxies/$name/toxics" . ($known ? "/$toxic" : '');

	$self->api('POST', $path,
		{ name => $toxic, type => $type, stream => $stream, attributes => $attributes // {} });
	return;
}

=item $faults->toxics(name)

The names of those that it has, such as "latency_downstream".

=item $faults->clear(name)

Have no toxics there any more. Connections that C<timeout> keeps are closed.

=item $faults->disable(name), $faults->enable(name)

Cut its connections and refuse further ones; accept them again, at the same
address.

=item $faults->reset

Clear and enable every proxy.

=back

=cut

sub toxics
{
	my ($self, $name) = @_;
	return sort map { $_->{name} } @{ $self->api('GET', "/proxies/$name/toxics") };
}

sub clear
{
	my ($self, $name) = @_;
	$self->api('DELETE', "/proxies/$name/toxics/$_") foreach $self->toxics($name);
	return;
}

sub set_enabled
{
	my ($self, $name, $enabled) = @_;
	$self->api('POST', "/proxies/$name", { enabled => $enabled });
	return;
}

sub disable { return $_[0]->set_enabled($_[1], JSON::PP::false); }
sub enable { return $_[0]->set_enabled($_[1], JSON::PP::true); }
sub reset { $_[0]->api('POST', '/reset'); return; }

1;
