
# Who the agent is: OAuth 2.0 client credentials, with a real issuer and a
# Temporal server that looks at tokens. Its workers share one token and ask for
# it once; without one none of them polls, and whoever takes it away, or gives
# it back, sees that act.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Find;
use JSON::PP;
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(session);
use Opdata::Issuer;
use Opdata::Temporal;
use Opdata::TemporalServer;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# A worker that was refused tries every 12 seconds at first, then more slowly;
# who gets no token, after a pause that grows from one second up to 72. An issuer that
# does not want a client is asked again after 48 to 72 seconds.
my $soon = $PostgreSQL::Test::Utils::timeout_default;
my $refused_pause = 48;

# Secrets that are looked for everywhere at the end, with what a form encodes.
my %secret = map { $_ => "Canary_$_+/&=%40~" } qw(agent newer second other revoked);

my $json = JSON::PP->new->canonical;
my $files = PostgreSQL::Test::Utils::tempdir('files');
my $activity = '';
my $number = 0;
my @worker = ('default:write', 'default:worker');

my $issuer = issuer('issuer');
$issuer->add_client('operator', 'operator_secret', undef, ['temporal-system:admin']);
$issuer->add_client('driver', 'driver_secret', undef, ['default:write']);
$issuer->add_client('agent', $secret{agent}, 'acme', [@worker]);
$issuer->add_client('second', $secret{second}, 'acme', [@worker]);
$issuer->add_client('stranger', $secret{other}, 'somebody', [@worker]);
$issuer->add_client('nobody', $secret{other}, undef, [@worker]);
$issuer->add_client('newcomer', $secret{other}, 'late', ['elsewhere:write']);

# Polls end soon, so that the server looks at a token soon.
my $temporal = secure_temporal(
	'temporal',
	tls => 'server',
	jwks => $issuer->jwks_url,
	audience => 'urn:opdata',
	config => { 'matching.longPollExpirationInterval' => '5s' });
$temporal->make_namespace('default', $issuer->token('operator'));
my $driver = $temporal->client;
sign_in_driver();

# Another issuer, for an agent whose Temporal asks for nothing.
my $absent = issuer('absent', start => 0);
$absent->set_ttl(5);
$absent->add_client('revoked', $secret{revoked}, 'lonely', []);
my $plain = temporal_server('plain');

my $source = source_cluster('source');
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

my $lonely = agent('lonely', $absent, 'revoked', replace_file("$files/revoked", "$secret{revoked}\n"), <<"EOT");
opdata.temporal_address = '@{[ $plain->address ]}'
opdata.temporal_tls = off
EOT
my $session = session($lonely);
$session->run('listen opdata_health');

my $checked = <<"EOT";
opdata.temporal_address = '@{[ $temporal->address ]}'
opdata.temporal_tls_ca = '@{[ $temporal->ca ]}'
EOT
$issuer->stop;
my $agent = agent('acme', $issuer, 'agent', replace_file("$files/agent", "$secret{agent}\n"), <<"EOT");
$checked
opdata.temporal_auth = 'token'
restart_after_crash = on
EOT

one_request_at_start();
my $late = agent('late', $issuer, 'newcomer', replace_file("$files/other", "$secret{other}\n"), $checked . "opdata.temporal_auth = 'token'\n");
client_without_rights();
issuer_away_at_start();
my %refused = client_is_revoked();
short_tokens();
issuer_away_later();
issuer_is_busy();
secret_is_replaced();
token_is_revoked();
other_audience();
other_settings();
fetcher_dies();
clocks_that_differ();

my $quiet = agent('quiet', $issuer, 'nobody', "$files/other", $checked);
not_asked_for();
organisations();
rights_that_came_later();

client_is_back();
nothing_is_told();
done_testing();

# ---------------------------------------------------------------- parts

sub agent
{
	my ($org, $its_issuer, $client, $secret_file, $conf) = @_;

	return agent_cluster(
		"agent_$org", soon => $soon, conf => <<"EOT");
log_line_prefix = '[%b] '
opdata.org_id = '$org'
opdata.auth_token_url = '@{[ $its_issuer->token_url ]}'
opdata.auth_client_id = '$client'
opdata.auth_client_secret_file = '$secret_file'
$conf
EOT
}

# ---------------------------------------------------------------- questions

sub token { return $_[0]->status->{token} // {}; }

# How many answers the issuer gave to a client, all or those with a status.
sub asked
{
	my ($its_issuer, $client, $status) = @_;

	return scalar grep { ($_->{client_id} // '') eq $client && (!defined $status || $_->{status} == $status) }
	  $its_issuer->requests;
}

# For longer than the test lasts.
sub sign_in_driver
{
	$issuer->set_ttl(36000);
	$driver->sign_in(authorization => 'Bearer ' . $issuer->token('driver'));
	$issuer->set_ttl(300);
	return;
}

# Tokens last so long from now on, and the agent has one that does.
sub agent_gets_token_of
{
	my ($seconds, $name) = @_;

	$issuer->set_ttl($seconds);
	ok(wait_until(sub { my $token = token($agent); $token->{state} eq 'valid' && lasts($token) == $seconds }, $soon), $name)
	  or diag($json->encode(token($agent)));
	return;
}

sub lasts { return sprintf('%.0f', ends_at($_[0]) - seconds_of($_[0]->{obtainedAt})); }

# By the agent's clock, which is that of this machine.
sub ends_at { return seconds_of($_[0]->{expiresAt}); }

sub seconds_of { return $agent->safe_psql('postgres', "select extract(epoch from '$_[0]'::timestamptz)"); }

sub preview
{
	my ($org) = @_;
	my $id = "preview " . ++$number;

	return (
		type => 'previewQueryWorkflow',
		workflow_id => $id,
		task_queue => "tenant-$org",
		input => {
			orgId => $org,
			sql => "select '$id'",
			credentials => reader($source)
		});
}

sub works
{
	my ($client, $org, $name) = @_;
	my %preview = preview($org);
	my $ended = $client->execute(%preview);

	is($ended->{result} && $ended->{result}{rows}[0][0], $preview{workflow_id}, $name)
	  or diag($json->encode($ended));
	return;
}

# Was it told to those who listen?
sub heard
{
	my ($pattern) = @_;
	return wait_until(sub { $session->run('select 1')->{out} =~ /"opdata_health" with payload "[^\n]*$pattern/ }, $soon);
}

sub without_token
{
	my ($node, $name) = @_;

	$node->workers_get('no_token', $name);
	ok(wait_until(sub { !grep { $_->{polls} > 0 } $node->workers }, $soon), 'nobody polls');
	return;
}

# A token is asked for, and refused, after those who want it have begun to wait.
sub refused_token
{
	my ($node, $name) = @_;

	ok(wait_until(sub { (token($node)->{state} // '') eq 'refused' }, $soon), $name)
	  or diag($json->encode(token($node)));
	return;
}

sub said
{
	my ($node, $pattern) = @_;
	return scalar(() = slurp_file($node->logfile) =~ /$pattern/g);
}

# A worker writes it a moment after the others see what it tells of.
sub said_once
{
	my ($node, $pattern, $name) = @_;

	wait_until(sub { said($node, $pattern) }, $soon);
	is(said($node, $pattern), 1, $name);
	return;
}

# ---------------------------------------------------------------- tests

# Two seconds in which each worker would like to have one.
sub one_request_at_start
{
	$agent->workers_get('no_token', 'workers wait for an issuer');
	$issuer->set_delay(2);
	$issuer->start;
	$agent->workers_get('polling', 'they poll when it has answered, which takes its time');
	is(asked($issuer, 'agent'), 1, 'it was asked once');
	$issuer->set_delay(0);

	my $token = token($agent);
	is($token->{state}, 'valid', 'the token is valid');
	is($token->{issuer}, $issuer->url, 'the status has its issuer');
	is($token->{audience}, 'urn:opdata', 'audience');
	is($token->{clientId}, 'agent', 'client');
	is($token->{orgId}, 'acme', 'and organisation');
	is( $agent->safe_psql('postgres',
			"select round(extract(epoch from '$token->{expiresAt}'::timestamptz - '$token->{obtainedAt}'::timestamptz))"),
		300,
		'and when it ends, as the issuer said');
	is($token->{lastError}{code}, 'unreachable', 'and what went wrong before');
	works($driver, 'acme', 'a preview comes back');
	return;
}

# Rights are in the token, so that another token may help, but not at once. The
# rest of it is in rights_that_came_later().
sub client_without_rights
{
	$late->workers_get('refused', 'a client without rights is refused');
	wait_until(sub { asked($issuer, 'newcomer') >= 2 }, $soon);
	sleep 2;
	is(asked($issuer, 'newcomer'), 2, 'it asks for another token once');
	$issuer->add_client('newcomer', $secret{other}, 'late', [@worker]);
	return;
}

# Temporal asks this agent for nothing; it does not poll all the same.
sub issuer_away_at_start
{
	without_token($lonely, 'workers wait for an issuer that is not there');
	my $error;
	ok(wait_until(sub { $error = token($lonely)->{lastError} }, $soon), 'one has asked');
	is($error->{code}, 'unreachable', 'the status says so');
	like($error->{message}, qr/connect/i, 'and why');
	is_deeply([ grep { defined $_->{lastPollAt} } $lonely->workers ], [], 'they never polled');
	is_deeply($plain->client->pollers(task_queue => 'tenant-lonely')->{workflow} // [], [], 'Temporal knows nobody');
	ok(heard('"no_token"'), 'who listens is told');
	is_deeply($lonely->status->{reasons}, ['no_token'], 'it is the reason for bad health');
	ok($lonely->warned('no_token'), 'and a warning');
	ok(wait_until(sub { token($lonely)->{lastError}{at} ne $error->{at} }, $soon), 'it is tried again');
	said_once($lonely, qr/gets no token/, 'the log has it once, however often it is tried');

	$absent->start;
	$lonely->workers_get('polling', 'the issuer comes, and the workers poll');
	ok(heard('"healthy": true'), 'who listens is told');
	said_once($lonely, qr/has a token again/, 'the log has that once, too');
	works($plain->client, 'lonely', 'a preview comes back');
	return;
}

# The rest of it is in client_is_back(), more than twenty seconds later.
sub client_is_revoked
{
	my $before;

	$absent->revoke('revoked');
	without_token($lonely, 'a client that is revoked stops');
	refused_token($lonely, 'its token is refused');
	is(token($lonely)->{lastError}{code}, 'invalid_client', 'as the issuer calls it');
	$before = asked($absent, 'revoked', 401);
	ok($before >= 1, 'the issuer refused it');
	return (at => time(), before => $before);
}

# Tokens of five seconds for half a minute.
sub short_tokens
{
	my ($began, $before, @bad);
	my $n = 0;

	$issuer->set_ttl(5);
	$agent->append_conf('postgresql.conf', "log_min_messages = debug5\n");
	$agent->reload;
	# the first token was good for longer
	$agent->renew(auth_scope => 'read');
	ok( wait_until(
			sub { (token($agent)->{state} // '') eq 'valid' && asked($issuer, 'agent') >= 3 && $agent->all_are('polling') },
			$soon
		),
		'tokens of five seconds are got');
	$began = time();
	$before = asked($issuer, 'agent');
	while (time() < $began + 30 || $n <= 10)
	{
		my $ended = $driver->execute(preview('acme'));

		$n++;
		push @bad, $ended if !$ended->{result};
		if (!defined $refused{asked} && time() > $refused{at} + 20)
		{
			$refused{asked} = asked($absent, 'revoked', 401) - $refused{before};
			$refused{most} = 1 + (time() - $refused{at}) / $refused_pause;
			$absent->add_client('revoked', $secret{revoked}, 'lonely', []);
		}
		$activity .= $agent->safe_psql('postgres', 'select * from pg_stat_activity');
		sleep 0.2;
	}
	is_deeply(\@bad, [], 'previews go on for half a minute, and none fails');

	my $lasted = time() - $began;
	my $asked = asked($issuer, 'agent') - $before;
	my $refreshes = (time() - $began) / 2.5;
	cmp_ok($asked, '>=', $lasted / 5, 'a token is replaced before it ends');
	cmp_ok($asked, '<=', $refreshes + 2, 'by one request, whoever makes it');
	is(scalar(grep { ($_->{client_id} // '') eq 'agent' && $_->{status} != 200 } $issuer->requests), 0, 'and none fails');
	ok(wait_until(sub { token($agent)->{state} eq 'valid' }, $soon), 'the token is valid');
	$agent->append_conf('postgresql.conf', "log_min_messages = warning\n");
	$agent->reload;
	return;
}

# A token outlives its issuer, as long as it is good; it is to be replaced when half of
# its life is over.
sub issuer_away_later
{
	my $before = $agent->pids;
	my ($token, $ends);

	agent_gets_token_of(40, 'a token of forty seconds');
	$issuer->stop;
	ok(wait_until(sub { $token = token($agent); $token->{state} eq 'failing' }, $soon), 'the issuer is away when it is to be replaced');
	$ends = ends_at($token);
	cmp_ok(seconds_of($token->{lastError}{at}), '<', $ends - 2, 'well before it ends');
	is($token->{lastError}{code}, 'unreachable', 'the status says so');
	ok($agent->all_are('polling'), 'the workers go on');
	ok($agent->status->{healthy}, 'and are healthy');
	works($driver, 'acme', 'a preview comes back');

	without_token($agent, 'the token has ended, and they stop');
	cmp_ok(time(), '>=', $ends - 1, 'not before');
	$issuer->set_ttl(6);
	$issuer->start;
	$agent->workers_get('polling', 'the issuer is back, and so are they');
	is($agent->pids, $before, 'without a restart');
	works($driver, 'acme', 'a preview comes back');
	return;
}

sub issuer_is_busy
{
	$issuer->fail_with(503, 'retry-after' => '1');
	ok(wait_until(sub { (token($agent)->{lastError}{code} // '') eq 'http_503' }, $soon), 'an issuer says 503');
	my $failed = grep { $_->{status} == 503 } $issuer->requests;
	ok(wait_until(sub { (grep { $_->{status} == 503 } $issuer->requests) > $failed + 1 }, $soon), 'it is asked again');
	$issuer->fail_with();
	$agent->workers_get('polling', 'until it says something else');
	ok(wait_until(sub { token($agent)->{state} eq 'valid' }, $soon), 'and gives a token');
	return;
}

# The file and the issuer change long before another token is asked for.
sub secret_is_replaced
{
	my $before = $agent->pids;
	my $asked;

	agent_gets_token_of(20, 'a token of twenty seconds');
	$issuer->add_client('agent', $secret{newer}, 'acme', [@worker]);
	replace_file("$files/agent", "$secret{newer}\n");
	$asked = asked($issuer, 'agent');
	$issuer->set_ttl(6);
	ok(wait_until(sub { asked($issuer, 'agent') >= $asked + 2 }, $soon), 'others are asked for');
	is(asked($issuer, 'agent', 401), 0, 'a new secret in the file is used from then on');
	$agent->workers_get('polling', 'the workers go on');
	is($agent->pids, $before, 'without a restart');
	return;
}

# Temporal refuses a token that is good until later.
sub token_is_revoked
{
	my $before;

	agent_gets_token_of(300, 'a token of five minutes');
	$agent->workers_get('polling', 'the workers poll');
	$before = asked($issuer, 'agent');
	$temporal->deny('agent');
	$agent->workers_get('refused', 'Temporal refuses the agent');
	wait_until(sub { asked($issuer, 'agent') > $before }, $soon);
	is(asked($issuer, 'agent') - $before, 1, 'another token was asked for, once');
	foreach my $worker ($agent->workers)
	{
		is($worker->{lastError}{code}, 'PERMISSION_DENIED', "$worker->{name} tells so");
	}
	ok($agent->warned('temporal_refused'), 'the status warns');
	sleep 5;
	is(asked($issuer, 'agent') - $before, 1, 'and no further one');
	$agent->workers_get('refused', 'all of them wait');
	$temporal->allow;
	$agent->workers_get('polling', 'the agent is allowed again');
	works($driver, 'acme', 'a preview comes back');
	is(asked($issuer, 'agent') - $before, 1, 'with the token that there is');
	return;
}

# The issuer makes its tokens out to somebody else.
sub other_audience
{
	my $before;

	$issuer->set_audience('urn:else');
	$before = asked($issuer, 'agent');
	$agent->renew(auth_scope => 'read write');
	$agent->workers_get('refused', 'a token for another audience is refused');
	wait_until(sub { asked($issuer, 'agent') >= $before + 2 }, $soon);
	my $token = token($agent);
	is($token->{issuer}, $issuer->url, 'the status has the issuer');
	is($token->{audience}, 'urn:else', 'and the audience');
	is(asked($issuer, 'agent') - $before, 2, 'another token was asked for, once');
	$issuer->set_audience('urn:opdata');
	$agent->renew(auth_scope => 'read');
	$agent->workers_get('polling', 'one for the right audience is not');
	return;
}

# What was got as one client is nothing for another.
sub other_settings
{
	my ($refused, $got);

	$temporal->deny('agent');
	replace_file("$files/agent", "$secret{second}\n");
	$agent->renew(auth_client_id => 'second');
	ok(wait_until(sub { (token($agent)->{clientId} // '') eq 'second' && $agent->all_are('polling') }, $soon),
		'another client has a token of its own');
	is(asked($issuer, 'second'), 1, 'asked for once');
	works($driver, 'acme', 'a preview comes back');
	is(scalar(grep { ($_->{lastError}{code} // '') eq 'PERMISSION_DENIED' && $_->{state} ne 'polling' } $agent->workers),
		0, 'the old token is not used any more');
	$temporal->allow;

	$agent->renew(auth_client_id => 'unknown');
	without_token($agent, 'a client that does not exist gets none');
	refused_token($agent, 'the old token is not one for it');
	$refused = token($agent)->{lastError};
	is($refused->{code}, 'invalid_client', 'and why is told');
	$agent->renew(auth_client_id => 'second');
	$agent->workers_get('polling', 'a name that is put right is tried at once');
	$got = token($agent)->{obtainedAt};
	cmp_ok(seconds_of($got) - seconds_of($refused->{at}), '<', $refused_pause, 'not after the pause that another one had earned');
	return;
}

# The worker that has a connection to the issuer.
sub fetcher
{
	my $peer = sprintf('0100007F:%04X', $issuer->{port});
	my @inodes = map { (split)[9] } grep { (split)[2] eq $peer && (split)[3] eq '01' } split(/\n/, slurp_file('/proc/net/tcp'));

	foreach my $pid (grep { defined } map { $_->{pid} } $agent->workers)
	{
		foreach my $fd (glob "/proc/$pid/fd/*")
		{
			my $link = readlink($fd) // next;
			return $pid if grep { $link eq "socket:[$_]" } @inodes;
		}
	}
	return;
}

# It dies while the issuer takes its time, longer than anybody waits: others ask.
sub fetcher_dies
{
	my $pid;

	foreach my $signal ('TERM', 'KILL')
	{
		$issuer->set_delay(60);
		$agent->set(auth_scope => "read $signal" eq 'read TERM' ? 'write' : 'write read');
		ok(wait_until(sub { $pid = fetcher() }, $soon), 'a worker asks for a token');
		kill $signal, $pid;
		ok( wait_until(
				sub { my $other = eval { fetcher() }; return $other && $other != $pid },
				$soon
			),
			"after SIG$signal another one does");
		$issuer->set_delay(0);
		ok(wait_until(sub { eval { $agent->all_are('polling') } }, $soon), 'and all have it');
		is(token($agent)->{state}, 'valid', 'a valid one');
	}
	works($driver, 'acme', 'a preview comes back');
	return;
}

# The clock of the issuer is not the one of this machine. Temporal looks at its
# own; the agent looks at none.
sub clocks_that_differ
{
	foreach my $clock ('-2h', '+2h')
	{
		my $hours = $clock eq '-2h' ? 3 : 1;

		$issuer->stop;
		$issuer->{clock} = $clock;
		$issuer->start;
		$issuer->set_ttl($hours * 3600);
		$driver->sign_in(authorization => 'Bearer ' . $issuer->token('driver'));
		my $accepted = eval { $driver->pollers(task_queue => 'tenant-acme'); 1 };

		$agent->renew(auth_scope => "read$clock" eq 'read-2h' ? 'read' : 'write');
		my $got = wait_until(sub { my $token = token($agent);
				$token->{state} eq 'valid' && $agent->all_are($accepted ? 'polling' : 'refused') }, $soon);
		ok($got, "the issuer's clock is off by $clock: the agent has a token and " . ($accepted ? 'polls' : 'is refused'))
		  or diag($json->encode($agent->status));
		my $token = token($agent);
		is( $agent->safe_psql('postgres',
				"select round(extract(epoch from '$token->{expiresAt}'::timestamptz - now()) / 3600)"),
			$hours,
			'which it keeps for as long as it was told');
		ok($accepted, 'Temporal takes it') if $clock eq '-2h';
	}
	$issuer->stop;
	delete $issuer->{clock};
	$issuer->start;
	sign_in_driver();
	return;
}

# The agent has a token, which is not for Temporal.
sub not_asked_for
{
	$quiet->workers_get('refused', 'without temporal_auth no token goes to Temporal');
	sleep 1;
	is(asked($issuer, 'nobody'), 1, 'nor is another one asked for, which would not help');
	is(token($quiet)->{orgId}, undef, 'a token without an organisation is taken');
	$quiet->renew(temporal_auth => 'token');
	$quiet->workers_get('polling', 'with it, Temporal takes it too');
	works($driver, 'quiet', 'a preview comes back');
	return;
}

sub organisations
{
	my $before;

	$quiet->renew(org_id => 'else', auth_client_id => 'stranger');
	without_token($quiet, 'a token of another organisation stops the agent');
	refused_token($quiet, 'it is as if there were none');
	is(token($quiet)->{lastError}{code}, 'tenant_mismatch', 'the status says why');
	like(token($quiet)->{lastError}{message}, qr/"somebody"/, 'and whose it was');
	is_deeply($driver->pollers(task_queue => 'tenant-else'), { workflow => [], activity => [] }, 'nobody ever polled');
	ok(wait_until(sub { said($quiet, qr/WARNING: .*gets no token/) == 1 }, $soon), 'it is said loudly');
	$before = asked($issuer, 'stranger');
	$quiet->renew(org_id => 'somebody');
	$quiet->workers_get('polling', 'the right organisation is served');
	works($driver, 'somebody', 'a preview comes back');
	is(asked($issuer, 'stranger') - $before, 1, 'with one token');
	return;
}

sub rights_that_came_later
{
	$late->workers_get('polling', 'rights that the issuer gave later are found, while the token is good for long');
	works($driver, 'late', 'a preview comes back');
	return;
}

sub client_is_back
{
	cmp_ok($refused{asked}, '<=', $refused{most}, 'a revoked client asks slowly');
	$lonely->workers_get('polling', 'a client that is known again polls');
	is(said($lonely, qr/WARNING: .*gets no token/), 1, 'that it was refused is in the log once');
	works($plain->client, 'lonely', 'a preview comes back');
	return;
}

# A token's first part is the same in all tokens of a key.
sub nothing_is_told
{
	my @secrets = ('Canary_', map { (split /\./, $_->token($_ == $issuer ? 'driver' : 'revoked'))[0] } $issuer, $absent);
	my $secret = join('|', map { quotemeta } @secrets);
	my @bad;

	my $seen = $activity;
	$seen .= $_->told . $_->safe_psql('postgres', 'select * from pg_stat_activity') foreach $agent, $lonely, $quiet, $late;
	$session->quit;
	foreach my $node ($agent, $lonely, $quiet, $late)
	{
		my ($dump) = run_command([ $node->installed_command('pg_dumpall'), '-d', $node->connstr('postgres') ]);

		like($dump, qr/opdata/, 'a dump is made');
		push @bad, 'a dump of ' . $node->name if $dump =~ /$secret/;
		$node->safe_psql('postgres', 'checkpoint');
		$node->stop;
		push @bad, 'the log of ' . $node->name if said($node, qr/$secret/);
		is(said($node, qr/PANIC|TRAP|terminated by signal (?!9:)/), 0, 'no crash is in the log');
		find(
			{
				no_chdir => 1,
				wanted => sub { push @bad, $_ if -f && slurp_file($_) =~ /$secret/ }
			},
			$node->data_dir);
	}
	push @bad, 'what was shown' if $seen =~ /$secret/;
	is_deeply(\@bad, [], 'no secret and no token is in logs, status, statistics, dumps, files of data and WAL');
	return;
}
