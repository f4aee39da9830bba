
# Let each of the library's workflows meet what can happen to it, on a real
# Temporal server, and write down the histories: run by record.sh.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use MIME::Base64        qw(decode_base64 encode_base64);
use Opdata::Credentials qw(credentials);
use Opdata::Engine;
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = source_cluster('source');
$source->safe_psql(
	'postgres', q{
	create role reader login password 'reader_pw';
	create table item as select n as id, 'item ' || n as name from generate_series(1, 5) n;
	grant select on item to reader;
}
);
my $tenant = tenant('acme',
	conf => "restart_after_crash = on\nopdata.interactive_workers = 1\nopdata.bulk_workers = 1\n");
my $agent = $tenant->agent;
my $client = $tenant->client;
my $silent = silent_server(at => 'connect');

my %good = (username => 'reader', password => 'reader_pw');
my $credentials = credentials($source, %good);
my $unheard = credentials($source, %good, port => $silent->port);
my %slow = (connectionId => 'crm', sql => 'select 4 as n from pg_sleep(4)');
my $engine = Opdata::Engine->translator;
my $version = json($agent, 'select opdata_status()')->{versions}{library};

-d "$ENV{TESTDIR}/recorded" or mkdir "$ENV{TESTDIR}/recorded" or die $!;
mkdir "$ENV{TESTDIR}/recorded/$version" or die $!;

store();
test_credentials();
preview();
delete_connection();
done_testing();

# --------------------------------------------------------------- what happens

sub store
{
	my $type = 'storeCredsWorkflow';
	my %input = (connectionId => 'crm', name => 'CRM', type => 'postgres');

	record('store-success', 'ok', 'stored', run($type, { %input, credentials => $credentials }));
	record(
		'store-failure', 'authentication_failed',
		'a wrong password',
		run($type, { %input, credentials => { %$credentials, password => 'wrong' } })
	);
	record(
		'store-malformed', 'invalid_credentials',
		'credentials that are none',
		run($type, { %input, credentials => { host => 7 } })
	);

	# three attempts, and the third one succeeds
	$source->stop;
	record(
		'store-refused', 'connection_refused',
		'the source is down at all attempts',
		run($type, { %input, credentials => $credentials })
	);
	my $workflow = start($type, { %input, credentials => $credentials });
	wait_for(sub { attempt($workflow) >= 2 });
	$source->start;
	record('store-retried', 'ok', 'the source was down at first', ended($workflow));

	# a signal finds no handler
	$workflow = start($type, { %input, credentials => $unheard });
	wait_for(sub { attempt($workflow) >= 1 });
	$client->signal(workflow_id => $workflow->{workflow_id}, name => 'hello', input => 1);
	$client->cancel(workflow_id => $workflow->{workflow_id});
	record('store-canceled', 'canceled', 'canceled while it ran, after a signal', ended($workflow));

	record(
		'store-canceled-before', 'canceled',
		'canceled before an agent was there',
		canceled_before($type, { %input, credentials => $credentials })
	);

	# the server sees that its worker is gone by the heartbeats that fail to come
	$workflow = start($type, { %input, credentials => $unheard });
	wait_for(sub { running($workflow) });
	crash();
	$client->cancel(workflow_id => $workflow->{workflow_id});
	record('store-lost', 'timeout', 'its worker was killed, then it was canceled', ended($workflow));

	$workflow = start($type, { %input, credentials => $unheard });
	wait_for(sub { running($workflow) });
	$client->terminate(workflow_id => $workflow->{workflow_id}, reason => 'no more');
	record('store-terminated', 'terminated', 'terminated while it ran', ended($workflow));
	return;
}

sub test_credentials
{
	my $type = 'testCredentialsWorkflow';

	record('test-success', 'ok', 'of a stored connection', run($type, { connectionId => 'crm' }));
	record(
		'test-inline', 'ok',
		'of credentials in the input',
		run($type, { type => 'postgres', credentials => $credentials })
	);
	record(
		'test-failure', 'connection_not_found',
		'of an unknown connection',
		run($type, { connectionId => 'nobody' })
	);
	record(
		'test-tenant', 'tenant_mismatch',
		'of another organisation',
		run($type, { orgId => 'other', connectionId => 'crm' })
	);

	my $workflow = start($type, { type => 'postgres', credentials => $unheard });
	wait_for(sub { running($workflow) });
	wait_for(sub { beats($workflow) >= 2 });
	$client->cancel(workflow_id => $workflow->{workflow_id});
	record('test-canceled', 'canceled', 'canceled while it ran', ended($workflow));
	return;
}

sub preview
{
	my $type = 'previewQueryWorkflow';

	record('preview-success', 'ok', 'five rows',
		run($type, { connectionId => 'crm', sql => 'select * from item order by id' }));
	record(
		'preview-failure', 'statement_not_allowed',
		'a statement that writes',
		run($type, { connectionId => 'crm', sql => 'delete from item' })
	);
	record('preview-slow', 'ok', 'four seconds, with beats', run($type, {%slow}));
	record(
		'preview-short-task', 'ok',
		'four seconds with a task timeout of two',
		run($type, {%slow}, task_timeout => 2)
	);
	record(
		'preview-slow-failure',
		'query_failed',
		'it fails after two beats',
		run($type,
			{   connectionId => 'crm',
				sql => 'select 1 / (n - n) from (select 1 as n from pg_sleep(2.5) offset 0) p'
			}
		)
	);

	my $workflow = start($type, {%slow});
	wait_for(sub { running($workflow) });
	$client->cancel(workflow_id => $workflow->{workflow_id});
	record('preview-canceled', 'canceled', 'canceled while it ran', ended($workflow));

	record(
		'preview-canceled-before', 'canceled',
		'canceled before an agent was there',
		canceled_before($type, {%slow})
	);

	$workflow = start($type, {%slow});
	wait_for(sub { running($workflow) });
	$client->query(workflow_id => $workflow->{workflow_id}, name => 'status');
	$client->signal(workflow_id => $workflow->{workflow_id}, name => 'hello', input => 1);
	record('preview-signaled', 'ok', 'queried and signaled while it ran', ended($workflow));

	$workflow = start($type, {%slow});
	wait_for(sub { running($workflow) });
	$client->update(workflow_id => $workflow->{workflow_id}, name => 'change', input => 1);
	record('preview-updated', 'ok', 'a refused update while it ran', ended($workflow));

	# given back by a worker that is told to go; taken away from one that is killed
	$workflow = start($type, {%slow});
	wait_for(sub { beats($workflow) >= 1 });
	$agent->safe_psql('postgres',
		"select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'opdata worker'");
	record('preview-given-back', 'ok', 'its worker was told to go', ended($workflow));

	$workflow = start($type, {%slow}, task_timeout => 2);
	wait_for(sub { beats($workflow) >= 1 });
	crash();
	record('preview-lost', 'ok', 'its worker was killed', ended($workflow));

	$client->create_schedule(
		schedule_id => 'plan',
		$tenant->arguments($type, {%slow})
	);
	my $run = $client->trigger_schedule(schedule_id => 'plan');
	record('preview-scheduled', 'egress_denied', 'started by a schedule', ended($run));
	return;
}

sub delete_connection
{
	my $type = 'deleteConnectionWorkflow';

	record(
		'delete-canceled-before', 'canceled',
		'canceled before an agent was there',
		canceled_before($type, { connectionId => 'crm' })
	);
	record('delete-success', 'ok', 'deleted', run($type, { connectionId => 'crm' }));
	record('delete-again', 'ok', 'there was nothing to delete', run($type, { connectionId => 'crm' }));
	record(
		'delete-failure', 'tenant_mismatch',
		'of another organisation',
		run($type, { orgId => 'other', connectionId => 'crm' })
	);
	return;
}

# ------------------------------------------------------------------ helpers

sub run   { return $tenant->run(@_); }
sub start { return $tenant->start(@_); }

sub ended
{
	my ($workflow) = @_;
	return { %$workflow, %{ $client->result(workflow_id => $workflow->{workflow_id}) } };
}

sub wait_for
{
	my ($condition) = @_;
	wait_until($condition) or die 'in vain';
	return;
}

# Attempts of the pending activity that were begun.
sub attempt
{
	my ($workflow) = @_;
	my ($pending) = @{ $client->describe(workflow_id => $workflow->{workflow_id})->{pending_activities} };
	return $pending ? $pending->{attempt} // 1 : 0;
}

# Does the agent work on it?
sub running
{
	my ($workflow) = @_;
	return $agent->safe_psql('postgres',
		"select count(*) from opdata_jobs where state = 'running' and workflow_id = '$workflow->{workflow_id}'"
	) > 0;
}

# Workflow tasks that were completed.
sub beats
{
	my ($workflow) = @_;
	return
	  grep { $_->{event_type} eq 'WORKFLOW_TASK_COMPLETED' }
	  @{ $client->history(workflow_id => $workflow->{workflow_id}) };
}

# Start it and cancel it while no agent polls.
sub canceled_before
{
	my ($type, $input) = @_;

	enabled('off');
	my $workflow = start($type, $input);
	$client->cancel(workflow_id => $workflow->{workflow_id});
	enabled('on');
	return ended($workflow);
}

sub enabled
{
	my ($value) = @_;
	my $polls = $value eq 'on' ? 'sum > 0' : 'sum = 0';

	$agent->safe_psql('postgres', "alter system set opdata.enabled = $value");
	$agent->safe_psql('postgres', 'select pg_reload_conf()');
	wait_for(
		sub {
			$agent->safe_psql('postgres',
				"select $polls from (select sum((w ->> 'polls')::int) from jsonb_array_elements(opdata_status() -> 'workers') w) s"
			) eq 't';
		}
	);
	return;
}

# Kill the interactive worker as a fault would, and wait until the server is back.
sub crash
{
	my $pid = $agent->safe_psql('postgres',
		"select w ->> 'pid' from jsonb_array_elements(opdata_status() -> 'workers') w where w ->> 'name' like 'interactive%'"
	);

	kill 'KILL', $pid;
	wait_for(
		sub {
			my ($out, $err);
			return 0 if $agent->psql(
				'postgres', q{select sum((w ->> 'polls')::int) > 0
				from jsonb_array_elements(opdata_status() -> 'workers') w
				where (w ->> 'pid')::int <> } . $pid,
				stdout => \$out,
				stderr => \$err
			);
			return $out eq 't';
		}
	);
	return;
}

# Write the history down, with one line on what it is.
sub record
{
	my ($name, $expected, $what, $outcome) = @_;
	my $code = code_of($outcome);
	my $type = ($name =~ /^(\w+)/)[0];

	$code = 'canceled' if $code =~ /^CancelledError/;
	$code = 'terminated' if $code =~ /^TerminatedError/;
	is($code, $expected, "$name: $what") or return;

	my $history = $engine->ask(
		{   op => 'anonymous',
			bytes => unpack(
				'H*', decode_base64($client->history_bytes(workflow_id => $outcome->{workflow_id})->{base64})
			)
		}
	);
	my $file = "$ENV{TESTDIR}/recorded/$version/$name.txt";

	note("$name: " . scalar @{ $history->{events} } . ' events');
	open my $out, '>', $file or die "$file: $!";
	print $out "$name: $what; ends with $code; opdata $version\n",
	  encode_base64(pack 'H*', join '', @{ $history->{pieces} });
	close $out or die "$file: $!";
	return;
}
