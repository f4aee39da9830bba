
# TLS to Temporal: what is wrong with certificates is told in words, and mended
# by putting the file right; a CA of our own is the only one that counts;
# certificates and CAs are replaced while previews run; an API key from a file;
# connections that are used again.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Copy ();
use JSON::PP;
use Opdata::Credentials qw(reader);
use Opdata::Issuer;
use Opdata::TemporalServer;
use Opdata::Test;
use Opdata::Toxiproxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# Files are looked at every five seconds, and who gets no connection tries every
# 12 seconds at the latest; who is refused, every 72.
my $soon = 90;
my $refused_soon = 170;

my $json = JSON::PP->new->canonical->allow_nonref;
my $folder = PostgreSQL::Test::Utils::tempdir('files');
my $number = 0;

my $issuer = issuer('issuer');
$issuer->add_client('agent', 'agent_secret', 'acme', [ 'default:write', 'default:worker' ]);
$issuer->add_client('successor', 'successor_secret', 'acme', [ 'default:write', 'default:worker' ]);
$issuer->add_client('operator', 'operator_secret', undef, ['temporal-system:admin']);
$issuer->set_ttl(3600);

# One that wants certificates, one that wants tokens, and one that has two
# authorities for its clients.
my $temporal = secure_temporal('temporal', tls => 'mtls');
my $keyed = secure_temporal('keyed', tls => 'server', jwks => $issuer->jwks_url);
my $rotated = secure_temporal('rotated', tls => 'mtls', start => 0);
my $authority = slurp_file($rotated->ca);
my $other_authority = slurp_file($rotated->cert('other_ca'));
replace_file($rotated->ca, $authority . $other_authority);
$rotated->start;

$temporal->make_namespace('default');
$keyed->make_namespace('default', $issuer->token('operator'));
$rotated->make_namespace('default');

my $faults = toxiproxy('faults');

my $source = source_cluster('source');
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

# Each takes some cases, several at once: they mostly wait.
my @agents = map {
	agent_cluster("agent_$_", soon => $soon, conf => <<"EOT") } 1 .. 4;
opdata.interactive_workers = 1
opdata.bulk_workers = 0
opdata.org_id = 'acme'
EOT
my $rotating = agent_cluster('rotating', soon => $soon, conf => "opdata.org_id = 'acme'\n");

system_or_bail('openssl', 'pkcs8', '-topk8', '-in', $temporal->key, '-passout', 'pass:passphrase',
	'-out', $temporal->key('encrypted'));

files_of_others();
unusable_files();
settings();
own_authority();
environment();
api_key();
rotation();
new_authority();
connections();
nothing_is_told();
done_testing();

# ---------------------------------------------------------------- files

# A folder with copies of the files ca, cert and key, of which any may be undef.
sub folder_of
{
	my (%files) = @_;
	my $made = "$folder/" . ++$number;

	mkdir $made or die "$made: $!";
	replace($made, %files);
	return $made;
}

sub replace
{
	my ($made, %files) = @_;

	replace_file("$made/$_", slurp_file($files{$_})) foreach grep { defined $files{$_} } sort keys %files;
	return;
}

sub good_files { return (ca => $temporal->ca, cert => $temporal->cert, key => $temporal->key); }

sub settings_of
{
	my ($server, $made) = @_;

	return (
		temporal_address => $server->address,
		temporal_tls => 'on',
		temporal_tls_server_name => '',
		temporal_auth => 'none',
		temporal_api_key_file => '',
		map { ("temporal_tls_$_" => $made ? "$made/$_" : '') } qw(ca cert key));
}

# ---------------------------------------------------------------- questions

# Whether the workers tell this, until they do.
sub tells
{
	my ($agent, $code, $message, $name) = @_;

	ok( wait_until(
			sub {
				!grep { ($_->{lastError}{code} // '') ne $code || $_->{lastError}{message} !~ $message }
				  $agent->workers;
			},
			$soon
		),
		$name) or diag($json->encode([ map { $_->{lastError} } $agent->workers ]));
	return;
}

# ---------------------------------------------------------------- workflows

sub preview
{
	my ($sql, %more) = @_;

	return (
		type => 'previewQueryWorkflow',
		workflow_id => 'preview ' . ++$number,
		task_queue => 'tenant-acme',
		task_timeout => 60,
		input => {
			orgId => 'acme',
			sql => $sql,
			credentials => reader($source)
		},
		%more);
}

sub works
{
	my ($client, $name) = @_;
	my $ended = $client->execute(preview(q{select 'done'}));

	is($ended->{result} && $ended->{result}{rows}[0][0], 'done', $name) or diag($json->encode($ended));
	return $ended;
}

# Those of which a task was lost, and came again after its time.
sub waited
{
	my ($client, @ended) = @_;

	return grep {
		grep { $_->{event_type} eq 'WORKFLOW_TASK_TIMED_OUT' } @{ $client->history(workflow_id => $_->{workflow_id}) }
	} @ended;
}

# ---------------------------------------------------------------- cases

# Each case on an agent of its own, all at once: {name, settings or files, state,
# code, says}. Then put right, by settings if those were wrong, otherwise by the
# files alone, which nobody is told of.
sub try_all
{
	my (@cases) = @_;

	die 'more cases than agents' if @cases > @agents;
	foreach my $i (0 .. $#cases)
	{
		my $case = $cases[$i];

		$case->{agent} = $agents[$i];
		$case->{folder} = folder_of(good_files(), %{ $case->{files} // {} });
		replace_file("$case->{folder}/$_", $case->{texts}{$_}) foreach keys %{ $case->{texts} // {} };
		$case->{agent}->renew(settings_of($temporal, $case->{folder}), %{ $case->{settings} // {} });
	}
	foreach my $case (@cases)
	{
		my ($agent, $name) = @$case{qw(agent name)};

		$agent->workers_get($case->{state}, "$name: $case->{state}");
		tells($agent, $case->{code}, $case->{says}, 'which is told in words');
		my %problem = $case->{state} eq 'misconfigured' ? (misconfigured => 1) : (temporal_unreachable => 1);
		ok($agent->warned($_), 'and warned of') foreach keys %problem;
		is_deeply([ grep { /^certificate_/ } map { $_->{code} } @{ $agent->status->{warnings} } ],
			$case->{warnings} // [], 'as is the end of the certificate, if that is it');
		next unless $case->{state} eq 'misconfigured';
		my $status = $agent->status;
		is_deeply([ @$status{qw(healthy reasons)} ], [ JSON::PP::false, ['misconfigured'] ],
			'the agent is not healthy, and says why');
		is($status->{workers}[0]{polls}, 0, 'it does not poll');
	}
	foreach my $case (@cases)
	{
		$case->{pids} = $case->{agent}->pids;
		$case->{settings}
		  ? $case->{agent}->renew(settings_of($temporal, $case->{folder}))
		  : replace($case->{folder}, good_files());
	}
	foreach my $case (@cases)
	{
		$case->{agent}->workers_get('polling', "$case->{name}: put right");
		is($case->{agent}->pids, $case->{pids}, 'by itself') unless $case->{settings};
		my $status = $case->{agent}->status;
		is_deeply([ @$status{qw(healthy reasons)} ], [ JSON::PP::true, [] ], 'the agent is healthy');
		is_deeply([ grep { $_->{code} =~ /^(?:misconf|temporal_|certificate_)/ } @{ $status->{warnings} } ],
			[], 'nothing is warned of');
	}
	works($temporal->client, 'a preview is done');
	return;
}

# Files that are well made, but not for this server.
sub files_of_others
{
	my %client = (state => 'unreachable', code => 'UNAVAILABLE', says => qr/certificate/i);

	try_all(
		{ %client, name => 'the CA of somebody else', files => { ca => $temporal->cert('other_ca') } },
		{   %client,
			name => 'a client certificate of another CA',
			files => { map { ($_ => $temporal->$_('other_user')) } qw(cert key) }
		},
		{   %client,
			name => 'a client certificate that has expired',
			files => { map { ($_ => $temporal->$_('expired_user')) } qw(cert key) },
			warnings => ['certificate_expired']
		});
	return;
}

sub unusable_files
{
	my %unusable = (state => 'misconfigured', code => 'TLS_FILES');
	my $log = -s $agents[3]->logfile;

	try_all(
		{ %unusable, name => 'garbage for a certificate', texts => { cert => "garbage\n" },
			says => qr/the certificate file is not a PEM certificate/ },
		{ %unusable, name => 'an encrypted key', files => { key => $temporal->key('encrypted') },
			says => qr/the key file is encrypted; give the key without a passphrase/ },
		{ %unusable, name => 'the key of another certificate', files => { key => $temporal->key('next_user') },
			says => qr/the key file does not belong to the certificate/ },
		{ %unusable, name => 'no certificate where it should be', files => { cert => undef },
			says => qr/the certificate file cannot be opened: No such file/ });
	my @lines = slurp_file($agents[3]->logfile, $log) =~ /LOG:  (opdata worker .*cannot be used.*)$/mg;
	is(scalar(@lines), 1, 'it is logged once') or diag(@lines);
	return;
}

sub settings
{
	my %wrong = (state => 'unreachable', code => 'UNAVAILABLE');
	my $inner = "127.0.0.1:$temporal->{ports}{'internal-frontend'}{grpcPort}";

	try_all(
		{ %wrong, name => 'a name that the server does not have', settings => { temporal_tls_server_name => 'else.test' },
			says => qr/certificate .*name matches .*else\.test/ },
		{ %wrong, name => 'no client certificate', settings => { temporal_tls_cert => '', temporal_tls_key => '' },
			says => qr/certificate required|client certificate/ },
		{ %wrong, name => 'a server without TLS', settings => { temporal_address => $inner },
			says => qr/\bTLS\b/ },
		{   name => 'a certificate without a key',
			state => 'misconfigured',
			code => 'TLS_FILES',
			settings => { temporal_tls_key => '' },
			says => qr/there is a certificate but no key/ });

	$agents[0]->renew(temporal_tls => 'off');
	$agents[0]->workers_get('unreachable', 'an agent without TLS at a server with it: unreachable');
	tells($agents[0], 'UNAVAILABLE', qr/\bTLS\b/, 'which is told in words');
	$agents[0]->renew(temporal_tls => 'on', temporal_tls_server_name => 'temporal.test');
	$agents[0]->workers_get('polling', 'the server is known by its other name, while the address is 127.0.0.1');
	$agents[0]->renew(temporal_tls_server_name => '', temporal_tls_ca => '');
	$agents[0]->workers_get('unreachable', 'without a CA of our own that of the test is not known');
	$agents[0]->renew(settings_of($temporal, folder_of(good_files())));
	$agents[0]->workers_get('polling', 'with it, it is');
	return;
}

# An authority of our own is instead of the system's, not beside them. This
# agent's system trusts that of the server.
sub own_authority
{
	my $agent = $agents[0];
	my $made = folder_of(good_files());

	{
		local %ENV = (%ENV, trusting($temporal->ca));
		$agent->restart;
	}
	$agent->renew(settings_of($temporal, $made), temporal_tls_ca => '');
	$agent->workers_get('polling', 'without a CA of our own those of the system count');
	works($temporal->client, 'a preview is done');

	$agent->renew(temporal_tls_ca => $temporal->cert('other_ca'));
	$agent->workers_get('unreachable', 'with one of our own they do not');
	tells($agent, 'UNAVAILABLE', qr/certificate/i, 'which is told in words');
	$agent->renew(temporal_tls_ca => '');
	$agent->workers_get('polling', 'without it they do again');

	$agent->restart;
	$agent->workers_get('unreachable', 'in a system that does not trust it the server is refused');
	$agent->renew(settings_of($temporal, $made));
	$agent->workers_get('polling', 'unless its CA is our own');
	return;
}

# The environment of a server whose system trusts this authority. OpenSSL looks
# for it by a hash of its name, in folders that are libcurl's own; whatever has
# this name there is our file.
sub trusting
{
	my ($ca) = @_;
	my ($hash) = run_command([ qw(openssl x509 -noout -subject_hash -in), $ca ]);

	replace_file("$folder/trusting.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char *instead_of(const char *path)
{
	const char *name = strrchr(path, '/');

	return name && strcmp(name + 1, getenv("TRUSTED_NAME")) == 0 ? getenv("TRUSTED_FILE") : path;
}

int stat(const char *path, struct stat *st)
{
	int (*real)(const char *, struct stat *) = dlsym(RTLD_NEXT, "stat");

	return real(instead_of(path), st);
}

/* by which later versions of OpenSSL 3.0 look */
int lstat(const char *path, struct stat *st)
{
	int (*real)(const char *, struct stat *) = dlsym(RTLD_NEXT, "lstat");

	return real(instead_of(path), st);
}

FILE *fopen(const char *path, const char *mode)
{
	FILE *(*real)(const char *, const char *) = dlsym(RTLD_NEXT, "fopen");

	return real(instead_of(path), mode);
}

FILE *fopen64(const char *path, const char *mode)
{
	return fopen(path, mode);
}
C
	system_or_bail(qw(gcc -shared -fPIC -o), "$folder/trusting.so", "$folder/trusting.c", '-ldl');
	return (LD_PRELOAD => "$folder/trusting.so", TRUSTED_NAME => "$hash.0", TRUSTED_FILE => $ca);
}

# The postmaster's environment stands in for settings that are empty.
sub environment
{
	my $agent = $agents[1];
	my $made = folder_of(good_files());
	my %names = map { ("OP_TEMPORAL_TLS_\U$_" => $_) } qw(cert key);

	$agent->renew(settings_of($temporal, $made), temporal_tls_cert => '', temporal_tls_key => '');
	$agent->workers_get('unreachable', 'no certificate in settings or environment');
	foreach my $case ([ 'names of files', sub { "$made/$_[0]" } ],
		[ 'PEM texts', sub { slurp_file("$made/$_[0]") } ])
	{
		my ($name, $value) = @$case;
		local %ENV = (%ENV, map { ($_ => $value->($names{$_})) } keys %names);

		$agent->restart;
		$agent->workers_get('polling', "$name in the environment");
		works($temporal->client, 'a preview is done');
		ok(!$agent->warned('certificate_expires'), 'the certificate does not expire soon');
		isnt($agent->status->{temporal}{certificateExpiresAt}, undef, 'its end is known');
	}

	{
		local %ENV = (%ENV, map { ($_ => "$made/none") } keys %names);
		$agent->restart;
		$agent->workers_get('misconfigured', 'a file in the environment that does not exist');
		$agent->renew(settings_of($temporal, $made));
		$agent->workers_get('polling', 'settings come first');
	}
	$agent->restart;
	$agent->workers_get('polling', 'and need no environment');
	return;
}

# ---------------------------------------------------------------- API key

sub api_key
{
	my $agent = $agents[2];
	my $file = "$folder/api_key";
	my ($key, $next_key) = map { $issuer->token($_) } qw(agent successor);
	my $client = $keyed->client(token => $issuer->token('operator'));

	$agent->renew(settings_of($keyed), temporal_tls_ca => $keyed->ca, temporal_auth => 'api_key');
	$agent->workers_get('misconfigured', 'api_key without a file');
	tells($agent, 'API_KEY_FILE', qr/opdata\.temporal_api_key_file is empty/, 'which is told');
	$agent->renew(temporal_api_key_file => $file);
	$agent->workers_get('misconfigured', 'a file that does not exist');
	tells($agent, 'API_KEY_FILE', qr/opdata\.temporal_api_key_file names cannot be opened: No such file/, 'which is told');
	ok($agent->warned('misconfigured'), 'and warned of');
	is_deeply($agent->status->{reasons}, ['misconfigured'], 'it is the reason why the agent is not healthy');

	my $before = $agent->pids;
	replace_file($file, "a.b.c\n");
	$agent->workers_get('refused', 'a key that the server does not know');
	tells($agent, 'PERMISSION_DENIED', qr/unauthorized/i, 'which is told');
	ok($agent->warned('temporal_refused'), 'and warned of');
	replace_file($file, "$key\n");
	$agent->workers_get('polling', 'the right key in its place', timeout => $refused_soon);
	is($agent->pids, $before, 'by itself');
	works($client, 'a preview is done');
	is($agent->status->{temporal}{auth}, 'api_key', 'the status has the kind of sign-in');

	# gone, it stays in use, and is told of
	unlink $file or die;
	tells($agent, 'API_KEY_FILE', qr/cannot be opened/, 'a file that is removed is told of');
	$agent->workers_get('polling', 'while the key stays in use');
	works($client, 'a preview is done');

	# replaced under load, then the old one is worth nothing
	my $log = -s $agent->logfile;
	replace_file($file, $next_key);
	my $until = time() + 16;
	my @ended;
	push @ended, $client->execute(preview('select 1')) while time() < $until;
	$keyed->deny('agent');
	push @ended, map { $client->execute(preview('select 1')) } 1 .. 20;
	is_deeply([ grep { !$_->{result} } @ended ], [], 'no preview fails while the key is replaced');
	is_deeply([ waited($client, @ended) ], [], 'nor waits');
	unlike(slurp_file($agent->logfile, $log), qr/gets no tasks/, 'nobody was refused');
	$agent->workers_get('polling', 'the replaced key is in use');
	is($agent->pids, $before, 'all that by the same process');

	my $seen = join "\n", slurp_file($agent->logfile), $json->encode($agent->status),
	  $agent->safe_psql('postgres', 'select * from pg_stat_activity; select * from pg_settings; select * from opdata_jobs');
	foreach my $secret (map { split /\./ } $key, $next_key)
	{
		next if $secret eq (split /\./, $key)[0];
		is(index($seen, $secret), -1, 'a part of the key is in no log, status, activity or setting');
	}
	return;
}

# ---------------------------------------------------------------- rotation

# Previews run, several at once, until the sub is true.
my (@load, %tickets);

sub under_load
{
	my ($client, $condition, $name) = @_;
	my $deadline = time() + $soon;
	my $true;

	until (($true = $condition->()) || time() >= $deadline)
	{
		$tickets{ $client->send('execute', preview('select 1')) } = 1 while keys %tickets < 3;
		my ($ticket) = sort { $a <=> $b } keys %tickets;
		delete $tickets{$ticket};
		push @load, $client->receive($ticket);
	}
	ok($true, $name);
	return;
}

sub rotation
{
	my $client = $rotated->client;
	my $through = $faults->add('rotated', $rotated->address);
	my $made = folder_of(ca => $rotated->ca, map { ($_ => $rotated->$_('expiring_user')) } qw(cert key));

	# the CA of the server itself
	replace_file("$made/ca", $authority);
	$rotating->renew(settings_of($rotated, $made), temporal_address => $through);
	$rotating->workers_get('polling', 'an agent polls with a certificate that expires soon');
	my $before = $rotating->pids;
	my $status = $rotating->status->{temporal};
	my $days = json($rotating, "select extract(epoch from '$status->{certificateExpiresAt}'::timestamptz - now()) / 86400");
	cmp_ok(abs($days - 3), '<', 0.1, 'its end is told');
	ok($rotating->warned('certificate_expires'), 'and warned of');

	# The new one is of another CA, which the server knows, too.
	under_load($client, sub { @load >= 20 }, 'previews run');
	my $log = -s $rotating->logfile;
	replace($made, cert => $rotated->cert('other_user'));
	under_load(
		$client,
		sub {
			!grep { ($_->{lastError}{message} // '') !~ /the key file does not belong to the certificate/ }
			  $rotating->workers;
		},
		'a new certificate without its key is told of by all workers');
	is_deeply([ grep { $_->{state} ne 'polling' } $rotating->workers ], [], 'they poll');
	ok($rotating->status->{healthy}, 'healthily');
	is($rotating->status->{temporal}{certificateExpiresAt}, $status->{certificateExpiresAt}, 'with the old one');
	ok(wait_until(sub { slurp_file($rotating->logfile, $log) =~ /What was read before stays in use\./ }), 'the log says so');

	replace($made, key => $rotated->key('other_user'));
	under_load(
		$client,
		sub {
			$rotating->status->{temporal}{certificateExpiresAt} ne $status->{certificateExpiresAt};
		},
		'with its key, too, it is taken');
	ok(!$rotating->warned('certificate_expires'), 'the warning is gone');

	# Until each process has looked. Then the server has only the new one's CA.
	my $until = time() + 16;
	under_load($client, sub { time() >= $until }, 'previews run on');
	replace_file($rotated->ca, $other_authority);
	under_load($client, sub { lets_in($rotated, 'expiring_user') == 0 }, 'the server does not let the old one in any more');
	ok(lets_in($rotated, 'other_user'), 'but the new one');
	under_load($client, sub { !%tickets || @load >= 100 }, 'previews run on');
	push @load, $client->receive($_) foreach sort { $a <=> $b } keys %tickets;
	%tickets = ();
	note(scalar(@load) . ' previews');
	is_deeply([ grep { !$_->{result} } @load ], [], 'no preview has failed');
	is_deeply([ waited($client, @load) ], [], 'or waited');
	unlike(slurp_file($rotating->logfile, $log), qr/gets no tasks/, 'nobody was refused');

	# all of them new
	$faults->disable('rotated');
	$rotating->workers_get('unreachable', 'all connections are cut');
	$faults->enable('rotated');
	$rotating->workers_get('polling', 'new connections have the new certificate');
	is($rotating->pids, $before, 'all that by the same processes');
	works($client, 'a preview is done');
	return;
}

# The server's certificate is replaced by one of another authority, and the file
# with the authority after it: new connections want the new one. Then back, with
# both in the file for as long as it takes.
sub new_authority
{
	my ($client, $first_client) = map { $rotated->client(ca => $_, cert => 'other_user') } qw(other_ca first_ca);
	my $made = folder_of(ca => $rotated->ca, map { ($_ => $rotated->$_('other_user')) } qw(cert key));
	my %kept = map { ($_ => slurp_file($rotated->$_('server'))) } qw(cert key);

	# that of the server, as against that of its clients
	replace_file($_, $authority) foreach "$made/ca", $rotated->cert('first_ca');
	$rotating->renew(settings_of($rotated, $made), temporal_address => $faults->add('renamed', $rotated->address));
	$rotating->workers_get('polling', 'an agent polls with a CA of its own');
	my $before = $rotating->pids;

	replace_file($rotated->$_('server'), slurp_file($rotated->$_('other_server'))) foreach qw(cert key);
	ok(wait_until(sub { signed_by($rotated, 'other_ca') }, $soon), 'the server has a certificate of another CA');
	$faults->disable('renamed');
	$rotating->workers_get('unreachable', 'all connections are cut');
	$faults->enable('renamed');
	tells($rotating, 'UNAVAILABLE', qr/certificate/i, 'the server is not known any more');
	$rotating->workers_get('unreachable', 'which all workers find');
	replace_file("$made/ca", $other_authority);
	$rotating->workers_get('polling', 'with the new CA in place of the old one it is');
	works($client, 'a preview is done');

	# what polls now goes on; what is new finds either certificate good
	my $done = @load;
	replace_file("$made/ca", $authority . $other_authority);
	my $until = time() + 16;
	under_load($client, sub { time() >= $until }, 'previews run with both CAs in the file');
	replace_file($rotated->$_('server'), $kept{$_}) foreach qw(cert key);
	under_load($client, sub { signed_by($rotated, 'first_ca') }, 'and while the server gets its first certificate back');
	push @load, $client->receive($_) foreach sort { $a <=> $b } keys %tickets;
	%tickets = ();
	is_deeply([ grep { !$_->{result} } splice @load, $done ], [], 'no preview has failed');
	$faults->disable('renamed');
	$rotating->workers_get('unreachable', 'all connections are cut');
	$faults->enable('renamed');
	$rotating->workers_get('polling', 'new connections know the server');
	is($rotating->pids, $before, 'all that by the same processes');
	works($first_client, 'a preview is done');
	return;
}

# Has this server a certificate of that authority?
sub signed_by
{
	my ($server, $name) = @_;
	my $said = '';

	IPC::Run::run(
		[
			qw(openssl s_client -verify_return_error -alpn h2 -connect), $server->address,
			'-CAfile', $server->cert($name),
			'-cert', $server->cert('other_user'), '-key', $server->key('other_user')
		],
		'<', \'', '>', \$said, '2>&1', IPC::Run::timeout($soon));
	return $said =~ /Verify return code: 0 /;
}

# Does this server take connections with that certificate?
sub lets_in
{
	my ($server, $name) = @_;
	my $said = '';

	# with TLS 1.2 the handshake tells
	IPC::Run::run(
		[
			qw(openssl s_client -tls1_2 -alpn h2 -connect), $server->address,
			'-cert', $server->cert($name), '-key', $server->key($name)
		],
		'<', \'', '>', \$said, '2>&1', IPC::Run::timeout($soon));
	return $said =~ /alert|refused/ ? 0 : 1;
}

# ---------------------------------------------------------------- connections

# How often somebody has connected there.
sub accepted
{
	my ($name) = @_;
	my $log = slurp_file($faults->log_file);

	return scalar grep { /"name":"\Q$name\E"/ && /"Accepted client"/ } split /\n/, $log;
}

sub connections
{
	my $agent = $agents[3];
	my $client = $temporal->client;

	# the others would take the work
	$_->stop foreach @agents[ 0 .. 2 ], $rotating;
	$agent->renew(settings_of($temporal, folder_of(good_files())),
		temporal_address => $faults->add('counted', $temporal->address));
	$agent->workers_get('polling', 'an agent polls');
	works($client, 'a preview is done');

	my $before = accepted('counted');
	cmp_ok($before, '>', 0, 'connections are counted');
	my @ended = map { $client->execute(preview('select 1')) } 1 .. 50;
	is_deeply([ grep { !$_->{result} } @ended ], [], 'fifty previews, one after the other');
	my $made = accepted('counted') - $before;
	note("$made connections for 50 previews");
	cmp_ok($made, '<', 25, 'use the same connections again');

	# near a megabyte, there and back, in small pieces
	foreach my $direction ('downstream', 'upstream')
	{
		$faults->toxic('counted', 'slicer', { average_size => 1400, size_variation => 700, delay => 0 }, $direction);
	}
	$before = accepted('counted');
	my $columns = join ', ', map { "rpad(n || ' $_ ', 1010, md5(n::text))" } 'a' .. 'j';
	foreach my $i (1 .. 8)
	{
		my $ended = $client->execute(preview("select $columns from generate_series($i, $i + 98) n"));
		my $result = $ended->{result};

		is($result && $result->{rowCount}, 99, "large answer $i comes") or diag($json->encode($ended));
		is($result && $result->{truncated}, JSON::PP::false, 'whole');
		cmp_ok(length $json->encode($result // {}), '>', 1_000_000, 'and large');
		like($result && $result->{rows}[98][9], qr/^@{[ $i + 98 ]} j /, 'with its last cell');
		is_deeply([ waited($client, $ended) ], [], 'without waiting');
	}
	cmp_ok(accepted('counted') - $before, '<', 8, 'over the same connections');
	return;
}

# ---------------------------------------------------------------- logs

sub nothing_is_told
{
	foreach my $agent (@agents, $rotating)
	{
		my $log = slurp_file($agent->logfile);

		unlike($log, qr/terminated by signal|PANIC|reader_pw/, 'no crash, and no password, is in the log');
		unlike($log, qr/BEGIN [A-Z ]*(?:KEY|CERTIFICATE)/, 'nor a key');
	}
	return;
}
