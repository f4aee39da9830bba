
# Copies of the agent: a restored dump does not take the original's jobs, a
# standby takes over, and whoever listens is told when the agent is not well.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Convex;
use Opdata::Faults qw(payload);
use Opdata::Temporal;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Workers look around every five seconds and tell of a state that lasts as long.
# Where data is restored they look at once.
my $soon = 40;
my $at_once = 3;

my $json = JSON::PP->new->canonical->allow_nonref;
my $folder = $PostgreSQL::Test::Utils::tmp_check;
my $number = 0;

my $temporal = temporal_server('temporal', persistent => 1);
my $client = $temporal->client;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});

# The same for all clusters. The one master key is beside them. Database
# "postgres" has the extension too: there the status is asked for while the
# workers' own database is not there.
my $settings = <<"EOT";
log_line_prefix = '[%b] '
wal_level = replica
max_wal_senders = 4
opdata.database = 'agentdb'
opdata.org_id = 'acme'
opdata.temporal_address = '@{[ $temporal->address ]}'
opdata.temporal_tls = off
opdata.key_file = '@{[ PostgreSQL::Test::Utils::tempdir('key') ]}/opdata.key'
EOT
my $agent = agent_cluster('agent', conf => $settings);
my @clusters = ($agent);
$agent->enable_archiving;
$agent->restart;
$agent->safe_psql('postgres', 'create database agentdb');
$agent->safe_psql('agentdb', 'create extension opdata cascade');
get($agent, 'polling', 'the original polls');
$agent->safe_psql('agentdb', "select opdata_store_creds('crm', @{[ payload(port => $source->port) ]})");
my $original_id = status($agent)->{agent}{id};
is($agent->safe_psql('agentdb', 'select count(*) from opdata.agent'), 1, 'its cluster is noted once, though all workers look at once');

notifications();
restored_elsewhere();
restored_over_a_worker();
restored_in_place();
standby_and_promotion();
independent_copy();
point_in_time();
ok(slurp_file($_->logfile) !~ /terminated by signal|PANIC|reader_pw/, $_->name . ': no crash, and no password, is in the log')
  foreach @clusters;
done_testing();

# ---------------------------------------------------------------- questions

sub status
{
	my ($node, $dbname) = @_;
	return json($node, 'select opdata_status()', dbname => $dbname // 'agentdb');
}

sub states
{
	my ($node, $dbname) = @_;
	return join(' ', map { $_->{state} } @{ status($node, $dbname)->{workers} });
}

sub get
{
	my ($node, $state, $name, %opts) = @_;

	ok(wait_until(sub { states($node, $opts{dbname}) eq "$state $state $state" }, $soon), $name)
	  or diag($json->encode(status($node, $opts{dbname})));
	return;
}

sub warned
{
	my ($node) = @_;
	return join(' ', sort map { $_->{code} } @{ status($node)->{warnings} });
}

sub set
{
	my ($node, %settings) = @_;

	$node->append_conf('postgresql.conf',
		join('', map { "$_ = '$settings{$_}'\n" } sort keys %settings));
	$node->reload;
	return;
}

# ---------------------------------------------------------------- what is done

sub preview
{
	my $id = 'preview ' . ++$number;

	return {
		type => 'previewQueryWorkflow',
		workflow_id => $id,
		task_queue => 'tenant-acme',
		input => { orgId => 'acme', connectionId => 'crm', sql => "select '$id'" }
	};
}

# Workflows, all at once, and every one of them done by this cluster.
sub does
{
	my ($node, $n, $name) = @_;
	my @workflows = map { preview() } 1 .. $n;
	my %pids = map { ($_->{pid} => 1) } @{ status($node)->{workers} };
	my $ended = $client->execute_many(workflows => \@workflows);
	my @identities;

	is(scalar(grep { $_->{result} && $_->{result}{rowCount} == 1 } @$ended), $n, "$name: the workflows are done")
	  or diag($json->encode($ended));
	foreach my $workflow (@workflows)
	{
		push @identities, map { $_->{attributes}{identity} }
		  grep { $_->{event_type} =~ /^WORKFLOW_TASK_(?:STARTED|COMPLETED)$/ }
		  @{ $client->history(workflow_id => $workflow->{workflow_id}) };
	}
	cmp_ok(scalar(@identities), '>=', 2 * $n, "$name: the histories tell by whom");
	is_deeply([ grep { !/^(\d+)@/ || !$pids{$1} } @identities ], [], "$name: and it was nobody else");
	return;
}

sub dump_of
{
	my ($node, $name) = @_;
	my $file = "$folder/$name.dump";

	$node->command_ok([ 'pg_dump', '--format=custom', '-f', $file, $node->connstr('agentdb') ], "$name: a dump is made");
	return $file;
}

sub restore
{
	my ($node, $file, $name) = @_;

	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr('agentdb'), $file ], "$name: it is restored");
	return;
}

# A further cluster with the same settings.
sub another
{
	my ($name) = @_;
	my $node = agent_cluster($name, conf => $settings);

	push @clusters, $node;
	return $node;
}

sub from_backup
{
	my ($name, $backup, %opts) = @_;
	my $conf = delete $opts{conf} // '';
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($agent, $backup, %opts);
	$node->append_conf('postgresql.conf', "archive_mode = off\n$conf");
	push @clusters, $node;
	return $node;
}

# A session that listens; each notification is kept in the list.
sub listener
{
	my ($node, $notices) = @_;
	my $session = $node->background_psql('agentdb');
	my $take = sub {
		my $out = $session->query_safe('select 1');

		push @$notices, map { $json->decode($_) } $out =~ /"opdata_health" with payload "(\{.*?\})" received/g;
		return @$notices;
	};

	$session->query_safe('listen opdata_health');
	return ($session, $take);
}

# ---------------------------------------------------------------- health

sub notifications
{
	my @notices;
	my ($session, $take) = listener($agent, \@notices);
	my @steps = (
		[ 'Temporal is stopped', sub { $temporal->stop }, 'temporal_unreachable' ],
		[ 'Temporal is back', sub { $temporal->start } ],
		[ 'the agent is disabled', sub { set($agent, 'opdata.enabled' => 'off') }, 'disabled' ],
		[ 'the agent is enabled', sub { set($agent, 'opdata.enabled' => 'on') } ]);

	ok(status($agent)->{healthy}, 'the agent is healthy');
	foreach my $step (@steps)
	{
		my ($name, $do, @reasons) = @$step;
		my $expected = { healthy => @reasons ? JSON::PP::false : JSON::PP::true, reasons => \@reasons };
		my $before = @notices;

		$do->();
		ok(wait_until(sub { $take->() > $before }, $soon), "$name: who listens is told");
		is_deeply($notices[-1], $expected, "$name: of it");
		my $status;
		ok( wait_until(
				sub {
					$status = status($agent);
					$json->encode([ @$status{ 'healthy', 'reasons' } ]) eq
					  $json->encode([ @$expected{ 'healthy', 'reasons' } ]);
				},
				$soon),
			"$name: the status says the same") or diag($json->encode($status));
		new_workers_without_temporal($take, \@notices) if $name eq 'Temporal is stopped';
	}
	get($agent, 'polling', 'all workers poll again');

	# two of the looks that workers take
	sleep 11;
	$take->();
	cmp_ok(scalar(@notices), '<=', 6, 'that was not told over and over') or diag($json->encode(\@notices));
	is_deeply($notices[-1], { healthy => JSON::PP::true, reasons => [] }, 'the last word is good');
	$session->quit;
	return;
}

# Workers that begin anew are not well before they are in contact.
sub new_workers_without_temporal
{
	my ($take, $notices) = @_;
	my $pids = sub { return join(' ', sort map { $_->{pid} // 0 } @{ status($agent)->{workers} }) };
	my $before = $pids->();
	my $log_end = -s $agent->logfile;

	set($agent, 'opdata.auth_scope' => 'another');
	ok(wait_until(sub { $pids->() ne $before }, $soon), 'workers begin anew while Temporal is away');
	get($agent, 'unreachable', 'and tell that it is');
	ok(wait_until(sub { !status($agent)->{healthy} }, $soon), 'so that the agent is not healthy');
	$take->();
	is(scalar(grep { $_->{healthy} } @$notices), 0, 'nobody was told that it was meanwhile');
	ok(slurp_file($agent->logfile, $log_end) !~ /agent is healthy/, 'nor was it written to the log');
	return;
}

# ---------------------------------------------------------------- dumps

sub is_a_copy
{
	my ($node, $name) = @_;
	my $status = status($node);

	is($status->{agent}{copy}, JSON::PP::true, "$name: the status says that it is a copy");
	is($status->{agent}{id}, undef, "$name: it has no id");
	is($status->{healthy}, JSON::PP::false, "$name: and is not healthy");
	is_deeply($status->{reasons}, ['copy'], "$name: for that reason");
	is(warned($node), 'copy', "$name: the status warns of it, and of nothing else");
	my $told = qr/^\[opdata worker\] LOG:  opdata worker "interactive 1" asks for no tasks, since this database is a copy/m;
	ok(slurp_file($node->logfile) =~ $told, "$name: the log tells");
	return;
}

sub resumed
{
	my ($node, $name) = @_;
	my @notices;
	my ($session, $take) = listener($node, \@notices);

	is_deeply(json($node, 'select opdata_resume()', dbname => 'agentdb'), { resumed => JSON::PP::true }, "$name: it is told to work");
	get($node, 'polling', "$name: and polls");
	# something about the time before may be on its way
	ok(wait_until(sub { $take->() > 0 && $notices[-1]{healthy} }, $soon), "$name: who listens is told");
	is_deeply($notices[-1], { healthy => JSON::PP::true, reasons => [] }, "$name: that it is healthy");
	$session->quit;
	is(warned($node), '', "$name: the warning is gone");
	return;
}

sub restored_elsewhere
{
	my $file = dump_of($agent, 'elsewhere');
	my $copy = another('copy');

	$copy->safe_psql('postgres', 'create database agentdb');
	get($copy, 'no_extension', 'elsewhere: workers wait for the extension', dbname => 'postgres');
	restore($copy, $file, 'elsewhere');
	get($copy, 'copy', 'elsewhere: the copy does not poll');
	is_a_copy($copy, 'elsewhere');
	does($agent, 20, 'beside a copy');

	# what is called by SQL is done
	my $payload = payload(port => $source->port);
	ok(json($copy, q{select opdata_test('crm')}, dbname => 'agentdb')->{ok}, 'in a copy a connection is tested');
	is(json($copy, q{select opdata_preview('crm', 'select 42')}, dbname => 'agentdb')->{rows}[0][0], 42, 'a preview works');
	is(json($copy, "select opdata_store_creds('of the copy', $payload)", dbname => 'agentdb')->{status}, 'connected', 'and a store');
	is($agent->safe_psql('agentdb', 'select string_agg(id, \' \') from opdata_connections'), 'crm', 'of which the original knows nothing');

	$copy->restart;
	get($copy, 'copy', 'a restart does not make it forget');
	does($agent, 5, 'beside a copy that was restarted');

	resumed($copy, 'the copy');
	my $agent_facts = status($copy)->{agent};
	is($agent_facts->{copy}, JSON::PP::false, 'it is no copy any more');
	like($agent_facts->{id}, qr/^[0-9a-f-]{36}$/, 'it has an id');
	isnt($agent_facts->{id}, $original_id, 'of its own');
	$agent->stop;
	does($copy, 5, 'without the original');
	$copy->restart;
	get($copy, 'polling', 'it goes on after a restart');
	is(status($copy)->{agent}{id}, $agent_facts->{id}, 'under the same id');
	$copy->stop;
	$agent->start;
	get($agent, 'polling', 'the original is back');
	is(status($agent)->{agent}{id}, $original_id, 'under its own');
	is(warned($agent), '', 'and is not warned of anything');
	return;
}

# Workers that work for an agent of their own find that a dump was restored over it.
sub restored_over_a_worker
{
	my $file = dump_of($agent, 'over a worker');
	my $early = another('early');

	$early->safe_psql('postgres', 'create database agentdb');
	$early->safe_psql('agentdb', 'create extension opdata cascade');
	get($early, 'polling', 'workers of a new cluster poll');
	restore($early, $file, 'over a worker');
	get($early, 'copy', 'over a worker: it stops to poll');
	is_a_copy($early, 'over a worker');
	does($agent, 20, 'over a worker');

	# a copy is in nobody's way either
	foreach my $sql ('alter database agentdb rename to other', 'alter database other rename to agentdb')
	{
		my $begun = time();
		$early->safe_psql('postgres', $sql);
		cmp_ok(time() - $begun, '<', $at_once, "a copy is not in the way: $sql");
	}
	get($early, 'copy', 'after that it is a copy still');
	my $begun = time();
	$early->safe_psql('agentdb', 'drop extension opdata');
	cmp_ok(time() - $begun, '<', $at_once, 'a copy is not in the way of DROP EXTENSION');
	get($early, 'no_extension', 'its workers leave', dbname => 'postgres');
	$early->safe_psql('agentdb', 'create extension opdata');
	get($early, 'polling', 'and poll for a new extension, which is no copy');
	$early->stop;
	return;
}

# DROP DATABASE and restore in the same cluster is no copy. Which agent it is,
# is the same in the status and in what the control plane is told.
sub restored_in_place
{
	my $convex = convex_server('convex');
	my $file = dump_of($agent, 'in place');

	$agent->safe_psql('postgres', 'drop database agentdb');
	$agent->safe_psql('postgres', 'create database agentdb');
	set($agent, 'opdata.convex_url' => $convex->url);
	$agent->safe_psql('agentdb', 'create extension opdata cascade');
	get($agent, 'polling', 'in place: workers have begun before');
	isnt(status($agent)->{agent}{id}, $original_id, 'in place: as an agent of their own');
	restore($agent, $file, 'in place');
	get($agent, 'polling', 'in place: it goes on, without being told to');
	is(warned($agent), '', 'in place: without a warning');
	does($agent, 5, 'in place');
	is(status($agent)->{agent}{id}, $original_id, 'in place: it is the same agent');

	$agent->safe_psql('agentdb', "select opdata_store_creds('told', @{[ payload(port => $source->port) ]}, test => false)");
	my $call;
	ok(wait_until(sub { ($call) = @{ $convex->calls('connections:setStatus') }; $call }, $soon), 'in place: it tells of a store');
	is($call->{args}{agentId}, $original_id, 'in place: as the same agent');
	set($agent, 'opdata.convex_url' => '');
	get($agent, 'polling', 'in place: it polls without a URL');
	$agent->safe_psql('agentdb', q{delete from opdata.outbox});
	return;
}

# ---------------------------------------------------------------- physical copies

sub standby_and_promotion
{
	$agent->backup('streaming');
	my $standby = from_backup('standby', 'streaming', has_streaming => 1);

	$standby->start;
	$agent->wait_for_catchup($standby, 'replay', $agent->lsn('insert'));
	my $status = status($standby);
	is(states($standby), 'stopped stopped stopped', 'a standby has no workers');
	is($status->{healthy}, JSON::PP::true, 'which is healthy for one');
	is_deeply($status->{reasons}, [], 'for no reason');
	is_deeply(
		$status->{agent},
		{   id => $original_id,
			systemIdentifier => status($agent)->{agent}{systemIdentifier},
			timeline => undef,
			copy => JSON::PP::false
		},
		'it is the same agent');
	is(warned($standby), '', 'and is not warned of anything');
	is(error_of($standby, 'select opdata_resume()', dbname => 'agentdb')->{sqlstate}, '25006', 'it cannot be told to work');
	does($agent, 5, 'beside a standby');

	$agent->stop;
	$standby->promote;
	get($standby, 'polling', 'a standby that is promoted polls');
	does($standby, 5, 'after the promotion');
	on_a_new_timeline($standby, 'promoted');
	$standby->stop;
	$agent->start;
	get($agent, 'polling', 'the original polls again');
	is(warned($agent), '', 'without a warning');
	return;
}

sub on_a_new_timeline
{
	my ($node, $name) = @_;
	my $status = status($node);

	is($status->{agent}{id}, $original_id, "$name: it is the same agent");
	is($status->{agent}{timeline}, 2, "$name: on a new timeline");
	is(warned($node), 'new_timeline', "$name: the status warns of that");
	is($status->{healthy}, JSON::PP::true, "$name: it is healthy");
	$node->safe_psql('agentdb', 'select opdata_resume()');
	is(warned($node), '', "$name: the warning goes when it is told to work");
	is(status($node)->{agent}{id}, $original_id, "$name: as the same agent");
	get($node, 'polling', "$name: it polls");
	return;
}

# Nothing tells it from the original, so that it has to be told.
sub independent_copy
{
	my $copy = from_backup('independent', 'streaming', conf => "opdata.enabled = off\n");

	$copy->start;
	get($copy, 'disabled', 'a base backup started with opdata.enabled = off does not poll');
	is_deeply(status($copy)->{reasons}, ['disabled'], 'the status tells why');
	is(json($copy, q{select opdata_preview('crm', 'select 42')}, dbname => 'agentdb')->{rows}[0][0], 42, 'a preview works there');
	does($agent, 10, 'beside a base backup');
	$copy->stop;
	return;
}

sub point_in_time
{
	$agent->backup('archive');
	$agent->safe_psql('agentdb', q{select opdata_delete('told')});
	$agent->safe_psql('postgres', q{select pg_create_restore_point('then')});
	$agent->safe_psql('agentdb', "select opdata_store_creds('later', @{[ payload(port => $source->port) ]}, test => false)");
	my $segment = $agent->safe_psql('postgres', 'select pg_walfile_name(pg_switch_wal())');
	ok( $agent->poll_query_until(
			'postgres', "select last_archived_wal >= '$segment' from pg_stat_archiver"),
		'the write-ahead log is archived');

	my $back = from_backup(
		'back', 'archive',
		has_restoring => 1,
		standby => 0,
		conf => "recovery_target_name = 'then'\nrecovery_target_action = 'promote'\n");
	$agent->stop;
	$back->start;
	get($back, 'polling', 'a cluster at a point in time polls');
	is($back->safe_psql('agentdb', 'select string_agg(id, \' \') from opdata_connections'), 'crm', 'it is at that time');
	does($back, 5, 'at a point in time');
	on_a_new_timeline($back, 'at a point in time');
	$back->stop;
	return;
}
