
# The kill switch: opdata_suspend() stops everything at once, nothing leaves the
# agent until opdata_resume(), whatever happens in between, and nothing is lost.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Agent;
use Opdata::ControlPlane;
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(payload session sleeping n_canceled sockets_to);
use Opdata::Test;
use Opdata::Toxiproxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->allow_nonref;
my $soon = $PostgreSQL::Test::Utils::timeout_default;
my $number = 0;

# For a busy machine; whoever waits for nothing takes much less.
my $at_once = 5;

# A job at a source is canceled within a second. It would take longer by itself, and
# end otherwise.
my $long = 9;

# A workflow that waits may do so for most of the test.
my $patience = 900;

# only the agent goes through the proxy
my $plane = control_plane('acme');
my ($issuer, $convex, $temporal, $client) = map { $plane->$_ } qw(issuer convex temporal client);
my $proxy = toxiproxy('way');
my $address = $proxy->add('temporal', $temporal->address);
my ($way) = $address =~ /:(\d+)$/;

my $source = source_cluster('source');
$source->safe_psql(
	'postgres', qq{
	create role reader login password 'reader_pw';
	create table pace as select $long as seconds;
	grant select on pace to reader;
});

# Database "postgres" has the extension too: there the status is asked for when
# the agent's database is gone.
my %asked = (soon => $soon, dbname => 'agent');
my $agent = agent_cluster(
	'agent', %asked,
	conf => $plane->conf(database => 'agent', temporal_address => $address) . <<'EOT');
log_line_prefix = '[%b] '
wal_level = replica
max_wal_senders = 4
max_prepared_transactions = 4
EOT
my $node = $agent;
$agent->safe_psql('postgres', 'create database agent');
psql('create extension opdata cascade');
$agent->workers_get('polling', 'the workers poll');
$agent->note_effects;
psql(store_sql('shop'));

who_may();
transactions();
at_work();
prepared();
temporal_down();
toggled();
gone();

my $log = slurp_file($agent->logfile);
ok($log !~ qr/reader_pw|agent_secret|eyJ/, 'no password, secret or token is in the log');
ok($log !~ qr/PANIC|terminated by signal|internal error|could not/, 'nor an unexpected error');
done_testing();

# ---------------------------------------------------------------- questions

sub psql { return $node->safe_psql('agent', @_); }

sub error { return error_of($node, $_[0], dbname => 'agent'); }

sub store_sql
{
	my ($id) = @_;
	return "select opdata_store_creds('$id', " . payload(port => $source->port) . ')';
}

sub calls { return scalar(@{ $convex->calls('agents:heartbeat') }) + scalar(@{ $convex->calls('connections:setStatus') }); }

sub suspend { psql('select opdata_suspend()'); return; }
sub resume { psql('select opdata_resume()'); return; }

# ---------------------------------------------------------------- workflows

sub preview
{
	my ($sql) = @_;
	return $plane->arguments('previewQueryWorkflow', { connectionId => 'shop', sql => $sql }, timeout => $patience);
}

sub store
{
	my ($id) = @_;
	return $plane->arguments('storeCredsWorkflow', { connectionId => $id, credentials => reader($source) }, timeout => $patience);
}

sub has_result
{
	my ($ended, $value, $name) = @_;

	is($ended->{result} && $ended->{result}{rows}[0][0], $value, $name)
	  or diag($json->encode($ended));
	return;
}

# ---------------------------------------------------------------- tests

# Suspended, as everybody sees it.
sub is_suspended
{
	my ($name) = @_;

	$node->workers_get('suspended', "$name: all workers are suspended");
	my $status = $node->status;
	is($status->{healthy}, JSON::PP::false, "$name: which is not healthy");
	is_deeply($status->{reasons}, ['suspended'], "$name: for this reason");
	ok($status->{boundary}{suspendedSince}, "$name: the status tells since when");
	ok((grep { $_->{code} eq 'suspended' } @{ $status->{warnings} }), "$name: and warns of it");
	# a worker is suspended a moment before it has hung up
	ok(wait_until(sub { sockets_to($way, 'connected') + sockets_to($way, 'connecting') == 0 }, $soon), "$name: nothing is connected to Temporal")
	  if $node == $agent;
	return;
}

sub is_notified
{
	my ($listener, $payload) = @_;

	ok(wait_until(sub { $listener->run('select 1')->{out} =~ /"opdata_health" with payload.*$payload/ }, $soon), 'NOTIFY tells it');
	return;
}

sub works
{
	my ($name) = @_;

	$node->workers_get('polling', "$name: all workers poll");
	ok(wait_until(sub { $node->status->{healthy} }, $soon), "$name: which is healthy");
	$number++;
	has_result($client->execute(preview("select $number")), $number, "$name: a preview comes back");
	is(psql(q{select opdata_preview('shop', 'select 1')->'rows'}), '[[1]]', "$name: and one from SQL");
	return;
}

sub who_may
{
	psql(q{
		create role chief login; create role admin login; create role looker login;
		select opdata_grant('chief', '*', 'admin'), opdata_grant('admin', 'default', 'admin'), opdata_grant('looker', '*', 'developer')});
	foreach my $granted (0, 1)
	{
		psql('grant execute on function opdata_suspend, opdata_resume to admin, looker') if $granted;
		foreach my $role ('admin', 'looker')
		{
			foreach my $function ('opdata_suspend', 'opdata_resume')
			{
				my $error = error_of($node, "select $function()", dbname => 'agent', extra_params => [ '-U', $role ]);
				is($error->{sqlstate}, '42501', "$role cannot call $function");
				is($error->{code}, 'workspace_denied', 'not even when it may be executed') if $granted;
			}
		}
	}
	is(error('begin read only; select opdata_suspend()')->{sqlstate}, '25006', 'nor anybody where nothing can be written');
	$node->workers_get('polling', 'it did nothing');
	my $listener = session($node, 'agent');
	$listener->run('listen opdata_health');
	my $result = json($node, 'select opdata_suspend()', dbname => 'agent', extra_params => [ '-U', 'chief' ]);
	is($result->{suspended}, JSON::PP::true, 'an admin of all workspaces suspends');
	is(psql('select suspended_by from opdata.suspension'), 'chief', 'which is noted');
	my $again = json($node, 'select opdata_suspend()', dbname => 'agent');
	is($again->{since}, $result->{since}, 'again changes nothing');
	is_suspended('an admin');
	is_notified($listener, qr/"healthy": false, "reasons": \["suspended"\]/);
	is_deeply(json($node, 'select opdata_resume()', dbname => 'agent', extra_params => [ '-U', 'chief' ]),
		{ resumed => JSON::PP::true }, 'and resumes');
	resume();
	works('resumed, twice');
	is_notified($listener, qr/"healthy": true, "reasons": \[\]/);
	$listener->quit;
	return;
}

sub transactions
{
	my $before = $node->pids;
	my $session = session($node, 'agent');

	is($session->run('begin; select opdata_suspend()')->{error}, undef, 'suspended in a transaction');
	is($session->run(q{savepoint s; select opdata_preview('shop', 'select 1')})->{error}{sqlstate}, '55000', 'in which it is so');
	is(psql(q{select opdata_preview('shop', 'select 1')->'rows'}), '[[1]]', 'for others not yet');
	$session->run('rollback');
	psql('begin; savepoint s; select opdata_suspend(); rollback to s; commit');
	works('rolled back');
	is($node->pids, $before, 'the processes are the same');

	$session->run('begin; select opdata_suspend(); select opdata_resume(); commit');
	works('suspended and resumed in one transaction');

	# an old snapshot is no excuse
	$session->run('begin isolation level repeatable read; select count(*) from opdata_connections');
	suspend();
	is($session->run(q{select opdata_preview('shop', 'select 1')})->{error}{code}, 'suspended', 'who has an older snapshot is told, too');
	$session->run('rollback');
	$session->quit;
	is_suspended('committed');
	resume();
	works('resumed');
	return;
}

# For some time, nobody of us calls anybody.
sub quiet
{
	my ($name, $seconds) = @_;
	my ($tokens, $calls, $connections, $healthy) = ($issuer->token_requests, calls(), 0, 0);
	my $until = time() + $seconds;
	my $session = session($node, 'agent');

	while (time() < $until)
	{
		$connections += sockets_to($_, 'connected') + sockets_to($_, 'connecting') foreach $way;
		$healthy++ if $session->run(q{select opdata_status()->'healthy'})->{out} ne 'false';
		sleep 0.1;
	}
	$session->quit;
	is($connections, 0, "$name: nobody connects to Temporal");
	is($issuer->token_requests, $tokens, "$name: no token is asked for");
	is(calls(), $calls, "$name: nothing is told to the HTTP API");
	is($healthy, 0, "$name: and all the time the agent is not healthy");
	return;
}

sub at_work
{
	my $sql = session($node, 'agent');
	my $testing = session($node, 'agent');
	my $silent = silent_server(at => 'connect');
	my $canceled = n_canceled($source);
	my $status;

	my $token = $node->status->{token};
	is($token->{state}, 'valid', 'there is a token');
	my $tokens = $issuer->token_requests;

	# a workflow, and a session, at the source; another session whose source is silent
	my %slow = preview(q{select 'slept' from pace, pg_sleep(seconds)});
	my $ticket = $client->send('execute', %slow);
	$sql->start("select opdata_preview('shop', 'select pg_sleep($long)')");
	ok(wait_until(sub { sleeping($source) == 2 }, $soon), 'two previews sleep at the source');
	$testing->start('select opdata_test(' . payload(port => $silent->port) . ')');
	ok(wait_until(sub { sockets_to($silent->port, 'connected') }, $soon), 'a test waits for a server that says nothing');
	is(sleeping($source), 2, 'both still sleep');
	# when it runs again it is not to take as long
	$source->safe_psql('postgres', 'update pace set seconds = 0');

	suspend();
	$status = $node->status;
	is_deeply([ $status->{healthy}, $status->{reasons} ], [ JSON::PP::false, ['suspended'] ], 'the status says so at once');
	ok(wait_until(sub { n_canceled($source) == $canceled + 2 }, $soon), 'both are canceled at the source');
	is(sleeping($source), 0, 'where nothing sleeps');
	foreach my $session ($sql, $testing)
	{
		my $error = $session->finish->{error};
		is_deeply([ $error->{sqlstate}, $error->{code} ], [ '55000', 'suspended' ], 'a session under way is told');
	}
	$silent->stop;
	is_suspended('at work');
	ok( wait_until(
			sub { psql("select state || ' ' || error_code from opdata.job where workflow_id = '$slow{workflow_id}'") eq 'canceled suspended' },
			$soon),
		'the job is recorded as that');
	is(psql(q{select count(*) from opdata.egress where workflow_id = '} . $slow{workflow_id} . q{'}), 0, 'nothing has left');
	ok(wait_until(sub { $node->status->{token}{state} eq 'none' }, $soon), 'the token is forgotten');

	my $payload = payload(port => $source->port);
	foreach my $call (
		store_sql('shop'), store_sql('other'), "select opdata_store_creds('other', $payload, test => false)",
		q{select opdata_test('shop')}, "select opdata_test($payload)",
		q{select opdata_preview('shop', 'select 1')}, q{select opdata_delete('shop')}, q{select opdata_delete('nosuch')})
	{
		my $error = error($call);
		my ($name) = $call =~ /(opdata_\w+)/;
		is_deeply([ $error->{sqlstate}, $error->{code} ], [ '55000', 'suspended' ], "$name is refused");
	}
	is(error("select $_"), undef, "$_ is not")
	  foreach 'opdata_status()', 'opdata_public_key()', 'opdata_verify_egress()', q{opdata_mask('default', 'secret')}, q{opdata_unmask('default', 'secret')},
	  q{opdata_limit('default', 100000, null)}, q{opdata_grant('looker', '*', 'reader')}, 'count(*) from opdata_connections', 'count(*) from opdata_jobs';

	# something to do, and to tell
	my %told = (%{ $convex->calls('connections:setStatus')->[0]{args} }, connectionId => 'told later');
	delete $told{idempotencyKey};
	psql(q{insert into opdata.outbox (function, args) values ('connections:setStatus', '} . $json->encode(\%told) . q{')});
	my %store = store('waits');
	my $stored = $client->send('execute', %store);
	my $shown = $client->send('execute', preview('select 4711'));
	quiet('suspended', 10);

	# a worker that is killed by itself, a restart, a crash
	psql('select pg_terminate_backend(pid) from pg_stat_activity where backend_type = $$opdata worker$$');
	is_suspended('after the processes were ended');
	$node->restart;
	is_suspended('after a restart');
	$node->stop('immediate');
	$node->start;
	is_suspended('after a crash');
	promotion();
	dump_and_restore();
	is_suspended('after all that');
	quiet('after all that', 2);
	is($node->effects('waits'), '', 'nothing was done');

	resume();
	$node->workers_get('polling', 'resumed: all workers poll');
	has_result($client->receive($ticket), 'slept', 'resumed: the preview that was cut runs again');
	is(psql(q{select count(*) from opdata.egress where workflow_id = '} . $slow{workflow_id} . q{'}), 1, 'resumed: which is one row in the log');
	is($client->receive($stored)->{result}{status}, 'connected', 'resumed: the store that waited is done');
	has_result($client->receive($shown), 4711, 'resumed: and the preview');
	is($node->effects('waits'), 'INSERT', 'resumed: once');
	cmp_ok($issuer->token_requests, '>', $tokens, 'resumed: a token was asked for anew');
	isnt($node->status->{token}{obtainedAt}, $token->{obtainedAt}, 'resumed: which the status shows');
	ok(wait_until(sub { psql('select count(*) from opdata.outbox') == 0 }, $soon), 'resumed: what waited is told');
	works('resumed');
	$_->quit foreach $sql, $testing;
	return;
}

sub promotion
{
	my $standby = Opdata::Agent->new('standby', %asked);

	$agent->backup('backup');
	$standby->init_from_backup($agent, 'backup', has_streaming => 1);
	$standby->start;
	$agent->wait_for_catchup($standby, 'replay', $agent->lsn('insert'));
	$node = $standby;
	is(error(q{select opdata_preview('shop', 'select 1')})->{code}, 'suspended', 'a standby is suspended with its primary');
	ok($node->status->{boundary}{suspendedSince}, 'as its status says');
	$agent->stop;
	$standby->promote;
	is_suspended('promoted');
	$standby->stop;
	$node = $agent;
	$agent->start;
	return;
}

sub dump_and_restore
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/suspended.dump";

	command_ok([ 'pg_dump', '--format=custom', '-f', $file, $agent->connstr('agent') ], 'the database is dumped');
	$agent->safe_psql('postgres', 'create database restored template template0');
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $agent->connstr('restored'), $file ], 'and restored');
	is(error_of($agent, q{select opdata_preview('shop', 'select 1')}, dbname => 'restored')->{code}, 'suspended', 'which is suspended');
	$agent->safe_psql('restored', 'select opdata_resume()');
	is($agent->safe_psql('restored', q{select opdata_preview('shop', 'select 1')->'rows'}), '[[1]]', 'until it is resumed');
	is(error(q{select opdata_preview('shop', 'select 1')})->{code}, 'suspended', 'which concerns no other database');
	$agent->safe_psql('postgres', 'drop database restored');
	return;
}

sub prepared
{
	psql(q{begin; select opdata_suspend(); prepare transaction 'stop'});
	works('only prepared');
	psql(q{commit prepared 'stop'});
	is_suspended('committed after it was prepared');
	ok(wait_until(sub { $node->status->{token}{state} eq 'none' }, $soon), 'the token is forgotten then, too');
	psql(q{begin; select opdata_resume(); prepare transaction 'go'});
	is_suspended('to be resumed');
	psql(q{commit prepared 'go'});
	works('resumed by one that was prepared');
	psql(q{begin; select opdata_suspend(); prepare transaction 'not'});
	psql(q{rollback prepared 'not'});
	works('prepared and rolled back');
	return;
}

sub temporal_down
{
	$temporal->stop;
	$node->workers_get('unreachable', 'Temporal is away');
	suspend();
	is_suspended('while Temporal is away');
	$temporal->start;
	quiet('with Temporal back', 3);
	resume();
	works('resumed after that');
	$temporal->stop;
	suspend();
	resume();
	$temporal->start;
	works('suspended and resumed while it is away');
	return;
}

# Again and again, with workflows under way. An activity that is cut is tried again after
# ten seconds, twice: then this has to be over.
sub toggled
{
	my @previews = map { $client->send('execute', preview("select 'preview $_' from pg_sleep(0.1)")) } 1 .. 10;
	my @stores = map { $client->send('execute', store("toggled $_")) } 1 .. 10;
	my @toggler = map { session($node, 'agent') } 1, 2;
	my $until = time() + 15;

	foreach my $time (1 .. 50)
	{
		my $session = $toggler[ $time % 2 ];
		last if time() > $until;
		is($session->run('select opdata_suspend()')->{error}, undef, "suspended for the ${time}th time") if $time % 10 == 0;
		$session->run('select opdata_suspend()');
		sleep 0.02 * ($time % 5);
		$session->run('select opdata_resume()');
		sleep 0.03 * ($time % 7);
	}
	$_->quit foreach @toggler;
	my @shown = map { $client->receive($_) } @previews;
	my @stored = map { $client->receive($_) } @stores;
	is_deeply([ map { $_->{result} ? $_->{result}{rows}[0][0] : $json->encode($_) } @shown ], [ map { "preview $_" } 1 .. 10 ], 'each preview comes back');
	is_deeply([ map { $_->{result} ? $_->{result}{status} : $json->encode($_) } @stored ], [ ('connected') x 10 ], 'each store is done');
	is_deeply([ map { $node->effects("toggled $_") } 1 .. 10 ], [ ('INSERT') x 10 ], 'once');
	ok(wait_until(sub { psql(q{select count(*) from opdata.job where state = 'running'}) == 0 }, $soon), 'no job is left running');
	is(psql('select opdata_verify_egress()->$$ok$$'), 'true', 'the log of what left is whole');
	works('toggled');
	return;
}

# What is suspended can be dropped.
sub gone
{
	suspend();
	is_suspended('before it is dropped');
	my $begun = time();
	psql('drop extension opdata cascade');
	cmp_ok(time() - $begun, '<', $at_once, 'DROP EXTENSION waits for nothing');
	psql('create extension opdata');
	$node->workers_get('polling', 'a new extension is not suspended');
	suspend();
	$node->workers_get('suspended', 'until it is');
	$begun = time();
	$agent->safe_psql('postgres', 'drop database agent');
	cmp_ok(time() - $begun, '<', $at_once, 'DROP DATABASE waits for nothing');
	$agent->workers_get('no_database', 'the workers wait for another database', dbname => 'postgres');
	return;
}
