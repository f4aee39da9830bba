
=pod

=head1 NAME

Opdata::TemporalServer - a Temporal server with TLS and tokens for the TAP tests of opdata

=head1 SYNOPSIS

  use Opdata::Issuer;
  use Opdata::TemporalServer;

  my $issuer = issuer('issuer');
  $issuer->add_client('agent', 'secret', 'org_1', ['acme:write', 'acme:worker']);
  $issuer->add_client('operator', 'secret', undef, ['temporal-system:admin']);

  my $temporal = secure_temporal('temporal', tls => 'mtls', jwks => $issuer->jwks_url);
  $temporal->make_namespace('acme', $issuer->token('operator'));

  my $client = $temporal->client(namespace => 'acme', token => $issuer->token('agent'));
  $temporal->deny('agent');
  eval { $client->describe(workflow_id => 'any') };
  like($@, qr/PERMISSION_DENIED/, 'a token is refused before it has expired');

=head1 DESCRIPTION

Opdata::Temporal has the development server, which knows neither. This is the
whole server, as test/harness/temporal-server/main.go makes it, in memory. It
has what Opdata::Temporal's has (start, stop, kill, freeze, thaw, log_file), and
it knows nothing of an earlier life: a namespace is made anew after a start.

=cut

package Opdata::TemporalServer;

use strict;
use warnings;

use Exporter 'import';
use JSON::PP;
use Opdata::Temporal;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use parent -norequire, 'Opdata::Temporal::Server';

our @EXPORT = qw(secure_temporal);

my $localhost = '127.0.0.1';
my $json = JSON::PP->new->utf8->canonical->pretty;

# Its services, and which ports each has.
my @services = qw(frontend internal-frontend history matching worker);
my @uses = qw(grpcPort membershipPort);

=pod

=over

=item secure_temporal(name, option => value, ...)

A server that serves, on 127.0.0.1 and ports of its own. Its log is
"TEST_name.log" in the folder of the logs.

  tls => 'none'        plain connections (default)
  tls => 'server'      TLS with a certificate for 127.0.0.1, localhost and
                       temporal.test
  tls => 'mtls'        the same, and clients need a certificate of the same CA
  jwks => url          tokens are needed, signed with one of the keys there;
                       "permissions" are NAMESPACE:read, write, worker or admin,
                       and temporal-system:admin for everything
  audience => text     which they must be made out to
  config => {key => json}
                       dynamic configuration
  start => 0           have it ready for start() only

Keys are read again each second, certificates every two.

=cut

sub secure_temporal { return Opdata::TemporalServer->launch(@_); }

sub new
{
	my ($class, $name, %opts) = @_;
	my $self = $class->SUPER::new(
		$name,
		tls => 'none',
		%opts,
		folder => PostgreSQL::Test::Utils::tempdir($name),
		clients => 0,
		denied => {});

	die "tls => \"$self->{tls}\"?\n" unless $self->{tls} =~ /^(?:none|server|mtls)$/;
	make_certs($self->certs);
	$self->allow;
	return $self;
}

=pod

=item $temporal->certs, $temporal->ca, $temporal->cert(name), $temporal->key(name)

The folder of its certificates, and paths of some; test/harness/make-certs.sh
lists them. The name is that of a client certificate, "certuser" if not given.

=cut

sub certs { return "$_[0]->{folder}/certs"; }
sub ca { return $_[0]->certs . '/ca.crt'; }
sub cert { return $_[0]->certs . '/' . ($_[1] // 'certuser') . '.crt'; }
sub key { return $_[0]->certs . '/' . ($_[1] // 'certuser') . '.key'; }

=pod

=item $temporal->restart

Stop and start it, at the same address.

=cut

sub restart
{
	my ($self) = @_;

	$self->stop;
	return $self->start;
}

=pod

=item $temporal->deny(subject, ...), $temporal->allow(subject, ...)

Refuse whoever has this "sub" in his token from the next call on, or no longer;
allow() alone allows everybody.

=cut

sub deny
{
	my ($self, @subjects) = @_;

	$self->{denied}{$_} = 1 foreach @subjects;
	replace_file("$self->{folder}/deny", join '', map { "$_\n" } sort keys %{ $self->{denied} });
	return;
}

sub allow
{
	my ($self, @subjects) = @_;

	delete @{ $self->{denied} }{ @subjects ? @subjects : keys %{ $self->{denied} } };
	$self->deny;
	return;
}

=pod

=item $temporal->make_namespace(name, token)

Make it, and wait until every service knows it. The token is an operator's, and
only needed where tokens are.

=cut

sub make_namespace
{
	my ($self, $name, $token) = @_;

	$self->operator->sign_in(authorization => defined $token ? "Bearer $token" : undef);
	$self->operator->make_namespace(name => $name);
	$self->operator->sign_in;
	return;
}

# Has everything that can be asked for but a token.
sub operator
{
	my ($self) = @_;
	$self->{operator} //= $self->client;
	return $self->{operator};
}

=pod

=item $temporal->client(option => value, ...)

A new client, one of Opdata::Temporal's. Without options it trusts the right CA
and has the right certificate, but no token.

  namespace => name    default "default", which must be made first
  token => text        its sign_in("Bearer text") changes it
  ca => name           "other_ca" trusts a CA that the server does not have
  cert => name         another client certificate; undef for none
  server_name => name  to find in the server's certificate
  plain => 1           without TLS, whatever the server has

=back

=cut

sub client
{
	my ($self, %opts) = @_;
	my $cert = exists $opts{cert} ? $opts{cert} : $self->{tls} eq 'mtls' ? 'certuser' : undef;
	my $number = $self->{clients}++;
	my %sign_in;

	if ($self->{tls} ne 'none' && !$opts{plain})
	{
		$sign_in{ca} = $self->cert($opts{ca} // 'ca');
		@sign_in{qw(cert key)} = ($self->cert($cert), $self->key($cert)) if defined $cert;
		$sign_in{server_name} = $opts{server_name} if defined $opts{server_name};
	}
	$sign_in{authorization} = "Bearer $opts{token}" if defined $opts{token};
	return Opdata::Temporal::Client->new(
		"$self->{name}_driver_$number",
		address => $self->address,
		namespace => $opts{namespace} // $self->namespace,
		sign_in => \%sign_in);
}

sub choose_ports
{
	my ($self) = @_;

	foreach my $service (@services)
	{
		$self->{ports}{$service}{$_} = PostgreSQL::Test::Cluster::get_free_port() + 0 foreach @uses;
	}
	$self->{port} = $self->{ports}{frontend}{grpcPort};
	return;
}

sub command
{
	my ($self) = @_;

	# JSON is YAML, too.
	replace_file("$self->{folder}/development.yaml", $json->encode($self->server_config));
	replace_file("$self->{folder}/dynamic.yaml",
		$json->encode({ map { $_ => [ { value => $self->{config}{$_} } ] } keys %{ $self->{config} } }));
	return (Opdata::Process::program('OPD_TEMPORAL_SERVER'),
		'-config', $self->{folder}, '-deny', "$self->{folder}/deny");
}

# The services speak to each other without TLS. Their own worker uses the
# internal frontend, which asks nobody for certificate or token.
sub server_config
{
	my ($self) = @_;
	my %config = (
		log => { stdout => JSON::PP::true, level => 'warn' },
		persistence => {
			defaultStore => 'default',
			visibilityStore => 'visibility',
			numHistoryShards => 1,
			datastores => { map { $_ => in_memory() } qw(default visibility) }
		},
		global => { membership => { maxJoinDuration => '30s', broadcastAddress => $localhost } },
		services => {
			map { $_ => { rpc => { %{ $self->{ports}{$_} }, bindOnLocalHost => JSON::PP::true } } } @services
		},
		clusterMetadata => {
			enableGlobalNamespace => JSON::PP::false,
			failoverVersionIncrement => 10,
			masterClusterName => 'active',
			currentClusterName => 'active',
			clusterInformation => {
				active => {
					enabled => JSON::PP::true,
					initialFailoverVersion => 1,
					rpcName => 'frontend',
					rpcAddress => $self->address
				}
			}
		},
		dcRedirectionPolicy => { policy => 'noop' },
		archival => no_archive(),
		namespaceDefaults => { archival => no_archive() },
		dynamicConfigClient => { filepath => "$self->{folder}/dynamic.yaml", pollInterval => '10s' }
	);

	if ($self->{tls} ne 'none')
	{
		my %server = (certFile => $self->cert('server'), keyFile => $self->key('server'));

		%server = (%server, requireClientAuth => JSON::PP::true, clientCaFiles => [ $self->ca ])
		  if $self->{tls} eq 'mtls';
		$config{global}{tls} = {
			frontend => {
				server => \%server,
				client => { serverName => 'localhost', rootCaFiles => [ $self->ca ] }
			},
			refreshInterval => '2s'
		};
	}
	if (defined $self->{jwks})
	{
		$config{global}{authorization} = {
			jwtKeyProvider => { keySourceURIs => [ $self->{jwks} ], refreshInterval => '1s' },
			permissionsClaimName => 'permissions',
			authorizer => 'default',
			claimMapper => 'default',
			defined $self->{audience} ? (audience => $self->{audience}) : ()
		};
	}
	return \%config;
}

sub in_memory
{
	return {
		sql => {
			pluginName => 'sqlite',
			databaseName => 'default',
			connectAddr => 'localhost',
			connectProtocol => 'tcp',
			connectAttributes => { mode => 'memory', cache => 'private' },
			maxConns => 1,
			maxIdleConns => 1,
			maxConnLifetime => '1h'
		}
	};
}

sub no_archive
{
	return { map { $_ => { state => 'disabled' } } qw(history visibility) };
}

# It has said so after byte "said" of its log: the inner services have answered.
# The frontend is asked as its clients do.
sub is_ready
{
	my ($self, $said) = @_;

	return 0 unless $self->log_since($said) =~ /^serving$/m;
	return eval { $self->operator->healthy(timeout => 5) } ? 1 : 0;
}

1;
