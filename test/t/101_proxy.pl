
# Everything for the control plane by way of an HTTP proxy: Temporal with TLS, the
# token endpoint, Convex. What the proxy refuses is told; it learns host names and
# nothing that is meant for others.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use Opdata::Convex;
use Opdata::Credentials qw(fake_network reader);
use Opdata::HttpProxy;
use Opdata::Issuer;
use Opdata::Process;
use Opdata::TemporalServer;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# An agent that gets no connection tries every 12 seconds at the latest; one that
# is refused, every 72.
my $soon = 90;
my $refused_soon = 170;

my $json = JSON::PP->new->canonical->allow_nonref;
my $folder = PostgreSQL::Test::Utils::tempdir('files');
my $number = 0;

my $issuer = issuer('issuer');
$issuer->add_client('agent', 'agent_secret', 'acme', [ 'default:write', 'default:worker' ]);
$issuer->add_client('operator', 'operator_secret', undef, ['temporal-system:admin']);
my $temporal = secure_temporal('temporal', tls => 'mtls', jwks => $issuer->jwks_url);
$temporal->make_namespace('default', $issuer->token('operator'));
my $client = $temporal->client(token => $issuer->token('operator'));
my $convex = convex_server('convex', issuer => $issuer->url, audience => 'urn:opdata', jwks => $issuer->jwks_url);
my %ports = (
	temporal => $temporal->port,
	issuer => ($issuer->url =~ /:(\d+)/)[0],
	convex => $convex->port);

# Only the proxies know the name temporal.test. Others want a password, or let
# nobody through to one of the three.
my ($proxy, $open, %without);
my %network = fake_network("temporal.test 127.0.0.1\n");
{
	local %ENV = (%ENV, %network);
	$proxy = http_proxy('proxy', user => 'gate', password => 'first_pw', ports => [ values %ports ]);
	$open = http_proxy('open', ports => [ values %ports ]);
	foreach my $name (sort keys %ports)
	{
		$without{$name} = http_proxy("without_$name", ports => [ map { $ports{$_} } grep { $_ ne $name } keys %ports ]);
	}
}
my $heard = "$folder/heard";
replace_file($heard, '');
my $relay = Opdata::Process->listening('relay', sub { relay($proxy->port, @_) });

my $source = source_cluster('source');
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

my $secret_file = replace_file("$folder/secret", "agent_secret\n");
my $password_file = replace_file("$folder/password", "first_pw\n");

# proxies of the environment, at which nobody listens
my $nobody = '127.0.0.1:' . closed_port();
my %environment = map { ($_ => "http://$nobody") } qw(http_proxy https_proxy HTTP_PROXY HTTPS_PROXY all_proxy ALL_PROXY);
my $agent;
{
	local %ENV = (%ENV, %environment, no_proxy => '*', NO_PROXY => '*');
	$agent = agent_cluster('agent', soon => $soon, conf => <<"EOT");
opdata.interactive_workers = 1
opdata.org_id = 'acme'
opdata.temporal_tls_ca = '@{[ $temporal->ca ]}'
opdata.temporal_tls_cert = '@{[ $temporal->cert ]}'
opdata.temporal_tls_key = '@{[ $temporal->key ]}'
opdata.temporal_auth = 'token'
opdata.auth_token_url = 'http://localhost:$ports{issuer}/oauth2/token'
opdata.auth_client_id = 'agent'
opdata.auth_client_secret_file = '$secret_file'
opdata.convex_url = 'http://localhost:$ports{convex}'
EOT
}

environment();
through_the_proxy();
refused();
away_and_back();
another_password();
forbidden_ports();
allowed_hosts();
nothing_is_told();
done_testing();

# ---------------------------------------------------------------- parts

# A relay to the proxy at this port, which appends the head of what comes first on
# each connection to the file $heard.
sub relay
{
	my ($port, $socket) = @_;
	my $parent = getppid();
	my $select = IO::Select->new($socket);
	my (%peer, %head);

	while (getppid() == $parent)
	{
		foreach my $ready ($select->can_read(0.2))
		{
			if ($ready == $socket)
			{
				my $from = $socket->accept or next;
				my $to = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port);

				# the proxy is down: so are we
				next unless $to;
				@peer{ $from, $to } = ($to, $from);
				$head{$from} = '';
				$select->add($from, $to);
				next;
			}
			my $other = $peer{$ready} // next;
			my $n = sysread($ready, my $data, 65536);
			if (!$n)
			{
				$select->remove($ready, $other);
				delete @peer{ $ready, $other };
				close $_ foreach $ready, $other;
				next;
			}
			if (defined $head{$ready})
			{
				$head{$ready} .= $data;
				if ($head{$ready} =~ /\A(.*?\r\n\r\n)/s)
				{
					append_to_file($heard, $1);
					delete $head{$ready};
				}
			}
			while (length $data)
			{
				my $written = syswrite($other, $data) // last;
				substr($data, 0, $written, '');
			}
		}
	}
	return;
}

# ---------------------------------------------------------------- questions

# What became of the last request for a token: workers wait for one before it has
# been answered.
sub token_error
{
	my ($code, $message, $name) = @_;
	my $error;

	ok( wait_until(
			sub {
				$error = $agent->status->{token}{lastError};
				return $error && $error->{code} eq $code && $error->{message} =~ $message;
			},
			$soon),
		$name) or diag($json->encode($error));
	return;
}

# Of a proxy with a user its URL has the name, but not the password.
sub url
{
	my ($address, $user) = @_;
	return 'http://' . (defined $user ? "$user\@" : '') . $address;
}

sub preview
{
	return (
		type => 'previewQueryWorkflow',
		workflow_id => 'preview ' . ++$number,
		task_queue => 'tenant-acme',
		input => { orgId => 'acme', sql => q{select 'done'}, credentials => reader($source) });
}

sub works
{
	my ($name) = @_;
	my $ended = $client->execute(preview());

	is($ended->{result} && $ended->{result}{rows}[0][0], 'done', $name) or diag($json->encode($ended));
	return;
}

# A store is told to Convex.
sub store
{
	my ($id) = @_;
	my $ended = $client->execute(
		type => 'storeCredsWorkflow',
		workflow_id => 'store ' . ++$number,
		task_queue => 'tenant-acme',
		input => { orgId => 'acme', connectionId => $id, credentials => reader($source) });

	is($ended->{result} && $ended->{result}{status}, 'connected', "$id is stored") or diag($json->encode($ended));
	return;
}

sub told
{
	my ($id) = @_;
	return scalar grep { $_->{args}{connectionId} eq $id && ($_->{status} // 0) == 200 }
	  @{ $convex->calls('connections:setStatus') };
}

# ---------------------------------------------------------------- the proxy

sub environment
{
	$agent->renew(temporal_address => "localhost:$ports{temporal}");
	$agent->workers_get('polling', 'an agent polls, whatever proxies the environment names');
	is($agent->status->{temporal}{proxy}, JSON::PP::false, 'it has no proxy');
	store('straight');
	ok(wait_until(sub { told('straight') == 1 }, $soon), 'which Convex is told');
	is($open->asked + $proxy->asked, 0, 'no proxy was asked');
	return;
}

sub through_the_proxy
{
	my $from = -s $heard;

	$agent->renew(temporal_address => "temporal.test:$ports{temporal}", proxy => url($open->address));
	$agent->workers_get('polling', 'it polls through a proxy, though the environment excludes all hosts');
	is($agent->status->{temporal}{proxy}, JSON::PP::true, 'the status has it');
	works('a preview is done');
	ok(wait_until(sub { grep { $_ eq "localhost:$ports{convex}" } $open->asked }, $soon), 'Convex is told that the agent lives');

	# with a password, and an ear at the door
	$agent->renew(proxy => url($relay->address, 'gate'), proxy_password_file => $password_file, auth_scope => 'another token');
	$agent->workers_get('polling', 'also with a password');
	store('by proxy');
	ok(wait_until(sub { told('by proxy') == 1 }, $soon), 'Convex is told');
	foreach my $one ($proxy, $open)
	{
		my %asked = map { ($_ => 1) } $one->asked;
		delete $asked{"localhost:$ports{issuer}"} if $one == $open;
		my @expected = ("temporal.test:$ports{temporal}", "localhost:$ports{convex}");
		push @expected, "localhost:$ports{issuer}" if $one == $proxy;
		is_deeply([ sort keys %asked ], [ sort @expected ], "$one->{name} was asked for names");
	}

	my @heads = split /(?<=\r\n\r\n)/, slurp_file($heard, $from);
	cmp_ok(scalar(@heads), '>=', 3, 'what it is asked was heard');
	is_deeply([ grep { !/\ACONNECT \S+ HTTP\/1\.1\r\n/ } @heads ], [], 'CONNECT and nothing else');
	my $authorization = $proxy->authorization;
	is_deeply([ grep { !/^Proxy-Authorization: \Q$authorization\E\r$/mi } @heads ], [], 'with the password for the proxy');
	my %names = map { (lc $_ => 1) } map { /^([\w-]+):/mg } @heads;
	is_deeply([ sort keys %names ], [qw(host proxy-authorization proxy-connection user-agent)],
		'and no header that is meant for others');
	is_deeply([ grep { /Bearer|agent_secret|eyJ/ } @heads ], [], 'no token or secret');
	unlike(slurp_file($_->log_file), qr/Bearer|agent_secret|eyJ|authorization:/i, "nor in the log of $_->{name}")
	  foreach $proxy, $open;
	return;
}

# ---------------------------------------------------------------- refusals

# What each leg tells of a proxy that refuses: {temporal, issuer, convex}.
sub refused
{
	foreach my $case ([ 'a wrong password', 401, 'wrong_pw' ], [ 'no password', 407, undef ])
	{
		my ($name, $status, $password) = @$case;

		replace_file("$folder/wrong", "$password\n") if defined $password;

		# The token endpoint comes first. It gets another scope, so that the token
		# of before is of no use.
		$agent->renew(proxy => url($relay->address, defined $password ? 'gate' : undef), auth_scope => $name,
			proxy_password_file => defined $password ? "$folder/wrong" : '');
		$agent->workers_get('no_token', "$name: no token");
		token_error('proxy_refused', qr/proxy refused CONNECT with HTTP status $status/, 'which is told with the status');
		ok($agent->warned('no_token'), 'and warned of');
	}

	$agent->renew(proxy => url($relay->address, 'gate'), proxy_password_file => $password_file);
	$agent->workers_get('polling', 'with the right one it polls again');

	# Without a token: Temporal alone. It cannot be let in, but reached.
	$agent->renew(auth_token_url => '', temporal_auth => 'none', convex_url => '', proxy_password_file => "$folder/wrong");
	$agent->workers_get('refused', 'Temporal by a proxy with a wrong password: refused');
	foreach my $worker ($agent->workers)
	{
		is($worker->{lastError}{code}, 'FAILED_PRECONDITION', "$worker->{name} tells so");
		like($worker->{lastError}{message}, qr/proxy refused CONNECT with HTTP status 401.*opdata\.proxy_password_file/,
			'and which setting to look at');
	}
	ok($agent->warned('temporal_refused'), 'the status warns');
	$agent->renew(
		auth_token_url => "http://localhost:$ports{issuer}/oauth2/token",
		temporal_auth => 'token',
		convex_url => "http://localhost:$ports{convex}",
		proxy_password_file => $password_file);
	$agent->workers_get('polling', 'all is as before');
	return;
}

sub start_proxy
{
	local %ENV = (%ENV, %network);
	$proxy->start;
	return;
}

sub away_and_back
{
	my $before = $agent->pids;

	$proxy->stop;
	$agent->workers_get('unreachable', 'the proxy is stopped, which cuts all tunnels');
	foreach my $worker ($agent->workers)
	{
		is($worker->{lastError}{code}, 'UNAVAILABLE', "$worker->{name} tells so");
	}
	ok($agent->warned('temporal_unreachable'), 'the status warns');
	json($agent, q{select opdata_delete('straight')});
	start_proxy();
	$agent->workers_get('polling', 'the proxy is back, and so are the workers');
	is($agent->pids, $before, 'without a restart');
	works('a preview is done');
	ok(wait_until(sub { told('straight') == 2 }, $soon), 'Convex is told what was done meanwhile');
	return;
}

# The proxy has another password from now on, and the file follows.
sub another_password
{
	my $before = $agent->pids;

	$proxy->stop;
	$proxy->{password} = 'second_pw';
	start_proxy();
	$agent->workers_get('refused', 'the proxy has another password: refused');
	replace_file($password_file, "second_pw\n");
	$agent->workers_get('polling', 'the new one in its file: polling', timeout => $refused_soon);
	is($agent->pids, $before, 'without a restart or reload');
	works('a preview is done');
	unlink $password_file or die;
	ok( wait_until(
			sub { !grep { ($_->{lastError}{code} // '') ne 'PROXY_PASSWORD_FILE' } $agent->workers }, $soon),
		'a file that is gone is told of');
	$agent->workers_get('polling', 'while the password stays in use');
	works('a preview is done');
	$agent->renew(auth_scope => 'nothing to use');
	$agent->workers_get('misconfigured', 'a new process has nothing to use');
	replace_file($password_file, "second_pw\n");
	$agent->workers_get('polling', 'the file is back');
	return;
}

sub forbidden_ports
{
	$agent->renew(proxy => url($without{issuer}->address), proxy_password_file => '', auth_scope => 'forbidden');
	$agent->workers_get('no_token', 'a proxy that does not let us to the token endpoint');
	token_error('proxy_refused', qr/HTTP status 403/, 'which is told with the status');

	$agent->renew(proxy => url($without{temporal}->address));
	$agent->workers_get('refused', 'one that does not let us to Temporal');
	foreach my $worker ($agent->workers)
	{
		like($worker->{lastError}{message}, qr/proxy refused CONNECT with HTTP status 403/, "$worker->{name} tells so");
	}
	is($agent->status->{token}{state}, 'valid', 'the token is there');

	$agent->renew(proxy => url($without{convex}->address));
	$agent->workers_get('polling', 'one that does not let us to Convex: the agent polls');
	store('not told');
	ok( wait_until(
			sub {
				($agent->status->{convex}{lastError}{message} // '') =~ /proxy refused CONNECT with HTTP status 403/;
			},
			$soon
		),
		'what Convex is not told is told in the status');
	is(told('not told'), 0, 'it waits');
	cmp_ok($agent->status->{convex}{waiting}, '>=', 1, 'and is counted');

	$agent->renew(proxy => url($open->address));
	$agent->workers_get('polling', 'a proxy that lets us to all of them');
	ok(wait_until(sub { told('not told') == 1 }, $soon), 'now it is told');
	return;
}

# ---------------------------------------------------------------- host policy

# The token endpoint is subject to opdata.allowed_hosts: with a proxy by its name,
# without one by its address, too.
sub allowed_hosts
{
	foreach my $case (
		[ 'another name, by proxy', 'example.com', $open ],
		[ 'a block of addresses, by proxy', '127.0.0.0/8, ::1', $open ],
		[ 'another name, straight', 'example.com', undef ])
	{
		my ($name, $hosts, $by) = @$case;

		my $asked = grep { /:$ports{issuer}$/ } $open->asked;
		my $requests = $issuer->token_requests;
		$agent->renew(
			allowed_hosts => $hosts,
			auth_scope => $name,
			proxy => $by ? url($by->address) : '',
			temporal_address => ($by ? 'temporal.test' : 'localhost') . ":$ports{temporal}");
		$agent->workers_get('no_token', "$name: no token");
		token_error('host_not_allowed', qr/"localhost"/, 'which is told with the host');
		is(scalar(grep { /:$ports{issuer}$/ } $open->asked), $asked, 'nobody was asked for it');
		is($issuer->token_requests, $requests, 'nor the issuer');
	}
	my $before = $agent->pids;
	$agent->append_conf('postgresql.conf', "opdata.allowed_hosts = 'localhost'\n");
	$agent->reload;
	$agent->workers_get('polling', 'the name is allowed, straight: polling');
	is($agent->pids, $before, 'without a restart');
	$agent->renew(allowed_hosts => '127.0.0.0/8, ::1', auth_scope => 'by address');
	$agent->workers_get('polling', 'its addresses are allowed, straight: polling');
	$agent->renew(proxy => url($open->address), allowed_hosts => 'LOCALHOST., 127.0.0.1', auth_scope => 'allowed',
		temporal_address => "temporal.test:$ports{temporal}");
	$agent->workers_get('polling', 'the name is allowed, by proxy: polling');
	works('a preview is done');
	return;
}

sub nothing_is_told
{
	my $log = slurp_file($agent->logfile);

	unlike($log, qr/terminated by signal|PANIC/, 'no crash is in the log');
	unlike($log, qr/reader_pw|agent_secret|first_pw|second_pw|wrong_pw|Bearer|eyJ/, 'and no secret');
	unlike($json->encode($agent->status), qr/reader_pw|agent_secret|_pw|Bearer|eyJ/, 'nor in the status');
	return;
}
