
=pod

=head1 NAME

Opdata::Issuer - an OpenID provider for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Issuer;

  my $issuer = issuer('issuer');
  $issuer->add_client('agent', 'secret', 'org_1', ['acme:write']);
  my $agent = agent_cluster('agent',
	conf => "opdata.auth_token_url = '" . $issuer->token_url . "'\n" . ...);

  my $before = $issuer->token_requests;
  ...
  is($issuer->token_requests - $before, 1, 'one token was asked for');

=head1 DESCRIPTION

test/node/issuer.mjs, on a port of its own of 127.0.0.1. It gives access tokens
for client credentials ("client_secret_post"), which are JWTs. All that it is
told outlives stop() and start(), which are those of Opdata::Program, and holds
from the next request on.

=cut

package Opdata::Issuer;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use HTTP::Tiny;
use JSON::PP;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use parent 'Opdata::Program';

our @EXPORT = qw(issuer);

my $json = JSON::PP->new->utf8->canonical;

=pod

=over

=item issuer(name, option => value, ...)

A running issuer. Its log is "name.log" in the folder of the logs.

  clock => '+2h'       its clock is off by this, in the words of faketime
  start => 0           have it ready for start() only

=cut

sub issuer { return Opdata::Issuer->launch(@_); }

sub new
{
	my ($class, $name, %opts) = @_;
	my $self = $class->SUPER::new(
		$name, %opts,
		folder => PostgreSQL::Test::Utils::tempdir($name),
		state => { clients => {}, ttl => 300, audience => 'urn:opdata', delay => 0, fail => undef });

	return $self->write_state;
}

sub port_names { return ('port'); }

=pod

=item $issuer->url, $issuer->token_url, $issuer->jwks_url

The first is the claim "iss".

=cut

sub url { return 'http://' . $_[0]->address; }
sub token_url { return $_[0]->url . '/oauth2/token'; }
sub jwks_url { return $_[0]->url . '/oauth2/jwks'; }

sub command
{
	my ($self) = @_;
	return (Opdata::Process::program('OPD_NODE'),
		"$FindBin::RealBin/../node/issuer.mjs", $self->{port}, $self->{folder});
}

# It has said so after the start, so that it is not another server which answers.
sub is_ready
{
	my ($self, $said) = @_;
	return $self->log_since($said) =~ /^ready$/m
	  && HTTP::Tiny->new(timeout => 5)->get($self->jwks_url)->{success};
}

# The clock that tells durations stays the right one.
sub start
{
	my ($self) = @_;

	local %ENV = %ENV;
	if (defined $self->{clock})
	{
		$ENV{LD_PRELOAD} = faketime();
		$ENV{FAKETIME} = $self->{clock};
		$ENV{FAKETIME_DONT_FAKE_MONOTONIC} = 1;
	}
	return $self->SUPER::start;
}

# libfaketime itself: the command of that name would be a process in between.
sub faketime
{
	my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';

	die "there is no libfaketime: run the tests by make, after \"make deps\"\n" unless defined $library;
	return $library;
}

# libfaketime cleans up behind itself at an orderly end only.
sub stop
{
	my ($self) = @_;
	my $pid = $self->{pid} // return;

	CORE::kill('TERM', $pid);
	return if $self->has_ended(10);
	$self->SUPER::kill;
	unlink "/dev/shm/faketime_shm_$pid", "/dev/shm/sem.faketime_sem_$pid";
	return;
}

# what Opdata::Process calls at the end of the test
sub kill { $_[0]->stop; return; }

=pod

=item $issuer->add_client(id, secret, org_id, permissions)

Make it, or change it; C<org_id> may be undef, and permissions is a list.

=item $issuer->revoke(id)

It is known no longer. Tokens that it has are valid until they expire.

=item $issuer->set_ttl(seconds), $issuer->set_audience(text)

Of tokens; 300 and "urn:opdata" before.

=item $issuer->set_delay(seconds)

Let requests for a token wait before they are looked at.

=item $issuer->fail_with(status, header => value, ...)

Answer them with this status, until fail_with() is called without one.

=cut

sub add_client
{
	my ($self, $id, $secret, $org_id, $permissions) = @_;

	$self->{state}{clients}{$id} = { secret => $secret, org_id => $org_id, permissions => $permissions };
	return $self->write_state;
}

sub revoke
{
	my ($self, $id) = @_;

	delete $self->{state}{clients}{$id} // die "there is no client $id";
	return $self->write_state;
}

sub set_ttl { return $_[0]->set(ttl => $_[1] + 0); }
sub set_audience { return $_[0]->set(audience => $_[1]); }
sub set_delay { return $_[0]->set(delay => $_[1] + 0); }

sub fail_with
{
	my ($self, $status, %headers) = @_;
	return $self->set(fail => defined $status ? { status => $status + 0, headers => \%headers } : undef);
}

sub set
{
	my ($self, $name, $value) = @_;

	$self->{state}{$name} = $value;
	return $self->write_state;
}

sub write_state
{
	my ($self) = @_;

	replace_file("$self->{folder}/state.json", $json->encode($self->{state}));
	return $self;
}

=pod

=item $issuer->token_requests

How many requests for a token it has answered, whatever the answer was.

=item $issuer->requests

What they were, C<{client_id, status, fields, headers}> each; the last two are the
names of those.

=cut

sub token_requests { return scalar $_[0]->requests; }

sub requests
{
	my ($self) = @_;
	my $path = "$self->{folder}/requests";
	my @lines = -e $path ? split /\n/, slurp_file($path) : ();

	return map { $json->decode($_) } @lines;
}

=pod

=item $issuer->ask(id, secret)

Ask for a token as a client does; the answer's JSON, and its C<status>.

=item $issuer->token(id)

A fresh access token for a client that there is.

=back

=cut

sub ask
{
	my ($self, $id, $secret) = @_;
	my $response = HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default)->post_form(
		$self->token_url,
		{   grant_type => 'client_credentials',
			client_id => $id,
			client_secret => $secret
		});
	my $answer = eval { $json->decode($response->{content}) };

	die "$self->{name} answered $response->{status}: $response->{content}\n" unless ref $answer eq 'HASH';
	return { %$answer, status => $response->{status} };
}

sub token
{
	my ($self, $id) = @_;
	my $client = $self->{state}{clients}{$id} // die "there is no client $id";
	my $answer = $self->ask($id, $client->{secret});

	return $answer->{access_token} // die "$self->{name} gave $id no token: " . $json->encode($answer) . "\n";
}

1;
