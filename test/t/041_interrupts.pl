
# A cancel, a termination, a shutdown and a barrier (DROP DATABASE of another
# database) during every wait: each acts at once instead of at the deadline,
# and the query is gone from the source. Nothing piles up in a session.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use Opdata::Credentials ('fake_network');
use Opdata::Faults;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# Far from the 10 seconds after which a wait would end by itself.
my $soon = 8;

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
	'query' => "$no_limits select pg_sleep(61) from off",
	'row' => "$no_limits select $columns, case when n = 2 then pg_sleep(62) end from off, generate_series(1, 2) n");

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
		at_source => 61,
		begun => sub { at_source(61) },
	},
	{
		name => 'a row',
		store => { port => $source->port },
		query => $query{row},
		at_source => 62,
		begun => sub { at_source(62) },
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

# One session in each wait, all at the same time.
sub begin_waits
{
	my ($setup, $why) = @_;

	foreach my $wait (@waits)
	{
		my $before = $wait->{before} ? $wait->{before}->() : 0;
		$wait->{session} = session($agent);
		$wait->{session}->run($setup) if $setup ne '';
		$wait->{session}->start(preview($wait->{name}, $wait->{query}));
		ok(wait_until(sub { $wait->{begun}->($wait->{session}, $before) }, 30),
			"$wait->{name} is waited for, to see $why");
	}
	return;
}

sub gone_from_source
{
	my ($after) = @_;

	foreach my $wait (grep { $_->{at_source} } @waits)
	{
		ok(wait_until(sub { !at_source($wait->{at_source}) }, 15),
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
	$agent->safe_psql('postgres', 'create database other');
	begin_waits('', 'DROP DATABASE and a cancel');

	# Every process has to let the barrier of DROP DATABASE through.
	my $started = time();
	$agent->safe_psql('postgres', 'drop database other');
	cmp_ok(time() - $started, '<', $soon, 'DROP DATABASE of another database is not held up');
	foreach my $wait (@waits)
	{
		ok($wait->{session}->running, "DROP DATABASE did not have to wait for the end of $wait->{name}");
	}

	foreach my $wait (@waits)
	{
		$agent->safe_psql('postgres', 'select pg_cancel_backend(' . $wait->{session}->pid . ')');
	}
	foreach my $wait (@waits)
	{
		my $name = "a cancel during $wait->{name}";
		my $result = $wait->{session}->finish;

		is($result->{error}{sqlstate}, '57014', "$name is an error");
		like($result->{error}{message}, qr/canceling statement due to user request/,
			"$name is told as such");
		session_works($wait->{session}, $name);
	}
	gone_from_source('a cancel');
	return;
}

sub statement_timeout
{
	begin_waits(q{set statement_timeout = '4s'}, q{the caller's statement_timeout});
	foreach my $wait (@waits)
	{
		my $name = "statement_timeout during $wait->{name}";
		my $result = $wait->{session}->finish;

		is($result->{error}{sqlstate}, '57014', "$name is an error");
		like($result->{error}{message}, qr/canceling statement due to statement timeout/,
			"$name is told as such");
		cmp_ok($result->{seconds}, '<', $soon, "$name ends the wait");
		session_works($wait->{session}, $name);
	}
	gone_from_source('statement_timeout');
	return;
}

sub termination
{
	begin_waits('', 'pg_terminate_backend');
	foreach my $wait (@waits)
	{
		is( $agent->safe_psql('postgres',
				'select pg_terminate_backend(' . $wait->{session}->pid . ', 5000)'),
			't',
			"pg_terminate_backend ends the process during $wait->{name}");
	}
	foreach my $wait (@waits)
	{
		my $result = $wait->{session}->finish;
		is($result->{error}{sqlstate}, '57P01', "pg_terminate_backend during $wait->{name} is told as such");
	}
	gone_from_source('pg_terminate_backend');
	return;
}

sub shutdown_while_waiting
{
	begin_waits('', 'a fast shutdown');
	my $started = time();
	$agent->stop('fast');
	cmp_ok(time() - $started, '<', $soon, 'a fast shutdown is not held up');
	foreach my $wait (@waits)
	{
		my $result = $wait->{session}->finish;
		is($result->{error}{sqlstate}, '57P01', "a fast shutdown during $wait->{name} is told as such");
	}
	gone_from_source('a fast shutdown');
	return;
}

# What a session holds.
sub holdings
{
	my ($session) = @_;
	return {
		'open files' => count_entries($session->pid, 'fd'),
		'threads' => count_entries($session->pid, 'task')
	};
}

# Calls of every kind in one session: the same files and threads after many of
# them as after a few.
sub no_leak
{
	my $ca = slurp_file($source->data_dir . '/certs/ca.crt');
	my $other_ca = slurp_file($source->data_dir . '/certs/other_ca.crt');
	my $closed = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1)->sockport;

	store($agent, 'by name', port => $source->port, host => 'source.example');
	store($agent, 'unknown name', port => $source->port, host => 'unknown.example');
	store($agent, 'refused', port => $closed);
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
		is($after->{$what}, $before->{$what}, "calls leave no $what behind");
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
