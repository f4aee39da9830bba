
# Sources that die, restart, are full, or are hostile: every one gives a
# documented error in bounded time and memory, and the session that asked works
# afterwards.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Faults;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# What a hostile source may make a session grow by. The largest message that is
# taken has 8 MiB, libpq's buffer for it twice that, and its pieces are copied.
my $memory_bound_kb = 64 * 1024;

# Longer than the 10 seconds of a preview and the second after them, on a busy
# machine.
my $deadline = 60;

my $source = source_cluster('source', conf => "restart_after_crash = on\n");
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create role crowd login password 'reader_pw' connection limit 0;
});

my $agent = agent_cluster('agent', conf => "restart_after_crash = on\n");
store($agent, 'source', port => $source->port);
store($agent, 'crowd', port => $source->port, username => 'crowd');

my $session = session($agent);
my $pid = $session->pid;

source_that_dies();
source_that_is_full();
source_in_another_encoding();
hostile_sources();
deaf_sources();
hostile_in_the_test();
hostile_login_work();

is($session->run('select pg_backend_pid()')->{out},
	$pid, 'the session that asked lived through all of it');
is( $agent->safe_psql(
		'postgres', q{select count(*) from opdata_jobs where state = 'succeeded' and kind = 'preview'}
	) > 0,
	1,
	'successful previews are recorded');
$session->quit;
done_testing();

sub preview { return "select opdata_preview('$_[0]', " . quote($_[1]) . ')'; }

sub quote { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }

sub works_again
{
	my ($after) = @_;

	like($session->run(preview('source', 'select 41 + 1 as n'))->{out},
		qr/"rows": \[\[42\]\]/, "the session works after $after");
	return;
}

# How the source can die, and what is said then.
sub source_that_dies
{
	# A row of some 20 kB: its first pages are sent, the rest waits in the
	# source's buffer for the second row, which sleeps.
	my $row = join(', ', map { "repeat('x', 1000) as c$_" } 1 .. 20);
	my %queries = (
		'in the middle of a query' => 'select pg_sleep(60)',
		'in the middle of a row' =>
		  "select $row, case when n = 2 then pg_sleep(60) end from generate_series(1, 2) n");
	my %deaths = (
		'pg_terminate_backend' => {
			kill => sub { $source->safe_psql('postgres', "select pg_terminate_backend($_[0])"); },
			sqlstate => '57P01'
		},
		'kill -9' => {
			kill => sub { kill 'KILL', $_[0]; },
			sqlstate => '08006',

			# the source may not have noticed yet
			revive => sub { $source->wait_for_log(qr/database system is ready to accept connections/, $_[0]); }
		},
		'an immediate shutdown' => {
			kill => sub { $source->stop('immediate'); },
			sqlstate => qr/^(57P0[12]|08006)$/,
			revive => sub { $source->start; }
		},
		'a fast shutdown' => {
			kill => sub { $source->stop('fast'); },
			sqlstate => '57P01',
			revive => sub { $source->start; }
		});

	foreach my $when (sort keys %queries)
	{
		foreach my $how (sort keys %deaths)
		{
			my $death = $deaths{$how};
			my $revive = $death->{revive} // sub { };
			my ($log, $result);

			# once more if the deadline was quicker than we are
			ok( wait_until(
					sub {
						my $victim;

						$session->start(preview('source', $queries{$when}));
						wait_until(
							sub {
								$victim = $source->safe_psql('postgres',
									q{select pid from pg_stat_activity where usename = 'reader' and wait_event = 'PgSleep'});
								return $victim =~ /^\d+$/ || !$session->running;
							});
						my $works = $session->running;
						$log = -s $source->logfile;
						$death->{kill}->($victim) if $works;
						$result = $session->finish;
						return 1 if $result->{seconds} < 9;
						$revive->($log) if $works;
						return 0;
					}),
				"$how $when is noticed before the deadline");
			my $error = $result->{error};

			is($error->{code}, 'query_failed', "$how $when fails the preview");
			like($error->{sqlstate}, qr/$death->{sqlstate}/,
				"$how $when has the SQLSTATE of what happened");
			isnt($error->{hint} // '', '', "$how $when has a hint");

			if ($how =~ /shutdown/)
			{
				my $down = $session->run(preview('source', 'select 1'))->{error};
				is($down->{code}, 'connection_refused', "after $how the source is down");
				like($down->{hint}, qr/127\.0\.0\.1 port \d+/,
					"after $how the hint names where to look");
			}
			$revive->($log);
			works_again("$how $when");
		}
	}

	$source->restart;
	works_again('a restart of the source between two calls');
	return;
}

sub source_that_is_full
{
	my $error = $session->run(preview('crowd', 'select 1'))->{error};
	is($error->{code}, 'connection_refused', 'a source without free slots refuses');
	is($error->{sqlstate}, '53300', 'a source without free slots is told by its SQLSTATE');
	like($error->{hint}, qr/out of connection/, 'a source without free slots has a hint');

	my $test = decode($session->run(q{select opdata_test('crowd')})->{out});
	ok(!$test->{ok}, 'a source without free slots fails the test');
	is($test->{error}{code}, 'connection_refused', 'the test has the same code');
	return;
}

sub decode { return JSON::PP->new->utf8->decode($_[0]); }

# Bytes that are no UTF-8, from an honest server.
sub source_in_another_encoding
{
	$source->safe_psql('postgres',
		"create database ascii encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0");
	$source->safe_psql('postgres',
		"create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0");
	foreach my $database ('ascii', 'latin')
	{
		$source->safe_psql($database, q{
			set client_encoding = 'sql_ascii';
			create table coffee as
				select 1 as n, convert_from('\x636166e9', getdatabaseencoding()) as name;
			create function fail() returns int language plpgsql as
				$$ begin raise exception '%', (select name from coffee); end $$;
			grant select on coffee to reader;
		});
		store($agent, $database, port => $source->port, database => $database);
	}

	# A server that does not know the encoding of its own bytes sends none that
	# are not in the client's.
	my $result = $session->run(preview('ascii', 'select n from coffee'));
	is_deeply(decode($result->{out})->{rows},
		[ [1] ], 'a SQL_ASCII source can be previewed');
	my $error = $session->run(preview('ascii', 'select * from coffee'))->{error};
	is($error->{code}, 'query_failed', 'Latin-1 bytes of a SQL_ASCII source are an error');
	is($error->{sqlstate}, '22021', 'Latin-1 bytes of a SQL_ASCII source are told by the SQLSTATE');
	$result = $session->run(preview('ascii',
			q{select encode(convert_to(name, 'SQL_ASCII'), 'hex') from coffee}));
	is_deeply(decode($result->{out})->{rows},
		[ ['636166e9'] ], 'Latin-1 bytes of a SQL_ASCII source can be seen in hex');
	$result = $session->run(preview('ascii', 'select fail()'));
	is($result->{error}{code}, 'query_failed', 'an error text in Latin-1 is an error');
	ok(utf8::decode(my $copy = $result->{text}), 'an error text in Latin-1 arrives as valid UTF-8');

	$result = $session->run(preview('latin', 'select * from coffee'));
	is_deeply(decode($result->{out})->{rows},
		[ [ 1, "caf\x{E9}" ] ], 'a LATIN1 source is converted');
	return;
}

# Hostile servers that fall silent or do endless work take the whole deadline:
# side by side.
sub deaf_sources
{
	my %deaf = map { $_ => 'query_timeout' }
	  qw(login-silent tls-answer-then-silence tls-answer-then-garbage begin-silent
	  row-silent no-end login-endless-parameters endless-parameters);
	my @waiting;

	foreach my $mode (sort keys %deaf)
	{
		my $server = hostile_server($mode);
		my $one = { mode => $mode, server => $server, session => session($agent), code => $deaf{$mode} };
		store_hostile($mode, $server);
		clear_high_water($one->{session}->pid);
		$one->{before} = status_kb($one->{session}->pid, 'VmRSS');
		$one->{session}->start(preview($mode, 'select 1'));
		push @waiting, $one;
	}
	foreach my $one (@waiting)
	{
		my $result = $one->{session}->finish;

		is($result->{error}{code}, $one->{code}, "hostile source: $one->{mode}");
		cmp_ok($result->{seconds}, '<', $deadline, "hostile source: $one->{mode} ends at the deadline");
		grew_little($one->{session}->pid, $one->{before}, $one->{mode});
		is($one->{session}->run('select 1')->{out}, '1', "hostile source: $one->{mode} leaves the session alive");
		$one->{session}->quit;
	}
	return;
}

sub store_hostile
{
	my ($mode, $server) = @_;
	store($agent, $mode, port => $server->port,
		sslMode => $mode =~ /^tls/ ? 'require' : 'disable');
	return;
}

sub clear_high_water
{
	my ($of) = @_;
	open(my $file, '>', "/proc/$of/clear_refs") or die "clear_refs: $!";
	print $file '5';
	close $file or die "clear_refs: $!";
	return;
}

sub grew_little
{
	my ($of, $before, $mode) = @_;
	cmp_ok(status_kb($of, 'VmHWM') - $before,
		'<', $memory_bound_kb, "hostile source: $mode does not grow the agent");
	return;
}

# Each hostile server, and what becomes of it: an error code, or a check of the
# result.
sub hostile_sources
{
	my %lost = (sqlstate => '08006', code => 'query_failed');
	my %refused = (sqlstate => '08001', code => 'connection_refused');
	my %failed = (code => 'query_failed');
	my %expected = (
		'honest' => { rows => [ ['honest'] ] },

		# before the sign-in is done
		(
			map { $_ => {%refused} }
			  qw(http garbage closes tls-garbage tls-answer-garbage tls-endless tls-closes
			  login-huge-error login-old-error login-huge-message login-endless-notices)
		),
		(
			map { $_ => { code => 'authentication_failed', sqlstate => '28000' } }
			  qw(login-kerberos login-unknown-method login-negative-scram
			  login-password-flood login-hidden-kerberos)
		),
		'starting-up' => { code => 'connection_refused', sqlstate => '57P03' },
		'in-another-language' => { code => 'connection_refused', sqlstate => '57P03' },
		'login-bad-parameters' => { rows => [ ['honest'] ] },

		# the description
		'no-description' => {%failed},
		'describes-nothing' => {%failed},
		'describes-parameters' => { code => 'statement_not_allowed' },
		'describe-garbage' => {%lost},
		'huge-description' => {%failed},
		'bad-names' => { rows => [ [ "caf\x{FFFD}", "\x{FFFD}(\x{FFFD}(" ] ] },

		# rows
		'other-columns' => {%failed},
		'other-cells' => {%failed},
		'too-few-cells' => {%failed},
		'overlong-cell' => {%failed},
		'negative-length' => {},
		'copy-out' => {%failed},
		'copy-in' => {%failed},
		'query-garbage' => {%lost},
		'huge-row' => {%failed},
		'huge-row-lies' => {%failed},
		'huge-error' => {%failed},
		'long-error' => { code => 'query_failed', sqlstate => '22000' },
		'odd-error' => { code => 'query_failed', sqlstate => '22000', message => qr/: no [^[:cntrl:]]+ end$/ },
		'odd-sqlstate' => {%failed},
		'no-error' => { code => 'query_failed', sqlstate => qr/^(?!00)/ },
		'endless-notices' => {%failed},
		'endless-notifications' => {%failed},
		'endless-results' => {%failed},
		'endless-rows' => { count => 100 },
		'endless-empty-rows' => { count => 100 },
		'closes-in-row' => {%lost},
		'not-utf8' => { like => qr/^\x{FFFD}{2} caf\x{FFFD} .* end$/ },
		'nul' => { rows => [ ['ab'] ] },
		'odd-numbers' => {},
		'wide-numbers' => {},
		'many-columns' => {});

	# How much arrives before the agent looks is chance: a few attempts.
	foreach my $mode ((sort keys %expected), ('huge-row', 'huge-description') x 2)
	{
		my $want = $expected{$mode};
		my $server = hostile_server($mode);
		store_hostile($mode, $server);

		clear_high_water($pid);
		my $before = status_kb($pid, 'VmRSS');
		my $result = $session->run(preview($mode, 'select 1'));
		my $error = $result->{error} // {};
		my $name = "hostile source: $mode";

		cmp_ok($result->{seconds}, '<', $deadline, "$name ends in time");
		grew_little($pid, $before, $mode);
		ok(utf8::decode(my $copy = $result->{text} . $result->{out}), "$name shows valid UTF-8");
		unlike($result->{text} . $result->{out},
			qr/[\0-\x08\x0B-\x1F\x7F]/, "$name shows no control characters");
		unlike($result->{text}, qr/hunter2|reader_pw/, "$name repeats nothing that it should not");
		if (exists $want->{code})
		{
			is($error->{code}, $want->{code}, "$name gives its error");
			like($error->{sqlstate}, qr/^[0-9A-Z]{5}$/, "$name has a SQLSTATE");
			like($error->{sqlstate}, qr/^$want->{sqlstate}/, "$name has the right SQLSTATE")
			  if $want->{sqlstate};
			like($error->{message}, $want->{message}, "$name has its message") if $want->{message};
		}
		elsif (!is($result->{error}, undef, "$name is no error"))
		{
			diag($result->{text});
		}
		else
		{
			my $preview = decode($result->{out});
			cmp_ok($preview->{rowCount}, '<=', 100, "$name gives no more than 100 rows");
			cmp_ok(length $result->{out}, '<=', 1024 * 1024, "$name gives no more than 1 MiB");
			is_deeply($preview->{rows}, $want->{rows}, "$name has its rows") if $want->{rows};
			is($preview->{rowCount}, $want->{count}, "$name has its number of rows")
			  if defined $want->{count};
			like($preview->{rows}[0][0], $want->{like}, "$name has its cell") if $want->{like};
		}
		$server->stop;
		$agent->safe_psql('postgres', "select opdata_delete('$mode')");
	}
	works_again('all hostile sources');
	return;
}

# The test of a connection has queries of its own.
sub hostile_in_the_test
{
	my %servers = map { $_ => hostile_server($_) }
	  qw(audit-terminated begin-silent login-bad-parameters starting-up);
	store_hostile($_, $servers{$_}) foreach keys %servers;

	my $silent = session($agent);
	$silent->start(q{select opdata_test('begin-silent')});

	my $test = decode($session->run(q{select opdata_test('starting-up')})->{out});
	ok(!$test->{ok}, 'a source that is starting fails the test');
	is($test->{error}{code}, 'connection_refused', 'a source that is starting refuses');

	# The connection broke: nobody knows whether this source can be used.
	$test = decode($session->run(q{select opdata_test('audit-terminated')})->{out});
	ok(!$test->{ok}, 'a source that ends the connection during the test fails it');

	my $result = $session->run(q{select opdata_test('login-bad-parameters')});
	unlike($result->{out}, qr/[\0-\x08\x0B-\x1F\x7F]/,
		q{a server's odd version text shows no control characters});
	is(decode($result->{out})->{serverVersion},
		"15\x{FFFD}[2J", q{a server's odd version text is made readable});

	$result = $silent->finish;
	$test = decode($result->{out});
	ok(!$test->{ok}, 'a source that falls silent after the sign-in fails the test');
	is($test->{error}{code}, 'timeout', 'a source that falls silent after the sign-in times out');
	unlike($test->{error}{hint}, qr/fewer rows|index/,
		'the hint is not about a query that the user never wrote');
	$silent->quit;
	return;
}

# A login can ask for work instead of waiting: an iteration count that keeps the
# processor busy. It has to obey the deadline, or at least a termination.
sub hostile_login_work
{
	my $server = hostile_server('login-hard-scram');
	my $busy = session($agent);
	store_hostile('login-hard-scram', $server);

	$busy->start(preview('login-hard-scram', 'select 1'));
	ok($server->reached('scram'), 'the server asks for endless key derivation');
	my $ended = wait_until(sub { !$busy->running }, $deadline);
	ok($ended, 'endless key derivation ends at the deadline');
	my $victim = $busy->pid;
	if (!$ended)
	{
		$agent->safe_psql('postgres', "select pg_terminate_backend($victim)");
		ok(wait_until(sub { !-e "/proc/$victim" }), 'endless key derivation can be terminated');

		# whoever does not listen would hold up the end of the test
		if (-e "/proc/$victim")
		{
			kill 'QUIT', $victim;
			wait_until(sub { !-e "/proc/$victim" });
			$agent->poll_query_until('postgres', 'select true');
			$session = session($agent);
			$pid = $session->pid;
		}
	}
	$busy->quit if $ended;
	return;
}
