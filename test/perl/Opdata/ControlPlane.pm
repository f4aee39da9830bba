
=pod

=head1 NAME

Opdata::ControlPlane - all that an agent talks to, for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::ControlPlane;

  my $plane = control_plane('acme');
  my $agent = agent_cluster('agent', conf => $plane->conf . "restart_after_crash = on\n");

  my $ended = $plane->run('previewQueryWorkflow',
	{ connectionId => 'shop', sql => 'select 1' });
  is(code_of($ended), 'ok', 'a preview comes back');
  is($plane->convex->calls('agents:heartbeat')->[0]{status}, 200, 'the agent lives');

=head1 DESCRIPTION

A Temporal server, an issuer of tokens and a Convex deployment, with which an agent
of one organisation works, and what workflows for it need.

=cut

package Opdata::ControlPlane;

use strict;
use warnings;

use Exporter 'import';
use Opdata::Convex;
use Opdata::Issuer (); # issuer() is a method here
use Opdata::Temporal;
use Opdata::Test;
use PostgreSQL::Test::Utils;

our @EXPORT = qw(control_plane);

=pod

=over

=item control_plane(organisation, option => value, ...)

All three, running. Options other than this one are for the Temporal server:

  secret        of the agent, default "agent_secret"

The issuer's client is called "agent"; the Temporal server asks for no token.

=cut

sub control_plane
{
	my ($organisation, %opts) = @_;
	my $secret = delete $opts{secret} // 'agent_secret';
	my $issuer = Opdata::Issuer::issuer('issuer');

	$issuer->add_client('agent', $secret, $organisation, ['default:worker']);
	return Opdata::ControlPlane->new(
		$organisation,
		issuer => $issuer,
		secret_file => replace_file(PostgreSQL::Test::Utils::tempdir('secret') . '/secret', "$secret\n"),
		convex => convex_server('convex', issuer => $issuer->url, audience => 'urn:opdata', jwks => $issuer->jwks_url),
		temporal => temporal_server('temporal', %opts));
}

# A part may be missing, but for Temporal.
sub new
{
	my ($class, $organisation, %parts) = @_;
	return bless { %parts, organisation => $organisation, number => 0 }, $class;
}

=pod

=item $plane->temporal, $plane->issuer, $plane->convex, $plane->secret_file

=item $plane->client, $plane->queue

The Temporal server's client, and the name of the agent's task queue.

=item $plane->conf(name => value, ...)

Lines of postgresql.conf for an agent of all that. The settings, named without
"opdata.", replace these or come in addition.

=cut

sub temporal { return $_[0]->{temporal}; }
sub issuer { return $_[0]->{issuer}; }
sub convex { return $_[0]->{convex}; }
sub secret_file { return $_[0]->{secret_file}; }
sub client { return $_[0]->{temporal}->client; }
sub queue { return "tenant-$_[0]->{organisation}"; }

sub conf
{
	my ($self, %settings) = @_;

	return conf_lines(
		org_id => $self->{organisation},
		temporal_address => $self->temporal->address,
		temporal_tls => 'off',
		$self->{issuer} ? $self->token_settings : (),
		$self->{convex} ? (convex_url => $self->convex->url) : (),
		%settings);
}

=pod

=item $plane->token_settings

Those of them by which the agent gets its token, as names and values.

=cut

sub token_settings
{
	my ($self) = @_;

	return (
		auth_token_url => $self->{issuer}->token_url,
		auth_client_id => 'agent',
		auth_client_secret_file => $self->secret_file);
}

=pod

=item $plane->arguments(type, input, name => value, ...)

Arguments of the client's start() and execute(): an id of its own, the task
queue, and C<orgId> in the input unless that has one. An input that is no hash
is taken as it is; undef stands for none. The names and values replace these.

=item $plane->start(type, input, ...), $plane->run(type, input, ...)

start() and execute() of the client with these.

=back

=cut

sub arguments
{
	my ($self, $type, $input, %more) = @_;

	$self->{number}++;
	$input = { orgId => $self->{organisation}, %$input }
	  if ref $input eq 'HASH';
	return (
		type => $type,
		workflow_id => "$type $self->{number}",
		task_queue => $self->queue,
		defined $input ? (input => $input) : (),
		%more
	);
}

sub start
{
	my ($self, @args) = @_;
	return $self->client->start($self->arguments(@args));
}

sub run
{
	my ($self, @args) = @_;
	return $self->client->execute($self->arguments(@args));
}

1;
