
# Faults on each leg of the way: to Temporal, the token issuer, the Convex
# deployment, the source, and the proxy. While one lasts jobs are asked for; each
# ends once, workers come back by themselves, and nobody else waits for it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Convex;
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(session sleeping);
use Opdata::HttpProxy;
use Opdata::Issuer;
use Opdata::TemporalServer;
use Opdata::Test;
use Opdata::Toxiproxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# How long a fault lasts at least. It is longer than a token, and shorter than
# two attempts of a lost activity.
my $lasts = 8;
my $token_lasts = 6;

# A worker that is not in contact tries every 12 seconds at the latest, and a call
# without an answer is given up after 10. Pauses after failures grow up to 72.
my $soon = $PostgreSQL::Test::Utils::timeout_default;
my $at_once = 9;

# A gateway may cut polls that are as old as that; the silence of a connection
# shows when the poll on it is 71 seconds old and a probe was not answered.
my $poll_lasts_ms = 21000;

# One agent for each leg, and the fault is on that leg alone: "cut" is after how
# many bytes of a connection; with TLS it is behind the handshake. While the leg
# refuses, the agent is unhealthy for the reasons "why" if there are any.
my %legs = (
	temporal => { cut => 1800, why => qr/^temporal_unreachable$/ },
	issuer => { cut => 300, why => qr/^no_token$/ },
	convex => { cut => 100 },
	source => { cut => 500 },
	proxy => { cut => 1900, why => qr/^(?:temporal_unreachable|no_token)$/ });

# What is done to a leg, and how jobs may end when the leg is the one to their
# source; on other legs they are all done. Tests and previews are tried once, a
# store three times, and so after most of these. One that "running" is for may
# have had most of its answer when it began.
my @faults = (
	{   name => 'slow',
		begin => sub { toxic($_[0], latency => { latency => 1000, jitter => 300 }) },
		ends => qr/^(?:ok|timeout|query_timeout)$/
	},
	{   name => 'cut',
		begin => sub { toxic($_[0], limit_data => { bytes => $legs{ $_[0] }{cut} }) },
		ends => qr/^(?:connection_refused|query_failed)$/,
		running => qr/^ok$/
	},
	{   name => 'reset',
		begin => sub { toxic($_[0], reset_peer => { timeout => 200 }) },
		ends => qr/^(?:ok|connection_refused|query_failed)$/
	},
	{   name => 'silent',
		begin => sub { toxic($_[0], timeout => { timeout => 0 }) },
		ends => qr/^(?:connection_refused|timeout|query_timeout|query_failed)$/
	},
	{   name => 'refused',
		begin => sub { network()->disable($_[0]) },
		ends => qr/^(?:connection_refused|query_failed)$/
	});

my $json = JSON::PP->new->canonical->allow_nonref;
my $faults = toxiproxy('faults');

my $issuer = issuer('issuer');
$issuer->add_client("agent_$_", 'agent_secret', $_, [ 'default:write', 'default:worker' ])
  foreach keys %legs, 'gateway', 'long_silence';
$issuer->add_client('operator', 'operator_secret', undef, ['temporal-system:admin']);
my $temporal = secure_temporal('temporal', tls => 'server', jwks => $issuer->jwks_url);
$temporal->make_namespace('default', $issuer->token('operator'));
my $client = $temporal->client(token => $issuer->token('operator'));
my $convex = convex_server('convex', issuer => $issuer->url, audience => 'urn:opdata', jwks => $issuer->jwks_url);
my $proxy = http_proxy('proxy');

# its client has what it needs
$issuer->set_ttl($token_lasts);

my $secret_file = replace_file(PostgreSQL::Test::Utils::tempdir('files') . '/secret', "agent_secret\n");

my $source = source_cluster('source');
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

my %through = map { $_ => $faults->add($_, upstream($_)) } keys %legs;
my $gateway = Gateway->new('gateway',
	upstream => $temporal->address, after => $poll_lasts_ms, path => 'TaskQueue',
	ca => $temporal->ca, cert => $temporal->cert('server'), key => $temporal->key('server'))->start;
my $silent = $faults->add('long_silence', $temporal->address);

my %agents = (
	(map { $_ => new_agent($_) } keys %legs),
	gateway => new_agent('gateway', temporal_address => $gateway->address),
	long_silence => new_agent('long_silence', temporal_address => $silent));
get_polling($_, 'the workers poll') foreach sort keys %agents;

toxic('long_silence', timeout => { timeout => 0 });
during($_) foreach @faults;
long_silence();
polls_that_do_not_last();

foreach my $name (sort keys %agents)
{
	ok(wait_until(sub { $agents{$name}->safe_psql('postgres', q{select count(*) from opdata_jobs where state = 'running'}) == 0 }, $soon),
		"$name: no job is left running");
	unlike(
		slurp_file($agents{$name}->logfile),
		qr/terminated by signal|PANIC|reader_pw|agent_secret|eyJ[\w-]{10}/,
		"$name: no crash, and no secret, is in the log");
}
done_testing();

# ---------------------------------------------------------------- the legs

sub network { return $faults; }

sub toxic { return $faults->toxic(@_); }

sub upstream
{
	my ($leg) = @_;

	return {
		temporal => $temporal->address,
		issuer => $issuer->token_url =~ s{^http://([^/]+)/.*}{$1}r,
		convex => $convex->address,
		source => '127.0.0.1:' . $source->port,
		proxy => $proxy->address
	}->{$leg};
}

# An agent of the organisation of this name. What is to be tested with it goes
# through toxiproxy, the rest has a straight way.
sub new_agent
{
	my ($name, %settings) = @_;
	my %of_leg = (
		temporal => [ temporal_address => $through{temporal} ],
		issuer => [ auth_token_url => "http://$through{issuer}/oauth2/token" ],
		convex => [ convex_url => "http://$through{convex}" ],
		proxy => [ proxy => "http://$through{proxy}" ]);

	%settings = (
		org_id => $name,
		temporal_address => $temporal->address,
		temporal_tls_ca => $temporal->ca,
		temporal_auth => 'token',
		auth_token_url => $issuer->token_url,
		auth_client_id => "agent_$name",
		auth_client_secret_file => $secret_file,
		convex_url => $convex->url,
		@{ $of_leg{$name} // [] },
		%settings);
	my $agent = agent_cluster("agent_$name", conf => conf_lines(%settings));

	$agent->note_effects;
	return $agent;
}

# ---------------------------------------------------------------- questions

sub status { return $agents{ $_[0] }->status; }

sub get_polling
{
	my ($name, $what) = @_;
	my $status;

	ok( wait_until(
			sub {
				$status = status($name);
				return $status->{healthy} && !grep { $_->{state} ne 'polling' } @{ $status->{workers} };
			},
			$soon),
		"$name: $what") or diag($json->encode($status));
	return;
}

# Of the workers that nobody terminates.
sub pids
{
	my ($name) = @_;
	return join ' ', map { $_->{pid} // 'none' }
	  grep { $_->{kind} eq 'interactive' } @{ status($name)->{workers} };
}

sub left_at_source
{
	return $source->safe_psql('postgres',
		q{select count(*) from pg_stat_activity where usename = 'reader'});
}

# ---------------------------------------------------------------- workflows

sub credentials
{
	my ($name) = @_;
	my ($port) = ($name eq 'source' ? $through{source} : '127.0.0.1:' . $source->port) =~ /:(\d+)/;

	return reader($source, port => $port + 0);
}

# A store's id is that of its connection, and what a preview returns.
sub workflow
{
	my ($name, $type, $id, %input) = @_;

	return (
		type => $type,
		workflow_id => $id,
		task_queue => "tenant-$name",
		input => { orgId => $name, credentials => credentials($name), connectionId => $id, %input });
}

# The ones that a fault meets: one runs when it begins, the others are asked for
# while it lasts. The one whose source it strikes runs for nearly as long as it may.
sub running_preview
{
	my ($name, $id) = @_;
	my $runs = $name eq 'source' ? 9 : 5;
	my %workflow = workflow($name, 'previewQueryWorkflow', $id, sql => "select '$id' from pg_sleep($runs)");

	delete $workflow{input}{connectionId};
	return %workflow;
}

# One of each agent, all at the same time; tried again if one ends before the last
# one begins. Their tickets.
sub all_run
{
	my ($what) = @_;

	foreach my $try (1 .. 10)
	{
		my %tickets = map { $_ => $client->send('execute', running_preview($_, "$_ $what running $try")) } sort keys %legs;

		return %tickets if wait_until(sub { sleeping($source) == keys %legs }, 8, 0.1);
		$client->receive($_) foreach values %tickets;
	}
	return;
}

sub jobs
{
	my ($name, $prefix) = @_;
	my @jobs = (
		{ workflow($name, 'storeCredsWorkflow', "$prefix store 1") },
		{ workflow($name, 'storeCredsWorkflow', "$prefix store 2") },
		{ workflow($name, 'testCredentialsWorkflow', "$prefix test") },
		{ workflow($name, 'previewQueryWorkflow', "$prefix preview", sql => "select '$prefix preview'") });

	delete $_->{input}{connectionId} foreach @jobs[ 2, 3 ];
	return @jobs;
}

# "ok", or the code of the failure.
sub end_of
{
	my ($ended) = @_;
	my $result = $ended->{result};

	return $ended->{error}{type} // $ended->{error}{class} unless $result;
	return $result->{error} ? $result->{error}{code} : 'ok';
}

# It has ended, once, in a way that may be, and with the effect of that.
sub ended_once
{
	my ($name, $ended, $allowed) = @_;
	my $id = $ended->{workflow_id};
	my $history = $client->history(workflow_id => $id);
	my $end = end_of($ended);
	my $closes = grep { $_->{event_type} =~ /^WORKFLOW_EXECUTION_(?:COMPLETED|FAILED|CANCELED|TERMINATED|TIMED_OUT)$/ } @$history;
	my @got = ($closes, $end =~ $allowed ? 'may be' : $end);
	my @wanted = (1, 'may be');

	if ($id =~ /store/)
	{
		push @got, $agents{$name}->effects($id);
		push @wanted, $end eq 'ok' ? 'INSERT' : '';
	}
	elsif ($id =~ /preview|running/ && $end eq 'ok')
	{
		push @got, $ended->{result}{rows}[0][0];
		push @wanted, $id;
	}
	is_deeply(\@got, \@wanted, "$id ends once: $end")
	  or diag($json->encode([ $ended, $history ]));
	return;
}

# Convex was told each store that there is of this agent, once.
sub told_once
{
	my ($name) = @_;
	my $stored = $agents{$name}->safe_psql('postgres',
		q{select string_agg(id, ', ' order by created_at, id) from opdata.connection});
	my $told;

	ok( wait_until(
			sub {
				$told = join ', ', map { $_->{connectionId} }
				  grep { $_->{orgId} eq $name } @{ $convex->documents->{statuses} };
				return join(',', sort split /, /, $told) eq join(',', sort split /, /, $stored)
				  && !$agents{$name}->safe_psql('postgres', 'select count(*) from opdata.outbox');
			},
			$soon),
		"$name: Convex was told each store once") or diag("stored: $stored\ntold: $told");
	return;
}

# ---------------------------------------------------------------- a fault

sub during
{
	my ($fault) = @_;
	my $what = $fault->{name};
	my %pids = map { $_ => pids($_) } keys %legs;
	my %before = map { $_ => status($_) } keys %legs;
	my %running = all_run($what);
	my %tickets = map { $_ => [ $running{$_} ] } keys %running;

	is(scalar(keys %running), scalar(keys %legs), "$what: a preview of each agent runs");
	my $began = time();
	$fault->{begin}->($_) foreach sort keys %legs;
	foreach my $leg (sort keys %legs)
	{
		push @{ $tickets{$leg} }, map { $client->send('execute', %$_) } jobs($leg, "$leg $what");
	}

	in_nobodys_way($_, $what) foreach sort keys %legs;
	if ($what eq 'refused')
	{
		get_unhealthy($_) foreach grep { $legs{$_}{why} } sort keys %legs;
	}
	sleep 0.1 while time() - $began < $lasts;
	foreach my $leg (sort keys %legs)
	{
		my $status;

		ok(wait_until(sub { status($leg)->{healthy} }, $soon), "$leg $what: that does not concern the agent's health")
		  unless $legs{$leg}{why};
		ok(wait_until(sub { $status = status($leg); is_felt($leg, $before{$leg}, $status, "$leg $what preview") }, $soon),
			"$leg $what: the agent feels it")
		  or diag($json->encode($status))
		  unless $what eq 'slow';
	}

	$faults->clear($_) foreach sort keys %legs;
	$faults->enable($_) foreach sort keys %legs;
	foreach my $leg (sort keys %legs)
	{
		my $allowed = $leg eq 'source' ? $fault->{ends} : qr/^ok$/;

		# a store may have been tried again when the fault was over
		foreach my $ended (map { $client->receive($_) } @{ $tickets{$leg} })
		{
			my $other = $ended->{workflow_id} =~ /store/ ? qr/^ok$/ :
			  $ended->{workflow_id} =~ /running/ ? $fault->{running} : undef;

			ended_once($leg, $ended, $other ? qr/$other|$allowed/ : $allowed);
		}
		get_polling($leg, "all workers poll after $what");
		is(pids($leg), $pids{$leg}, "$leg $what: no worker was restarted");
		told_once($leg);
	}
	ok(wait_until(sub { left_at_source() == 0 }, $soon), "$what: nothing is left at the source");
	return;
}

# Without that a fault would show nothing: something failed on this leg, or has
# waited all the time.
sub is_felt
{
	my ($leg, $before, $status, $workflow_id) = @_;
	my $errors = sub { $json->encode([ map { $_->{lastError} } @{ $_[0]{workers} } ]) };

	return $status->{convex}{waiting} > 0 if $leg eq 'convex';
	return $status->{token}{state} ne 'valid' if $leg eq 'issuer';
	return $client->describe(workflow_id => $workflow_id)->{status} ne 'COMPLETED' if $leg eq 'source';
	return $errors->($status) ne $errors->($before)
	  || $client->describe(workflow_id => $workflow_id)->{status} eq 'RUNNING';
}

sub get_unhealthy
{
	my ($leg) = @_;
	my $status;

	ok( wait_until(
			sub {
				$status = status($leg);
				return !$status->{healthy} && !grep { $_ !~ $legs{$leg}{why} } @{ $status->{reasons} };
			},
			$soon),
		"$leg: the agent is not healthy, and says why") or diag($json->encode($status));
	return;
}

# What others do in the agent's cluster, and what is done to a worker or to a
# session that waits for a source.
sub in_nobodys_way
{
	my ($leg, $what) = @_;
	my $agent = $agents{$leg};
	my ($worker) = grep { $_->{kind} eq 'bulk' } @{ status($leg)->{workers} };
	my $session;
	my $began = time();

	$agent->safe_psql('postgres', 'create database other');
	$began = time();
	$agent->safe_psql('postgres', 'drop database other');
	cmp_ok(time() - $began, '<', $at_once, "$leg $what: another database is dropped at once");
	is($agent->safe_psql('postgres', "select pg_terminate_backend($worker->{pid}, 1000 * $at_once)"),
		't', "$leg $what: a worker is terminated at once");
	return unless $leg eq 'source';

	my $credentials = $json->encode(credentials($leg));
	$session = session($agent);
	$session->start("select opdata_test('$credentials'::jsonb)");
	is($agent->safe_psql('postgres', 'select pg_terminate_backend(' . $session->pid . ", 1000 * $at_once)"),
		't', "$leg $what: so is a session");
	$session->finish;
	return;
}

# ---------------------------------------------------------------- polls

# The connections to Temporal are there, but nothing comes on them.
sub long_silence
{
	my $status;

	ok( wait_until(
			sub {
				$status = status('long_silence');
				return !$status->{healthy} && "@{ $status->{reasons} }" eq 'temporal_unreachable';
			},
			$soon),
		'a long silence of Temporal shows, and why') or diag($json->encode($status));
	$faults->clear('long_silence');
	get_polling('long_silence', 'its end, too');
	ended_once('long_silence', $client->execute(running_preview('long_silence', 'after the long silence, running')), qr/^ok$/);
	return;
}

# A gateway that ends polls when they get old is a part of many networks.
sub polls_that_do_not_last
{
	my %ended;

	foreach my $way (qw(504 html reset cut))
	{
		ok(wait_until(sub { %ended = $gateway->ended; ($ended{$way} // 0) > 1 }, $soon), "the gateway has ended polls: $way");
	}
	unlike(slurp_file($agents{gateway}->logfile), qr/gets no tasks/, 'none of it is taken for an outage');
	ok(wait_until(sub { status('gateway')->{healthy} }, $soon), 'the agent is healthy');
	ended_once('gateway', $client->execute(running_preview('gateway', 'through the gateway, running')), qr/^ok$/);
	return;
}

# test/node/gateway.mjs
package Gateway;

use FindBin;
use parent 'Opdata::Program';

sub port_names { return ('port'); }

sub command
{
	my ($self) = @_;
	return (Opdata::Process::program('OPD_NODE'), "$FindBin::RealBin/../node/gateway.mjs",
		map { ("--$_", $self->{$_}) } qw(port upstream ca cert key path after));
}

sub is_ready
{
	my ($self, $said) = @_;
	return $self->log_since($said) =~ /^ready$/m;
}

# How many calls, by the way in which it did so.
sub ended
{
	my ($self) = @_;
	my %ended;

	$ended{$_}++ foreach $self->log_since(0) =~ /^ended: (\w+)$/mg;
	return %ended;
}
