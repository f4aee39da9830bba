
# A lock that somebody holds in the agent's database: who needs it waits, and is
# done once when it is gone; the others of the same process do not wait with it, and
# whatever ends it ends it at once.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::ControlPlane;
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(payload session sleeping n_canceled);
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->allow_nonref;
my $soon = $PostgreSQL::Test::Utils::timeout_default;

# What is ended at once would take longer by itself; so long does a query last.
my $at_once = 8;
my $long = 9;

# So long is a lock held: longer than anything may stand still.
my $held = 5.5;

my $plane = control_plane('acme');
my ($temporal, $convex, $client) = ($plane->temporal, $plane->convex, $plane->client);

my $source = source_cluster('source');
$source->safe_psql(
	'postgres', qq{
	create role reader login password 'reader_pw';
	create table pace as select $long as seconds;
	grant select on pace to reader;
});

my $new_key = replace_file(PostgreSQL::Test::Utils::tempdir('keys') . '/new.key', 'k' x 32);
chmod 0600, $new_key;

# One worker, so that all tasks are in one process. Database "postgres" has the
# extension too: there the status is asked for when the agent's database is gone.
my $agent = agent_cluster('agent',
	soon => $soon,
	conf => "log_line_prefix = '[%b] '\n" . $plane->conf(database => 'agent', interactive_workers => 1, bulk_workers => 0));
$agent->safe_psql('postgres', 'create database agent');
psql('create extension opdata cascade');
$agent->workers_get('polling', 'the worker polls');

# What is done to the table of connections is written down.
psql(q{
	create table public.effect (n bigint generated always as identity, id text, operation text);
	create function public.note_effect() returns trigger language plpgsql as $$
	begin
		insert into public.effect (id, operation) values (coalesce(new.id, old.id), tg_op);
		return null;
	end $$;
	create trigger note_effect after insert or delete on opdata.connection
		for each row execute function public.note_effect()});
psql("select opdata_store_creds('$_', @{[ payload(port => $source->port) ]})") foreach 'shop', 'busy';

my $lock = session($agent, 'agent');

rotation();
tables();
impatient();
outbox();
canceled();
canceled_unrecorded();
many_unrecorded();
suspended_unrecorded();
suspended();
terminated();
shut_down();
dropped();

my $log = slurp_file($agent->logfile) =~ s/could not record the ends of .*//r;
ok($log !~ qr/reader_pw|agent_secret/, 'no password is in the log');
ok($log !~ qr/PANIC|terminated by signal|internal error|could not/, 'nor an unexpected error');
my $n_told = () = $log =~ /\[opdata worker\] LOG:  opdata meets a lock/g;
cmp_ok($n_told, '>=', 1, 'that there was a lock is in the log');
cmp_ok($n_told, '<', 20, 'but not each time that it was met');
done_testing();

# ---------------------------------------------------------------- questions

sub psql { return $agent->safe_psql('agent', @_); }

sub hold { is($lock->run("begin; $_[0]")->{error}, undef, "held: $_[0]"); return; }

sub release { $lock->run('rollback'); return; }

# Begin a preview that takes long the first time, and not when it is run again.
sub begin_slow
{
	my ($name) = @_;

	$source->safe_psql('postgres', "update pace set seconds = $long");
	my $slow = begin_preview(q{select 'slept' from pace, pg_sleep(seconds)});
	ok(wait_until(sub { sleeping($source) == 1 }, $soon), $name);
	$source->safe_psql('postgres', 'update pace set seconds = 0');
	return $slow;
}

sub effects
{
	return psql("select coalesce(string_agg(operation, ' ' order by n), '') from public.effect where id = '$_[0]'");
}

# State, error and number of the rows that a workflow has in a table.
sub job
{
	return psql("select string_agg(concat_ws(' ', state, error_code), ', ') from opdata.job where workflow_id = '$_[0]{workflow_id}'");
}

sub sent { return psql("select count(*) from opdata.egress where error_code is null and workflow_id = '$_[0]{workflow_id}'"); }

# ---------------------------------------------------------------- workflows

# {workflow_id, ticket}
sub begin
{
	my ($type, %input) = @_;
	my $started = $plane->start($type, \%input);

	return { %$started, ticket => $client->send('result', %$started, timeout => 180) };
}

sub begin_test { return begin('testCredentialsWorkflow', connectionId => 'shop'); }
sub begin_preview { return begin('previewQueryWorkflow', connectionId => $_[1] // 'shop', sql => $_[0]); }
sub begin_store { return begin('storeCredsWorkflow', connectionId => $_[0], credentials => reader($source)); }
sub begin_delete { return begin('deleteConnectionWorkflow', connectionId => $_[0]); }

# One of each kind, the deleted connection being there.
sub begin_all
{
	my ($id) = @_;

	return (
		test => begin_test(),
		preview => begin_preview("select 'preview'"),
		store => begin_store("new $id"),
		delete => begin_delete("old $id"));
}

# What came of it.
sub end
{
	my ($workflow) = @_;

	$workflow->{ended} //= $client->receive($workflow->{ticket});
	my $result = $workflow->{ended}{result} // return $workflow->{ended}{error}{type} // $workflow->{ended}{error}{class};
	return exists $result->{rows} ? $result->{rows}[0][0]
	  : exists $result->{deleted} ? ($result->{deleted} ? 'deleted' : 'not there')
	  : $result->{status} // ($result->{ok} ? 'ok' : 'not ok');
}

sub is_open { return $client->describe(workflow_id => $_[0]{workflow_id})->{status} eq 'RUNNING'; }

# As the heartbeats and beats tell.
sub phase
{
	my ($workflow) = @_;
	my ($activity) = @{ $client->describe(workflow_id => $workflow->{workflow_id})->{pending_activities} // [] };

	return $activity->{heartbeat_details} ? $activity->{heartbeat_details}[0]{phase} : '' if $activity;
	return $client->query(workflow_id => $workflow->{workflow_id}, name => 'status')->{result}{phase} // '';
}

sub comes_to
{
	my ($workflow, $phase) = @_;

	ok(wait_until(sub { phase($workflow) eq $phase }, $soon), "$workflow->{workflow_id} is $phase") or diag(phase($workflow));
	return;
}

# While it is held the others of the process go on; then all are done, once.
sub all_are_done
{
	my ($name, $id, $while, $waiting, %begun) = @_;
	my $until = time() + $held;
	my $n = 0;

	do { $while->() and $n++ } while (time() < $until);
	cmp_ok($n, '>', 0, "$name: the process goes on with others");
	end($begun{$_}) foreach grep { " $waiting " !~ / $_ / } sort keys %begun;
	my @open = grep { is_open($begun{$_}) } sort keys %begun;
	release();
	my %ended = map { $_ => end($begun{$_}) } keys %begun;
	is_deeply(\%ended, { test => 'ok', preview => 'preview', store => 'connected', delete => 'deleted' }, "$name: all are done")
	  or diag($json->encode([ map { $_->{ended} } values %begun ]));
	is(effects("new $id"), 'INSERT', "$name: stored once");
	is(effects("old $id"), 'INSERT DELETE', "$name: deleted once");
	is(sent($begun{preview}), 1, "$name: one preview has left");
	is(job($begun{$_}), 'succeeded', "$name: the job of $_ is recorded") foreach sort keys %begun;
	is("@open", $waiting, "$name: whoever needs it has waited");
	return;
}

sub make_old { psql("select opdata_store_creds('old $_[0]', @{[ payload(port => $source->port) ]}, test => false)"); return; }

# ---------------------------------------------------------------- tests

# opdata_rotate_key() keeps out whoever writes until it is over.
sub rotation
{
	my $rotating = session($agent, 'agent');

	make_old('key');
	hold(q{select from opdata.connection where id = 'busy' for update});
	$rotating->start("select opdata_rotate_key('$new_key')");
	ok(wait_until(sub { psql(q{select count(*) from pg_locks where mode = 'ShareRowExclusiveLock' and granted and relation = 'opdata.connection'::regclass}) }, $soon),
		'a rotation is under way');
	my %begun = begin_all('key');
	all_are_done('rotation', 'key', sub { end(begin_preview("select 'beside'")) eq 'beside' }, 'delete store test', %begun);
	is($rotating->finish->{error}, undef, 'rotation: done');
	$rotating->quit;
	is(psql('select count(distinct key_id) from opdata.connection'), 1, 'rotation: all rows are under one key');
	return;
}

# Others, of whoever looks after the database.
sub tables
{
	my $given = sub { return end(begin('previewQueryWorkflow', sql => "select 'beside'", credentials => reader($source))) eq 'beside' };

	foreach my $case (
		[ 'connection', 'lock table opdata.connection in access exclusive mode', $given, 'delete preview store test' ],
		[ 'job', 'lock table opdata.job in access exclusive mode', undef, 'delete preview store test' ],
		[ 'egress', 'lock table opdata.egress_head in access exclusive mode', sub { end(begin_test()) eq 'ok' }, 'preview' ],
		[ 'head', 'select from opdata.egress_head for update', sub { end(begin_test()) eq 'ok' }, 'preview' ])
	{
		my ($name, $sql, $while, $waiting) = @$case;

		make_old($name);
		hold($sql);
		my %begun = begin_all($name);
		# where nothing can end, the slow one shows that its process is awake
		my $slow = $while ? undef : begin_preview("select 'slow' from pg_sleep(3)");
		$while //= sub { sleep 0.1; return phase($slow) ne ''; };
		all_are_done($name, $name, $while, $waiting, %begun);
		is(end($slow), 'slow', "$name: so has another preview") if $slow;
	}
	is(psql('select opdata_verify_egress()->$$ok$$'), 'true', 'the log of what left is whole');
	return;
}

# A lock that is not given back: tests and previews give up, storing goes on.
sub impatient
{
	my $tested = psql(q{select last_tested_at from opdata.connection where id = 'shop'});

	hold('lock table opdata.connection in share row exclusive mode; lock table opdata.egress in access exclusive mode');
	my ($test, $preview, $store) = (begin_test(), begin_preview('select 1'), begin_store('patient'));
	is(end($test), 'ok', 'a test that cannot be noted in time has its result');
	is(psql(q{select last_tested_at from opdata.connection where id = 'shop'}), $tested, 'and is not noted');
	is(end($preview), 'internal', 'a preview that cannot be logged in time fails');
	ok(is_open($store), 'a store goes on trying');
	release();
	is(end($store), 'connected', 'until it can');
	is(sent($preview), 0, 'the preview has not left');
	is(job($test), 'succeeded', 'the test is recorded');
	is(job($preview), 'failed internal', 'so is that the preview failed');
	is(job($store), 'succeeded', 'and the store');
	is(effects('patient'), 'INSERT', 'which was done once');
	return;
}

# What was delivered and cannot be removed is not delivered again and again.
sub outbox
{
	my $told = sub { return scalar grep { $_->{args}{connectionId} =~ /^told/ } @{ $convex->calls('connections:setStatus') } };

	ok(wait_until(sub { psql('select count(*) from opdata.outbox') == 0 }, $soon), 'everything is told');
	psql("select opdata_store_creds('told 1', @{[ payload(port => $source->port) ]})");
	ok(wait_until(sub { psql('select count(*) from opdata.outbox') == 0 }, $soon), 'so is one more');
	# the row is there, and cannot be deleted
	hold(q{lock table opdata.outbox in share row exclusive mode; select opdata_store_creds('told 2', } . payload(port => $source->port) . q{)});
	$lock->run('commit; begin; lock table opdata.outbox in share row exclusive mode');
	ok(wait_until(sub { $told->() >= 2 }, $soon), 'it is told while the outbox is locked');
	my $until = time() + $held;
	sleep 0.1 while time() < $until;
	release();
	ok(wait_until(sub { psql('select count(*) from opdata.outbox') == 0 }, $soon), 'and removed when that is over');
	is($told->(), 2, 'each is told once');
	return;
}

# By the control plane.
sub canceled
{
	hold('lock table opdata.connection in access exclusive mode; lock table opdata.egress_head in access exclusive mode');
	my %begun = (
		test => begin_test(),
		store => begin_store('never'),
		delete => begin_delete('shop'),
		preview => begin('previewQueryWorkflow', sql => 'select 1', credentials => reader($source)));
	comes_to($begun{test}, 'starting');
	comes_to($begun{$_}, 'recording') foreach 'preview';
	comes_to($begun{delete}, 'starting');
	comes_to($begun{store}, 'starting');
	$client->cancel(workflow_id => $_->{workflow_id}) foreach values %begun;
	is(end($begun{$_}), 'CancelledError', "a $_ that waits is canceled") foreach sort keys %begun;
	release();
	foreach my $type (sort keys %begun)
	{
		ok(wait_until(sub { job($begun{$type}) eq 'canceled' }, $soon), "which is recorded of the $type");
	}
	is(effects('never') . effects('shop'), 'INSERT', 'and nothing was done');
	is(sent($begun{preview}), 0, 'nor has anything left');
	ok(wait_until(sub { psql("select string_agg(error_code, ' ') from opdata.egress where workflow_id = '$begun{preview}{workflow_id}'") eq 'canceled' }, $soon),
		'but the log has that the source was asked');
	return;
}

# The same where even that cannot be written down for now.
sub canceled_unrecorded
{
	my $canceled = n_canceled($source);
	my $preview = begin_preview("select pg_sleep($long)");

	ok(wait_until(sub { sleeping($source) == 1 }, $soon), 'a preview sleeps at the source');
	is(job($preview), 'running', 'its job runs');
	hold('lock table opdata.job in access exclusive mode');
	my $test = begin_test();
	my $refused = begin('previewQueryWorkflow', connectionId => 'nosuch', sql => 'select 1');
	comes_to($test, 'recording');
	$client->cancel(workflow_id => $_->{workflow_id}) foreach $preview, $test;
	is(end($_), 'CancelledError', "$_->{workflow_id} is canceled while jobs are locked") foreach $preview, $test;
	is(end($refused), 'connection_not_found', 'and one that fails has its error');
	ok(wait_until(sub { n_canceled($source) == $canceled + 1 }, $soon), 'nothing runs at the source');
	release();
	foreach my $case ([ $preview, 'canceled' ], [ $test, 'canceled' ], [ $refused, 'failed connection_not_found' ])
	{
		my ($workflow, $job) = @$case;
		ok(wait_until(sub { job($workflow) eq $job }, $soon), "$workflow->{workflow_id} is recorded later") or diag(job($workflow));
	}
	return;
}

# Many of them, each of which takes long to write down: the process goes on meanwhile.
sub many_unrecorded
{
	my $n = psql(q{select count(*) from opdata.egress});
	my $canceled = n_canceled($source);
	my $n_unrecorded = sub { return slurp_file($agent->logfile) =~ /could not record the ends of (\d+) jobs before its worker ended/ ? $1 : 0 };

	hold('lock table opdata.egress_head in access exclusive mode');
	foreach (1 .. 4)
	{
		my @previews = map { begin_preview("select pg_sleep($long)") } 1 .. 5;

		ok(wait_until(sub { sleeping($source) == 5 }, $soon), 'five previews sleep at the source');
		$client->cancel(workflow_id => $_->{workflow_id}) foreach @previews;
		is(join(' ', map { end($_) } @previews), join(' ', ('CancelledError') x 5), 'all are canceled');
	}
	my $slow = begin_slow('another one sleeps');
	psql(q{
		create function public.be_slow() returns trigger language plpgsql as $$
		begin
			perform pg_sleep(1);
			return null;
		end $$;
		create trigger be_slow after update on opdata.job for each statement execute function public.be_slow()});
	release();
	ok(wait_until(sub { psql(q{select count(*) from opdata.egress}) > $n }, $soon), 'the log gets what was canceled');
	psql('select opdata_suspend()');
	ok(wait_until(sub { n_canceled($source) == $canceled + 21 }, $soon), 'what sleeps is canceled before all of that is written down');
	ok(wait_until(sub { $agent->states eq 'suspended' }, $soon), 'the worker is suspended');
	my $n_logged = psql(q{select count(*) from opdata.egress}) - $n;
	is($n_logged + $n_unrecorded->(), 20, 'it has told how many it could not write down before');
	psql('drop trigger be_slow on opdata.job');
	psql('select opdata_resume()');
	all_end_well('after many', $slow);
	return;
}

# What was told before is written down even when the agent is suspended.
sub suspended_unrecorded
{
	my $preview = begin_preview("select pg_sleep($long)");

	ok(wait_until(sub { sleeping($source) == 1 }, $soon), 'a preview sleeps at the source');
	hold('lock table opdata.egress_head in access exclusive mode');
	$client->cancel(workflow_id => $preview->{workflow_id});
	is(end($preview), 'CancelledError', 'it is canceled while the log is locked');
	$lock->run('select opdata_suspend(); commit');
	ok(wait_until(sub { $agent->states eq 'suspended' }, $soon), 'the agent is suspended as soon as the log is free');
	is(psql("select string_agg(error_code, ' ') from opdata.egress where workflow_id = '$preview->{workflow_id}'"),
		'canceled', 'the log has the preview');
	is(job($preview), 'canceled', 'so has its record');
	psql('select opdata_resume()');
	$agent->workers_get('polling', 'the worker polls');
	return;
}

# One at work at its source, and many that wait.
sub wait_and_work
{
	hold('lock table opdata.connection in share row exclusive mode');
	my @tests = map { begin_test() } 1 .. 8;
	comes_to($_, 'recording') foreach $tests[0], $tests[7];
	my $slow = begin_slow('a preview sleeps at the source while tests wait to be noted');
	return ($slow, @tests);
}

sub all_end_well
{
	my ($name, $slow, @tests) = @_;

	$agent->workers_get('polling', "$name: the worker polls");
	is(end($slow), 'slept', "$name: the preview runs again");
	is(sent($slow), 1, "$name: and has left once");
	is(join(' ', map { end($_) } @tests), join(' ', ('ok') x @tests), "$name: each test is done");
	ok(wait_until(sub { psql(q{select count(*) from opdata.job where state = 'running'}) == 0 }, $soon), "$name: no job is left running");
	return;
}

sub suspended
{
	my $canceled = n_canceled($source);
	my @begun = wait_and_work();

	psql('select opdata_suspend()');
	ok(wait_until(sub { n_canceled($source) == $canceled + 1 }, $soon), 'suspended: what runs at the source is canceled');
	ok(wait_until(sub { $agent->states eq 'suspended' }, $soon), 'suspended: the worker is');
	release();
	psql('select opdata_resume()');
	all_end_well('resumed', @begun);
	return;
}

sub terminated
{
	my @begun = wait_and_work();
	my $pid = json($agent, 'select opdata_status()')->{workers}[0]{pid};
	my $began = time();

	psql("select pg_terminate_backend($pid)");
	ok(wait_until(sub { psql("select count(*) from pg_stat_activity where pid = $pid") == 0 }, $soon), 'terminated: the process is gone');
	cmp_ok(time() - $began, '<', $at_once, 'terminated: at once');
	release();
	all_end_well('after that', @begun);
	return;
}

sub shut_down
{
	my @begun = wait_and_work();
	my $began = time();

	$agent->stop('fast');
	cmp_ok(time() - $began, '<', $at_once, 'shut down at once');
	$agent->start;
	$lock->quit;
	$lock = session($agent, 'agent');
	all_end_well('started', @begun);
	return;
}

# Together with the session that has the lock.
sub dropped
{
	my ($slow, @tests) = wait_and_work();
	my $began = time();

	is(error_of($agent, 'drop database agent with (force)'), undef, 'the database is dropped');
	cmp_ok(time() - $began, '<', $at_once, 'at once');
	ok(wait_until(sub { sleeping($source) == 0 }, $soon), 'nothing runs at the source');
	$lock->quit;
	ok(wait_until(sub { $agent->states eq 'no_database' }, $soon), 'the worker waits for another database');
	return;
}
