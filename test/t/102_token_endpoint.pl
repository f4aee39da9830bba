
# A token endpoint that says anything but what it should, and a file with the
# client's secret that is not one: opdata_status() names what is wrong, no
# worker falls over it, and the next good answer ends it. How long a token is
# good for is taken from the answer, within reason. And a name service that says
# nothing at all.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Select;
use JSON::PP;
use List::Util qw(max);
use MIME::Base64 qw(encode_base64url);
use Opdata::Credentials qw(fake_network);
use Opdata::Process;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# A secret and a token that are looked for everywhere at the end; the secret
# has what must be encoded in a form.
my $canary = 'Canary_tale';
my $secret = "$canary+/&=%40~";
my $token = 'Canary_token';

# A failure is followed by a pause that grows from one second up to 72.
my $soon = $PostgreSQL::Test::Utils::timeout_default;

my $json = JSON::PP->new->canonical;
my $folder = PostgreSQL::Test::Utils::tempdir('endpoint');
my $endpoint = Opdata::Process->listening('endpoint', \&serve);
my $number = 0;

write_secret("$secret\r\n");
answer(good());

# Temporal itself is not needed to see who has a token.
my $agent = agent_cluster(
	'agent', conf => <<"EOT");
log_min_messages = debug5
opdata.org_id = 'acme'
opdata.temporal_address = '127.0.0.1:1'
opdata.temporal_tls = off
opdata.auth_token_url = 'http://127.0.0.1:$endpoint->{port}/token?tenant=a'
opdata.auth_client_id = 'client&0'
opdata.auth_client_secret_file = '$folder/secret'
opdata.auth_scope = 'read write'
opdata.auth_audience = 'urn:opdata'
EOT

the_request();
answers_that_are_none();
connections_that_break();
secret_files();
lifetimes();
refusals();
silence();
silent_names();
nothing_is_told();
done_testing();

# ------------------------------------------------------------ the endpoint

# It serves one request a connection, with what the file "answer" holds then,
# and appends each request to the file "asked". Answers that begin with "cut"
# are sent as far as they go; "silence" keeps the connection and says nothing.
sub serve
{
	my ($listener) = @_;
	my $parent = getppid();
	my $select = IO::Select->new($listener);
	my @kept;

	# ends with the test even if that one is killed
	while (getppid() == $parent)
	{
		next unless $select->can_read(0.1);
		my $socket = $listener->accept or next;
		my ($request, $text) = (read_request($socket), slurp_file("$folder/answer"));

		append_to_file("$folder/asked", "$request\n-- end --\n");
		if ($text eq 'silence')
		{
			push @kept, $socket;
			next;
		}
		$text =~ s/^cut\n//;
		while (length $text)
		{
			my $n = syswrite($socket, $text) // last;
			substr($text, 0, $n, '');
		}
		close $socket;
	}
}

sub read_request
{
	my ($socket) = @_;
	my $request = '';

	while (1)
	{
		my ($head, $body) = split /\r\n\r\n/, $request, 2;

		last if defined $body && $head =~ /^content-length: (\d+)/im && length $body >= $1;
		sysread($socket, $request, 65536, length $request) or last;
	}
	return $request;
}

sub asked { return -e "$folder/asked" ? split(/\n-- end --\n/, slurp_file("$folder/asked")) : (); }

# In one step: the endpoint may read it at any time.
sub answer { return replace_file("$folder/answer", $_[0]); }

sub write_secret { return replace_file("$folder/secret", $_[0]); }

sub http
{
	my ($status, $body, @headers) = @_;

	return join("\r\n", "HTTP/1.1 $status Some Reason", 'content-length: ' . length $body,
		'connection: close', @headers, '', $body);
}

sub with
{
	my (%members) = @_;

	delete @members{ grep { !defined $members{$_} } keys %members };
	return http(200, $json->utf8->encode(\%members), 'content-type: application/json');
}

# Good for a second, so that there soon is another request.
sub good { return with(access_token => $token, token_type => 'Bearer', expires_in => 1); }

sub jwt
{
	my (%claims) = @_;
	return join('.', encode_base64url('{"alg":"none"}'), encode_base64url($json->utf8->encode(\%claims)), $token);
}

# ------------------------------------------------------------- the agent

# What the last request came to: the error, once it is a newer one.
sub next_error
{
	my ($before) = @_;
	my $error;

	wait_until(
		sub {
			my $now = ($agent->status->{token} // {})->{lastError};
			$error = $now if $now && $now->{at} ne $before;
			return $error;
		},
		$soon);
	return $error // {};
}

sub last_error_at { return (($agent->status->{token} // {})->{lastError} // {})->{at} // ''; }

# An answer, or whatever else the sub does, that gives no token; then a good one.
sub fails
{
	my ($begin, $end, $code, $message, $name) = @_;
	my $before = $agent->pids;
	my $at = last_error_at();
	my ($error, $got_at);

	$begin->();
	$error = next_error($at);
	is($error->{code}, $code, "$name gives no token");
	like($error->{message} // '', $message, 'the status says what is wrong');
	isnt($agent->status->{token}{state}, 'valid', 'none is used');
	is($agent->pids, $before, 'the workers live');
	$got_at = $agent->status->{token}{obtainedAt} // '';
	$end->();
	ok(wait_until(sub { ($agent->status->{token}{obtainedAt} // '') ne $got_at }, $soon), 'the next good answer is taken')
	  or diag($json->encode($agent->status));
	return;
}

sub answer_fails
{
	my ($text, $code, $message, $name) = @_;

	fails(sub { answer($text) }, sub { answer(good()) }, $code, $message, $name);
	return;
}

# Other settings need another token, at once. No worker goes on with older ones.
sub other_client
{
	$agent->renew(auth_client_id => 'client&' . ++$number);
	return;
}

# In seconds.
sub life
{
	my ($token) = @_;
	return $agent->safe_psql('postgres',
		"select round(extract(epoch from '$token->{expiresAt}'::timestamptz - '$token->{obtainedAt}'::timestamptz))");
}

# -------------------------------------------------------------- the parts

sub the_request
{
	ok(wait_until(sub { scalar asked() && $agent->pids !~ /none/ }, $soon), 'a token is asked for');
	my ($request) = asked();
	my ($head, $body) = split /\r\n\r\n/, $request, 2;
	my %form = map { (split /=/)[0] => (split /=/)[1] } split /&/, $body // '';

	like($head, qr{^POST /token\?tenant=a HTTP/1\.1\r\n}, 'by POST to the address that was given');
	like($head, qr{^content-type: application/x-www-form-urlencoded\r?$}mi, 'as a form');
	unlike($head, qr/^(?:authorization|cookie):/mi, 'which has all of it');
	is_deeply(
		\%form,
		{
			grant_type => 'client_credentials',
			client_id => 'client%260',
			client_secret => "$canary%2B%2F%26%3D%2540~",
			scope => 'read%20write',
			audience => 'urn%3Aopdata'
		},
		'each value encoded');
	return;
}

sub answers_that_are_none
{
	my @token = (token_type => 'Bearer', expires_in => 1);

	answer_fails(http(200, '<html><body>Sign in</body></html>', 'content-type: text/html'),
		'malformed', qr/bearer token/, 'a page of HTML');
	answer_fails(http(200, ''), 'malformed', qr/bearer token/, 'an empty answer');
	answer_fails(http(200, "\0\xff\xfe{"), 'malformed', qr/bearer token/, 'bytes');
	answer_fails(http(200, '[' x 100_000), 'malformed', qr/bearer token/, 'a hundred thousand brackets');
	answer_fails(with(access_token => $token, token_type => 'mac', expires_in => 1),
		'malformed', qr/bearer token/, 'a token of type "mac"');
	answer_fails(with(@token), 'malformed', qr/bearer token/, 'no token');
	answer_fails(with(@token, access_token => ''), 'malformed', qr/bearer token/, 'an empty token');
	answer_fails(with(@token, access_token => [$token]), 'malformed', qr/bearer token/, 'a list');
	answer_fails(with(@token, access_token => "$token\r\nx-injected: 1"), 'malformed', qr/malformed/,
		'a token with a newline');
	answer_fails(with(@token, access_token => $token x 8_500), 'malformed', qr/too long/, 'a token of 100 kB');
	answer_fails(http(200, 'x' x 5_000_000), 'malformed', qr/too (?:long|large)/, 'an answer of 5 MB');
	answer_fails(http(302, '', "location: http://127.0.0.1:$endpoint->{port}/elsewhere"),
		'http_302', qr/302/, 'a redirect');
	answer_fails(http(307, '', "location: http://127.0.0.1:$endpoint->{port}/elsewhere"),
		'http_307', qr/307/, 'one that would send the form again');
	is_deeply([ grep { !m{^POST /token\?} } asked() ], [], 'which is not followed');
	answer_fails(http(503, '{"error":"temporarily_unavailable"}'), 'http_503', qr/503/, 'HTTP status 503');
	answer_fails(http(429, ''), 'http_429', qr/429/, 'HTTP status 429');
	return;
}

sub connections_that_break
{
	my $whole = good();

	answer_fails("cut\n", 'unreachable', qr/cannot be reached/, 'a connection that is closed');
	answer_fails("cut\n" . substr($whole, 0, length($whole) - 5), 'unreachable', qr/cannot be reached/, 'half of an answer');
	answer_fails("cut\nSSH-2.0-OpenSSH_9.2\r\n", 'unreachable', qr/cannot be reached/, 'another protocol');
	return;
}

# Such a file is somebody's mistake in a moment: it is looked at again.
sub secret_files
{
	my %files = (
		'an empty file' => [ sub { write_secret("\n") }, qr/is empty/ ],
		'a file of 20 kB' => [ sub { write_secret('x' x 20_000) }, qr/is larger than/ ],
		'two lines' => [ sub { write_secret("$secret\n$secret\n") }, qr/more than one line/ ],
		'no file' => [ sub { unlink "$folder/secret" }, qr/cannot be opened/ ],
	);

	foreach my $name (sort keys %files)
	{
		my ($begin, $message) = @{ $files{$name} };

		fails($begin, sub { write_secret($secret) }, 'secret_file',
			qr/opdata\.auth_client_secret_file .*$message/, $name);
	}
	return;
}

# How long a token lasts is believed up to a day; one that does not say it is
# asked for again after five minutes.
sub lifetimes
{
	my $now = int(time());
	my @cases = (
		[ 'no expires_in', 300 ],
		[ '60 as a text', 60, expires_in => '60' ],
		[ '"abc"', 300, expires_in => 'abc' ],
		[ '-5', 300, expires_in => -5 ],
		[ '1e300', 86400, expires_in => 1e300 ],
		[ 'a life in the token', 7200, access_token => jwt(iat => $now - 86400, exp => $now - 79200) ],
		[ 'a token whose claims are no JSON', 300, access_token => "a.b.c" ],
	);

	foreach my $case (@cases)
	{
		my ($name, $seconds, %members) = @$case;
		my $got_at = $agent->status->{token}{obtainedAt} // '';
		my $used;

		answer(with(access_token => $token, token_type => 'bearer', %members));
		other_client();
		ok( wait_until(
				sub {
					$used = $agent->status->{token};
					return $used->{state} eq 'valid' && $used->{obtainedAt} ne $got_at && life($used) > 1;
				},
				$soon
			),
			"$name: the token is used") or diag($json->encode($used));
		is(life($used), $seconds, "for $seconds s");
	}

	# one that is over at once is none
	answer(with(access_token => $token, token_type => 'Bearer', expires_in => 0));
	my $at = last_error_at();
	other_client();
	is(next_error($at)->{code}, 'malformed', 'a token that is good for no time is no token');
	return;
}

# What the endpoint says in words of its own is not ours to repeat. After a
# refusal there is a minute of pause, but not for other settings.
sub refusals
{
	my @cases = (
		[ 'a refusal that repeats the form', http(400, $json->encode({ error => "bad $secret" })), qr/^http_400$/ ],
		[ 'a refusal that repeats the secret alone', http(401, $json->encode({ error => $secret })), qr/^http_401$/ ],
		[ 'a refusal in long words', http(400, $json->utf8->encode({ error => "\x{20ac}" x 5000 })), qr/^http_400$/ ],
		[ 'no such page', http(404, '<html/>'), qr/^http_404$/ ],
		[ 'invalid_client', http(401, '{"error":"invalid_client"}'), qr/^invalid_client$/ ],
		[
			'an organisation with a long name',
			with(access_token => jwt(org_id => "x\x{20ac}" x 2000), token_type => 'Bearer', expires_in => 60),
			qr/^tenant_mismatch$/
		],
		[
			'an organisation that is a list',
			with(access_token => jwt(org_id => ['other']), token_type => 'Bearer', expires_in => 60),
			qr/^tenant_mismatch$/
		]);

	# from here on nobody asks but for the settings of a case
	answer(with(access_token => $token, token_type => 'Bearer', expires_in => 3600));
	ok(wait_until(sub { $agent->status->{token}{state} eq 'valid' }, $soon), 'there is a token that lasts');
	foreach my $case (@cases)
	{
		my ($name, $answer, $code) = @$case;
		my $at = last_error_at();

		answer($answer);
		other_client();
		like(next_error($at)->{code} // '', $code, "$name: no token");
		is(eval { $agent->status->{token}{state} } // $@, 'refused', 'the status can be read');
	}
	answer(good());
	other_client();
	ok(wait_until(sub { $agent->status->{token}{state} eq 'valid' }, $soon), 'other settings are tried at once');
	return;
}

# Nothing is waited for longer than ten seconds; SQL goes on meanwhile.
sub silence
{
	my $before = asked();
	my $at = last_error_at();

	answer('silence');
	ok(wait_until(sub { asked() > $before }, $soon), 'the endpoint says nothing');
	my $began = time();
	my $error = next_error($at);
	is($error->{code}, 'unreachable', 'which is noticed');
	cmp_ok(time() - $began, '<', 30, 'in time');
	answer(good());
	ok(wait_until(sub { $agent->status->{token}{state} eq 'valid' }, $soon), 'and over when it answers');
	return;
}

# How many lookups of names hang in the workers: each is a thread of its own.
sub lookups
{
	my @pids = grep { defined } map { $_->{pid} } @{ $agent->status->{workers} };
	my $threads = 0;

	$threads += max(0, (() = glob "/proc/$_/task/*") - 1) foreach @pids;
	return $threads;
}

# A lookup of a name cannot be ended: whoever has asked goes on without it. What
# hangs here hangs for ever, in a database that others want to be rid of.
sub silent_names
{
	my %network = fake_network("localhost silent\n");
	my ($before, $requests, $error);
	my $most = 1;

	answer(with(access_token => $token, token_type => 'Bearer', expires_in => 3600));
	foreach my $name ('doomed', 'doomed too')
	{
		$agent->safe_psql('postgres', qq{create database "$name"});
		$agent->safe_psql($name, 'create extension opdata cascade');
	}
	$agent->append_conf('postgresql.conf', <<"EOT");
opdata.auth_token_url = 'http://localhost:$endpoint->{port}/token'
opdata.database = 'doomed'
EOT
	{
		local %ENV = (%ENV, %network);
		$agent->restart;
	}
	ok(wait_until(sub { lookups() == 1 && $agent->pids !~ /none/ }, $soon), 'the name of the endpoint is looked up, without an answer');
	$before = $agent->pids;
	$requests = asked();

	# this one hangs on, the next one is answered
	fake_network("localhost 127.0.0.1\n");
	ok( wait_until(
			sub {
				my $now = lookups();
				$error = $agent->status->{token}{lastError};
				$most = max($most, $now) unless $error;
				return $error;
			},
			$soon,
			0.05
		),
		'the request ends at a deadline of its own');
	is($most, 1, 'no other was begun beside it');
	is($error->{code}, 'unreachable', 'the status says that it came to nothing');
	like($error->{message}, qr/^the name of the token endpoint was not resolved in time$/, 'and why');
	ok(wait_until(sub { $agent->status->{token}{state} eq 'valid' }, $soon), 'the next one gets a token');
	is(asked() - $requests, 1, 'which was asked for once');
	ok(wait_until(sub { lookups() == 1 }, $soon), 'what hung still does');
	is($agent->pids, $before, 'in the same processes');

	hanging_again(\%network, 'ended');
	foreach my $pid (map { $_->{pid} } @{ $agent->status->{workers} })
	{
		is($agent->safe_psql('postgres', "select pg_terminate_backend($pid, 60000)"), 't', 'a worker is ended meanwhile');
	}
	ok(wait_until(sub { $agent->pids !~ /none/ && lookups() > 0 }, $soon), 'another one asks in its place');
	is(error_of($agent, q{set statement_timeout = '60s'; drop database doomed}),
		undef, 'the database of the agent is dropped meanwhile');
	$agent->workers_get('no_database', 'the workers notice that');

	$agent->append_conf('postgresql.conf', "opdata.database = 'doomed too'\n");
	hanging_again(\%network, 'dropped');
	is(error_of($agent, q{set statement_timeout = '60s'; drop extension opdata}, dbname => 'doomed too'),
		undef, 'the extension is dropped meanwhile');
	$agent->workers_get('no_extension', 'the workers notice that, too');

	$agent->append_conf('postgresql.conf', "opdata.database = 'postgres'\n");
	hanging_again(\%network, 'stopped');
	$agent->workers_get('no_token', 'as long as names are not answered no worker polls');
	ok($agent->warned('no_token'), 'which is warned of');
	ok(wait_until(sub { grep { $_ eq 'no_token' } @{ $agent->status->{reasons} } }, $soon), 'and why the agent is not healthy');
	$agent->stop('fast');
	pass('the server stops meanwhile');
	$agent->start;
	return;
}

# Begin anew, with a name service that says nothing.
sub hanging_again
{
	my ($network, $name) = @_;

	fake_network("localhost silent\n");
	{
		local %ENV = (%ENV, %$network);
		$agent->restart;
	}
	ok(wait_until(sub { lookups() > 0 }, $soon), "to be $name: a name is looked up, without an answer");
	# by then each has connected to its database
	$agent->workers_get('no_token', "to be $name: all workers wait for that");
	return;
}

sub nothing_is_told
{
	my $seen = $agent->told . $agent->safe_psql('postgres', 'select * from pg_stat_activity');
	my $log;

	$agent->stop;
	$log = slurp_file($agent->logfile);
	unlike($log, qr/Canary/i, 'neither secret nor token is in the log');
	unlike($seen, qr/Canary/i, 'nor in the status');
	unlike($log, qr/x-injected/, 'nor what came with a token');
	unlike($log, qr/terminated by signal|PANIC|TRAP/, 'no crash is in the log');
	return;
}
