
# The harness itself: the Temporal server with TLS and tokens lets in whom it
# should and nobody else, the issuer gives tokens as it is told.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(decode_base64url);
use Opdata::Issuer;
use Opdata::Process;
use Opdata::TemporalServer;
use Opdata::Test;
use Opdata::Toxiproxy;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# What a call gets from a server that lets it through.
my $let_in = qr/^describe: RPCError NOT_FOUND workflow not found/;

# PERMISSION_DENIED, of the call or of the first one that the client makes by itself
my $refused = qr/^describe: (?:RPCError PERMISSION_DENIED|RuntimeError .*PermissionDenied)/;

# no TLS connection; whether an alert is seen is a matter of luck
my $no_connection = qr/^describe: RuntimeError Failed client connect: (?!.*PermissionDenied)/;

# The issuer.
my $issuer = issuer('issuer');
my $before = time();

$issuer->add_client('agent', 'agent_secret', 'org_1', [ 'acme:write', 'acme:worker' ]);
$issuer->add_client('stranger', 'stranger_secret', 'org_9', ['other:write']);
$issuer->add_client('operator', 'operator_secret', undef, ['temporal-system:admin']);
is($issuer->token_requests, 0, 'nobody has asked for a token yet');

my $answer = $issuer->ask('agent', 'agent_secret');
is("$answer->{status} $answer->{token_type} $answer->{expires_in}", '200 Bearer 300', 'a client gets a token');
my ($header, $claims) = decoded($answer->{access_token});
is($header->{alg}, 'RS256', 'signed with RS256');
my ($iat, $exp, $jti) = delete @$claims{qw(iat exp jti)};
is_deeply(
	$claims,
	{   iss => $issuer->url,
		aud => 'urn:opdata',
		sub => 'agent',
		client_id => 'agent',
		org_id => 'org_1',
		permissions => [ 'acme:write', 'acme:worker' ]
	},
	'which has the claims'
);
is($exp - $iat, 300, 'and a lifetime');
ok($iat >= int($before) && $iat <= time(), 'that begins now');
isnt((decoded($issuer->token('agent')))[1]{jti}, $jti, 'the next one is another one');
is((decoded($issuer->token('operator')))[1]{org_id}, undef, 'a client of no organisation has none');

$answer = $issuer->ask('agent', 'wrong');
is("$answer->{status} $answer->{error}", '401 invalid_client', 'a wrong secret is refused');
$answer = $issuer->ask('nobody', 'x');
is("$answer->{status} $answer->{error}", '401 invalid_client', 'so is an unknown client');
is($issuer->token_requests, 5, 'the requests are counted');
is_deeply(
	[ map { "$_->{client_id} $_->{status}" } $issuer->requests ],
	[ 'agent 200', 'agent 200', 'operator 200', 'agent 401', 'nobody 401' ],
	'and told'
);

$issuer->set_audience('urn:other');
is((decoded($issuer->token('agent')))[1]{aud}, 'urn:other', 'another audience is taken');
$issuer->set_audience('urn:opdata');

my $http = HTTP::Tiny->new;
$issuer->fail_with(503, 'retry-after' => 7);
my $response = $http->post_form($issuer->token_url, {});
is("$response->{status} $response->{headers}{'retry-after'}", '503 7', 'it fails when told to');
is(($issuer->requests)[-1]{status}, 503, 'which counts, too');
is($http->get($issuer->jwks_url)->{status}, 200, 'its keys stay');
$issuer->fail_with;
is($issuer->ask('agent', 'agent_secret')->{status}, 200, 'until told otherwise');

$issuer->set_delay(1);
$before = time();
$issuer->token('agent');
cmp_ok(time() - $before, '>=', 0.99, 'it takes its time when told to');
$issuer->set_delay(0);

# 300 seconds off would be a token that is over, or not yet issued
my $late = issuer('late', clock => '+2h');
$late->add_client('agent', 'agent_secret', undef, []);
$iat = (decoded($late->token('agent')))[1]{iat};
cmp_ok(abs($iat - time() - 7200), '<', 300, 'an issuer has a clock of its own');
$late->stop;

# Its clients, and who else comes, at a server that wants certificate and token.
my $temporal = secure_temporal('temporal', tls => 'mtls', jwks => $issuer->jwks_url);
my $token = $issuer->token('agent');

eval { $temporal->make_namespace('acme') };
like($@, qr/^make_namespace: RPCError PERMISSION_DENIED/, 'a namespace is an operator\'s to make');
$temporal->make_namespace('acme', $issuer->token('operator'));

my $client = $temporal->client(namespace => 'acme', token => $token);
like(answer_to($client), $let_in, 'the tenant is let in with certificate and token');

foreach my $case (
	[ $let_in, 'the successor of its certificate', cert => 'next_user' ],
	[ $let_in, 'one that will expire', cert => 'expiring_user' ],
	[ $let_in, 'the server by its other name', server_name => 'temporal.test' ],
	[ $no_connection, 'no certificate', cert => undef ],
	[ $no_connection, 'one of another CA', cert => 'other_user' ],
	[ $no_connection, 'one that has expired', cert => 'expired_user' ],
	[ $no_connection, 'no TLS', plain => 1 ],
	[ qr/InvalidCertificate\(UnknownIssuer\)/, 'a CA that is not the server\'s', ca => 'other_ca' ],
	[ qr/InvalidCertificate\(NotValidForName/, 'a name that is not the server\'s', server_name => 'else.test' ],
	[ $refused, 'no token', token => undef ],
	[ $refused, 'a token that is none', token => 'a.b.c' ],
	[ $refused, 'a token with another signature', token => forged($token) ],
	[ $refused, 'another tenant\'s token', token => $issuer->token('stranger') ])
{
	my ($expected, $name, %opts) = @$case;
	my $one = $temporal->client(namespace => 'acme', token => $token, %opts);

	like(answer_to($one), $expected, "with $name: " . ($expected == $let_in ? 'let in' : 'refused'));
	$one->kill;
}
like(answer_to($client), $let_in, 'after all that the tenant is let in as before');

# On one connection, with one token.
$temporal->deny('someone', 'agent');
like(answer_to($client), $refused, 'a denied subject is refused with its next call');
$temporal->allow('agent');
like(answer_to($client), $let_in, 'and let in when allowed again');
$temporal->deny('agent');
$temporal->allow;
like(answer_to($client), $let_in, 'also by allowing everybody');
unlink "$temporal->{folder}/deny" or die;
unlike(answer_to($client), $let_in, 'without its list the server lets nobody in');
$temporal->allow;

$issuer->set_ttl(20);
$client->sign_in(authorization => 'Bearer ' . $issuer->token('agent'));
like(answer_to($client), $let_in, 'a token that is short-lived is good');
ok(wait_until(sub { answer_to($client) =~ $refused }), 'until it has expired');
$issuer->set_ttl(300);

$issuer->revoke('agent');
$answer = $issuer->ask('agent', 'agent_secret');
is("$answer->{status} $answer->{error}", '401 invalid_client', 'a revoked client gets no token');
$client->sign_in(authorization => "Bearer $token");
like(answer_to($client), $let_in, 'the one that it has is good');
eval { $issuer->token('agent') };
like($@, qr/no client agent/, 'the test is told, too');

# Both come back at their addresses.
my ($address, $url) = ($temporal->address, $issuer->url);
$issuer->stop;
$issuer->start;
is($issuer->url, $url, 'an issuer starts again at its address');
$temporal->restart;
is($temporal->address, $address, 'so does the server');
$temporal->make_namespace('acme', $issuer->token('operator'));
like(answer_to($client), $let_in, 'a token of the issuer\'s earlier life is good');

# Where it is not its clients' start that fails, but a call of theirs.
$temporal->deny('agent');
eval { $client->start(type => 'any', workflow_id => 'one', task_queue => 'tenant-acme') };
like($@, qr/^start: RPCError PERMISSION_DENIED/, 'a workflow is not started without permission');
$temporal->allow;
is($client->start(type => 'any', workflow_id => 'one', task_queue => 'tenant-acme')->{workflow_id},
	'one', 'and with it');
$temporal->stop;

# The other forms.
my $audience = secure_temporal('audience',
	tls => 'server', jwks => $issuer->jwks_url, audience => 'urn:opdata');
$audience->make_namespace('acme', $issuer->token('operator'));
$issuer->add_client('agent', 'agent_secret', 'org_1', ['acme:write']);
$client = $audience->client(namespace => 'acme', token => $issuer->token('agent'));
like(answer_to($client), $let_in, 'without client certificates: let in');
$issuer->set_audience('urn:other');
$client->sign_in(authorization => 'Bearer ' . $issuer->token('agent'));
like(answer_to($client), $refused, 'with a token for somebody else: refused');
$audience->stop;

my $open = secure_temporal('open');
$open->make_namespace('acme');
$client = $open->client(namespace => 'acme');
like(answer_to($client), $let_in, 'without TLS and tokens: let in');
like(answer_to($open->client(namespace => 'nowhere')),
	qr/NOT_FOUND.*namespace/i, 'but not into a namespace that there is not');
$open->stop;

my $faults = toxiproxy('toxiproxy');
my $through = $faults->add('issuer', $issuer->address);
my $keys = $issuer->jwks_url =~ s/127[^\/]*/$through/r;

ok($faults->is_ready, 'toxiproxy starts');
is($http->get($keys)->{status}, 200, 'it passes on');
$faults->toxic('issuer', 'limit_data', { bytes => 10 });
$response = $http->get($keys);
is($response->{status}, 599, 'it cuts');
$faults->disable('issuer');
$response = $http->get($keys);
like($response->{content}, qr/refused/, 'it refuses');
$faults->stop;
ok(!$faults->is_ready, 'it ends');

my ($program, $out, $err) = (<<~'JAVASCRIPT', '', '');
	import { convexTest } from 'convex-test';
	import { ConvexHttpClient } from 'convex/browser';
	console.log(typeof convexTest, typeof ConvexHttpClient);
	JAVASCRIPT
IPC::Run::run(
	[ Opdata::Process::program('OPD_NODE'), '--input-type=module', '-' ],
	'<', \$program, '>', \$out, '2>', \$err,
	init => sub { chdir "$FindBin::RealBin/../node" });
is($out, "function function\n", 'the modules for Convex load') or diag $err;

done_testing();

# What a call of this client gets.
sub answer_to
{
	my ($one) = @_;

	eval { $one->describe(workflow_id => 'none', timeout => 60); };
	return $@;
}

# Header and claims of a JWT.
sub decoded
{
	my ($jwt) = @_;
	return map { decode_json(decode_base64url($_)) } (split /\./, $jwt)[ 0, 1 ];
}

# The same token, with one letter of its signature changed.
sub forged
{
	my ($jwt) = @_;
	my ($signed, $first, $rest) = $jwt =~ /^(.*\.)(.)([^.]*)$/;
	return $signed . ($first eq 'A' ? 'B' : 'A') . $rest;
}
