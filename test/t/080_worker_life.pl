
# The life of the worker processes: they come and go with extension, database,
# settings and role, are in nobody's way, and their jobs survive it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use List::Util qw(sum0);
use Opdata::Agent;
use Opdata::Credentials qw(reader);
use Opdata::Faults;
use Opdata::Temporal;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# A worker that is not woken up looks by itself after a minute, a long poll
# lasts as long, and what waits for a database in use gives up after five
# seconds.
my $soon = 45;
my $at_once = 30;

# Everything that a worker, or the postmaster about one, may say here.
my @expected = (
	qr/^\[postmaster\] LOG:  background worker "opdata worker[^"]*" \(PID \d+\) exited with exit code 1$/,
	qr/^\[opdata worker\] FATAL:  terminating background worker "opdata worker[^"]*" due to administrator command$/,
	qr/^\[opdata worker\] FATAL:  database "agentdb" does not exist$/,
	qr/^\[opdata worker\] FATAL:  role "nobody_at_all" does not exist$/,
	qr/^\[opdata worker\] FATAL:  role "no_login" is not permitted to log in$/,
	qr/^\[opdata worker\] LOG:  opdata worker "[a-z]+ \d" gets no tasks from Temporal at 127\.0\.0\.1:1: UNAVAILABLE /,
	qr/^\[opdata worker\] LOG:  opdata meets a lock that somebody holds in the agent's database, and tries again until it is gone$/,
	qr/^\[opdata worker\] HINT:  The view pg_locks tells who holds it\.$/,
	qr/^\[opdata worker\] LOG:  opdata job previewQuery failed: extension opdata does not exist in this database$/,
	qr/^\[opdata worker\] DETAIL:  SQLSTATE 55000$/,
	qr/^\[opdata worker\] LOG:  opdata could not record the end of a job: extension opdata does not exist in this database$/,
	qr/^\[opdata worker\] LOG:  the opdata agent is (?:healthy|not healthy: [a-z_, ]+)$/,
	qr/^\[opdata worker\] HINT:  It goes on trying; opdata_status\(\) tells when it succeeds\.$/,
);

my $temporal = temporal_server('temporal');
my $client = $temporal->client;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});

my $organisation = 'acme';
my $number = 0;

# Database "postgres" has the extension too: there the status is asked for
# while the workers' own database comes and goes.
my $agent = agent_cluster(
	'agent', soon => $soon, conf => <<"EOT");
log_line_prefix = '[%b] '
wal_level = replica
max_wal_senders = 4
allow_in_place_tablespaces = on
opdata.database = 'agentdb'
opdata.org_id = '$organisation'
opdata.temporal_address = '@{[ $temporal->address ]}'
opdata.temporal_tls = off
EOT
my $node = $agent;
$agent->safe_psql('postgres', q{
	create role owner login createdb;
	create role stranger login createdb;
	create role no_login;
});

database_missing();
extension_comes_and_goes();
locks();
pollers();
no_transaction_while_waiting();
reload();
disabled();
termination_and_cancel();
other_databases();
own_database_dropped();
own_database_renamed();
own_database_moved_and_copied();
own_database_in_use();
strangers();
promotion();
shutdowns();
number_of_workers();
role();
is(join("\n", unexpected($agent)), '', 'nothing but what was expected is in the log');
done_testing();

# ---------------------------------------------------------------- questions

# Pids of the worker processes, be they connected to a database or not.
sub processes
{
	my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
	my @pids;

	foreach my $file (glob '/proc/[0-9]*/stat')
	{
		my $stat = eval { slurp_file($file) } // next;
		my ($pid, $parent) = $stat =~ /^(\d+) \(.*\) \S (\d+)/s;
		next unless $parent == $postmaster;
		my $title = eval { slurp_file("/proc/$pid/cmdline") } // '';
		push @pids, $pid if $title =~ /opdata worker/;
	}
	return @pids;
}

# Sessions of workers; only those with a database connection are shown.
sub connected
{
	return $node->safe_psql('postgres',
		q{select count(*) from pg_stat_activity where backend_type = 'opdata worker'});
}

# Run a statement: nothing may be in its way.
sub runs_at_once
{
	my ($name, $sql, %opts) = @_;
	my $begun = time();
	my $error = error_of($node, $sql, %opts);
	my $seconds = time() - $begun;

	is($error && $error->{message}, undef, $name);
	cmp_ok($seconds, '<', $at_once, 'it waits for nothing');
	return;
}

# ---------------------------------------------------------------- workflows

sub preview
{
	my ($sql, %more) = @_;

	return (
		type => 'previewQueryWorkflow',
		workflow_id => 'preview ' . ++$number,
		task_queue => "tenant-$organisation",
		input => {
			orgId => $organisation,
			type => 'postgres',
			credentials => reader($source),
			sql => $sql
		},
		%more);
}

sub has_result
{
	my ($ended, $value, $name) = @_;

	is($ended->{result} && $ended->{result}{rows}[0][0], $value, $name)
	  or diag(JSON::PP->new->canonical->encode($ended));
	return;
}

sub works
{
	my ($name) = @_;

	has_result($client->execute(preview("select $number + 1", timeout => 60)), $number, $name);
	return;
}

# Begin a preview that sleeps at the source; the ticket of its workflow.
sub begin_slow
{
	my ($seconds) = @_;
	my $n = $number + 1;
	my $ticket = $client->send('execute',
		preview("select 'slept' from pg_sleep($seconds) /* slow $n */"));

	ok(wait_until(sub { n_begun($source, "/* slow $n */") }, undef, 0.1), 'a preview sleeps at the source');
	return $ticket;
}

# ---------------------------------------------------------------- the log

sub log_end { return -s $node->logfile; }

# What was said by or about workers from there on.
sub worker_lines
{
	my ($from, $of) = @_;
	return grep { /^\[opdata worker\]|background worker "opdata/ }
	  split(/\n/, slurp_file(($of // $node)->logfile, $from));
}

sub unexpected
{
	my ($of) = @_;
	my @lines = worker_lines(0, $of);

	push @lines, grep { /terminated by signal|PANIC/ }
	  split(/\n/, slurp_file($of->logfile));
	return grep
	{
		my $line = $_;
		!grep { $line =~ $_ } @expected
	} @lines;
}

# Watch for a while, which is not to last longer: what keeps all workers from
# working is no news for long.
sub quiet
{
	my ($why, $per_worker) = @_;
	my $seconds = 10;
	my @lines;

	in_time(
		sub {
			my ($from, $begun) = (log_end(), time());

			sleep $seconds;
			@lines = worker_lines($from);
			return time() - $begun < $seconds + 2;
		});
	cmp_ok(scalar(@lines), '<=', $per_worker * $node->workers,
		"$why is told at most $per_worker times a worker in $seconds seconds")
	  or diag(join("\n", @lines));
	return;
}

# ---------------------------------------------------------------- tests

sub database_missing
{
	$node->workers_get('no_database', 'workers wait for a database that does not exist');
	# each try is two lines: why, and the end of the process
	quiet('a missing database', 4);
	is(connected(), 0, 'they have no database connection');

	$agent->safe_psql('postgres', 'create database agentdb owner owner');
	$node->workers_get('no_extension', 'they notice the new database, and that it is empty');
	is(connected(), 0, 'of which they keep no connection');
	runs_at_once('it can be dropped', 'drop database agentdb');
	$node->workers_get('no_database', 'they notice that too');
	$agent->safe_psql('postgres', 'create database agentdb owner owner');
	$node->workers_get('no_extension', 'and that it is back');
	return;
}

sub extension_comes_and_goes
{
	$node->safe_psql('agentdb', 'create extension opdata cascade');
	$node->workers_get('polling', 'workers begin when the extension comes');
	works('a workflow is done');

	runs_at_once('DROP EXTENSION is not blocked by long polls',
		'drop extension opdata', dbname => 'agentdb');
	$node->workers_get('no_extension', 'workers leave when the extension is dropped');
	ok(wait_until(sub { connected() == 0 }, $soon), 'without a connection');

	$node->safe_psql('agentdb', 'create extension opdata');
	$node->workers_get('polling', 'they come back with it');
	works('a workflow is done after that');

	my $before = $node->pids;
	$node->safe_psql('agentdb', 'begin; drop extension opdata; rollback');
	sleep 2;
	is($node->states, 'polling polling polling', 'a drop that is rolled back sends nobody away');
	is($node->pids, $before, 'they are the same processes');

	# with its tables the job's record goes, so that it may fail
	my $ticket = begin_slow(2);
	runs_at_once('nor is it blocked by a preview', 'drop extension opdata', dbname => 'agentdb');
	$node->workers_get('no_extension', 'which workers leave then');
	$node->safe_psql('agentdb', 'create extension opdata');
	$node->workers_get('polling', 'they come back again');
	like($client->receive($ticket)->{error}{type} // 'ok',
		qr/^(?:ok|internal)$/, 'the preview has come to an end');

	# which is one more way in which the extension may go
	$node->safe_psql('agentdb', 'drop extension pgcrypto cascade');
	$node->workers_get('no_extension', 'they leave when the extension is dropped with another');
	$node->safe_psql('agentdb', 'create extension opdata cascade');
	$node->workers_get('polling', 'and come back');
	works('a workflow is done after that');

	# the other database's extension is not theirs
	$before = $node->pids;
	$node->safe_psql('agentdb', q{create database second});
	$node->safe_psql('second', 'create extension opdata cascade');
	$node->safe_psql('second', 'drop extension opdata');
	works('a workflow is done beside an extension that comes and goes elsewhere');
	is($node->pids, $before, 'by the same processes');
	is( $node->safe_psql(
			'postgres', q{
			select string_agg(distinct datname, ' ') from pg_stat_activity where backend_type = 'opdata worker'}
		),
		'agentdb',
		'of two databases with the extension they are in the one of the setting');

	return;
}

# A lock that somebody holds is a delay for those who need it, no more: they try
# again until it is gone, and never wait for it.
sub locks
{
	my $from = log_end();

	foreach my $table ('pg_catalog.pg_extension', 'opdata.job')
	{
		my $session = session($node, 'agentdb');
		my $before = $node->pids;

		# a preview has ten seconds for it; who would wait does so by then, and for as
		# long as there is the lock
		my $waits = 0;
		ok( in_time(
				sub {
					return 0 if $session->run("begin; lock table $table in access exclusive mode")->{error};
					my $ticket = $client->send('execute', preview('select 1'));
					sleep 6;
					$waits ||= !wait_until(
						sub {
							$node->safe_psql('postgres', q{
								select count(*) from pg_locks join pg_stat_activity using (pid)
								where backend_type = 'opdata worker' and not granted
									and waitstart < clock_timestamp() - interval '1 s'}) == 0;
						},
						$soon);
					$session->run('rollback');
					return !$client->receive($ticket)->{error};
				}
			),
			"a preview that comes while $table is locked ends well");
		ok(!$waits, 'no worker waits for it');
		$session->quit;
		$node->workers_get('polling', 'they work on after it');
		works('a workflow is done then');
		is($node->pids, $before, 'by the same processes');
	}
	like(slurp_file($node->logfile, $from), qr/opdata meets a lock/, 'that there was a lock is in the log');
	return;
}

sub pollers
{
	my @workers = $node->workers;
	my ($pollers, $bulk);
	my %of = map { $_->{pid} => $_->{name} } @workers;
	my $names = sub {
		return join(' ',
			sort grep { defined }
			  map { /^(\d+)@/ ? $of{$1} : undef } map { $_->{identity} } @{ $_[0] });
	};

	# the server hears of a poll a moment later
	wait_until(
		sub {
			($pollers, $bulk) = map { $client->pollers(task_queue => $_) } "tenant-$organisation", "tenant-$organisation-bulk";
			return join(', ', map { $names->($_) } $pollers->{workflow}, $pollers->{activity}, $bulk->{activity}) eq
			  'interactive 1 interactive 2, interactive 1 interactive 2, bulk 1';
		},
		$soon);
	is( join(' ', map { $_->{name} } @workers),
		'interactive 1 interactive 2 bulk 1',
		'two workers for short jobs, one for long ones');
	is($names->($pollers->{workflow}), 'interactive 1 interactive 2', 'the first poll for workflow tasks');
	is($names->($pollers->{activity}), 'interactive 1 interactive 2', 'and for activity tasks');
	is($names->($bulk->{activity}), 'bulk 1', 'the last one for long activities');
	is($names->($bulk->{workflow}), '', 'and for nothing else');

	# a poll that has brought something is followed by another one
	foreach my $case ([ 'interactive', 10, 'five polls at least for each of two queues' ], [ 'bulk', 5, 'and for the third' ])
	{
		my ($kind, $n, $name) = @$case;

		ok(wait_until(sub { sum0(map { $_->{polls} } grep { $_->{kind} eq $kind } $node->workers) >= $n }, $soon), $name)
		  or diag($node->states);
	}
	ok(wait_until(sub { sockets_to($temporal->port, 'connected') >= 15 }, $soon), 'each on a connection of its own');
	return;
}

# Neither a long poll nor a query at the source is waited for in a transaction.
sub no_transaction_while_waiting
{
	# one that is held is there whenever one looks
	my $none_open = sub {
		return $node->safe_psql('postgres', q{
			select count(*) from pg_stat_activity
			where backend_type = 'opdata worker' and (xact_start is not null or backend_xmin is not null)}) == 0;
	};
	my $ended;

	ok(wait_until($none_open, $soon), 'no transaction is open during a long poll');
	ok( in_time(
			sub {
				my $ticket = begin_slow(8);
				my $seen = wait_until($none_open, 20) && sleeping($source);

				$ended = $client->receive($ticket);
				return $seen;
			}
		),
		'nor while a slow preview sleeps');
	has_result($ended, 'slept', 'which ends well');
	return;
}

sub reload
{
	my $before = $node->pids;
	my $from = log_end();
	my $ticket = begin_slow(4);

	$node->set(job_retention => '29d');
	ok(wait_until(sub { slurp_file($node->logfile, $from) =~ /parameter "opdata.job_retention" changed/ }),
		'a reload in the middle of a preview');
	has_result($client->receive($ticket), 'slept', 'does not disturb it');
	works('a reload does not disturb a long poll');
	is($node->pids, $before, 'workers that nothing is new for are the same');

	# The queue that a preview came from is left while it runs.
	$ticket = begin_slow(1);
	$organisation = 'other';
	$node->set(org_id => $organisation);
	has_result($client->receive($ticket), 'slept', 'a preview outlives a change of settings');
	works('a new organisation takes effect on reload');
	$node->workers_get('polling', 'in all workers');
	$organisation = 'acme';
	$node->set(org_id => $organisation);
	works('so does the old one');
	$node->workers_get('polling', 'in all workers');

	$node->set(temporal_address => '127.0.0.1:1');
	$node->workers_get('unreachable', 'a new address takes effect on reload');
	is($_->{lastError}{code}, 'UNAVAILABLE', "$_->{name} says why") foreach $node->workers;
	$node->set(temporal_address => $temporal->address);
	$node->workers_get('polling', 'so does the old one');
	works('a workflow is done after that');

	foreach my $needed ('org_id', 'temporal_address')
	{
		my $value = $node->safe_psql('postgres', "show opdata.$needed");
		$node->set($needed => '');
		$node->workers_get('not_configured', "without opdata.$needed workers are idle");
		is(connected(), 0, 'and have no database connection');
		$node->set($needed => $value);
		$node->workers_get('polling', 'until it is set');
	}
	return;
}

sub disabled
{
	my $ticket = begin_slow(1);

	$node->set(enabled => 'off');
	has_result($client->receive($ticket), 'slept', 'a preview is finished before the workers leave');
	$node->workers_get('disabled', 'opdata.enabled = off takes effect on reload');
	is(connected(), 0, 'they have no database connection');
	runs_at_once('the database can be renamed', 'alter database agentdb rename to renamed');
	runs_at_once('and back', 'alter database renamed rename to agentdb');
	$node->set(enabled => 'on');
	$node->workers_get('polling', 'opdata.enabled = on takes effect too');
	works('a workflow is done after that');
	return;
}

# End a worker as an administrator may.
sub terminate
{
	my ($worker, $while) = @_;
	my $begun = time();

	is($node->safe_psql('postgres', "select pg_terminate_backend($worker->{pid}, 60000)"),
		't', "$worker->{name} can be terminated during $while");
	cmp_ok(time() - $begun, '<', $at_once, 'at once');
	ok( wait_until(
			sub {
				my ($now) = grep { $_->{name} eq $worker->{name} } $node->workers;
				return $now->{state} eq 'polling' && $now->{pid} != $worker->{pid};
			},
			$soon),
		'and comes back');
	return;
}

sub termination_and_cancel
{
	my $before = $node->pids;
	my $from = log_end();
	my $ticket = begin_slow(3);

	is($node->safe_psql('postgres', "select pg_cancel_backend($_->{pid})"), 't', "$_->{name} is sent a cancel")
	  foreach $node->workers;
	has_result($client->receive($ticket), 'slept', 'the preview goes on');
	works('so do the polls');
	is($node->pids, $before, 'in the same processes');
	is_deeply([ worker_lines($from) ], [], 'and there is nothing to say about it');

	terminate($_, 'a long poll') foreach $node->workers;
	works('a workflow is done after that');

	# what is not given back times out, and is given out again; a server that takes
	# half a second to hear of it has not heard
	my $ended;
	ok( in_time(
			sub {
				$ticket = begin_slow(8);
				my ($busy) = grep { $_->{running} > 0 } $node->workers;
				terminate($busy, 'a preview') if $busy;
				$ended = $client->receive($ticket);
				my @history = @{ $client->history(workflow_id => $ended->{workflow_id}) };
				my ($failed) = grep { $_->{event_type} eq 'WORKFLOW_TASK_FAILED' } @history;

				return $failed && ($failed->{attributes}{failure}{application_failure_info}{type} // '') eq 'WorkerShutdown'
				  && !grep { $_->{event_type} eq 'WORKFLOW_TASK_TIMED_OUT' } @history;
			}
		),
		'it is given back');
	has_result($ended, 'slept', 'and done by another one');
	ok(wait_until(sub { !sleeping($source) }), 'nothing is left at the source');
	return;
}

sub other_databases
{
	foreach my $statement ('create database third', 'drop database third', 'drop database second')
	{
		my $before = $node->pids;

		runs_at_once("$statement is not blocked by long polls", $statement);
		is($node->pids, $before, 'and sends nobody away');
	}

	# the process signal barrier of a drop must be taken during a preview too
	my $ended;
	ok( in_time(
			sub {
				$node->safe_psql('postgres', 'create database fourth');
				my $ticket = begin_slow(8);
				runs_at_once('a database is dropped during a preview', 'drop database fourth');
				my $sleeps = sleeping($source);

				$ended = $client->receive($ticket);
				return $sleeps;
			}
		),
		'which still sleeps');
	has_result($ended, 'slept', 'and ends well');
	is($node->safe_psql('postgres', 'select count(*) from pg_database where datconnlimit = -2'),
		0, 'no database is left invalid');
	return;
}

# Make the database anew, with what the workers need.
sub create_anew
{
	$node->safe_psql('postgres', 'create database agentdb owner owner');
	$node->safe_psql('agentdb', 'create extension opdata cascade');
	$node->workers_get('polling', 'the workers come back with the database');
	works('a workflow is done after that');
	return;
}

sub own_database_dropped
{
	foreach my $user ('owner', 'superuser')
	{
		runs_at_once(
			"a $user drops the database of the workers during long polls",
			'drop database agentdb',
			$user eq 'owner' ? (extra_params => [ '-U', 'owner' ]) : ());
		$node->workers_get('no_database', 'the workers wait without it');
		quiet('a dropped database', 4) if $user eq 'owner';
		create_anew();
	}

	# in the middle of a job there is less time
	my $ticket = begin_slow(9);
	runs_at_once('the database is dropped during a preview', 'drop database agentdb');
	create_anew();
	has_result($client->receive($ticket), 'slept', 'which is done after the database is back');

	runs_at_once('WITH (FORCE) drops it too', 'drop database agentdb with (force)');
	create_anew();
	return;
}

sub own_database_renamed
{
	runs_at_once('the database is renamed during long polls', 'alter database agentdb rename to away');
	$node->workers_get('no_database', 'the workers wait for the name');
	is(connected(), 0, 'without a connection');
	runs_at_once('it is renamed back', 'alter database away rename to agentdb');
	$node->workers_get('polling', 'the workers come back');
	works('a workflow is done after that');

	# another database may come to have the name
	$node->safe_psql('postgres', 'create database heir template agentdb');
	$node->safe_psql('postgres', 'alter database agentdb rename to away');
	$node->workers_get('no_database', 'the workers wait for the name again');
	$node->safe_psql('postgres', 'alter database heir rename to agentdb');
	$node->workers_get('polling', 'and take the one that gets it');
	$node->safe_psql('postgres', 'drop database away');
	return;
}

sub own_database_moved_and_copied
{
	$node->safe_psql('postgres', q{create tablespace elsewhere location ''});
	runs_at_once('the database is moved during long polls', 'alter database agentdb set tablespace elsewhere');
	$node->workers_get('polling', 'the workers come back');
	works('a workflow is done after that');
	runs_at_once('it is moved back', 'alter database agentdb set tablespace pg_default');
	$node->workers_get('polling', 'the workers come back again');

	foreach my $strategy ('wal_log', 'file_copy')
	{
		runs_at_once("the database is copied during long polls ($strategy)",
			"create database copy template agentdb strategy $strategy");
		$node->workers_get('polling', 'the workers come back');
		runs_at_once('the copy is in nobody\'s hands', 'drop database copy');
	}
	works('a workflow is done after that');
	return;
}

# A command that fails, or is given up, leaves everything as it was.
sub own_database_in_use
{
	my $somebody = session($node, 'agentdb');

	is(error_of($node, 'drop database agentdb')->{sqlstate},
		'55006', 'a database that somebody uses cannot be dropped');
	$node->workers_get('polling', 'the workers come back');
	works('a workflow is done after that');

	# a try lasts for five seconds; who is to watch it is there already
	my ($drop, $watch) = map { session($node) } 1 .. 2;
	my $workers_leave = sub {
		my ($then) = @_;

		$drop->start('drop database agentdb');
		return !$watch->run(
			qq{
			set statement_timeout = '20s';
			do \$\$
			begin
				while exists (select from pg_stat_activity where backend_type = 'opdata worker') loop
					perform pg_sleep(0.05), pg_stat_clear_snapshot();
				end loop;
				perform $then(@{[ $drop->pid ]});
			end \$\$
			})->{error};
	};
	ok( in_time(
			sub {
				my $left = $workers_leave->('pg_cancel_backend');
				return $drop->finish->{error}{sqlstate} eq '57014' && $left;
			}
		),
		'the workers leave for another try, which is cancelled');
	$node->workers_get('polling', 'the workers come back');

	ok( in_time(
			sub {
				$drop = session($node) unless $drop->run('select 1')->{out} eq '1';
				my $left = $workers_leave->('pg_terminate_backend');
				return $drop->finish->{error}{sqlstate} eq '57P01' && $left;
			}
		),
		'the workers leave for a third try, whose session is terminated');
	$node->workers_get('polling', 'and come back when its session is gone');
	$somebody->quit;
	works('a workflow is done after that');

	is(error_of($node, 'begin; drop database agentdb')->{sqlstate},
		'25001', 'a database cannot be dropped in a transaction');
	$node->workers_get('polling', 'the workers are back from that too');
	return;
}

sub strangers
{
	my $before = $node->pids;

	foreach my $statement (
		'drop database agentdb',
		'alter database agentdb rename to mine',
		'alter database agentdb set tablespace elsewhere',
		'create database mine template agentdb')
	{
		is( error_of($node, $statement, extra_params => [ '-U', 'stranger' ])->{sqlstate},
			'42501',
			"without the right to it, nobody disturbs workers by: $statement");
	}
	works('a workflow is done after that');
	is($node->pids, $before, 'by the same processes');
	return;
}

# Workers run on the primary only; a standby that becomes it starts them.
sub promotion
{
	my $standby = Opdata::Agent->new('standby', soon => $soon);

	$agent->backup('backup');
	$standby->init_from_backup($agent, 'backup', has_streaming => 1);
	$standby->start;
	$agent->wait_for_catchup($standby, 'replay', $agent->lsn('insert'));

	$node = $standby;
	is_deeply([ processes() ], [], 'a standby has no worker processes');
	is($node->states, 'stopped stopped stopped', 'and its status says so');
	is($node->pids, 'none none none', 'without pids');
	works('workflows are done on the primary');

	$agent->stop;
	is_deeply([ processes() ], [], 'the end of the primary changes nothing');
	$standby->promote;
	$node->workers_get('polling', 'workers start at the promotion');
	is(scalar(() = processes()), 3, 'as many as there shall be');
	works('workflows are done on the new primary');
	$standby->stop;
	is(join("\n", unexpected($standby)), '', 'nothing but what was expected is in the log of the standby');

	$node = $agent;
	$agent->start;
	$node->workers_get('polling', 'the old primary is back');
	return;
}

sub stop_quickly
{
	my ($mode, $while) = @_;
	my $begun = time();

	$node->stop($mode);
	cmp_ok(time() - $begun, '<', $at_once, "shutdown $mode is quick during $while");
	return;
}

sub shutdowns
{
	foreach my $mode ('smart', 'fast', 'immediate')
	{
		$node->workers_get('polling', 'all workers poll');
		stop_quickly($mode, 'long polls');
		$node->start;
		$node->workers_get('polling', 'they are back after it');

		ok( in_time(
				sub {
					my $canceled = n_canceled($source);
					my $ticket = begin_slow(8);
					stop_quickly($mode, 'a preview');
					$node->start;
					has_result($client->receive($ticket), 'slept', 'which is done after the start');
					return $mode eq 'immediate' || n_canceled($source) > $canceled;
				}
			),
			'and was not waited for');
	}

	# nobody but themselves can end them then
	$node->workers_get('polling', 'all workers poll');
	my $ticket = begin_slow(5);
	my @pids = processes();
	is(scalar(@pids), 3, 'one in a preview, two in long polls');
	$node->kill9;
	ok(wait_until(sub { !kill 0, @pids }, $soon), 'workers end with the postmaster');

	# as long as any other process is left of it there is no other one
	ok(wait_until(sub { $node->start(fail_ok => 1) }), 'and it starts again');
	has_result($client->receive($ticket), 'slept', 'the preview is done after the start');
	return;
}

sub number_of_workers
{
	foreach my $numbers ([ 0, 0 ], [ 0, 1 ], [ 1, 0 ])
	{
		my ($interactive, $bulk) = @$numbers;
		my $n = $interactive + $bulk;

		$node->append_conf('postgresql.conf',
			"opdata.interactive_workers = $interactive\nopdata.bulk_workers = $bulk\n");
		$node->restart;
		$node->workers_get('polling', "$interactive workers for short jobs, $bulk for long ones");
		is( join(' ', map { $_->{name} } $node->workers),
			join(' ', $interactive ? 'interactive 1' : (), $bulk ? 'bulk 1' : ()),
			'are what the status shows');
		is(scalar(() = processes()), $n, 'and what there is');
		ok( wait_until(
				sub {
					sum0(map { $_->{polls} } $node->workers) >= 10 * $interactive + 5 * $bulk;
				},
				$soon),
			'with five polls at least for each queue');
	}
	works('a single worker does a workflow');
	$node->append_conf('postgresql.conf', "opdata.interactive_workers = 2\nopdata.bulk_workers = 1\n");
	return;
}

# A role that cannot be had is waited for, as a database is.
sub role
{
	foreach my $role ('nobody_at_all', 'no_login')
	{
		$node->append_conf('postgresql.conf', "opdata.worker_role = '$role'\n");
		$node->restart;
		$node->workers_get('no_database', "workers cannot work as role $role");
		quiet('that', 6);
	}
	$node->safe_psql('postgres', 'alter role no_login login');
	$node->workers_get('polling', 'they begin when the role may log in');
	works('a workflow is done after that');
	is( $node->safe_psql('postgres',
			q{select string_agg(distinct usename, ' ') from pg_stat_activity where backend_type = 'opdata worker'}),
		'no_login',
		'as that role');
	return;
}
