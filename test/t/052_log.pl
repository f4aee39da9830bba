
# No credential stays where somebody else can read it. A canary is planted as
# a password on every road that a statement can take; afterwards everything
# that the server wrote is searched for it.
#
# What cannot be hidden is listed under "documented exceptions" at the end:
# each is tested to be as documented, and its remedy to help.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Find;
use IPC::Run;
use JSON::PP;
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $hidden = '<statement with credentials, hidden by opdata>';
my $scratch = $PostgreSQL::Test::Utils::tmp_check;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});
my $silent = silent_server(at => 'connect');

my $agent = agent_cluster('agent', conf => <<'CONF');
shared_preload_libraries = 'opdata, auto_explain, pg_stat_statements'
pg_stat_statements.track = all
pg_stat_statements.track_utility = on
logging_collector = on
log_destination = 'stderr,csvlog,jsonlog'
log_directory = 'log'
log_filename = 'server.log'
log_rotation_age = 0
log_rotation_size = 0
log_statement = none
deadlock_timeout = '200ms'
restart_after_crash = on
CONF
my $log = $agent->data_dir . '/log/server.log';

# How much is logged. PostgreSQL's defaults, what an auditor would set, and
# everything there is.
my %levels = (
	quiet => '',
	audit => join(
		' ', map { "-c $_" } 'log_statement=all',
		'log_min_duration_statement=0',
		'log_duration=on',
		'log_lock_waits=on',
		'log_parameter_max_length=-1',
		'log_parameter_max_length_on_error=-1',
		'auto_explain.log_min_duration=0',
		'auto_explain.log_nested_statements=on',
		'auto_explain.log_analyze=on',
		'auto_explain.log_verbose=on'));

# since 16, auto_explain shows parameters too
my $explain_parameters =
  $agent->pg_version >= 16 ? ' -c auto_explain.log_parameter_max_length=' : '';
$levels{audit} .= "$explain_parameters-1" if $explain_parameters;
$levels{loud} = join(
	' ', $levels{audit}, map { "-c $_" } 'log_min_messages=debug5',
	'log_min_error_statement=debug5',
	'log_error_verbosity=verbose',
	'log_parser_stats=on',
	'log_planner_stats=on',
	'log_executor_stats=on',
	'debug_print_parse=on',
	'debug_print_rewritten=on',
	'debug_print_plan=on');

$agent->safe_psql(
	'postgres', q{
	create extension pg_stat_statements;
	create table locked (a int);
	create function my_store(pw text, port int) returns jsonb language plpgsql as $$
		begin
			return opdata_store_creds('own', jsonb_build_object('host', '127.0.0.1',
				'port', port, 'database', 'postgres', 'username', 'reader',
				'password', pw, 'sslMode', 'disable'));
		end $$;
	create function complain() returns void language plpgsql as $$
		begin
			raise exception 'plain complaint'
				using detail = 'detail of the complaint', hint = 'hint of the complaint';
		end $$});

# Roads: a script for psql, in which %C is the canary, %P a payload with the
# canary as its password, %R the same for a port where nobody listens and %S
# for a server that says nothing.
my @roads = (
	[ 'a literal', q{select opdata_store_creds('r', '%P', test => false)} ],
	[
		'a dollar-quoted literal',
		q{select opdata_store_creds('r', $x$%P$x$, test => false)}
	],
	[
		'an escape string',
		q{select opdata_store_creds('r', E'%P', test => false)}
	],
	[
		'a call in capitals with a quoted schema',
		q{SELECT "public" . OPDATA_STORE_CREDS ('r', '%P', test => FALSE)}
	],
	[
		'several statements at once',
		q{select 1\; select opdata_store_creds('r', '%P', test => false)\; select 2}
	],
	[ 'a test of a payload', q{select opdata_test('%P'::jsonb)} ],
	[
		'a query that calls it deep inside',
		q{with a as (select (select opdata_test('%P'::jsonb)) as b) select b from a}
	],
	[ 'a password that is wrong', q{select opdata_store_creds('r', '%P')} ],
	[ 'a connection that is refused', q{select opdata_store_creds('r', '%R')} ],
	[
		'a source that does not answer in time',
		q{select opdata_store_creds('r', '{"dsn": "host=127.0.0.1 port=%s user=u password=%C dbname=d sslmode=disable connect_timeout=1"}')}
	],
	[
		'a statement_timeout',
		q{set statement_timeout = '300ms'; select opdata_store_creds('r', '%S')}
	],
	[
		'PREPARE with a literal',
		q{prepare p as select opdata_store_creds('r', '%P', test => false); execute p}
	],
	[
		'EXECUTE with a literal',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			execute p('%P')}
	],
	[
		'EXECUTE of a quoted name in odd writing',
		q{prepare "My ""p"(jsonb) as select opdata_store_creds('r', $1, test => false);
			eXeCuTe -- a comment
			/* and another */ "My ""p" ('%P')}
	],
	[
		'EXECUTE behind a nested comment',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			execute /* outer /* inner */ still outer */ p('%P')}
	],
	[
		'EXECUTE of a name in Unicode escapes',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			execute U&"\0070"('%P')}
	],
	[
		'EXECUTE with too many arguments',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			execute p('%P', '%C')}
	],
	[
		'EXECUTE with a malformed argument',
		q[prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			execute p('{"password": "%C"')]
	],
	[
		'EXECUTE and DEALLOCATE at once',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			execute p('%P')\; deallocate p}
	],
	[
		'EXECUTE in a failed transaction',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			begin; select 1/0; execute p('%P'); rollback}
	],
	[
		'a call in a failed transaction',
		q{begin; select 1/0; select opdata_store_creds('r', '%P'); rollback}
	],
	[
		'a malformed payload',
		q{select opdata_store_creds('r', '{"password": "%C", oops}')}
	],
	[
		'a payload that breaks off inside the password',
		q[select opdata_store_creds('r', '{"host": "h", "password": "%C')]
	],
	[ 'a payload that is no JSON at all', q{select opdata_store_creds('r', '%C')} ],
	[
		'a payload of another type',
		q{select opdata_store_creds('r', '%P'::xml)}
	],
	[
		'an argument that does not exist',
		q{select opdata_store_creds('r', '%P', password => '%C')}
	],
	[ 'an argument of another type', q{select opdata_store_creds('r', '%P', test => '%C')} ],
	[
		'a password in double quotes',
		q{select opdata_store_creds('r', jsonb_build_object('password', "%C"))}
	],
	[ 'a payload in the place of an id', q{select opdata_test('%P')} ],
	[
		'a payload in the place of the id to store',
		q{select opdata_store_creds('%P', '{}')}
	],
	[
		'a password in the place of the type',
		q{select opdata_store_creds('r', '%P', type => '%C')}
	],
	[
		'a password in the place of the type of a test',
		q{select opdata_test('%P'::jsonb, '%C')}
	],
	[ 'a syntax error', q{select opdata_store_creds('r', '%P') frm nowhere at all} ],
	[
		'a private key in the place of the public one',
		q{select opdata_trust_recipient('{"kty": "EC", "crv": "P-256", "x": "%C", "y": "%C", "d": "%C"}', 'me')}
	],
	[ 'a syntax error at the password', q{select opdata_store_creds('r', '%P' '%C')} ],
	[ 'a literal that is not closed', q{select opdata_store_creds('r', '%P} ],
	[
		'an error in another column',
		q{select opdata_store_creds('r', '%P', test => false), 1/0}
	],
	[
		'an unknown key',
		q{select opdata_store_creds('r', '{"hots": "%C", "password": "%C"}')}
	],
	[
		'a password that is a list',
		q{select opdata_store_creds('r', '{"host": "h", "database": "d", "username": "u", "password": ["%C"]}')}
	],
	[
		'a password that is an object',
		q{select opdata_store_creds('r', '{"host": "h", "database": "d", "username": "u", "password": {"value": "%C"}}')}
	],
	(
		map {
			[
				"a password in the place of $_",
				qq{select opdata_store_creds('r', '{"host": "h", "database": "d", "username": "u", "$_": "%C"}')}
			]
		} qw(port sslMode mode sslRootCert sslCert sslKey)
	),
	[
		'a key of a certificate that does not fit',
		q{select opdata_store_creds('r', '{"host": "h", "database": "d", "username": "u",
			"sslKey": "-----BEGIN PRIVATE KEY-----\n%C\n-----END PRIVATE KEY-----\n", "sslCert": "%C"}')}
	],
	(
		map {
			[ "the connection string $_",
				qq{select opdata_store_creds('r', '{"dsn": "$_"}')} ]
		} (
			'%C',
			'postgresql://u:%C@',
			'postgresql://u:%C@h:port:more/d',
			'postgresql://u:%C@[::1/d',
			'postgresql://u:%C@h/d?%C=1',
			'postgresql://u:%C@h/d?sslmode=%C',
			'postgresql://u:%C%zz@h/d',
			'password=%C bogus',
			'password=%C %C=1',
			q{password=''''%C},
			'host=h password=%C port=%C',
			'host=h password=%C options=%C',
			'host=h password=%C connect_timeout=%C',
			'host=h password=%C passfile=/%C',
			'host=h password=%C sslkey=/%C',
			'host=h password=%C service=%C')
	),
	[
		'a client that wants all messages',
		q{set client_min_messages = debug5; select opdata_store_creds('r', '%P', test => false)}
	],
	[
		'an INSERT of the result',
		q{create temp table t (a jsonb); insert into t values (opdata_test('%P'::jsonb))}
	]);

# The same for utility statements, whose text pg_stat_statements keeps.
my @utility_roads = (
	[ 'EXPLAIN', q{explain (verbose) select opdata_store_creds('r', '%P', test => false)} ],
	[ 'EXPLAIN ANALYZE', q{explain analyze select opdata_store_creds('r', '%P', test => false)} ],
	[
		'EXPLAIN ANALYZE EXECUTE',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			explain analyze execute p('%P')}
	],
	[ 'CREATE TABLE AS', q{create temp table t as select opdata_test('%P'::jsonb)} ],
	[
		'CREATE TABLE AS EXECUTE',
		q{prepare p(jsonb) as select opdata_store_creds('r', $1, test => false);
			create temp table t as execute p('%P')}
	],
	[
		'a DO block',
		q{do $$ begin perform opdata_store_creds('r', '%P', test => false); end $$}
	],
	[
		'a DO block with a dynamic statement',
		q{do $$ begin execute format('select opdata_store_creds(%L, %L, test => false)', 'r', '%P'); end $$}
	],
	[
		'a DO block that catches the error and reports it',
		q{do $$ begin perform opdata_store_creds('r', '%P');
			exception when others then raise warning 'caught: %', sqlerrm; end $$}
	],
	[ 'a DO block that fails', q{do $$ begin perform opdata_store_creds('r', '%P'); end $$} ],
	[ 'COPY', q{copy (select opdata_store_creds('r', '%P', test => false)) to stdout} ],
	[
		'a cursor',
		q{begin; declare c cursor for select opdata_store_creds('r', '%P', test => false);
			fetch c; close c; commit}
	],
	[
		'a cursor that is closed by the end of the transaction',
		q{begin; declare c cursor for select opdata_store_creds('r', '%P', test => false);
			fetch c; select 1; commit}
	],
	[
		'a cursor whose fetch fails',
		q{begin; declare c cursor for select opdata_store_creds('r', '%P');
			fetch c; commit}
	],
	[
		'a cursor with hold',
		q{begin; declare c cursor with hold for select opdata_test('%P'::jsonb);
			commit; fetch c; close c}
	]);

# The same with the payload as a bound parameter, by pgbench; :payload is $1.
my @bound_roads = (
	[ 'a bound payload', q{select opdata_store_creds('r', :payload, test => false);} ],
	[
		'a bound payload in a transaction that goes on',
		"begin;\nselect opdata_store_creds('r', :payload, test => false);\nselect 1;\nend;"
	],
	[ 'a bound payload that is tested', q{select opdata_test(:payload::jsonb);} ],
	[ 'a bound password that is wrong', q{select opdata_store_creds('r', :payload);} ],
	[ 'a bound payload that is malformed', q{select opdata_store_creds('r', :malformed);} ],
	[ 'a bound payload that is no JSON', q{select opdata_store_creds('r', :canary);} ],
	[
		'a bound payload beside an error',
		q{select opdata_store_creds('r', :payload, test => false), 1 / (length(:canary) - length(:canary));}
	],
	[
		'a bound payload in EXPLAIN ANALYZE',
		q{explain analyze select opdata_store_creds('r', :payload, test => false);}
	]);

my $n_canaries = 0;
my $n_scripts = 0;
my $n_marks = 0;
my %road_of;       # canary => name of its road
my %hits;          # canary => where it was found
my @utility;       # canaries in utility statements
my %client;        # canary => what the client was told

# The search must find what is there.
my $control = new_canary('the control');
run_psql('audit', "select '$control'");

# Every road, at every level.
foreach my $level ('quiet', 'audit', 'loud')
{
	foreach my $road (@roads, @utility_roads)
	{
		my ($name, $script) = @$road;
		my $canary = new_canary("$level: $name");

		push @utility, $canary if grep { $_ == $road } @utility_roads;
		$client{$canary} = run_psql($level, fill($script, $canary));
	}
	foreach my $road (@bound_roads)
	{
		my ($name, $script) = @$road;
		foreach my $mode ('extended', 'prepared')
		{
			my $canary = new_canary("$level: $name, $mode");
			$client{$canary} = run_pgbench($level, $mode, $script, $canary);
		}
	}
}

# PL/pgSQL of the user's own. Its call shows where statements are logged
# before they run (see the exceptions), but not with PostgreSQL's defaults.
foreach my $port ($source->port, 1)
{
	my $canary = new_canary("quiet: a function of the user's own, port $port");
	$client{$canary} =
	  run_psql('quiet', "select my_store('$canary', $port)");
}

# Statements that hang, as another session sees them; then what ends them.
foreach my $level ('quiet', 'audit', 'loud')
{
	foreach my $case (
		[
			'a literal', q{select opdata_store_creds('r', '%S')},
			'pg_cancel_backend(pid)'
		],
		[
			'EXECUTE', q{prepare p(jsonb) as select opdata_test($1); execute p('%S')},
			'pg_terminate_backend(pid)'
		],
		[ 'a DO block', q{do $$ begin perform opdata_test('%S'::jsonb); end $$}, '' ],
		[
			q{a function of the user's own},
			q{select my_store('%C', %s)}, 'pg_cancel_backend(pid)'
		])
	{
		my ($name, $script, $end) = @$case;
		# the exception, under a canary of its own
		my $shown = $name =~ /own/ && $level ne 'quiet';
		my $road = "$level: $name that hangs, ended by " . ($end || 'its source');
		my $canary = $shown ? 'Zk7exempt0x' : new_canary($road);

		push @utility, $canary if $name =~ /DO/;
		my $session = start_psql($level, fill($script, $canary));
		my ($pid, $query) = hanging();
		is($query, $hidden, "$road: pg_stat_activity shows nothing of it");
		if ($end)
		{
			$agent->safe_psql('postgres',
				"select $end from pg_stat_activity where pid = $pid");
		}
		else
		{
			$silent->stop;
			$silent = silent_server(at => 'connect');
		}
		IPC::Run::finish($session->{run});
		$client{$canary} = $session->{err};
	}
}
# A deadlock, which quotes the statements of both sides.
foreach my $level ('quiet', 'audit', 'loud')
{
	my @canaries = map { new_canary("$level: a deadlock, session $_") } (1, 2);
	my @store = map
	{
		my $id = $_;
		[ map { fill("select opdata_store_creds('d$id', '%P', test => false)", $_) } @canaries ];
	} (1, 2);
	local $ENV{PGOPTIONS} = $levels{$level};
	my @session =
	  map { $agent->background_psql('postgres', on_error_stop => 0) } (1, 2);

	$session[$_]->query("begin; $store[$_][$_]") foreach (0, 1);
	$session[0]->query_until(qr/waits/, "\\echo waits\n$store[1][0];\n");
	$agent->poll_query_until('postgres',
		q{select count(*) > 0 from pg_stat_activity where wait_event_type = 'Lock'});
	$session[1]->query($store[0][1]);
	$session[$_]->query('rollback') foreach (0, 1);
	my $told = join('', map { $_->{stderr} } @session);
	like($told, qr/deadlock detected/, "$level: a deadlock is reported");
	$client{$_} = $told foreach @canaries;
	$_->quit foreach @session;
}

# Sessions that are idle afterwards.
my @idle;
foreach my $level ('quiet', 'audit')
{
	foreach my $case (
		[ 'a call', q{select opdata_store_creds('r', '%P', test => false)} ],
		[ 'a syntax error', q{select opdata_store_creds('r', '%P') frm nowhere at all} ],
		[ 'a malformed payload', q[select opdata_store_creds('r', '{"password": "%C')] ])
	{
		my ($name, $script) = @$case;
		my $canary = new_canary("$level: idle after $name");
		local $ENV{PGOPTIONS} = $levels{$level};
		my $session = $agent->background_psql('postgres', on_error_stop => 0);
		$session->query(fill($script, $canary));
		push @idle, $session;
	}
}
search_text('pg_stat_activity',
	$agent->safe_psql('postgres', 'select * from pg_stat_activity'));
search_text('pg_stat_activity of an idle session',
	$agent->safe_psql('postgres', q{select query from pg_stat_activity where state ~ 'idle'}));
$_->quit foreach @idle;

# pg_stat_statements: the text of utility statements, a documented exception,
# whose remedies are to forget it and not to keep it.
my $statements = 'select query from pg_stat_statements';
my %kept = found_in($agent->safe_psql('postgres', $statements));
ok($kept{ $utility[0] },
	'documented exception: pg_stat_statements keeps the text of utility statements');
delete @kept{@utility};
is( join(', ', map { $road_of{$_} // $_ } sort keys %kept),
	'',
	'pg_stat_statements keeps no payload of other statements');
like($agent->safe_psql('postgres', $statements),
	qr/select opdata_store_creds\(\$1, \$2/i,
	'pg_stat_statements shows a call with placeholders');
$agent->safe_psql('postgres', 'select pg_stat_statements_reset()');
my $canary = new_canary('a DO block with pg_stat_statements.track_utility = off');
{
	local $ENV{PGOPTIONS} = '-c pg_stat_statements.track_utility=off';
	$agent->psql('postgres',
		fill(q{do $$ begin perform opdata_store_creds('r', '%P'); end $$}, $canary));
}
search_text('pg_stat_statements', $agent->safe_psql('postgres', $statements));

# A crash, of which the postmaster reports what the process was running. Not
# before pg_stat_statements was looked at, since it forgets all in a crash.
foreach my $level ('quiet', 'audit', 'loud')
{
	my $canary = new_canary("$level: a crash");
	my $starts = count_starts();
	my $session =
	  start_psql($level, fill(q{select opdata_store_creds('r', '%S')}, $canary));
	my ($pid) = hanging();

	kill 'KILL', $pid;
	ok(wait_until(sub { count_starts() > $starts }),
		"$level: the server recovers from the crash");
	IPC::Run::finish($session->{run});
	$client{$canary} = $session->{err};
}
is_deeply(
	[ slurp_file($log) =~ /Failed process was running: (.*)/g ],
	[ ($hidden) x 3 ],
	'the lines about crashed processes show no statement');

# Dumps, with a row of each kind.
run_psql('quiet',
	fill(q{select opdata_store_creds('dumped', '%P', test => false)}, $control =~ s/control/dumped/r));
$road_of{ $control =~ s/control/dumped/r } = 'a stored row';
$agent->command_ok(
	[ 'pg_dumpall', '-f', "$scratch/dump", '-d', $agent->connstr('postgres') ],
	'the cluster is dumped');
search_file("$scratch/dump", 'the dump');

# Everything on the disk, while the server runs and after it has stopped.
$agent->safe_psql('postgres', 'checkpoint');
search_data_directory();
$agent->stop;
search_data_directory();
$agent->start;

ok($hits{$control}{'log/server.log'}, 'the search finds the control in the log');
ok($hits{$control}{'log/server.csv'}, 'the search finds the control in the CSV log');
ok($hits{$control}{'log/server.json'}, 'the search finds the control in the JSON log');
delete $hits{$control};
foreach my $canary (sort { $road_of{$a} cmp $road_of{$b} } keys %road_of)
{
	next if $canary eq $control;
	search_text('what the client was told', $client{$canary});
	is(join(', ', sort keys %{ $hits{$canary} // {} }),
		'', "$road_of{$canary}: the password is nowhere");
}

# The key itself.
my $key = slurp_file($agent->data_dir . '/opdata.key');
my $hex_key = unpack('H*', $key);
my @with_key;
each_file(
	sub {
		my ($name, $path) = @_;
		# files come and go
		my $content = eval { slurp_file($path) } // return;
		push @with_key, $name
		  if index($content, $key) >= 0 or $content =~ /$hex_key/i;
	});
is(join(', ', @with_key), 'opdata.key', 'the key is in its file alone');

# What is not secret is logged as ever.
my $before = log_end();
{
	local $ENV{PGOPTIONS} = $levels{audit};
	my $session = $agent->background_psql('postgres', on_error_stop => 0);
	$session->query('select 1 as unrelated_before');
	$session->query(fill(q{select opdata_store_creds('r', '%P', test => false)},
			'harmless'));
	$session->query('select 1 as unrelated_after');
	$session->query('select complain() as unrelated_error');
	$session->query(q{select '{"a": unrelated_token}'::jsonb});
	$session->query(q{select opdata_status() as unrelated_status});
	$session->query(q{select opdata_preview('r', 'select 1') as unrelated_preview});
	$session->query(q{select opdata_store_creds('r', '{"hots": "h"}')});
	$session->query(q{select opdata_store_creds('r', '%P')} =~ s/%P/payload('harmless', $source->port)/er);
	$session->quit;
}
run_pgbench('audit', 'extended',
	q{select :canary::text as unrelated_bound;}, 'unrelated_parameter');
my $written = logged_since($before);
foreach my $expected (
	[ 'a statement before', qr/LOG:  statement: select 1 as unrelated_before/ ],
	[ 'a statement after', qr/LOG:  statement: select 1 as unrelated_after/ ],
	[
		'the plan of a statement after',
		qr/plan:\s+Query Text: select 1 as unrelated_after/
	],
	[ 'the message of an error', qr/ERROR:  plain complaint/ ],
	[ 'the DETAIL of an error', qr/DETAIL:  detail of the complaint/ ],
	[ 'the HINT of an error', qr/HINT:  hint of the complaint/ ],
	[
		'the CONTEXT of an error',
		qr/CONTEXT:  PL\/pgSQL function complain\(\) line 3 at RAISE/
	],
	[
		'the STATEMENT of an error',
		qr/STATEMENT:  select complain\(\) as unrelated_error/
	],
	[
		'malformed JSON of no concern',
		qr/DETAIL:  Token "unrelated_token" is invalid/
	],
	[ 'a bound parameter', qr/DETAIL:  parameters: \$1 = 'unrelated_parameter'/ ],
	[ 'a call of opdata_status()', qr/statement: select opdata_status\(\)/ ],
	[
		'a failed preview with its statement',
		qr/STATEMENT:  select opdata_preview\('r', 'select 1'\)/
	],
	[
		'the duration of a hidden statement',
		qr/LOG:  duration: \d+\.\d+ ms  \Q$hidden\E/
	],
	[
		'an error of opdata with code and hint',
		qr/ERROR:  Invalid Postgres credentials\.\n.*DETAIL:  invalid_credentials Key "hots" is not known\.\n.*HINT:  \S/
	],
	[ 'an error of the source', qr/DETAIL:  authentication_failed\b.*\n.*HINT:  \S/ ])
{
	my ($name, $pattern) = @$expected;
	like($written, $pattern, "the log still shows $name");
}
unlike($written, qr/"username"/, 'no payload is among it');
my @lines = slurp_file($agent->data_dir . '/log/server.json') =~ /(.*)\n/g;
ok(scalar(@lines) > 0 && !(grep { !eval { decode_json($_) } } @lines),
	'every line of the JSON log is JSON');
my $error = error_of($agent, q{select opdata_store_creds('r', '{"hots": "h"}')});
is("$error->{message} $error->{code}",
	'Invalid Postgres credentials. invalid_credentials',
	'the client gets the message and code of opdata');
ok($error->{hint}, 'the client gets the hint of opdata');
is(error_of($agent, 'select complain()')->{detail},
	'detail of the complaint', 'the client gets the detail of other errors');
$agent->safe_psql('postgres',
	'create role holder; grant execute on function opdata_test(text) to holder');
like(error_of($agent, 'drop role holder')->{detail},
	qr/privileges for function opdata_test\(text\)/,
	'an error that names a function, not a statement, keeps its detail');
is( error_of($agent,
		'drop function opdata_status(), opdata_test(text)')->{sqlstate},
	'2BP01',
	'an error that is hidden keeps its SQLSTATE');

# Documented exceptions.
#
# A statement that reaches opdata through a function of the user's own is not
# known to be secret before it runs.
$before = log_end();
run_psql('audit', 'select my_store(\'Zk7exempt1x\', ' . $source->port . ')');
$written = logged_since($before);
like($written, qr/statement: select my_store\('Zk7exempt1x'/,
	q{documented exception: log_statement shows the call of a user's own function});
unlike($written =~ s/statement: select my_store.*//r, qr/Zk7exempt1x/,
	q{a user's own function: only that line shows it});

$before = log_end();
run_psql('audit',
	q{select my_store('Zk7exempt2x', 1) /* opdata_store_creds */});
unlike(logged_since($before), qr/Zk7exempt2x/,
	'remedy: a comment in the statement that names opdata_store_creds');

$before = log_end();
{
	local $levels{bound} =
	  "$levels{audit} -c log_parameter_max_length=0 -c log_parameter_max_length_on_error=0"
	  . ($explain_parameters && "${explain_parameters}0");
	run_pgbench('bound', 'extended',
		'select my_store(:canary, ' . $source->port . ');', 'Zk7exempt3x');
}
$written = logged_since($before);
like($written, qr/my_store\(\$1/, 'the call with a bound parameter is logged');
unlike($written, qr/Zk7exempt3x/,
	'remedy: a bound parameter and log_parameter_max_length = 0');

# A statement that waits before it is analysed stands in pg_stat_activity as
# it came.
my $locker = $agent->background_psql('postgres');
$locker->query_safe('begin; lock table locked');
my $query = qq{select opdata_test('{"password": "Zk7exempt4x"}'::jsonb) from locked};
my $waiting = start_psql('quiet', $query);
my $look = q{select query from pg_stat_activity where wait_event_type = 'Lock'};
$agent->poll_query_until('postgres', "select exists ($look)");
is($agent->safe_psql('postgres', $look), "$query;",
	'documented exception: before its analysis a statement shows in pg_stat_activity');
$agent->safe_psql('postgres', 'create role other login');
is( $agent->safe_psql('postgres',
		q{select count(*) from pg_stat_activity where query ~ 'exempt[4]x'},
		extra_params => [ '-U', 'other' ]),
	'0',
	'remedy: an ordinary role never sees the statements of another one');
$locker->query_safe('commit');
IPC::Run::finish($waiting->{run});

$locker->query_safe('begin; lock table locked');
my $bound = start_pgbench('quiet', 'extended',
	q{select opdata_test(:payload::jsonb) from locked;}, 'Zk7exempt5x');
$agent->poll_query_until('postgres', "select exists ($look)");
like($agent->safe_psql('postgres', $look), qr/opdata_test\(\$1::jsonb\)/,
	'remedy: with a bound parameter pg_stat_activity shows a placeholder');
$locker->query_safe('commit');
$locker->quit;
IPC::Run::finish($bound->{run});

# An EXECUTE whose statement does not exist in this session: nothing tells
# that it was to take a credential.
$before = log_end();
run_psql('quiet', q{execute nowhere('{"password": "Zk7exempt6x"}')});
like(logged_since($before), qr/STATEMENT:  execute nowhere.*Zk7exempt6x/,
	'documented exception: EXECUTE of a statement that does not exist is logged');

done_testing();


# A word that is found again, and the road that it stands for.
sub new_canary
{
	my ($road) = @_;
	my $canary = sprintf('Zk7%s%dx', $road =~ /control/ ? 'control' : 'canary',
		++$n_canaries);

	$road_of{$canary} = $road;
	return $canary;
}

sub payload
{
	my ($password, $port) = @_;

	return qq({"host": "127.0.0.1", "port": $port, "database": "postgres",)
	  . qq( "username": "reader", "password": "$password", "sslMode": "disable"});
}

sub fill
{
	my ($script, $canary) = @_;
	my %value = (
		C => $canary,
		P => payload($canary, $source->port),
		R => payload($canary, 1),
		S => payload($canary, $silent->port),
		s => $silent->port);

	$script =~ s/%([CPRSs])/$value{$1}/g;
	return $script;
}

# Run a script; what the client was told besides results.
sub run_psql
{
	my ($level, $script) = @_;
	my ($stdout, $stderr);

	local $ENV{PGOPTIONS} = $levels{$level};
	my $rc = $agent->psql('postgres', $script,
		stdout => \$stdout, stderr => \$stderr, on_error_stop => 0);
	die "no connection: $stderr" if $rc == 2;
	return $stderr;
}

sub start_psql
{
	my ($level, $script) = @_;

	local $ENV{PGOPTIONS} = $levels{$level};
	local $ENV{PGAPPNAME} = 'hanging';
	return start_client('psql', '-XAtq', '-d', $agent->connstr('postgres'),
		'-f', script_file("$script;\n"));
}

# A client that runs while the test goes on.
sub start_client
{
	my @command = @_;
	my %client = (out => '', err => '');

	$client{run} = IPC::Run::start(
		\@command, '<', \undef, '>', \$client{out}, '2>', \$client{err},
		IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%client;
}

sub script_file
{
	my ($script) = @_;
	my $path = "$scratch/script." . ++$n_scripts . '.sql';

	open(my $file, '>', $path) or die "$path: $!";
	print $file $script;
	close $file;
	return $path;
}

sub start_pgbench
{
	my ($level, $mode, $script, $canary) = @_;

	local $ENV{PGOPTIONS} = $levels{$level};
	return start_client(
		'pgbench', '-n', '-t', '1', '-M', $mode,
		'-f', script_file("$script\n"),
		'-D', "canary=$canary",
		'-D', 'payload=' . payload($canary, $source->port),
		'-D', qq(malformed={"password": "$canary", oops}),
		$agent->connstr('postgres'));
}

sub run_pgbench
{
	my $client = start_pgbench(@_);

	IPC::Run::finish($client->{run});
	die "no connection: $client->{err}" if $client->{err} =~ /connection to server/;
	return $client->{err};
}

# Process and statement of the session that waits for the silent server.
sub hanging
{
	my $found = '';
	wait_until(
		sub {
			$found = $agent->safe_psql('postgres',
				q{select pid, query from pg_stat_activity
				where application_name = 'hanging' and wait_event_type = 'Extension'});
			return $found ne '';
		},
		60)
	  or die 'no session hangs: '
	  . $agent->safe_psql('postgres', 'select * from pg_stat_activity');
	return split /\|/, $found, 2;
}

# The size of the log with all that was logged so far. The collector writes a
# moment later than a session logs, but in order: what stands before the mark is
# written when the mark is, and so are the same lines as CSV and JSON.
sub log_end
{
	my $mark = 'mark ' . ++$n_marks;

	$agent->safe_psql('postgres', "do \$\$ begin raise log '$mark'; end \$\$");
	wait_until(sub { slurp_file($log) =~ /LOG:  \Q$mark\E\n/ })
	  or die "the log does not get $mark";
	return -s $log;
}

sub logged_since
{
	my ($offset) = @_;

	log_end();
	return slurp_file($log, $offset);
}

sub count_starts
{
	return scalar(
		() = slurp_file($log) =~ /database system is ready to accept/g);
}

# Canaries in a text, in plain or as hexadecimal digits.
sub found_in
{
	my ($text) = @_;
	my %found;

	$found{$_} = 1 foreach $text =~ /(Zk7[a-z]+\d+x)/g;
	while ($text =~ /(5a6b37(?:[0-9a-f]{2}){2,20}?78)/gi)
	{
		my $plain = pack('H*', $1);
		$found{$1} = 1 if $plain =~ /^(Zk7[a-z]+\d+x)$/;
	}
	return %found;
}

sub search_text
{
	my ($where, $text) = @_;
	my %found = found_in($text // '');

	$hits{$_}{$where} = 1 foreach keys %found;
	return;
}

sub search_file
{
	my ($path, $where) = @_;

	open(my $file, '<:raw', $path) or return;
	my $text = '';
	while (read($file, $text, 1 << 22, length $text))
	{
		search_text($where, $text);
		# a canary may lie across two pieces
		$text = substr($text, -100) if length $text > 100;
	}
	close $file;
	return;
}

sub each_file
{
	my ($callback) = @_;
	my $top = $agent->data_dir;

	find(
		{
			no_chdir => 1,
			wanted => sub {
				$callback->(substr($_, length($top) + 1), $_) if -f $_;
			}
		},
		$top);
	return;
}

sub search_data_directory
{
	each_file(sub { search_file($_[1], $_[0]) });
	search_file($agent->logfile, 'the log of the start');
	return;
}
