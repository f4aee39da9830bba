
=pod

=head1 NAME

Opdata::Convex - a stand-in for a Convex deployment, and Convex's own client

=head1 SYNOPSIS

  use Opdata::Convex;

  my $convex = convex_server('convex', issuer => $issuer->url,
	jwks => $issuer->jwks_url, audience => 'opdata');
  my $agent = agent_cluster('agent', conf => "opdata.convex_url = '" . $convex->url . "'\n");

  $convex->fail(503, count => 2);
  is($convex->calls('connections:setStatus')->[-1]{status}, 200, 'it went through');

=head1 DESCRIPTION

test/node/convex.mjs says what it is made of and how far it goes. It has the
functions connections:setStatus, agents:heartbeat and models:get, which want a
token with a claim C<org_id> that is their argument C<orgId>.

The harness names Node and its packages in the environment: C<OPD_NODE> and
C<OPD_NODE_MODULES>.

=cut

package Opdata::Convex;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(convex_server);

=pod

=head1 METHODS

=over

=item convex_server(name, option => value, ...)

A running deployment on 127.0.0.1. Its log is "name.log" in the folder of the
logs. C<stop>, C<kill>, C<freeze>, C<thaw> and C<start>, at the same address, are
those of Opdata::Program; what it knew is gone with the process.

  issuer, audience  which tokens it takes
  jwks              where their keys are: a URL, asked at each call, or a data: URL
  cert, key         files; with them it is HTTPS, HTTP/1.1 and HTTP/2
  ca                the file that client() trusts then

=cut

sub convex_server { return Opdata::Convex::Server->launch(@_); }

package Opdata::Convex::Server;

use FindBin;
use HTTP::Tiny;
use JSON::PP;
use parent 'Opdata::Program';

my $node_files = "$FindBin::RealBin/../node";

sub port_names { return ('port', 'control_port'); }

sub command
{
	my ($self) = @_;
	my %options = map { ($_ => $self->{$_}) }
	  grep { defined $self->{$_} } qw(port issuer audience jwks cert key);

	return (Opdata::Process::program('OPD_NODE'), "$node_files/convex.mjs",
		'--control-port', $self->{control_port},
		map { ("--$_", $options{$_}) } sort keys %options);
}

# The control port opens last.
sub is_ready
{
	my ($self) = @_;
	return $self->try_control('calls')->{success};
}

sub try_control
{
	my ($self, $action, $query, $body) = @_;
	my $http = HTTP::Tiny->new(timeout => 30);
	my $url = "http://127.0.0.1:$self->{control_port}/ctl/$action";
	my $params = $http->www_form_urlencode($query // {});

	return $http->post($url . ($params eq '' ? '' : "?$params"),
		{ content => JSON::PP->new->utf8->allow_nonref->encode($body // undef) });
}

sub control
{
	my ($self, @request) = @_;
	my $response = $self->try_control(@request);

	die "$self->{name}: $request[0]: $response->{status} $response->{content}\n"
	  unless $response->{success};
	return JSON::PP->new->utf8->allow_nonref->decode($response->{content});
}

=pod

=item $convex->url

For C<opdata.convex_url>.

=item $convex->calls(path)

A list reference of the calls so far, in order, or of those of one function:
{time (ms since the epoch), endpoint, path, args, authorization (was there such a
header?), headers (their names), subject (of a token that was good), status}. The
status is undef while there is no answer.

=item $convex->documents

{connections, statuses, heartbeats, models}: the rows of these tables. There is a
row in C<connections> for each connection, and one in C<statuses> and
C<heartbeats> for each call that was not a repeated one.

=item $convex->put_model(orgId, modelId, model)

What models:get gives from now on.

=cut

sub url
{
	my ($self) = @_;
	return ($self->{cert} ? 'https' : 'http') . '://' . $self->address;
}

sub calls
{
	my ($self, $path) = @_;
	my $calls = $self->control('calls');

	return $calls unless defined $path;
	return [ grep { ($_->{path} // '') eq $path } @$calls ];
}

sub documents { return $_[0]->control('documents'); }

sub put_model
{
	my ($self, $org, $id, $model) = @_;
	$self->control('model', {}, { orgId => $org, modelId => $id, model => $model });
	return;
}

=pod

=item $convex->fail(status, count => n, html => 1, retry_after => seconds)

Answer the next n calls (default 1) with this status: with a JSON body, or a page
as gateways have it.

=item $convex->fail_function(n), $convex->failed_status(status)

The next n functions throw. Functions that do so have status 560, or this one:
the envelope counts, and 200 is possible.

=item $convex->hang(n)

The next n calls are never answered, and nothing is done.

=item $convex->lose(n)

The next n calls are carried out, but the connection is cut instead of an answer.

With C<< path => function >> behind their arguments these four count the calls of
that function alone, and no other is struck: a heartbeat comes at any time.

=item $convex->clear

None of these any more. Calls that hang are cut.

=cut

sub fail
{
	my ($self, $status, %opts) = @_;
	$self->control('fail', { status => $status, count => 1, %opts });
	return;
}

sub fail_function { shift->strike('fail560', @_); return; }
sub failed_status { $_[0]->control('failed-status', { status => $_[1] }); return; }
sub hang { shift->strike('hang', @_); return; }
sub lose { shift->strike('lose', @_); return; }
sub clear { $_[0]->control('clear'); return; }

sub strike
{
	my ($self, $fault, $count, %opts) = @_;
	$self->control($fault, { count => $count // 1, %opts });
	return;
}

=pod

=item $convex->client

Convex's own client for JavaScript, in a process that waits for calls to make.
Its method C<< call({kind, path, args, token}, ...) >> makes them at once and has
a result for each: {value} or {error}, and {data} if the function gave some.
C<kind> is C<query> or C<mutation>.

=back

=cut

sub client
{
	my ($self) = @_;

	local $ENV{NODE_EXTRA_CA_CERTS} = $self->{ca} if $self->{ca};
	return Opdata::Convex::Client->new("$self->{name}_client", url => $self->url)->converse;
}

package Opdata::Convex::Client;

use JSON::PP;
use parent 'Opdata::Process';

sub command
{
	my ($self) = @_;
	return (Opdata::Process::program('OPD_NODE'), "$node_files/convex_oracle.mjs", $self->{url});
}

sub call
{
	my ($self, @calls) = @_;
	my $results = decode_json($self->exchange(encode_json(\@calls), 'a call'));

	return wantarray ? @$results : $results->[0];
}

1;
