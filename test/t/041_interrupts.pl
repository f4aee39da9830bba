
# A cancel, a termination, a shutdown and a barrier (DROP DATABASE of another
# database) during every wait: each acts at once instead of at the deadline,
# and the query is gone from the source. Nothing piles up in a session.

use strict;
use warnings;

use Cwd 'realpath';
use FindBin;
use lib "$FindBin::RealBin/../perl";
use Opdata::Credentials ('fake_network');
use Opdata::Faults;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# A wait would end by itself after 10 seconds.
my $deadline = 9.5;

my $source = source_cluster('source', tls => 1, conf => "track_activity_query_size = 16384\n");
$source->safe_psql('postgres', q{create role reader login password 'reader_pw'});

my $agent;
{
	local %ENV = (%ENV, fake_network(<<EOT));
silent.example silent
unknown.example unknown
source.example 127.0.0.1
EOT
	$agent = agent_cluster('agent');
}

# Queries that nothing but a cancel request ends in time. The row has some
# 20 kB: its first pages are sent, the rest waits in the source's buffer for
# the second row, which sleeps.
my $no_limits = q{with off as materialized (select
	set_config('statement_timeout', '0', false),
	set_config('client_connection_check_interval', '0', false),
	set_config('idle_in_transaction_session_timeout', '0', false))};
my $columns = join(', ', map { "repeat('x', 1000) as c$_" } 1 .. 20);
my %query = (
	'query' => "$no_limits select pg_sleep(601) from off",
	'row' => "$no_limits select $columns, case when n = 2 then pg_sleep(602) end from off, generate_series(1, 2) n");

# Each wait: where it is, and how to see that it has begun.
my $black_hole = black_hole();
my $silent = silent_server(at => 'connect');
my %hostile = map { $_ => hostile_server($_) }
  qw(tls-answer-then-silence login-silent begin-silent cancel-unanswered);
my @waits = (
	{
		name => 'name resolution',
		store => { host => 'silent.example', port => 5432 },
		begun => sub { count_entries($_[0]->pid, 'task') > 1 }
	},
	{
		name => 'the TCP connect',
		store => { port => $black_hole->port },
		begun => sub { sockets_to($black_hole->port, 'connecting') > $_[1] },
		before => sub { sockets_to($black_hole->port, 'connecting') }
	},
	{
		name => 'the first answer',
		store => { port => $silent->port },
		begun => sub { sockets_to($silent->port, 'connected') > $_[1] },
		before => sub { sockets_to($silent->port, 'connected') }
	},
	hostile_wait('the TLS handshake', 'tls-answer-then-silence', 'client hello'),
	hostile_wait('the sign-in', 'login-silent', 'password'),
	hostile_wait('the first statement', 'begin-silent', 'signed in'),
	hostile_wait('a query at a source that answers no cancel request', 'cancel-unanswered', 'query'),
	{
		name => 'a query',
		store => { port => $source->port },
		query => $query{query},
		at_source => 601,
		begun => sub { at_source(601) },
	},
	{
		name => 'a row',
		store => { port => $source->port },
		query => $query{row},
		at_source => 602,
		begun => sub { at_source(602) },
	});
store($agent, $_->{name}, %{ $_->{store} }) foreach @waits;
store($agent, 'source', port => $source->port);

barrier_and_cancel();
statement_timeout();
termination();
no_leak();
no_leak_of_cancel_requests();
shutdown_while_waiting();
done_testing();

sub hostile_wait
{
	my ($name, $mode, $event) = @_;
	my $server = $hostile{$mode};

	return {
		name => $name,
		store => { port => $server->port, sslMode => $mode =~ /^tls/ ? 'require' : 'disable' },
		begun => sub { $server->reached($event) }
	};
}

sub preview
{
	my ($id, $query) = @_;
	$query //= 'select 1';
	$query =~ s/'/''/g;
	return "select opdata_preview('$id', '$query')";
}

# Does the source work on the query with this number?
sub at_source
{
	my ($number) = @_;
	return $source->safe_psql('postgres', qq{
		select count(*) from pg_stat_activity
		where usename = 'reader' and state = 'active' and wait_event = 'PgSleep'
			and query ~ 'pg_sleep\\($number\\)'}) > 0;
}

# One session in each wait. False if one was over before it was seen.
sub begin_waits
{
	my ($setup) = @_;

	foreach my $wait (@waits)
	{
		my $before = $wait->{before} ? $wait->{before}->() : 0;
		my $session = $wait->{session} = session($agent);

		$session->run($setup) if $setup ne '';
		$session->start(preview($wait->{name}, $wait->{query}));
		wait_until(sub { $wait->{begun}->($session, $before) || !$session->running });
		return 0 unless $session->running;
	}
	return 1;
}

# The ends of all waits; false if one of them came by itself.
sub end_waits
{
	$_->{result} = $_->{session}->finish foreach @waits;
	return !grep { ($_->{result}{error}{code} // '') eq 'query_timeout' || ($_->{result}{seconds} // 0) > $deadline }
	  @waits;
}

# Interrupt all waits. What does so must be quicker than their own end, which no
# machine is each time: it is done again until it was. It is false when it was not.
sub interrupted
{
	my ($name, $setup, $interrupt) = @_;

	ok( wait_until(
			sub {
				return 1 if begin_waits($setup) && $interrupt->();
				$_->quit foreach grep { defined } map { delete $_->{session} } @waits;
				return 0;
			}),
		"$name acts on all waits before they end by themselves");
	return;
}

sub pids { return 'unnest(array[' . join(', ', map { $_->{session}->pid } @waits) . ']) pid'; }

sub gone_from_source
{
	my ($after) = @_;

	foreach my $wait (grep { $_->{at_source} } @waits)
	{
		ok(wait_until(sub { !at_source($wait->{at_source}) }),
			"after $after during $wait->{name} the query is gone from the source");
	}
	return;
}

sub session_works
{
	my ($session, $name) = @_;
	like($session->run(preview('source', 'select 6 * 7'))->{out},
		qr/\[\[42\]\]/, "$name leaves the session alive");
	$session->quit;
	return;
}

sub barrier_and_cancel
{
	# with nothing left to write, which DROP DATABASE would have to wait for
	my $create = "create database other;\ncheckpoint";

	# Every process has to let the barrier of DROP DATABASE through.
	$agent->safe_psql('postgres', $create);
	interrupted(
		'DROP DATABASE of another database, and then a cancel,',
		'',
		sub {
			$agent->safe_psql('postgres', 'drop database other');
			if (!grep { !$_->{session}->running } @waits)
			{
				$agent->safe_psql('postgres', 'select pg_cancel_backend(pid) from ' . pids());
				return 1 if end_waits();
			}
			$agent->safe_psql('postgres', $create);
			return 0;
		});
	foreach my $wait (@waits)
	{
		my $name = "a cancel during $wait->{name}";

		is($wait->{result}{error}{sqlstate}, '57014', "$name is an error");
		like($wait->{result}{error}{message}, qr/canceling statement due to user request/,
			"$name is told as such");
		session_works($wait->{session}, $name);
	}
	gone_from_source('a cancel');
	return;
}

sub statement_timeout
{
	interrupted(q{the caller's statement_timeout}, q{set statement_timeout = '4s'}, \&end_waits);
	foreach my $wait (@waits)
	{
		my $name = "statement_timeout during $wait->{name}";

		is($wait->{result}{error}{sqlstate}, '57014', "$name is an error");
		like($wait->{result}{error}{message}, qr/canceling statement due to statement timeout/,
			"$name is told as such");
		$wait->{session}->run('reset statement_timeout');
		session_works($wait->{session}, $name);
	}
	gone_from_source('statement_timeout');
	return;
}

sub termination
{
	interrupted(
		'pg_terminate_backend',
		'',
		sub {
			$agent->safe_psql('postgres', 'select pg_terminate_backend(pid) from ' . pids());
			return end_waits();
		});
	foreach my $wait (@waits)
	{
		my $pid = $wait->{session}->pid;

		is($wait->{result}{error}{sqlstate}, '57P01', "pg_terminate_backend during $wait->{name} is told as such");
		ok(wait_until(sub { !-e "/proc/$pid" }), "pg_terminate_backend ends the process during $wait->{name}");
	}
	gone_from_source('pg_terminate_backend');
	return;
}

sub shutdown_while_waiting
{
	interrupted(
		'a fast shutdown',
		'',
		sub {
			$agent->stop('fast');
			return 1 if end_waits();
			$agent->start;
			return 0;
		});
	foreach my $wait (@waits)
	{
		is($wait->{result}{error}{sqlstate}, '57P01', "a fast shutdown during $wait->{name} is told as such");
	}
	gone_from_source('a fast shutdown');
	return;
}

# What a session holds. The server opens and closes files of the database as it likes.
sub holdings
{
	my ($session) = @_;
	my $of_database = realpath($agent->data_dir);

	return {
		'open files' =>
		  scalar(grep { (readlink($_) // $of_database) !~ /^\Q$of_database\E/ } glob('/proc/' . $session->pid . '/fd/*')),
		'threads' => count_entries($session->pid, 'task')
	};
}

# Calls of every kind in one session: the same files and threads after many of
# them as after a few.
sub no_leak
{
	my $ca = slurp_file($source->data_dir . '/certs/ca.crt');
	my $other_ca = slurp_file($source->data_dir . '/certs/other_ca.crt');

	store($agent, 'by name', port => $source->port, host => 'source.example');
	store($agent, 'unknown name', port => $source->port, host => 'unknown.example');
	store($agent, 'refused', port => closed_port());
	store($agent, 'wrong password', port => $source->port, password => 'wrong');
	store($agent, 'no such database', port => $source->port, database => 'nowhere');
	store($agent, 'verified', port => $source->port, sslMode => 'verify-full', sslRootCert => $ca);
	store($agent, 'not trusted', port => $source->port, sslMode => 'verify-full', sslRootCert => $other_ca);

	my $wide = "select $columns from generate_series(1, 100)";
	my @calls = (
		[ preview('source'), 'ok' ],
		[ preview('by name'), 'ok' ],
		[ preview('verified'), 'ok' ],
		[ preview('source', $wide), 'ok' ],    # stops reading at 1 MiB
		[ q{select opdata_test('source')}, 'ok' ],
		[ q{select opdata_test('verified')}, 'ok' ],
		[ q{select opdata_test('not trusted')}, 'ok' ],
		[ q{select opdata_test('unknown name')}, 'ok' ],
		[ preview('unknown name'), 'host_not_found' ],
		[ preview('refused'), 'connection_refused' ],
		[ preview('wrong password'), 'authentication_failed' ],
		[ preview('no such database'), 'database_not_found' ],
		[ preview('not trusted'), 'certificate_untrusted' ],
		[ preview('source', 'select 1 / 0'), 'query_failed' ],
		[ preview('source', 'delete from t'), 'statement_not_allowed' ],
		[ preview('nobody'), 'connection_not_found' ]);

	# A name that is never answered keeps its thread until the name service
	# gives up; an unanswered cancel request is looked at below.
	foreach my $wait (grep { $_->{name} !~ /name|cancel|statement/ } @waits)
	{
		push @calls, [ preview($wait->{name}, $wait->{query}), 'cancelled' ];
	}

	my $session = session($agent);
	my $round = sub {
		foreach my $call (@calls)
		{
			my $limit = $call->[1] eq 'cancelled' ? '500ms' : '1min';

			$session->run("set statement_timeout = '$limit'");
			my $error = $session->run($call->[0])->{error};
			my $code = !$error ? 'ok'
			  : $error->{code} // ($error->{sqlstate} eq '57014' ? 'cancelled' : 'none');
			is($code, $call->[1], 'outcome of ' . substr($call->[0], 0, 60)) if $code ne $call->[1];
		}
	};
	my $contexts = q{select sum(used_bytes) from pg_backend_memory_contexts};

	$round->() foreach 1 .. 2;
	$session->run($contexts);
	ok(wait_until(sub { count_entries($session->pid, 'task') == 1 }), 'all threads end by themselves');
	my $before = holdings($session);
	my $used = $session->run($contexts)->{out};
	my $resident = status_kb($session->pid, 'VmRSS');

	$round->() foreach 1 .. 3;
	cmp_ok(3 * @calls, '>', 50, 'more than 50 calls were made');
	ok(wait_until(sub { count_entries($session->pid, 'task') == 1 }), 'all threads end by themselves again');
	my $after = holdings($session);
	foreach my $what (sort keys %$before)
	{
		cmp_ok($after->{$what}, '<=', $before->{$what}, "calls leave no $what behind");
	}
	cmp_ok($session->run($contexts)->{out} - $used, '<', 100 * 1024, q{calls leave nothing in the server's memory contexts});
	cmp_ok(status_kb($session->pid, 'VmRSS') - $resident, '<', 10 * 1024, 'calls leave no memory behind');
	gone_from_source('many calls');
	session_works($session, 'a long row of calls');
	return;
}

# A source, or what stands before it, that takes cancel requests and never
# answers them: a session may not collect a thread for each.
sub no_leak_of_cancel_requests
{
	my $session = session($agent);
	my $calls = 20;

	$session->run(q{set statement_timeout = '200ms'});
	foreach (1 .. $calls)
	{
		$session->run(preview('a query at a source that answers no cancel request'));
	}
	ok( wait_until(
			sub { count_entries($session->pid, 'task') < $calls / 2 }, 20),
		'cancel requests that nobody answers do not pile up')
	  or diag(count_entries($session->pid, 'task') . " threads after $calls calls");
	session_works($session, 'a row of cancel requests that nobody answers');
	return;
}
