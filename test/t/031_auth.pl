
# Logins: every method of pg_hba.conf, logins that check nothing, and sources
# that speak another language. And what of the agent's own surroundings must
# not get into a login: the environment of its server and the home directory.
#
# No second machine is needed: for the agent's server, connections to an
# address of RFC 5737 are led to this machine by test/harness/fake-resolver.c,
# inside the C library's connect(). What that leaves out is the kernel's part
# in reaching another machine; what the agent decides is the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use Opdata::Credentials;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $elsewhere = '198.51.100.7';
my %network = fake_network("route $elsewhere 127.0.0.1\n");
my $os_user = getpwuid($<);
my $own_address = own_address();
my $closed_port = closed_port();

my $source = source_cluster('source', tls => 1);
my $certs = $source->data_dir . '/certs';
$source->safe_psql(
	'postgres', q{
	create role scram_role login password 'scram pässword';
	set password_encryption = 'md5';
	create role md5_role login password 'md5_pw';
	reset password_encryption;
	create role plain_role login password 'plain_pw';
	create role trust_role login;
	create role other_role login;
	create role certuser login;
	create role nologin_role nologin password 'nologin_pw';
	create role busy_role login connection limit 0 password 'busy_pw';
	create database closed;
	revoke connect on database closed from public;
	create table secret_table (a int);
	create sequence counter;
	grant usage on sequence counter to scram_role;
});

# For sockets too; "samehost" is every address of this machine.
unlink $source->data_dir . '/pg_hba.conf';
$source->append_conf(
	'pg_hba.conf', qq{
local   all scram_role             scram-sha-256
local   all $os_user               peer
local   all all                    trust
hostssl all certuser    samehost   cert
host    all md5_role    samehost   md5
host    all plain_role  samehost   password
host    all trust_role  samehost   trust
hostssl all other_role  samehost   trust
host    all all         samehost   scram-sha-256
});
$source->append_conf('postgresql.conf',
	"listen_addresses = '127.0.0.1, $own_address'")
  if defined $own_address;
$source->restart;
my %socket = (host => $source->host);

my $agent;
{
	local %ENV = (%ENV, %network);
	$agent = agent_cluster('agent', conf => "opdata.allow_local_sockets = on\n");
}

# Passwords.
my %scram = (username => 'scram_role', password => "scram p\x{e4}ssword");
my %md5 = (username => 'md5_role', password => 'md5_pw');
my %plain = (username => 'plain_role', password => 'plain_pw');
foreach my $login ([ 'scram-sha-256', \%scram ],
	[ 'md5', \%md5 ], [ 'password', \%plain ])
{
	my ($method, $keys) = @$login;

	is(verdict($agent, credentials($source, %$keys)),
		'ok', "$method lets the right password in");
	is(unchecked($agent, credentials($source, %$keys)),
		0, "$method is a login that was checked");
	is( verdict($agent, credentials($source, %$keys, password => 'wrong')),
		'authentication_failed',
		"$method refuses a wrong password");
	my $error =
	  test_of($agent, credentials($source, %$keys, password => undef))->{error};
	is($error->{code}, 'authentication_failed',
		"$method refuses a login without a password");
	like($error->{hint}, qr/password/,
		"and the hint says that $method needs one");
}
is( verdict($agent, credentials($source, %socket, %scram)),
	'ok', 'a socket is good where the password is checked');
is(verdict($agent, credentials($source, username => 'nobody', password => 'x')),
	'authentication_failed', 'an unknown role is an authentication error');
is( verdict(
		$agent,
		credentials(
			$source,
			username => 'nologin_role',
			password => 'nologin_pw')),
	'authentication_failed',
	'a role without LOGIN is an authentication error');

# Logins that check nothing, on the agent's own host.
my %trust = (username => 'trust_role', password => 'never looked at');
my @own_hosts = (
	'127.0.0.1', 'localhost', '127.1', '0x7f000001', '2130706433', '0.0.0.0',
	'::ffff:127.0.0.1');
foreach my $host (@own_hosts)
{
	is(verdict($agent, credentials($source, %trust, host => $host)),
		'credential_not_checked',
		"trust is refused on this machine, called $host");
}
SKIP:
{
	skip 'this machine has no IPv4 address but loopback', 2
	  unless defined $own_address;
	is(verdict($agent, credentials($source, %trust, host => $own_address)),
		'credential_not_checked',
		'trust is refused on an address of this machine that is not loopback');
	is( verdict($agent, credentials($source, %scram, host => $own_address)),
		'ok', 'where a checked password is let in');
}
is( verdict($agent, credentials($source, %trust, sslMode => 'require')),
	'credential_not_checked',
	'trust with TLS is refused the same');
is(verdict($agent, credentials($source, %trust, %socket)),
	'credential_not_checked', 'trust over a socket is refused');
is( verdict(
		$agent,
		credentials($source, username => $os_user, password => 'x', %socket)),
	'credential_not_checked',
	'peer over a socket is refused');
my $error = test_of($agent, credentials($source, %trust))->{error};
like($error->{message}, qr/"trust_role"/, 'the error names the role');
like($error->{hint}, qr/pg_hba\.conf/, 'and the hint the file to change');
is( code_of(
		$agent,
		q{select opdata_store_creds('trusted', }
		  . literal(credentials($source, %trust)) . ')'),
	'credential_not_checked',
	'such a connection is not stored');
store($agent, 'trusted', credentials($source, %trust));
is(code_of($agent, q{select opdata_preview('trusted', 'select 1')}),
	'credential_not_checked',
	'nor previewed when it was stored without a test');

# The same login elsewhere.
my %far = (%trust, host => $elsewhere);
my $result = test_of($agent, credentials($source, %far));
is($result->{ok}, JSON::PP::true, 'trust is let in on another machine');
is( scalar(grep { $_->{code} eq 'credential_not_checked' }
		  @{ $result->{warnings} }),
	1,
	'with one warning');
is_deeply(preview($agent, credentials($source, %far), 'select 1'),
	[ [1] ], 'and a preview works');
is(unchecked($agent, credentials($source, %scram, host => $elsewhere)),
	0, 'a password that was checked there is no warning');

# Client certificates.
my %certificate = certificate_of('certuser');
is( verdict(
		$agent,
		credentials(
			$source,
			username => 'certuser',
			sslMode => 'require',
			%certificate)),
	'ok',
	'a login by client certificate is one that was checked');
is( unchecked(
		$agent,
		credentials(
			$source,
			username => 'certuser',
			sslMode => 'require',
			%certificate)),
	0,
	'and gives no warning');
make_self_made();
$source->append_conf('postgresql.conf', "ssl_ca_file = ''");
$source->reload;
$source->poll_query_until('postgres', 'show ssl_ca_file', '')
  or die 'the CA is still there';
foreach my $role ('trust_role', 'other_role')
{
	is( verdict(
			$agent,
			credentials(
				$source,
				username => $role,
				sslMode => 'require',
				certificate_of('self_made'))),
		'credential_not_checked',
		"a certificate that the server never looked at does not make $role checked"
	);
}
is( unchecked(
		$agent,
		credentials(
			$source,
			username => 'trust_role',
			host => $elsewhere,
			sslMode => 'require',
			certificate_of('self_made'))),
	1,
	'elsewhere that is the same warning');
$source->append_conf('postgresql.conf', "ssl_ca_file = 'certs/ca.crt'");
$source->reload;
$source->poll_query_until('postgres', 'show ssl_ca_file', 'certs/ca.crt')
  or die 'the CA is not back';

# Other languages. LANGUAGE chooses the translation, where the locale is any
# but "C"; C.UTF-8 is on every machine.
classify('in English');
SKIP:
{
	my $translation = $source->config_data('--localedir')
	  . '/de/LC_MESSAGES/postgres-'
	  . int($source->pg_version) . '.mo';
	skip 'PostgreSQL has no German messages on this machine', 33
	  unless -e $translation;

	speak($source, 'de');
	like(syntax_error($source), qr/^FEHLER/, 'the source speaks German');
	classify('from a German source');
	speak($agent, 'de');
	like(syntax_error($agent), qr/^FEHLER/, 'the agent speaks German');
	classify('from a German source, to a German agent');
	speak($source, undef);
	classify('to a German agent');
	speak($agent, undef);
	like(syntax_error($agent), qr/^ERROR/, 'the agent speaks English again');
}

# The environment and the home directory: first with all that a login could
# need, so that what a payload does not hold might be found there.
my $home = "$PostgreSQL::Test::Utils::tmp_check/home";
my $port = $source->port;
mkdir($_) || die "$_: $!" foreach $home, "$home/.postgresql";
write_private("$home/.pgpass", "*:*:*:md5_role:md5_pw\n");
write_private("$home/.pg_service.conf",
	"[helpful]\nhost=127.0.0.1\nport=$port\nuser=md5_role\npassword=md5_pw\n");
write_private("$home/.postgresql/postgresql.$_",
	slurp_pem($certs, "certuser.$_"))
  foreach qw(crt key);
write_private("$home/.postgresql/root.crt", slurp_pem($certs, 'ca.crt'));

my %helpful = (
	HOME => $home,
	PGHOST => '127.0.0.1',
	PGPORT => $port,
	PGUSER => 'md5_role',
	PGDATABASE => 'postgres',
	PGPASSWORD => 'md5_pw',
	PGPASSFILE => "$home/.pgpass",
	PGSERVICE => 'helpful',
	PGSERVICEFILE => "$home/.pg_service.conf",
	PGSSLCERT => "$certs/certuser.crt",
	PGSSLKEY => "$certs/certuser.key",
	PGSSLROOTCERT => "$certs/ca.crt");

# The bait is good: a plain client takes it.
foreach my $case (
	[ 'the home directory', HOME => $home ],
	[ 'PGPASSWORD', PGPASSWORD => 'md5_pw' ],
	[ 'PGPASSFILE', PGPASSFILE => "$home/.pgpass" ],
	[
		'PGSERVICE',
		PGSERVICE => 'helpful',
		PGSERVICEFILE => "$home/.pg_service.conf"
	])
{
	my ($title, %from) = @$case;
	is(client_user('user=md5_role', %from),
		'md5_role', "psql signs in with a password from $title");
}
foreach my $case (
	[ 'the home directory', HOME => $home ],
	[ 'PGSSLCERT and PGSSLKEY', map { $_ => $helpful{$_} } qw(PGSSLCERT PGSSLKEY) ])
{
	my ($title, %from) = @$case;
	is(client_user('user=certuser sslmode=require', %from),
		'certuser', "psql signs in with a client certificate from $title");
}

restart_with(%helpful);
is(verdict($agent, credentials($source, username => 'md5_role')),
	'authentication_failed',
	'no password comes from the environment, a service or the home directory');
is( verdict($agent, credentials($source, username => 'certuser', sslMode => 'require')),
	'authentication_failed',
	'nor does a client certificate');
is( verdict($agent, credentials($source, %md5, sslMode => 'verify-full')),
	'certificate_untrusted',
	'nor does a CA');
foreach my $key (qw(host database username))
{
	is( code_of(
			$agent,
			'select opdata_test('
			  . literal(credentials($source, %md5, $key => undef))
			  . '::jsonb)'),
		'invalid_credentials',
		"nor does a missing $key");
}
foreach my $dsn ('postgresql://', 'service=helpful', 'user=md5_role',
	"host=127.0.0.1 user=md5_role dbname=postgres passfile=$home/.pgpass")
{
	is( code_of(
			$agent,
			'select opdata_test(' . literal({ dsn => $dsn }) . '::jsonb)'),
		'invalid_credentials',
		'nor what is missing in the connection string '
		  . ($dsn =~ /passfile/ ? 'with a passfile' : qq{"$dsn"}));
}

# Then with all that could break or bend a login whose payload is complete.
write_private("$home/.postgresql/root.crt", slurp_pem($certs, 'other_ca.crt'));
write_private("$home/.postgresql/root.crl", "no list at all\n");
write_private("$home/.pgpass", "*:*:*:*:wrong\n");
my %harmful = (
	HOME => $home,
	PGAPPNAME => 'harmful',
	PGCHANNELBINDING => 'require',
	PGCLIENTENCODING => 'LATIN1',
	PGCONNECT_TIMEOUT => 'soon',
	PGDATABASE => 'nonexistent',
	PGDATESTYLE => 'German',
	PGGEQO => 'off',
	PGGSSENCMODE => 'require',
	PGHOST => '/nonexistent',
	PGHOSTADDR => '192.0.2.99',
	PGOPTIONS => '-c work_mem=1234kB -c search_path=harmful',
	PGPASSFILE => '/nonexistent',
	PGPASSWORD => 'wrong',
	PGPORT => 1,
	PGREQUIREPEER => 'nobody',
	PGSERVICE => 'harmful',
	PGSERVICEFILE => '/nonexistent',
	PGSSLCERT => "$certs/other_user.crt",
	PGSSLCOMPRESSION => 1,
	PGSSLCRL => "$home/.postgresql/root.crl",
	PGSSLCRLDIR => '/nonexistent',
	PGSSLKEY => "$certs/other_user.key",
	PGSSLMAXPROTOCOLVERSION => 'TLSv1',
	PGSSLMINPROTOCOLVERSION => 'TLSv1',
	PGSSLMODE => 'verify-full',
	PGSSLROOTCERT => "$certs/other_ca.crt",
	PGSSLSNI => 'maybe',
	PGSYSCONFDIR => $home,
	PGTARGETSESSIONATTRS => 'standby',
	PGTZ => 'Asia/Tokyo',
	PGUSER => 'nobody');
restart_with(%harmful);
foreach my $case (
	[ 'without TLS', %md5 ],
	[ 'with TLS', %md5, sslMode => 'require' ],
	[
		'with verified TLS', %md5,
		sslMode => 'verify-full',
		sslRootCert => slurp_pem($certs, 'ca.crt')
	],
	[
		'with a client certificate',
		username => 'certuser',
		sslMode => 'require',
		%certificate
	],
	[ 'over a socket', %scram, %socket ])
{
	my ($title, %keys) = @$case;
	is(verdict($agent, credentials($source, %keys)),
		'ok', "a login $title takes nothing from a hostile environment");
}
is( verdict(
		$agent,
		{ dsn => "postgresql://md5_role:md5_pw\@127.0.0.1:$port/postgres?sslmode=disable" }
	),
	'ok',
	'nor does one by connection string');
my $settings = q{select current_setting('work_mem'), current_setting('search_path'),
	current_setting('TimeZone'), current_setting('DateStyle'), current_setting('geqo'),
	current_setting('transaction_read_only'), current_user::text, current_database()::text};
my $expected = [
	split /\|/,
	$source->safe_psql(
		'postgres', "set role md5_role; begin read only; $settings"
	)
];
is_deeply(preview($agent, credentials($source, %md5), $settings),
	[$expected], 'a preview has the settings of the source alone');
is_deeply(
	preview(
		$agent,
		credentials($source, %md5),
		q{select application_name from pg_stat_activity where pid = pg_backend_pid()}
	),
	[ ['opdata'] ],
	'and our own application_name');
is( $agent->safe_psql(
		'postgres',
		q{select ascii(opdata_preview('previewed', 'select chr(8364)')->'rows'->0->>0)}
	),
	'8364',
	'and our own encoding');

# Others in the same process still have it: dblink, a program run by COPY.
my $works = literal(credentials($source, %md5));
my $fails = literal(credentials($source, %md5, password => 'wrong'));
is( $agent->safe_psql(
		'postgres', qq{
create temp table environment (line text);
do \$\$
begin
	perform opdata_test(${works}::jsonb), opdata_test(${fails}::jsonb);
end \$\$;
copy environment from program 'printenv | grep ^PG | grep -c -e ^PGTZ=Asia/Tokyo -e ^PGUSER=nobody -e ^PGOPTIONS=';
select line from environment}),
	'3',
	q{the process's own environment is whole after a test});

done_testing();


# An IPv4 address of this machine that other machines would use, or undef. No
# packet is sent: connecting a datagram socket only asks the routing table.
sub own_address
{
	my $socket = IO::Socket::INET->new(
		Proto => 'udp',
		PeerAddr => '203.0.113.1',
		PeerPort => 9) or return;
	my $address = $socket->sockhost;

	return if $address =~ /^(?:127|0)\./;
	return $address;
}

# How many warnings of a login that was not checked a test gives.
sub unchecked
{
	my $result = test_of(@_);

	die "the test failed: $result->{error}{code}" unless $result->{ok};
	return
	  scalar(grep { $_->{code} eq 'credential_not_checked' }
		  @{ $result->{warnings} });
}

sub certificate_of
{
	my ($name) = @_;

	return (
		sslCert => slurp_pem($certs, "$name.crt"),
		sslKey => slurp_pem($certs, "$name.key"));
}

sub make_self_made
{
	my ($out, $err);

	IPC::Run::run(
		[
			'openssl', 'req', '-new', '-x509', '-nodes', '-newkey', 'ec',
			'-pkeyopt', 'ec_paramgen_curve:P-256', '-subj', '/CN=trust_role',
			'-keyout', "$certs/self_made.key",
			'-out', "$certs/self_made.crt"
		],
		'<', \undef, '>', \$out, '2>', \$err) or die "openssl: $err";
	return;
}

# Restart a cluster with messages in this language (undef: English).
sub speak
{
	my ($node, $language) = @_;
	my $locale = defined $language ? 'C.UTF-8' : 'C';

	$node->append_conf('postgresql.conf', "lc_messages = '$locale'");
	local %ENV = (%ENV, %network, LANGUAGE => $language // '');
	$node->restart;
	return;
}

sub syntax_error
{
	my ($node) = @_;
	my ($stdout, $stderr);

	$node->psql(
		'postgres', 'nonsense',
		stdout => \$stdout,
		stderr => \$stderr);
	$stderr =~ s/^psql:\S+ //;
	return $stderr;
}

# One error of each kind that a source's own words could blur.
sub classify
{
	my ($title) = @_;
	my %codes = (
		'a wrong password' =>
		  [ 'authentication_failed', %scram, password => 'wrong' ],
		'an unknown database' =>
		  [ 'database_not_found', %scram, database => 'nonexistent' ],
		'a database without CONNECT' =>
		  [ 'permission_denied', %scram, database => 'closed' ],
		'a role without LOGIN' => [
			'authentication_failed',
			username => 'nologin_role',
			password => 'nologin_pw'
		],
		'a role out of connections' =>
		  [ 'connection_refused', username => 'busy_role', password => 'busy_pw' ],
		'an unknown CA' =>
		  [ 'certificate_untrusted', %scram, sslMode => 'verify-ca' ],
		'a closed port' => [ 'connection_refused', %scram, port => $closed_port + 0 ]);

	foreach my $what (sort keys %codes)
	{
		my ($code, %keys) = @{ $codes{$what} };
		is(verdict($agent, credentials($source, %keys)),
			$code, "$what is $code, $title");
	}

	my %queries = (
		'select * from secret_table' => 'permission_denied',
		'select * from nonexistent' => 'query_failed',
		q{select nextval('counter')} => 'statement_not_allowed');
	store($agent, 'spoken', credentials($source, %scram));
	foreach my $query (sort keys %queries)
	{
		is( code_of(
				$agent,
				q{select opdata_preview('spoken', } . literal($query) . ')'),
			$queries{$query},
			"\"$query\" is $queries{$query}, $title");
	}
	return;
}

sub write_private
{
	my ($path, $content) = @_;

	open(my $file, '>', $path) or die "$path: $!";
	print $file $content;
	close $file;
	chmod 0600, $path;
	return;
}

# Who psql is to the source, with what it finds in this environment.
sub client_user
{
	my ($connstr, %from) = @_;
	my ($out, $err);

	local %ENV = (%ENV, %from);
	IPC::Run::run(
		[
			'psql', '-XqAtw', '-d',
			"host=127.0.0.1 port=$port dbname=postgres $connstr",
			'-c', 'select current_user'
		],
		'<', \undef, '>', \$out, '2>', \$err);
	chomp $out;
	return $out eq '' ? $err : $out;
}

# Restart the agent's server with these variables.
sub restart_with
{
	my (%environment) = @_;

	$agent->stop;
	local %ENV = (%ENV, %network, %environment);
	$agent->start;
	return;
}
