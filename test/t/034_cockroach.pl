
# Connections of type cockroachdb: their defaults, connection strings with
# cluster routing, client certificates.
#
# There is no CockroachDB here. PostgreSQL stands in for it, with
# test/harness/fake-cockroach.c preloaded, which makes it do two things more:
#   - report crdb_version as a parameter when a client signs in, by which
#     drivers know the product;
#   - take the startup option --cluster=NAME, which CockroachDB's cloud routes
#     by, and show what was received as the setting "cluster".
# Checked against these public documents, not against a server:
#   https://www.cockroachlabs.com/docs/stable/connection-parameters
#     (options=--cluster=, port 26257, sslmode, sslcert and sslkey)
#   https://www.postgresql.org/docs/15/protocol-flow.html
#     (SSLRequest, StartupMessage, ParameterStatus)
# Its SQL dialect is not looked at here.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use Opdata::Credentials;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $type = 'cockroachdb';
my $version = 'CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu, built 2023/09/27)';

my $source = source_cluster(
	'source',
	tls => 1,
	hba => "hostssl all certuser 127.0.0.1/32 cert\n"
	  . "host all trusted 127.0.0.1/32 trust\n"
	  . "host all all 127.0.0.1/32 scram-sha-256\n");
my $certs = $source->data_dir . '/certs';
my $library = make_stand_in();
$source->append_conf('postgresql.conf',
	"shared_preload_libraries = '$library'");
$source->restart;
$source->safe_psql(
	'postgres', q{
	create role reader login password 'reader_pw';
	create role certuser login;
	create role trusted login;
});
my $agent = agent_cluster('agent');
my $port = $source->port;
my %ca = (sslRootCert => slurp_pem($certs, 'ca.crt'));
my %reader = (username => 'reader', password => 'reader_pw', sslMode => undef);

# Defaults.
my %bare = (host => 'crdb.example', database => 'd', username => 'u');
foreach my $case ([ 'fields', \%bare ],
	[ 'dsn', { dsn => 'postgresql://u@crdb.example/d' } ])
{
	my ($mode, $payload) = @$case;
	my $metadata = stored($payload, $type)->{safeMetadata};

	is($metadata->{port}, 26257, "mode $mode: the port is 26257");
	is($metadata->{sslMode}, 'verify-full', "mode $mode: sslMode is verify-full");
	$metadata = stored($payload, 'postgres')->{safeMetadata};
	is($metadata->{port}, 5432, "mode $mode: for type postgres it is 5432");
	is($metadata->{sslMode}, 'require', "mode $mode: and require");
}

# That is where it connects to, and how. The address is one that no other run of
# this test has.
my $here = join '.', 127, 77, $$ >> 8 & 255, $$ & 255;
my $listener = IO::Socket::INET->new(
	LocalAddr => $here,
	LocalPort => 26257,
	ReuseAddr => 1,
	Listen => 1,
	Timeout => $PostgreSQL::Test::Utils::timeout_default)
  or die "could not listen: $!";
my ($psql, $out, $err) = start_psql(
	$agent, 'default port',
	'select opdata_test('
	  . literal({ %bare, host => $here })
	  . "::jsonb, '$type')->'error'->>'code'");
my $client = $listener->accept or die "nobody came: $!";
read($client, my $first, 8);
is(unpack('H*', $first), '0000000804d2162f',
	'without a port and sslMode the first thing sent to port 26257 is the request for TLS'
);
close $client;
$psql->finish;
is("$$out$$err", "connection_refused\n",
	'a server that hangs up then refuses the connection');

# Signing in.
my $result = test_of($agent, credentials($source, %reader, %ca), $type);
is($result->{ok}, JSON::PP::true, 'a password and the CA are enough');
is($result->{server}, 'CockroachDB', 'the test reports the product');
is($result->{serverVersion}, $version, 'and its version as the server prints it');
like($result->{tls}{version}, qr/^TLSv1/, 'the connection has TLS');
is(test_of($agent, credentials($source, %reader, %ca))->{server},
	'CockroachDB', 'the product does not depend on the type that was chosen');
is(verdict($agent, credentials($source, %reader), $type),
	'certificate_untrusted', 'without the CA the server is not trusted');
is( verdict(
		$agent,
		credentials(
			$source, %reader,
			sslRootCert => slurp_pem($certs, 'other_ca.crt')),
		$type),
	'certificate_untrusted',
	'nor with another one');
is( verdict($agent, credentials($source, %reader, host => '127.0.0.1', %ca, sslMode => 'disable'), $type),
	'ok',
	'sslMode disable is taken where it is said');
is( verdict(
		$agent, credentials($source, %reader, %ca, password => 'wrong'), $type),
	'authentication_failed',
	'a wrong password is an authentication error');

# Cluster routing.
my @forms = (
	"postgresql://reader:reader_pw\@127.0.0.1:$port/postgres?sslmode=verify-full&options=--cluster%3Dblue-dog-1234.x_y",
	"postgres://reader:reader_pw\@127.0.0.1:$port/postgres?options=--cluster%3Dblue-dog-1234.x_y",
	"host=127.0.0.1 port=$port dbname=postgres user=reader password=reader_pw options=--cluster=blue-dog-1234.x_y",
	"host=127.0.0.1 port=$port dbname=postgres user=reader password=reader_pw sslrootcert=system options='--cluster=blue-dog-1234.x_y'");
foreach my $form (0 .. $#forms)
{
	my $payload = { dsn => $forms[$form], %ca };
	(my $title = $forms[$form]) =~ s/\b$port\b/PORT/;

	is(verdict($agent, $payload, $type), 'ok', "connects by $title");
	store($agent, 'routed', $payload, $type);
	is( json($agent,
			q{select opdata_preview('routed', 'select current_setting(''cluster'')')}
		)->{rows}[0][0],
		'blue-dog-1234.x_y',
		"the server receives the cluster, form $form");
}
store($agent, 'routed', credentials($source, %reader, %ca), $type);
is( json($agent,
		q{select opdata_preview('routed', 'select current_setting(''cluster'')')}
	)->{rows}[0][0],
	'',
	'without options it receives none');
is( json($agent, q{select opdata_test('routed')})->{server},
	'CockroachDB', 'the type is stored with the connection');

# Nothing else gets in by the options.
my $dsn = "host=127.0.0.1 port=$port dbname=postgres user=reader password=reader_pw";
foreach my $options (
	'-c work_mem=1MB',
	'--cluster=',
	'--cluster',
	'--cluster=a --search_path=b',
	'--cluster=a -c search_path=b',
	'--cluster=a\\\\ -csearch_path=b',
	"--cluster=a\tb",
	'--cluster=a;b',
	'--clusters=a',
	' --cluster=a',
	'--search_path=a',
	'--CLUSTER=a')
{
	(my $title = $options) =~ s/\t/TAB/;
	is( code_of(
			$agent,
			'select opdata_test('
			  . literal({ dsn => "$dsn options='$options'", %ca })
			  . "::jsonb, '$type')"),
		'invalid_credentials',
		"the options \"$title\" are refused");
}
is( code_of(
		$agent,
		'select opdata_test('
		  . literal({ dsn => "$dsn options=--cluster=a" })
		  . '::jsonb)'),
	'invalid_credentials',
	'type postgres takes no options');
foreach my $parameter ("sslrootcert=$certs/ca.crt", "sslcert=$certs/certuser.crt",
	"sslkey=$certs/certuser.key", 'service=x', 'passfile=/x', 'sslcrldir=/x')
{
	my ($keyword) = $parameter =~ /^(\w+)/;
	my $error = error_of($agent,
		    'select opdata_test('
		  . literal({ dsn => "$dsn $parameter" })
		  . "::jsonb, '$type')");

	is($error->{code}, 'invalid_credentials',
		"$keyword is not taken in a connection string");
	unlike("$error->{message} $error->{detail} $error->{hint}",
		qr/reader_pw|\Q$certs\E/,
		"and its error repeats no value of the string");
}

# Client certificates.
my %certificate = (
	%ca,
	sslCert => slurp_pem($certs, 'certuser.crt'),
	sslKey => slurp_pem($certs, 'certuser.key'));
my $by_certificate = "postgresql://certuser\@127.0.0.1:$port/postgres?options=--cluster%3Dc1";
foreach my $case (
	[
		'fields',
		credentials(
			$source,
			username => 'certuser',
			sslMode => undef,
			%certificate)
	],
	[ 'dsn', { dsn => $by_certificate, %certificate } ])
{
	my ($mode, $payload) = @$case;
	my $result = test_of($agent, $payload, $type);

	is($result->{ok}, JSON::PP::true,
		"mode $mode: a client certificate is let in");
	is_deeply(
		[
			grep { $_ eq 'credential_not_checked' }
			map { $_->{code} } @{ $result->{warnings} }
		],
		[],
		"mode $mode: and was checked");
}
is( verdict($agent, { dsn => $by_certificate, %ca }, $type),
	'authentication_failed',
	'without one the role is refused');
is( verdict(
		$agent,
		credentials(
			$source,
			username => 'certuser',
			sslMode => undef,
			%ca,
			sslCert => slurp_pem($certs, 'other_user.crt'),
			sslKey => slurp_pem($certs, 'other_user.key')),
		$type),
	'authentication_failed',
	'so it is with one that another CA signed');
is( verdict(
		$agent,
		credentials($source, username => 'trusted', sslMode => undef, %ca),
		$type),
	'credential_not_checked',
	'a login without a certificate or password is no checked login here either'
);

done_testing();


sub make_stand_in
{
	my $path = "$PostgreSQL::Test::Utils::tmp_check/fake-cockroach.so";

	my $config = $ENV{PG_CONFIG} // 'pg_config';
	chomp(my $headers = `$config --includedir-server`);
	system_or_bail('cc', '-shared', '-fPIC', "-I$headers",
		qq{-DCRDB_VERSION="$version"}, '-o', $path,
		"$FindBin::RealBin/../harness/fake-cockroach.c");
	return $path;
}

# What storing without a test answers.
sub stored
{
	my ($payload, $as) = @_;

	return json($agent,
		    q{select opdata_store_creds('defaults', }
		  . literal($payload)
		  . "::jsonb, type => '$as', test => false)");
}
