
# The parts that later tests lay between opdata and its peers, or put in place of
# one, tested by themselves: toxiproxy for faults of the network, tinyproxy as the
# HTTP proxy of a customer, and the stand-in for a Convex deployment, which
# Convex's own client must take for the real one.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use MIME::Base64 qw(encode_base64url);
use Opdata::Convex;
use Opdata::HttpProxy;
use Opdata::Process;
use Opdata::Test;
use Opdata::Toxiproxy;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $patience = $PostgreSQL::Test::Utils::timeout_default;
my $dir = PostgreSQL::Test::Utils::tempdir('web');

# ---------------------------------------------------------------------------
# A web server: files of $dir, as application/json, one process a connection

my $server = Opdata::Process->listening(
	'web',
	sub {
		my ($listener) = @_;
		my $parent = getppid();
		my $select = IO::Select->new($listener);

		$SIG{CHLD} = 'IGNORE';
		while (getppid() == $parent)
		{
			$select->can_read(0.2) or next;
			my $client = $listener->accept or next;
			if (!fork())
			{
				serve_file($client);
				POSIX::_exit(0);
			}
		}
	});
my $web = $server->address;

# The line in "seen" is written before the answer goes. After "held" the
# connection stays open until the client closes it.
sub serve_file
{
	my ($client) = @_;
	my $request = '';

	while ($request !~ /\r\n\r\n/)
	{
		sysread($client, $request, 4096, length $request) or return;
	}
	my ($path) = $request =~ m{^GET /(\w+)} or return;
	my $body = slurp_file("$dir/$path");
	my $length = length $body;

	append_to_file("$dir/seen", "$path\n");
	syswrite($client, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
		. "Content-Length: $length\r\nConnection: close\r\n\r\n$body");
	sysread($client, $request, 1) if $path eq 'held';
	return;
}

sub write_file
{
	my ($name, $text) = @_;
	open my $file, '>', "$dir/$name" or die "$dir/$name: $!";
	print $file $text;
	close $file or die "$dir/$name: $!";
	return "$dir/$name";
}

# How often a file was asked for.
sub seen
{
	my ($name) = @_;
	return scalar(() = slurp_file("$dir/seen") =~ /^\Q$name\E$/mg);
}

write_file('seen', '');
write_file($_, 'hello, world') foreach 'hello', 'held';

# Whether $socket gets closed, is reset, or has been silent for $seconds: {how, text,
# seconds}, text being what came before that.
sub listen_to
{
	my ($socket, $seconds) = @_;
	my $begun = time();
	my $select = IO::Select->new($socket);
	my %heard = (how => 'silent', text => '');

	while ($select->can_read($seconds))
	{
		my $n = sysread($socket, $heard{text}, 65536, length $heard{text});
		next if $n;
		$heard{how} = defined $n ? 'closed' : $!{ECONNRESET} ? 'reset' : "error: $!";
		last;
	}
	$heard{seconds} = time() - $begun;
	return \%heard;
}

sub connect_to
{
	my ($address) = @_;
	return IO::Socket::INET->new(PeerAddr => $address, Timeout => $patience);
}

# Ask for the file "hello" there, and listen.
sub ask
{
	my ($address) = @_;
	my $socket = connect_to($address) or return { how => $!{ECONNREFUSED} ? 'refused' : "error: $!" };

	syswrite($socket, "GET /hello HTTP/1.1\r\nHost: web\r\n\r\n");
	return listen_to($socket, $patience);
}

sub is_answered
{
	my ($address, $name) = @_;
	like(ask($address)->{text}, qr/^HTTP\S+ 200 .*hello, world\z/s, $name);
	return;
}

# ---------------------------------------------------------------------------
# toxiproxy

my $faults = toxiproxy('faults');
my $address = $faults->add('web', $web);

like($address, qr/^127\.0\.0\.1:\d+$/, 'a proxy has an address of its own');
isnt($address, $web, '... which is not that of the server');
is_answered($address, 'without a toxic it relays');

$faults->toxic('web', 'latency', { latency => 1500 });
cmp_ok(ask($address)->{seconds}, '>=', 1.4, 'latency: the answer comes later');
$faults->toxic('web', 'latency', { latency => 2500 });
cmp_ok(ask($address)->{seconds}, '>=', 2.4, '... and still later when told so again');
is_deeply([ $faults->toxics('web') ], ['latency_downstream'], '... by one toxic');
$faults->clear('web');
is_deeply([ $faults->toxics('web') ], [], '... until it is cleared');

$faults->toxic('web', 'limit_data', { bytes => 10 });
my $heard = ask($address);
is("$heard->{how}: $heard->{text}", 'closed: HTTP/1.1 2', 'limit_data: cut after ten bytes');
$faults->clear('web');

$faults->toxic('web', 'reset_peer', { timeout => 0 });
is(ask($address)->{how}, 'reset', 'reset_peer: the connection is reset');
$faults->clear('web');

# a black hole for answers
my $open = connect_to($address);
$faults->toxic('web', 'timeout', { timeout => 0 });
syswrite($open, "GET /held HTTP/1.1\r\nHost: web\r\n\r\n");
ok(wait_until(sub { seen('held') == 1 }), 'timeout 0: the request arrives');
$heard = listen_to($open, 1);
is("$heard->{how}: $heard->{text}", 'silent: ', '... and its answer does not');
$faults->clear('web');
is(listen_to($open, $patience)->{how}, 'closed', '... the end of it closes the connection');
is_answered($address, '... and others are answered');

# a black hole for requests, and for a while
my $before = seen('hello');
$faults->toxic('web', 'timeout', { timeout => 1000 }, 'upstream');
$heard = ask($address);
is("$heard->{how}: $heard->{text}", 'closed: ', 'timeout upstream: closed without an answer');
cmp_ok($heard->{seconds}, '>=', 0.9, '... after that time');
is(seen('hello'), $before, '... and the request has not arrived');
$faults->clear('web');

# an open connection through a proxy that goes down
$open = connect_to($address);
$faults->disable('web');
like(listen_to($open, $patience)->{how}, qr/^(closed|reset)$/, 'disable: an open connection is cut');
is(ask($address)->{how}, 'refused', '... a new one refused');
$faults->enable('web');
is_answered($address, 'enable: the same address answers again');

my $second = $faults->add('second', $web);
$faults->toxic('web', 'timeout', { timeout => 0 });
is_answered($second, 'a toxic of one proxy is not one of another');
$faults->disable('second');
$faults->reset;
is_answered($address, 'reset: no more toxics');
is_answered($second, '... and what was disabled is not');

ok(!eval { $faults->toxic('web', 'arsenic'); 1 }, 'a toxic that there is not');
like($@, qr/POST.*400.*invalid toxic/s, '... is an error');
ok(!eval { $faults->clear('nothing'); 1 }, 'a proxy that there is not');
like($@, qr/404/, '... too');
$faults->stop;
is(ask($address)->{how}, 'refused', 'nothing is left after stop');

# ---------------------------------------------------------------------------
# tinyproxy

# The status of CONNECT, and what the web server answered through the tunnel.
sub through
{
	my ($proxy, $target, @headers) = @_;
	my $socket = connect_to($proxy->address) or return $!{ECONNREFUSED} ? 'refused' : "error: $!";
	my $reply = '';

	syswrite($socket, join("\r\n", "CONNECT $target HTTP/1.1", "Host: $target", @headers, '', ''));
	while ($reply !~ /\r\n\r\n/)
	{
		IO::Select->new($socket)->can_read($patience) or return 'silent';
		sysread($socket, $reply, 1, length $reply) or return 'cut';
	}
	my ($status) = $reply =~ m{^HTTP/1\.\d (\d+) };
	return ($status, $socket, $reply) if $status != 200;

	syswrite($socket, "GET /hello HTTP/1.1\r\nHost: web\r\n\r\n");
	return ($status, $socket, listen_to($socket, $patience)->{text});
}

my ($web_port) = $web =~ /:(\d+)$/;
my $by_name = "localhost:$web_port";
my $proxy = http_proxy('open_proxy');
my ($status, $socket, $text) = through($proxy, $by_name);

is($status, '200', 'a proxy without conditions connects');
like($text, qr/hello, world\z/, '... and relays');
is_deeply([ $proxy->asked ], [$by_name], '... and was asked for the name, not for an address');
is_deeply([ $proxy->established ], ['localhost'], '... to which it was connected');
is($proxy->url, 'http://' . $proxy->address, '... its URL has no credentials');
is((through($proxy, 'no-such-host.invalid:443'))[0], '500', 'a name that it cannot resolve');
is(scalar($proxy->asked), 2, '... was asked for');
is(scalar($proxy->established), 1, '... and not reached');

$open = connect_to($proxy->address);
syswrite($open, "CONNECT $by_name HTTP/1.1\r\nHost: $by_name\r\n\r\n");
ok(wait_until(sub { $proxy->established == 2 }), 'a tunnel is open');
my $proxy_address = $proxy->address;
$proxy->stop;
like(listen_to($open, $patience)->{how}, qr/^(closed|reset)$/, '... which a stop cuts');
is(through($proxy, $by_name), 'refused', '... and the proxy is gone');
$proxy->start;
is($proxy->address, $proxy_address, 'it starts again where it was');
is((through($proxy, $by_name))[0], '200', '... and connects');
is(scalar($proxy->asked), 4, '... and counts on');
$proxy->stop;

$proxy = http_proxy('strict_proxy', user => 'agent', password => 'proxy_pw', ports => [$web_port]);
my $good = 'Proxy-Authorization: ' . $proxy->authorization;
my $bad = 'Proxy-Authorization: Basic ' . MIME::Base64::encode_base64('agent:other', '');

($status, $socket, $text) = through($proxy, $by_name);
is($status, '407', 'without credentials: 407');
like($text, qr/^Proxy-Authenticate: Basic /mi, '... with what is wanted');
is((through($proxy, $by_name, $bad))[0], '401', 'with wrong ones: 401, as tinyproxy has it');
($status, $socket, $text) = through($proxy, $by_name, $good);
is($status, '200', 'with the right ones: 200');
like($text, qr/hello, world\z/, '... and the answer');
is((through($proxy, 'localhost:443', $good))[0], '403', 'a port that is not on the list: 403');
is_deeply([ $proxy->asked ], [ ($by_name) x 3, 'localhost:443' ], 'all of them were asked for');
is(scalar($proxy->established), 1, '... one was reached');
is($proxy->url, 'http://agent:proxy_pw@' . $proxy->address, 'its URL has the credentials');
unlike(slurp_file($proxy->log_file), qr/proxy_pw/, 'its log has not');
$proxy->stop;

# ---------------------------------------------------------------------------
# Tokens

# A key pair: the file of the private one, the public one as a JWK.
sub make_key
{
	my ($kid) = @_;
	my $file = "$dir/$kid.pem";
	my ($made, $modulus) = ('', '');

	IPC::Run::run([ qw(openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out), $file ],
		'2>', \$made) or die "openssl: $made";
	IPC::Run::run([ qw(openssl rsa -noout -modulus -in), $file ], '>', \$modulus)
	  or die 'openssl could not tell the modulus';
	$modulus =~ /=([0-9A-F]+)/ or die "openssl said $modulus";
	return {
		file => $file,
		jwk => {
			kty => 'RSA', use => 'sig', alg => 'RS256', kid => $kid,
			e => 'AQAB', n => encode_base64url(pack('H*', $1))
		}
	};
}

my $issuer = 'https://issuer.test';
my $key = make_key('first');
my $foreign_key = make_key('second');

# A token that is good but for the claims (undef leaves one out), the header and
# the key given.
sub token
{
	my ($claims, $header, $signer) = @_;
	my %claims = (
		iss => $issuer, aud => 'opdata', sub => 'client_1', org_id => 'acme',
		exp => int(time()) + 3600, iat => int(time()), %{ $claims // {} });
	my %header = (alg => 'RS256', typ => 'JWT', kid => 'first', %{ $header // {} });
	my $signature = '';

	delete @claims{ grep { !defined $claims{$_} } keys %claims };
	delete @header{ grep { !defined $header{$_} } keys %header };
	my $signed = join '.', map { encode_base64url(encode_json($_)) } \%header, \%claims;
	IPC::Run::run(
		[ qw(openssl dgst -sha256 -binary -sign), ($signer // $key)->{file} ],
		'<', \$signed, '>', \$signature)
	  or die 'openssl could not sign';
	return $signed . '.' . encode_base64url($signature);
}

sub publish
{
	write_file('jwks', encode_json({ keys => [ map { $_->{jwk} } @_ ] }));
	return;
}

publish($key);

# ---------------------------------------------------------------------------
# The stand-in for Convex, by its own client

my %deployment = (issuer => $issuer, audience => 'opdata', jwks => "http://$web/jwks");
my $convex = convex_server('convex', %deployment);
my $client = $convex->client;
my $token = token();

sub status_args
{
	return {
		orgId => 'acme', agentId => 'agent 1', workspaceId => 'default', connectionId => 'crm',
		type => 'postgres', status => 'connected', errorCode => undef, lastTestedAt => 1767225600123,
		safeMetadata => { host => 'db.test', port => 5432, some => [ "\x{fc}", 1.5, undef, JSON::PP::true ] },
		idempotencyKey => 'key 1', @_
	};
}

sub heartbeat_args
{
	return {
		orgId => 'acme', agentId => 'agent 1', version => '1.0', healthy => JSON::PP::false,
		reasons => ['no key'], sentAt => 1767225600123, idempotencyKey => 'beat 1', @_
	};
}

# A call of each function; the last argument may be another token, or undef.
sub set_status
{
	my ($args, @token) = @_;
	return {
		kind => 'mutation', path => 'connections:setStatus', args => $args,
		token_of(@token) };
}

sub beat
{
	my ($args, @token) = @_;
	return { kind => 'mutation', path => 'agents:heartbeat', args => $args, token_of(@token) };
}

sub beat_of
{
	my ($key, @token) = @_;
	return beat(heartbeat_args(idempotencyKey => $key), @token);
}

sub get_model
{
	my ($org, $id) = @_;
	return { kind => 'query', path => 'models:get', args => { orgId => $org, modelId => $id }, token_of() };
}

sub token_of
{
	my (@token) = @_;
	return (token => $token) unless @token;
	return defined $token[0] ? (token => $token[0]) : ();
}

# The function failed, which is another thing than a refusal {code, message}.
sub failed_with
{
	my ($result, $like, $name) = @_;
	like($result->{error} // 'no error', qr/^\[Request ID: \w+\] Server Error\n.*$like/s, $name);
	return;
}

sub refused_with
{
	my ($result, $code, $name) = @_;
	my $body = eval { decode_json($result->{error}) } // {};
	is($body->{code}, $code, $name) or diag(explain $result);
	ok(length($body->{message} // ''), '... with a message');
	return;
}

sub without_system_fields
{
	return [ map { my %row = %$_; delete @row{qw(_id _creationTime)}; \%row } @{ $_[0] } ];
}

# Did the call count?
sub is_applied
{
	my ($call, $name) = @_;
	is_deeply(scalar $client->call($call), { value => { applied => JSON::PP::true } }, $name);
	return;
}

sub is_ignored
{
	my ($call, $name) = @_;
	is_deeply(scalar $client->call($call), { value => { applied => JSON::PP::false } }, $name);
	return;
}

is_applied(set_status(status_args()), 'the official client calls a mutation');
my $documents = $convex->documents;
is_deeply(without_system_fields($documents->{connections}), [ status_args() ], '... which is stored as it was sent');

is_ignored(set_status(status_args(status => 'error')), 'a repeated key is ignored');
is_deeply($convex->documents, $documents, '... and changes nothing');

my %later = (status => 'error', errorCode => 'authentication_failed', idempotencyKey => 'key 2');
is_applied(set_status(status_args(%later)), 'another key is not');
$documents = $convex->documents;
is_deeply([ map { $_->{status} } @{ $documents->{statuses} } ], [qw(connected error)], '... both are recorded');
is_deeply([ map { $_->{status} } @{ $documents->{connections} } ], ['error'], '... the last one holds');

# at once
my @results = $client->call(map { set_status(status_args(connectionId => 'dwh', idempotencyKey => 'key 3')) } 1 .. 20);
is(scalar(grep { $_->{value}{applied} } @results), 1, 'of twenty calls at once with one key one counts');
is(scalar(grep { !defined $_->{error} } @results), 20, '... and all succeed');
is(scalar(grep { $_->{connectionId} eq 'dwh' } @{ $convex->documents->{statuses} }), 1, '... and is stored');

is_applied(beat(heartbeat_args()), 'a heartbeat is taken');
is_ignored(beat(heartbeat_args()), '... once');
is_deeply(without_system_fields($convex->documents->{heartbeats}), [ heartbeat_args() ], '... and stored');

is_deeply($client->call(get_model('acme', 'orders')), { value => undef }, 'a model that there is not is null');
my $model = { id => 'orders', version => 3, columns => [ { name => 'id', key => JSON::PP::true } ] };
$convex->put_model('acme', 'orders', { version => 2 });
$convex->put_model('acme', 'orders', $model);
is_deeply($client->call(get_model('acme', 'orders'))->{value}, $model, 'one that there is comes as it was put');

# validators
foreach my $case (
	[ 'a status that there is not', qr/Validator error/, status => 'fine' ],
	[ 'an argument too many', qr/Unexpected field `password`/, password => 'x' ],
	[ 'a text for a time', qr/Validator error/, lastTestedAt => '2026' ],
	[ 'null for the type', qr/Validator error/, type => undef ])
{
	my ($name, $like, %args) = @$case;
	failed_with(scalar $client->call(set_status(status_args(%args, idempotencyKey => $name))),
		$like, "$name is refused by the function");
}
my $incomplete = status_args(idempotencyKey => 'incomplete');
delete $incomplete->{agentId};
failed_with(scalar $client->call(set_status($incomplete)),
	qr/Missing required field `agentId`/, 'and so is an argument too few');
delete @$incomplete{qw(type)};
$incomplete->{agentId} = 'agent 1';
is_applied(set_status($incomplete), 'the type may be left out');
failed_with(scalar $client->call(beat(heartbeat_args(healthy => 'yes'))), qr/Validator error/,
	'heartbeats are validated too');
failed_with(scalar $client->call({ kind => 'query', path => 'no:such', args => {}, token => $token }),
	qr/Could not find public function for 'no:such'/, 'a function that there is not');
failed_with(scalar $client->call({ %{ beat(heartbeat_args()) }, kind => 'query' }),
	qr/defined as mutation/, 'a mutation called as a query');

# who calls
my $calls = @{ $convex->calls };
foreach my $case (
	[ 'an expired token', 'InvalidAuthHeader', token({ exp => int(time()) - 60 }) ],
	[ 'one without an end', 'InvalidAuthHeader', token({ exp => undef }) ],
	[ 'one of later', 'InvalidAuthHeader', token({ nbf => int(time()) + 60 }) ],
	[ 'one of another issuer', 'NoAuthProvider', token({ iss => 'https://other.test' }) ],
	[ 'one for another audience', 'NoAuthProvider', token({ aud => 'other' }) ],
	[ 'one for nobody', 'NoAuthProvider', token({ aud => undef }) ],
	[ 'one without a subject', 'InvalidAuthHeader', token({ sub => undef }) ],
	[ 'a key that is not published', 'InvalidAuthHeader', token({}, { kid => 'second' }, $foreign_key) ],
	[ 'another key under the name of ours', 'InvalidAuthHeader', token({}, {}, $foreign_key) ],
	[ 'a key without a name', 'InvalidAuthHeader', token({}, { kid => undef }) ],
	[ 'a header without a type', 'InvalidAuthHeader', token({}, { typ => undef }) ],
	[ 'another algorithm', 'InvalidAuthHeader', token({}, { alg => 'none' }) ],
	[ 'a signature of another token', 'InvalidAuthHeader',
		join('.', (split /\./, token({ org_id => 'evil' }))[ 0, 1 ], (split /\./, $token)[2]) ],
	[ 'no token at all', 'InvalidAuthHeader', 'abcdef' ])
{
	my ($name, $code, $other) = @$case;
	refused_with(scalar $client->call(beat_of($name, $other)), $code,
		"refused: $name");
}
my @refused = splice @{ $convex->calls }, $calls;
is_deeply([ map { $_->{status} } @refused ], [ (401) x @refused ], 'the status was 401 each time');
is(scalar(grep { $_->{authorization} && !defined $_->{subject} } @refused), scalar(@refused),
	'... and the subject of such a token is not believed');
is(scalar(@{ $convex->documents->{heartbeats} }), 1, '... and nothing was done');

my $result = $client->call(beat_of('anonymous', undef));
is_deeply($result->{data}, { code => 'unauthenticated' }, 'without a token the function asks for one');
ok(!$convex->calls->[-1]{authorization}, '... and there was no header');
$result = $client->call(beat(heartbeat_args(orgId => 'evil', idempotencyKey => 'evil')));
is_deeply($result->{data}, { code => 'forbidden' }, 'the token of one org is not good for another');
is_applied(beat_of('several', token({ aud => [ 'other', 'opdata' ] })),
	'one audience of several will do');
is_applied(beat_of('slash', token({ iss => "$issuer/" })),
	'a slash at the end of the issuer does not matter');
# of which five are let pass, the time until it is looked at included
ok( wait_until(
		sub { $client->call(beat_of('clock', token({ exp => int(time()) - 2 })))->{value}{applied} }),
	'nor do two seconds');

# keys that change
my $asked = seen('jwks');
publish($foreign_key);
refused_with(scalar $client->call(beat_of('old key')), 'InvalidAuthHeader',
	'a key that is withdrawn counts no more');
is_applied(beat_of('new key', token({}, { kid => 'second' }, $foreign_key)), '... its successor does');
is(seen('jwks'), $asked + 2, '... the issuer was asked each time');
write_file('jwks', 'not json');
refused_with(scalar $client->call(beat_of('no keys')), 'InvalidAuthHeader',
	'an issuer that answers nonsense');
publish($key);

# ---------------------------------------------------------------------------
# The API itself, without the client

sub post
{
	my ($path, $body, %headers) = @_;
	my $response = HTTP::Tiny->new(timeout => $patience)->post($convex->url . $path,
		{ content => $body, headers => { 'content-type' => 'application/json', %headers } });
	return "$response->{status} $response->{content}";
}

my %bearer = (authorization => "bEaReR $token");
my $query = encode_json({ path => 'models:get', format => 'json', args => { orgId => 'acme', modelId => 'orders' } });

like(post('/api/query', $query, %bearer), qr/^200 \{"status":"success","value":\{.*"version":3\.0/,
	'in format "json" a number has a point');
is(post('/api/query', '{"path":"models:get","args":{"orgId":"acme","modelId":"none"}}', %bearer),
	'200 {"status":"success","value":null}', '... which is the default, and null is null');
like(post('/api/mutation', $query, %bearer), qr/^560 \{"status":"error","errorMessage":/,
	'a function that fails has status 560');
like(post('/api/query', $query), qr/^560 .*"errorData":\{"code":"unauthenticated"\}/, '... and its data');
like(post('/api/query', $query, authorization => 'Basic YTpi'), qr/^400 \{"code":"InvalidAdminKey"/, 'not Bearer');
like(post('/api/query', $query, authorization => 'Convex abc'), qr/^401 \{"code":"BadAdminKey"/, 'a deploy key');
like(post('/api/query', '{', %bearer), qr/^400 \{"code":"BadJsonBody"/, 'not JSON');
like(post('/api/query', $query, %bearer, 'content-type' => 'text/plain'), qr/^400 \{"code":"BadJsonBody"/,
	'not said to be JSON');
like(post('/api/query', '{"args":{}}', %bearer), qr/^400 \{"code":"BadJsonBody"/, 'no path');
like(post('/api/query', '{"path":"a b","args":{}}', %bearer), qr/^400 \{"code":"BadConvexFunctionIdentifier"/, 'a bad path');
like(post('/api/query', '{"path":"a:b","args":{},"format":"xml"}', %bearer), qr/^400 \{"code":"BadFormat"/, 'a bad format');
like(post('/api/action', $query, %bearer), qr/^404 /, 'what is not there');
like(post('/ctl/clear', '', %bearer), qr/^404 /, 'the control port is another one');
is(HTTP::Tiny->new->get($convex->url . '/api/query')->{status}, 405, 'GET is not');

# ---------------------------------------------------------------------------
# What goes wrong on purpose

$calls = @{ $convex->calls('agents:heartbeat') };
$convex->fail(503, count => 2);
@results = map { scalar $client->call(beat_of('after 503')) } 1 .. 3;
refused_with($results[0], 'ToldToFail', '503 when told so');
refused_with($results[1], 'ToldToFail', '... twice');
ok($results[2]{value}{applied}, '... and no more');
my @three = splice @{ $convex->calls('agents:heartbeat') }, $calls;
is_deeply([ map { $_->{status} } @three ], [ 503, 503, 200 ], '... as the calls tell');
is_deeply([ map { $_->{args} } @three ], [ (heartbeat_args(idempotencyKey => 'after 503')) x 3 ], '... with their arguments');
is_deeply([ map { $_->{subject} } @three ], [ undef, undef, 'client_1' ], '... and who called');
is(scalar(grep { abs($_->{time} / 1000 - time()) < 600 } @three), 3, '... and when');

$convex->fail(503, path => 'models:get');
is_applied(beat_of('another function'), 'a fault of one function is none of another');
refused_with(scalar $client->call(get_model('acme', 'orders')), 'ToldToFail', '... but of that one');

$convex->fail(429, html => 1, retry_after => 7);
my $response = HTTP::Tiny->new->post($convex->url . '/api/query',
	{ content => $query, headers => { 'content-type' => 'application/json' } });
is("$response->{status} $response->{headers}{'content-type'} $response->{headers}{'retry-after'}",
	'429 text/html 7', 'as a gateway would');
like($response->{content}, qr/^<html>/, '... with a page');

$convex->fail_function(1);
failed_with(scalar $client->call(beat_of('thrown')), qr/told to fail/, 'a function throws when told so');
is($convex->calls->[-1]{status}, 560, '... with status 560');
$convex->failed_status(200);
$convex->fail_function(1);
failed_with(scalar $client->call(beat_of('thrown')), qr/told to fail/, '... or in an envelope with status 200');
is($convex->calls->[-1]{status}, 200, '... as the call tells');
$convex->clear;
is_applied(beat_of('thrown'), '... and had done nothing');

# the answer is lost, the work is done
$convex->lose(1);
$result = $client->call(beat_of('lost'));
like($result->{error}, qr/fetch failed/, 'a connection cut instead of an answer');
is($convex->calls->[-1]{status}, undef, '... is a call without a status');
is_ignored(beat_of('lost'), '... that was carried out');

# no answer
$convex->hang(1);
$calls = @{ $convex->calls };
$open = connect_to($convex->address);
syswrite($open, "POST /api/query HTTP/1.1\r\nHost: convex\r\nContent-Type: application/json\r\n"
	. 'Content-Length: ' . length($query) . "\r\nAuthorization: Bearer $token\r\n\r\n$query");
ok(wait_until(sub { @{ $convex->calls } == $calls + 1 && defined $convex->calls->[-1]{path} }), 'a call comes');
is(listen_to($open, 1)->{how}, 'silent', '... and is not answered');
is($convex->calls->[-1]{status}, undef, '... nor has it a status');
like(post('/api/query', $query, %bearer), qr/^200 /, '... but the next one is');
$convex->clear;
is(listen_to($open, $patience)->{how}, 'closed', '... until what hangs is cut');

# an outage
my $url = $convex->url;
$convex->stop;
like($client->call(get_model('acme', 'orders'))->{error}, qr/fetch failed/, 'a deployment that is down');
$convex->start;
is($convex->url, $url, 'it comes back where it was');
is_deeply($client->call(get_model('acme', 'orders')), { value => undef }, '... and has forgotten');
is(scalar(@{ $convex->calls }), 1, '... the calls too');
$convex->kill;

# ---------------------------------------------------------------------------
# The same over TLS

my $certs = "$dir/certs";
make_certs($certs);
$convex = convex_server('convex_tls', %deployment, jwks => 'data:application/json,' . slurp_file("$dir/jwks"),
	cert => "$certs/server.crt", key => "$certs/server.key", ca => "$certs/ca.crt");
like($convex->url, qr/^https:/, 'with a certificate the URL is HTTPS');
ok($convex->client->call(beat(heartbeat_args()))->{value}{applied}, '... and the official client is served');
delete $convex->{ca};
like($convex->client->call(beat(heartbeat_args()))->{error}, qr/fetch failed/, '... unless it does not trust the CA');

my ($http2, $errors) = ('', '');
IPC::Run::run([ qw(openssl s_client -alpn h2 -connect), $convex->address ], '<', \'', '>', \$http2, '2>', \$errors);
like($http2, qr/^ALPN protocol: h2$/m, 'HTTP/2 is offered');
done_testing();
