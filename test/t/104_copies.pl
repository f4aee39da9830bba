
# Copies of the agent: a restored dump does not take the original's jobs, a
# standby takes over, and whoever listens is told when the agent is not well.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Agent;
use Opdata::Convex;
use Opdata::Faults qw(payload);
use Opdata::Temporal;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# Workers look around every five seconds and tell of a state that lasts as long.
# Where data is restored they look at once.
my $soon = $PostgreSQL::Test::Utils::timeout_default;
my $at_once = 3;

my $json = JSON::PP->new->canonical->allow_nonref;
my $folder = $PostgreSQL::Test::Utils::tmp_check;
my $number = 0;

my $temporal = temporal_server('temporal');
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
my %asked = (soon => $soon, dbname => 'agentdb');
my $agent = agent_cluster('agent', %asked, conf => $settings);
my @clusters = ($agent);
$agent->enable_archiving;
$agent->restart;
$agent->safe_psql('postgres', 'create database agentdb');
$agent->safe_psql('agentdb', 'create extension opdata cascade');
$agent->workers_get('polling', 'the original polls');
$agent->safe_psql('agentdb', "select opdata_store_creds('crm', @{[ payload(port => $source->port) ]})");
my $original_id = $agent->status->{agent}{id};
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
	my %pids = map { ($_->{pid} => 1) } @{ $node->status->{workers} };
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
	my $node = agent_cluster($name, %asked, conf => $settings);

	push @clusters, $node;
	return $node;
}

sub from_backup
{
	my ($name, $backup, %opts) = @_;
	my $conf = delete $opts{conf} // '';
	my $node = Opdata::Agent->new($name, %asked);

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
		[ 'the agent is disabled', sub { $agent->set(enabled => 'off') }, 'disabled' ],
		[ 'the agent is enabled', sub { $agent->set(enabled => 'on') } ]);

	ok($agent->status->{healthy}, 'the agent is healthy');
	foreach my $step (@steps)
	{
		my ($name, $do, @reasons) = @$step;
		my $expected = { healthy => @reasons ? JSON::PP::false : JSON::PP::true, reasons => \@reasons };
		my $before = @notices;

		$do->();
		# something about the time before may be on its way
		ok(wait_until(sub { $take->() > $before && $json->encode($notices[-1]) eq $json->encode($expected) }, $soon),
			"$name: who listens is told of it") or diag($json->encode(\@notices));
		my $status;
		ok( wait_until(
				sub {
					$status = $agent->status;
					$json->encode([ @$status{ 'healthy', 'reasons' } ]) eq
					  $json->encode([ @$expected{ 'healthy', 'reasons' } ]);
				},
				$soon),
			"$name: the status says the same") or diag($json->encode($status));
		new_workers_without_temporal($take, \@notices) if $name eq 'Temporal is stopped';
	}
	$agent->workers_get('polling', 'all workers poll again');

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
	my $pids = sub { return join(' ', sort map { $_->{pid} // 0 } @{ $agent->status->{workers} }) };
	my $before = $pids->();
	my $log_end = -s $agent->logfile;
	my $told = @$notices;

	$agent->set(auth_scope => 'another');
	ok(wait_until(sub { $pids->() ne $before }, $soon), 'workers begin anew while Temporal is away');
	$agent->workers_get('unreachable', 'and tell that it is');
	ok(wait_until(sub { !$agent->status->{healthy} }, $soon), 'so that the agent is not healthy');
	$take->();
	is(scalar(grep { $_->{healthy} } @$notices[ $told .. $#$notices ]), 0, 'nobody was told that it was meanwhile');
	ok(slurp_file($agent->logfile, $log_end) !~ /agent is healthy/, 'nor was it written to the log');
	return;
}

# ---------------------------------------------------------------- dumps

sub is_a_copy
{
	my ($node, $name) = @_;
	my $status = $node->status;

	is($status->{agent}{copy}, JSON::PP::true, "$name: the status says that it is a copy");
	is($status->{agent}{id}, undef, "$name: it has no id");
	is($status->{healthy}, JSON::PP::false, "$name: and is not healthy");
	is_deeply($status->{reasons}, ['copy'], "$name: for that reason");
	is($node->warned, 'copy', "$name: the status warns of it, and of nothing else");
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
	$node->workers_get('polling', "$name: and polls");
	# something about the time before may be on its way
	ok(wait_until(sub { $take->() > 0 && $notices[-1]{healthy} }, $soon), "$name: who listens is told");
	is_deeply($notices[-1], { healthy => JSON::PP::true, reasons => [] }, "$name: that it is healthy");
	$session->quit;
	is($node->warned, '', "$name: the warning is gone");
	return;
}

sub restored_elsewhere
{
	my $file = dump_of($agent, 'elsewhere');
	my $copy = another('copy');

	$copy->safe_psql('postgres', 'create database agentdb');
	$copy->workers_get('no_extension', 'elsewhere: workers wait for the extension', dbname => 'postgres');
	restore($copy, $file, 'elsewhere');
	$copy->workers_get('copy', 'elsewhere: the copy does not poll');
	is_a_copy($copy, 'elsewhere');
	does($agent, 20, 'beside a copy');

	# what is called by SQL is done
	my $payload = payload(port => $source->port);
	ok(json($copy, q{select opdata_test('crm')}, dbname => 'agentdb')->{ok}, 'in a copy a connection is tested');
	is(json($copy, q{select opdata_preview('crm', 'select 42')}, dbname => 'agentdb')->{rows}[0][0], 42, 'a preview works');
	is(json($copy, "select opdata_store_creds('of the copy', $payload)", dbname => 'agentdb')->{status}, 'connected', 'and a store');
	is($agent->safe_psql('agentdb', 'select string_agg(id, \' \') from opdata_connections'), 'crm', 'of which the original knows nothing');

	$copy->restart;
	$copy->workers_get('copy', 'a restart does not make it forget');
	does($agent, 5, 'beside a copy that was restarted');

	resumed($copy, 'the copy');
	my $agent_facts = $copy->status->{agent};
	is($agent_facts->{copy}, JSON::PP::false, 'it is no copy any more');
	like($agent_facts->{id}, qr/^[0-9a-f-]{36}$/, 'it has an id');
	isnt($agent_facts->{id}, $original_id, 'of its own');
	$agent->stop;
	does($copy, 5, 'without the original');
	$copy->restart;
	$copy->workers_get('polling', 'it goes on after a restart');
	is($copy->status->{agent}{id}, $agent_facts->{id}, 'under the same id');
	$copy->stop;
	$agent->start;
	$agent->workers_get('polling', 'the original is back');
	is($agent->status->{agent}{id}, $original_id, 'under its own');
	is($agent->warned, '', 'and is not warned of anything');
	return;
}

# Workers that work for an agent of their own find that a dump was restored over it.
sub restored_over_a_worker
{
	my $file = dump_of($agent, 'over a worker');
	my $early = another('early');

	$early->safe_psql('postgres', 'create database agentdb');
	$early->safe_psql('agentdb', 'create extension opdata cascade');
	$early->workers_get('polling', 'workers of a new cluster poll');
	restore($early, $file, 'over a worker');
	$early->workers_get('copy', 'over a worker: it stops to poll');
	is_a_copy($early, 'over a worker');
	does($agent, 20, 'over a worker');

	# a copy is in nobody's way either
	foreach my $sql ('alter database agentdb rename to other', 'alter database other rename to agentdb')
	{
		my $begun = time();
		$early->safe_psql('postgres', $sql);
		cmp_ok(time() - $begun, '<', $at_once, "a copy is not in the way: $sql");
	}
	$early->workers_get('copy', 'after that it is a copy still');
	my $begun = time();
	$early->safe_psql('agentdb', 'drop extension opdata');
	cmp_ok(time() - $begun, '<', $at_once, 'a copy is not in the way of DROP EXTENSION');
	$early->workers_get('no_extension', 'its workers leave', dbname => 'postgres');
	$early->safe_psql('agentdb', 'create extension opdata');
	$early->workers_get('polling', 'and poll for a new extension, which is no copy');
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
	$agent->set(convex_url => $convex->url);
	$agent->safe_psql('agentdb', 'create extension opdata cascade');
	$agent->workers_get('polling', 'in place: workers have begun before');
	isnt($agent->status->{agent}{id}, $original_id, 'in place: as an agent of their own');
	restore($agent, $file, 'in place');
	$agent->workers_get('polling', 'in place: it goes on, without being told to');
	is($agent->warned, '', 'in place: without a warning');
	does($agent, 5, 'in place');
	is($agent->status->{agent}{id}, $original_id, 'in place: it is the same agent');

	$agent->safe_psql('agentdb', "select opdata_store_creds('told', @{[ payload(port => $source->port) ]}, test => false)");
	my $call;
	ok(wait_until(sub { ($call) = @{ $convex->calls('connections:setStatus') }; $call }, $soon), 'in place: it tells of a store');
	is($call->{args}{agentId}, $original_id, 'in place: as the same agent');
	$agent->renew(convex_url => '');
	$agent->workers_get('polling', 'in place: it polls without a URL');
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
	my $status = $standby->status;
	is($standby->states, 'stopped stopped stopped', 'a standby has no workers');
	is($status->{healthy}, JSON::PP::true, 'which is healthy for one');
	is_deeply($status->{reasons}, [], 'for no reason');
	is_deeply(
		$status->{agent},
		{   id => $original_id,
			systemIdentifier => $agent->status->{agent}{systemIdentifier},
			timeline => undef,
			copy => JSON::PP::false
		},
		'it is the same agent');
	is($standby->warned, '', 'and is not warned of anything');
	is(error_of($standby, 'select opdata_resume()', dbname => 'agentdb')->{sqlstate}, '25006', 'it cannot be told to work');
	does($agent, 5, 'beside a standby');

	$agent->stop;
	$standby->promote;
	$standby->workers_get('polling', 'a standby that is promoted polls');
	does($standby, 5, 'after the promotion');
	on_a_new_timeline($standby, 'promoted');
	$standby->stop;
	$agent->start;
	$agent->workers_get('polling', 'the original polls again');
	is($agent->warned, '', 'without a warning');
	return;
}

sub on_a_new_timeline
{
	my ($node, $name) = @_;
	my $status = $node->status;

	is($status->{agent}{id}, $original_id, "$name: it is the same agent");
	is($status->{agent}{timeline}, 2, "$name: on a new timeline");
	is($node->warned, 'new_timeline', "$name: the status warns of that");
	is($status->{healthy}, JSON::PP::true, "$name: it is healthy");
	$node->safe_psql('agentdb', 'select opdata_resume()');
	is($node->warned, '', "$name: the warning goes when it is told to work");
	is($node->status->{agent}{id}, $original_id, "$name: as the same agent");
	$node->workers_get('polling', "$name: it polls");
	return;
}

# Nothing tells it from the original, so that it has to be told.
sub independent_copy
{
	my $copy = from_backup('independent', 'streaming', conf => "opdata.enabled = off\n");

	$copy->start;
	$copy->workers_get('disabled', 'a base backup started with opdata.enabled = off does not poll');
	is_deeply($copy->status->{reasons}, ['disabled'], 'the status tells why');
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
	$back->workers_get('polling', 'a cluster at a point in time polls');
	is($back->safe_psql('agentdb', 'select string_agg(id, \' \') from opdata_connections'), 'crm', 'it is at that time');
	does($back, 5, 'at a point in time');
	on_a_new_timeline($back, 'at a point in time');
	$back->stop;
	return;
}
