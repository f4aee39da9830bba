
# The workflows, from their input to their outcome and their job record: what
# comes back of good ones and bad ones, and from whatever starts them.

use strict;
use warnings;
use utf8;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Opdata::Credentials;
use Opdata::Faults qw(in_time n_begun);
use Opdata::Temporal;
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# What must be in no failure: words of the source and of the credentials.
my $canary = 'canary-5e1f';

my $source = source_cluster('source');
$source->safe_psql(
	'postgres', qq{
	create role reader login password 'reader_pw';
	create table item (id int primary key, name text, price numeric(10, 2), at timestamptz, sold bool);
	insert into item
		select n, 'item ' || n, n * 1.25, '2026-01-01 00:00:00+00'::timestamptz + n * interval '1 hour', n % 2 = 0
		from generate_series(1, 250) n;
	grant select on item to reader;
	create table payroll (employee text);
	create function fail(word text) returns int language plpgsql as \$\$
	begin
		raise exception '$canary in the message'
			using detail = '$canary in the detail', hint = '$canary in the hint', errcode = 'P0042';
	end \$\$;
}
);

my $tenant = tenant('acme', task_timeout => 60);
my $agent = $tenant->agent;
my $client = $tenant->client;

# of all failures, as JSON, for a last look at their words
my @failures;

my %good = (username => 'reader', password => 'reader_pw');
my $credentials = credentials($source, %good);

four_workflows('as superuser');
store_and_test();
bad_sources();
refused_statements();
payloads();
inputs();
tenants();
ids();
schedules();
foreign_workflows();
unknown_types();
sizes();
retention();
worker_role();
no_words();
done_testing();

sub run { return $tenant->run(@_); }

# A run that has to fail; its words are looked at in the end.
sub run_bad
{
	my $ended = run(@_);

	push @failures, canonical($ended->{error});
	return $ended;
}

# The value of a query, as text.
sub value { return $agent->safe_psql('postgres', $_[0]); }

sub n_connections
{
	return value('select count(*) from opdata_connections');
}

# The row of opdata_jobs of a workflow: those of its columns that are not null,
# without ids and times.
sub facts
{
	my ($workflow) = @_;
	my $job = $tenant->job_of($workflow);
	my @kept = grep { defined $job->{$_} }
	  qw(kind connection_id workspace_id state row_count byte_count error_code attempt);

	return { map { $_ => $job->{$_} } @kept };
}

# One good run of each, compared with the SQL function that does the same.
sub four_workflows
{
	my ($how) = @_;
	my $sql = 'select * from item order by id';
	my %inline = (type => 'postgres', credentials => $credentials);

	# once, without being stored
	my $before = n_connections();
	my $ended = run('testCredentialsWorkflow', {%inline});
	is( canonical($ended->{result}, 'latencyMs'),
		canonical(test_of($agent, $credentials), 'latencyMs'),
		"$how: a test returns what opdata_test() returns"
	);
	is_deeply(
		facts($ended),
		{   kind => 'test',
			state => 'succeeded',
			attempt => 1
		},
		"$how: and is recorded"
	);
	my $once = run('previewQueryWorkflow', { %inline, sql => $sql });
	is_deeply(
		facts($once),
		{   kind => 'preview',
			state => 'succeeded',
			row_count => 100,
			byte_count => facts($once)->{byte_count},
			attempt => 1
		},
		"$how: a preview by a credential in its input is recorded"
	);
	is(n_connections(), $before, "$how: no credential of an input is stored");

	# storing
	$ended = run(
		'storeCredsWorkflow',
		{   workspaceId => 'sales',
			connectionId => 'four',
			name => 'The shop',
			%inline
		}
	);
	my $result = $ended->{result};
	my $by_sql = json($agent,
			"select opdata_store_creds('by_sql', "
		  . literal($credentials)
		  . "::jsonb, 'The shop', 'postgres', 'sales')");
	delete $_->{test}{latencyMs} foreach $result, $by_sql;
	is( canonical($result),
		canonical({ %$by_sql, connectionId => 'four' }),
		"$how: storing returns what opdata_store_creds() returns"
	);
	my $job = $tenant->job_of($ended);
	is_deeply(
		facts($ended),
		{   kind => 'store',
			connection_id => 'four',
			workspace_id => 'sales',
			state => 'succeeded',
			attempt => 1
		},
		"$how: and is recorded"
	);
	is($job->{run_id}, $ended->{run_id}, "$how: by its run");
	is($job->{activity_id}, 'storeCreds', "$how: by its activity");
	like($job->{worker}, qr/^interactive [12]$/, "$how: by its worker");
	ok(defined $job->{finished_at} && $job->{duration_ms} > 0,
		"$how: with its times");
	is( value(
			"select string_agg(format('%s %s %s %s', id, workspace_id, name, status), ', ' order by id)"
			  . " from opdata_connections where name = 'The shop'"
		),
		'by_sql sales The shop connected, four sales The shop connected',
		"$how: and the connection is there"
	);

	# by its id
	is( canonical(
			run('testCredentialsWorkflow', { connectionId => 'four' })
			  ->{result},
			'latencyMs'
		),
		canonical(json($agent, q{select opdata_test('four')}), 'latencyMs'),
		"$how: a test by the id returns the same as by SQL"
	);
	$ended =
	  run('previewQueryWorkflow', { connectionId => 'four', sql => $sql });
	my $expected = json($agent, "select opdata_preview('four', '$sql')");
	is( canonical($ended->{result}, 'durationMs'),
		canonical($expected, 'durationMs'),
		"$how: a preview by the id returns the same as by SQL"
	);
	is( canonical($ended->{result}, 'durationMs'),
		canonical($once->{result}, 'durationMs'),
		"$how: and the same as with the credential in its input"
	);
	is($ended->{result}{rowCount}, 100, "$how: a hundred rows");
	cmp_ok($ended->{result}{durationMs}, '>', 0, "$how: and the time");
	my $facts = facts($ended);
	my $bytes = delete $facts->{byte_count};
	is_deeply(
		$facts,
		{   kind => 'preview',
			connection_id => 'four',
			workspace_id => 'sales',
			state => 'succeeded',
			row_count => 100,
			attempt => 1
		},
		"$how: its record has what it read"
	);

	# the time that it took stands in a result, with more digits or fewer
	cmp_ok(
		abs(value(
					"select byte_count - $bytes from opdata_jobs"
				  . " where kind = 'preview' and workflow_id is null"
				  . ' order by started_at desc limit 1'
			)
		),
		'<', 10,
		"$how: and how much that is"
	);
	is( value(
			"select count(*) from opdata.job where result is not null and kind in ('preview', 'test')"
		),
		0,
		"$how: no result of a test or preview is stored"
	);

	# deleting
	$ended = run('deleteConnectionWorkflow', { connectionId => 'four' });
	is(canonical($ended->{result}),
		'{"deleted":true}', "$how: a connection is deleted");
	is_deeply(
		facts($ended),
		{   kind => 'delete',
			connection_id => 'four',
			workspace_id => 'sales',
			state => 'succeeded',
			attempt => 1
		},
		"$how: which is recorded"
	);
	is( canonical(
			run('deleteConnectionWorkflow', { connectionId => 'four' })
			  ->{result}
		),
		'{"deleted":false}',
		"$how: and then there is none to delete"
	);
	is( value(q{select opdata_delete('by_sql')}),
		'{"deleted": true}',
		"$how: nor is it there by SQL"
	);
	is(n_connections(), $before, "$how: and all is as before");
	return;
}

# What may be left out, and what replaces what.
sub store_and_test
{
	my $result = run('storeCredsWorkflow',
		{ connectionId => 'least', credentials => $credentials })->{result};
	is_deeply(
		[ @$result{qw(name type workspaceId status)} ],
		[ 'least', 'postgres', 'default', 'connected' ],
		'name, type and workspace may be left out'
	);
	is_deeply(
		$result->{safeMetadata},
		{   host => '127.0.0.1',
			port => $source->port,
			database => 'postgres',
			sslMode => 'disable',
			mode => 'fields'
		},
		'the safe part of the credential is returned'
	);
	$result = run(
		'storeCredsWorkflow',
		{   connectionId => 'least',
			name => 'Zoë',
			credentials => {
				mode => 'dsn',
				dsn => 'postgresql://reader:reader_pw@127.0.0.1:'
				  . $source->port
				  . '/postgres?sslmode=disable'
			}
		}
	)->{result};
	is("$result->{name} $result->{safeMetadata}{mode}",
		'Zoë dsn', 'storing again replaces');
	is( run('previewQueryWorkflow',
			{ connectionId => 'least', sql => 'select 7' })
		  ->{result}{rows}[0][0],
		7,
		'and what was stored last works'
	);

	# refused, what is there stays
	my $ended = run_bad(
		'storeCredsWorkflow',
		{   connectionId => 'least',
			credentials => credentials($source, %good, password => $canary)
		}
	);
	is( failure_of($ended),
		'authentication_failed, final',
		'a bad password is not stored'
	);
	is_deeply(
		facts($ended),
		{   kind => 'store',
			connection_id => 'least',
			workspace_id => 'default',
			state => 'failed',
			error_code => 'authentication_failed',
			attempt => 1
		},
		'not tried again, and recorded'
	);
	is(json($agent, q{select opdata_test('least')})->{ok},
		JSON::PP::true, 'the credential from before is still there');

	$ended = run_bad(
		'storeCredsWorkflow',
		{   connectionId => 'least',
			workspaceId => 'other',
			credentials => $credentials
		}
	);
	is( failure_of($ended),
		'workspace_denied, final',
		'nor is one over an id of another workspace'
	);
	is( value(
			q{select workspace_id from opdata_connections where id = 'least'}
		),
		'default',
		'which stays where it is'
	);
	value(q{select opdata_delete('least')});
	value(  "select opdata_store_creds('shop', "
		  . literal($credentials)
		  . '::jsonb)');
	return;
}

# Sources that are not there, or do not let us in. A test tells it in its
# result; a preview and a store fail, and a store is tried three times if that
# can help.
sub bad_sources
{
	my $closed = closed_port();
	my @cases = (
		[ 'authentication_failed', 'final', password => $canary ],
		[ 'authentication_failed', 'final', username => 'nobody' ],
		[ 'database_not_found', 'final', database => 'no such database' ],
		[ 'connection_refused', 'retryable', port => $closed ],
		[ 'host_not_found', 'retryable', host => 'no-such-host.invalid' ],
		[ 'tls_required', 'final', sslMode => 'require' ],
		[ 'host_not_allowed', 'final', host => '169.254.169.254' ],
		[ 'invalid_credentials', 'final', host => undef ],
		[ 'invalid_credentials', 'final', hots => $canary ]
	);

	foreach my $case (@cases)
	{
		my ($code, $again, @keys) = @$case;
		my $bad = credentials($source, %good, @keys);
		my $expected = "$code, $again";

		# so that each case has its name
		my $what = "$code by its $keys[0]";

		my $ended = run_bad('previewQueryWorkflow',
			{ type => 'postgres', credentials => $bad, sql => 'select 1' });
		is(failure_of($ended), $expected, "$what: a preview fails");
		is(facts($ended)->{error_code}, $code, "$what: which is recorded");
		is(facts($ended)->{attempt}, 1, "$what: after one attempt");

		$ended = run_bad(
			'storeCredsWorkflow',
			{   connectionId => 'bad',
				type => 'postgres',
				credentials => $bad
			}
		);
		my $attempts = $again eq 'final' ? 1 : 3;
		is(failure_of($ended), $expected, "$what: a store fails");
		is_deeply(
			facts($ended),
			{   kind => 'store',
				connection_id => 'bad',
				workspace_id => 'default',
				state => 'failed',
				error_code => $code,
				attempt => $attempts
			},
			"$what: after the attempts that can help: $attempts"
		);

		# one second, then two
		cmp_ok($ended->{seconds}, '>=', 3, "$what: with pauses between")
		  if $attempts > 1;

		$ended = run_bad('testCredentialsWorkflow',
			{ type => 'postgres', credentials => $bad });
		if ($code eq 'invalid_credentials')
		{
			is(failure_of($ended), $expected, "$what: a test fails too");
			next;
		}
		is( canonical($ended->{result}, 'latencyMs'),
			canonical(test_of($agent, $bad), 'latencyMs'),
			"$what: a test returns what opdata_test() returns"
		);
		is($ended->{result}{error}{code}, $code, "$what: with the code");
		is(facts($ended)->{error_code}, $code, "$what: which is recorded");
		push @failures, canonical($ended->{result});
	}
	is(value(q{select count(*) from opdata_connections where id = 'bad'}),
		0, 'nothing of it is stored');

	# a stored connection whose source has changed its mind
	value(  "select opdata_store_creds('stale', "
		  . literal($credentials)
		  . '::jsonb)');
	$source->safe_psql('postgres', q{alter role reader password 'other_pw'});
	is( failure_of(
			run_bad(
				'previewQueryWorkflow',
				{ connectionId => 'stale', sql => 'select 1' }
			)
		),
		'authentication_failed, final',
		'a stored credential may become bad'
	);
	is( run('testCredentialsWorkflow', { connectionId => 'stale' })
		  ->{result}{error}{code},
		'authentication_failed',
		'a test of it tells so'
	);
	is( value(
			q{select status || ' ' || last_error from opdata_connections where id = 'stale'}
		),
		'error authentication_failed',
		'and so does the connection from then on'
	);
	$source->safe_psql('postgres', q{alter role reader password 'reader_pw'});
	is( canonical(
			run('testCredentialsWorkflow', { connectionId => 'stale' })
			  ->{result}{ok}
		),
		'true',
		'until the next test'
	);
	is(value(q{select status from opdata_connections where id = 'stale'}),
		'connected', 'which is noted as well');

	# unknown ids
	foreach my $case ([ 'previewQueryWorkflow', sql => 'select 1' ],
		['testCredentialsWorkflow'])
	{
		my ($type, @keys) = @$case;
		my $ended = run_bad($type, { connectionId => 'nowhere', @keys });

		is( failure_of($ended),
			'connection_not_found, final',
			"$type: an unknown connection is an error"
		);
		is(facts($ended)->{error_code},
			'connection_not_found', "$type: which is recorded");
	}
	return;
}

sub refused_statements
{
	my @cases = (
		[ 'statement_not_allowed', 'delete from item' ],
		[   'statement_not_allowed',
			'with gone as (delete from item returning id) select * from gone'
		],
		[ 'statement_not_allowed', 'select * from item for update' ],
		[ 'statement_not_allowed', 'select * into copied from item' ],
		[ 'statement_not_allowed', 'copy item to stdout' ],
		[ 'statement_not_allowed', '' ],
		[ 'statement_not_allowed', '-- nothing' ],
		[ 'multiple_statements', 'select 1; select 2' ],
		[ 'multiple_statements', 'select 1; drop table item' ],
		[ 'syntax_error', 'select 1) as x; --' ],
		[ 'syntax_error', "selekt '$canary'" ],
		[ 'query_failed', "select '$canary'::int" ],
		[ 'query_failed', "select fail('$canary')" ],
		[ 'query_failed', qq{select * from "$canary"} ],
		[ 'query_failed', 'select 1 / 0' ],
		[ 'permission_denied', 'select * from payroll' ]
	);

	foreach my $case (@cases)
	{
		my ($code, $sql) = @$case;
		my $ended = run_bad('previewQueryWorkflow',
			{ connectionId => 'shop', sql => $sql });
		my $error = error_of($agent,
				'select opdata_preview('
			  . literal('shop') . ', '
			  . literal($sql)
			  . ')');

		is(failure_of($ended), "$code, final", "refused: $sql");
		is_deeply(
			facts($ended),
			{   kind => 'preview',
				connection_id => 'shop',
				workspace_id => 'default',
				state => 'failed',
				error_code => $code,
				attempt => 1
			},
			"recorded: $sql"
		);
		is($ended->{error}{details}[0]{sqlstate},
			$error->{sqlstate},
			"with the SQLSTATE $error->{sqlstate} of the function");
		like($ended->{error}{message},
			qr/$error->{sqlstate}/, 'which is in the message too');
		is($ended->{error}{details}[0]{code}, $code, 'and the code');
	}
	is($source->safe_psql('postgres', 'select count(*) from item'),
		250, 'the source is as it was');

	foreach my $sql ('select 1;', "select 1 -- one\n;", '/* one */ select 1')
	{
		is( run('previewQueryWorkflow',
				{ connectionId => 'shop', sql => $sql })
			  ->{result}{rows}[0][0],
			1,
			"allowed: $sql"
		);
	}
	my $more = run(
		'previewQueryWorkflow',
		{   connectionId => 'shop',
			sql => 'select 1',
			sealTo => { kty => 'EC' }
		}
	);
	push @failures, canonical($more->{error});
	is( failure_of($more),
		'unsupported, final',
		'rows that cannot be sealed do not leave'
	);
	is(canonical($more->{result} // JSON::PP::null), 'null', 'in no way');
	is(facts($more)->{error_code}, 'unsupported', 'which is recorded');
	return;
}

# What an input may be on the wire.
sub payloads
{
	my $preview =
	  encode_base64('{"orgId":"acme","connectionId":"shop","sql":"select 1"}',
		'');
	my %ok = (encoding => 'json/plain', data => $preview);
	my $json = sub {
		return { encoding => 'json/plain', data => encode_base64($_[0], '') };
	};
	my @cases = (
		[ 'one payload', 'ok', \%ok ],
		[ 'a second argument', 'ok', \%ok, { encoding => 'binary/null' } ],
		[ 'further metadata', 'ok', { %ok, metadata => { note => 'x' } } ],
		[   'spaces around it',
			'ok',
			$json->(
				qq( \n{"orgId" : "acme", "connectionId":"shop", "sql":"select 1"} \n)
			)
		],
		[   'a key twice: the last counts',
			'ok',
			$json->(
				q({"orgId":"evil","orgId":"acme","connectionId":"shop","sql":"select 1"})
			)
		],
		[ 'no payload', 'tenant_mismatch' ],
		[ 'binary/null', 'tenant_mismatch', { encoding => 'binary/null' } ],
		[ 'an empty object', 'tenant_mismatch', $json->('{}') ],
		[   'binary/plain', 'unsupported', { %ok, encoding => 'binary/plain' }
		],
		[   'binary/encrypted', 'unsupported',
			{ %ok, encoding => 'binary/encrypted' }
		],
		[   'json/protobuf', 'unsupported',
			{ %ok, encoding => 'json/protobuf' }
		],
		[   'an encoding that nobody knows',
			'unsupported',
			{ %ok, encoding => $canary }
		],
		[ 'no encoding', 'unsupported', { data => $preview } ],
		[ 'a null', 'unsupported', $json->('null') ],
		[ 'a list', 'unsupported', $json->(q(["acme"])) ],
		[ 'a text', 'unsupported', $json->(qq("$canary")) ],
		[ 'a number', 'unsupported', $json->('1') ],
		[ 'a boolean', 'unsupported', $json->('true') ],
		[ 'nothing', 'unsupported', $json->('') ],
		[ 'half an object', 'unsupported', $json->(qq({"orgId":"$canary)) ],
		[ 'two objects', 'unsupported', $json->('{}{}') ],
		[ 'no JSON', 'unsupported', $json->($canary) ],
		[ 'a NUL byte', 'unsupported', $json->("{\"orgId\":\"acme\"}\0") ],
		[ 'a NUL character', 'unsupported', $json->(q({"orgId":"\u0000"})) ],
		[ 'half a pair', 'unsupported', $json->(q({"orgId":"\ud800"})) ],
		[ 'no UTF-8', 'unsupported', $json->("{\"orgId\":\"\xff\xfe\"}") ],
		[   'a number without bounds', 'unsupported',
			$json->(q({"orgId":1e999999999}))
		],
		[   'lists without end',
			'unsupported',
			$json->('{"orgId":' . '[' x 100_000)
		]
	);

	foreach my $case (@cases)
	{
		my ($what, $code, @payloads) = @$case;
		my $ended =
		  run('previewQueryWorkflow', undef, payloads => \@payloads);

		is( failure_of($ended),
			$code eq 'ok' ? $code : "$code, final",
			"input: $what: $code"
		);
		push @failures, canonical($ended->{error}) if $ended->{error};
	}

	# the same of an activity
	my $ended =
	  run_bad('storeCredsWorkflow', undef,
		payloads => [ $json->("[\"$canary\"]") ]);
	is( failure_of($ended),
		'unsupported, final',
		'input of an activity: a list'
	);
	return;
}

# Keys that are missing, of another type, or unknown.
sub inputs
{
	my $credentials = credentials($source, %good);
	my %store = (connectionId => 'keys', credentials => $credentials);
	my %preview = (connectionId => 'shop', sql => 'select 1');
	my %without = (sql => 'select 1');
	my @cases = (
		[   'ok', 'previewQuery',
			{ %preview, futureKey => { a => [1] }, sqL => 'x' }
		],
		[   'ok', 'previewQuery', { %preview, sealTo => undef, type => undef }
		],
		[ 'ok', 'previewQuery', { %without, credentials => $credentials } ],
		[   'ok', 'testCredentials',
			{ connectionId => 'shop', type => 'postgres' }
		],
		[ 'ok', 'testCredentials', { credentials => $credentials } ],
		[   'ok', 'storeCreds',
			{ %store, name => undef, type => undef, workspaceId => undef }
		],
		[ 'ok', 'storeCreds', { %store, name => '', workspaceId => '' } ],
		[ 'ok', 'deleteConnection', { connectionId => 'keys', name => 'x' } ],

		[   'statement_not_allowed', 'previewQuery',
			{ connectionId => 'shop' }
		],
		[   'statement_not_allowed', 'previewQuery',
			{ connectionId => 'shop', sql => undef }
		],
		[   'unsupported', 'previewQuery',
			{ connectionId => 'shop', sql => 1 }
		],
		[   'unsupported', 'previewQuery',
			{ connectionId => 'shop', sql => ['select 1'] }
		],
		[   'unsupported', 'previewQuery',
			{ connectionId => 7, sql => 'select 1' }
		],
		[   'unsupported', 'previewQuery',
			{ connectionId => {}, sql => 'select 1' }
		],
		[   'unsupported', 'previewQuery',
			{ %preview, sealTo => "key $canary" }
		],
		[   'connection_not_found', 'previewQuery',
			{ connectionId => '', sql => 'select 1' }
		],
		[ 'invalid_credentials', 'previewQuery', {%without} ],
		[   'invalid_credentials', 'previewQuery',
			{ %without, credentials => $canary }
		],
		[   'invalid_credentials', 'previewQuery',
			{ %without, credentials => [ 1, $canary ] }
		],
		[ 'invalid_credentials', 'testCredentials', {} ],
		[   'invalid_credentials', 'testCredentials', { credentials => undef }
		],
		[   'invalid_credentials', 'testCredentials',
			{ credentials => { %$credentials, port => "$canary" } }
		],
		[   'unsupported', 'testCredentials',
			{ type => 1, credentials => $credentials }
		],
		[   'unsupported', 'testCredentials',
			{ type => $canary, credentials => $credentials }
		],
		[   'unsupported', 'testCredentials',
			{ type => 's3', credentials => $credentials }
		],
		[ 'unsupported', 'storeCreds', { credentials => $credentials } ],
		[ 'unsupported', 'storeCreds', { %store, connectionId => '' } ],
		[   'unsupported', 'storeCreds', { %store, connectionId => 'x' x 129 }
		],
		[ 'unsupported', 'storeCreds', { %store, workspaceId => 'x' x 129 } ],
		[ 'unsupported', 'storeCreds', { %store, name => 'x' x 257 } ],
		[ 'unsupported', 'storeCreds', { %store, name => [$canary] } ],
		[ 'invalid_credentials', 'storeCreds', { connectionId => 'keys' } ],
		[   'invalid_credentials', 'storeCreds',
			{ connectionId => 'keys', credentials => {} }
		],
		[   'unsealing_failed',
			'storeCreds',
			{   connectionId => 'keys',
				credentials => { sealed => "$canary.$canary" }
			}
		],
		[ 'unsupported', 'deleteConnection', {} ],
		[ 'unsupported', 'deleteConnection', { connectionId => undef } ],
		[ 'unsupported', 'deleteConnection', { connectionId => 1 } ]
	);

	foreach my $case (@cases)
	{
		my ($code, $name, $input) = @$case;
		my $ended = run("${name}Workflow", $input);
		my $text = canonical($input, 'credentials');

		$text = substr($text, 0, 57) . '...' if length $text > 60;
		$text .=
		  ', credentials ' . substr(canonical($input->{credentials}), 0, 20)
		  if exists $input->{credentials};
		is( failure_of($ended),
			$code eq 'ok' ? $code : "$code, final",
			"$name of $text: $code"
		);
		next if $code eq 'ok';
		push @failures, canonical($ended->{error});
		is(facts($ended)->{state} . ' ' . facts($ended)->{error_code},
			"failed $code", 'which is recorded');
	}
	is(n_connections(), 2, 'none of these stored anything');
	return;
}

# A job of another tenant is refused, and recorded, whatever it is.
sub tenants
{
	my %kinds = (
		storeCredsWorkflow => 'store',
		testCredentialsWorkflow => 'test',
		previewQueryWorkflow => 'preview',
		deleteConnectionWorkflow => 'delete'
	);

	foreach my $type (sort keys %kinds)
	{
		foreach my $org ('evil', 'ACME', 'acme ', '', 1, undef, ['acme'],
			'x' x 10_000)
		{
			# an orgId that is no text is malformed, else it is another's
			my $malformed = ref $org || (defined $org && $org eq '1');
			my $code = $malformed ? 'unsupported' : 'tenant_mismatch';
			my $ended = run_bad(
				$type,
				{   orgId => $org,
					connectionId => 'shop',
					sql => 'select 1',
					credentials => $credentials
				}
			);
			my $job = facts($ended);

			is(failure_of($ended), "$code, final",
				"$type with orgId " . substr(canonical($org), 0, 20));
			is( "$job->{kind} $job->{state} $job->{error_code} $job->{attempt}",
				"$kinds{$type} failed $code 1",
				'is recorded'
			);
		}
	}
	is(n_connections(), 2, 'none of these did anything');

	# the agent's own organisation, on a queue that is another's
	my $ticket = $client->send(
		'start',
		$tenant->arguments(
			'previewQueryWorkflow',
			{ connectionId => 'shop', sql => 'select 1' },
			task_queue => 'tenant-other'
		)
	);
	my $started = $client->receive($ticket);
	run('previewQueryWorkflow',
		{ connectionId => 'shop', sql => 'select 1' });
	is($client->describe(%$started)->{status},
		'RUNNING', 'a queue of another tenant is not polled');
	is(scalar $tenant->jobs_of($started), 0, 'nor is anything of it done');
	$client->terminate(%$started);
	return;
}

# Ids that are long or odd come through, of connections and of workflows.
sub ids
{
	my $long = join '', map { chr(0x4e00 + $_ * 97 % 20_000) } 1 .. 128;

	my %ids = (
		'of 128 characters' => $long,
		'with quotes' => q{it's "quoted"},
		'with a backslash' => 'back\\slash',
		'of two lines' => "two\nlines",
		'that is blank' => ' '
	);
	foreach my $name (sort keys %ids)
	{
		my $id = $ids{$name};
		my $stored = run(
			'storeCredsWorkflow',
			{   connectionId => $id,
				workspaceId => $id,
				credentials => $credentials
			}
		);
		is(code_of($stored), 'ok', "a connection id $name: stored");
		is($stored->{result}{connectionId}, $id, 'under that id');
		is( code_of(
				run('previewQueryWorkflow',
					{ connectionId => $id, sql => 'select 1' }
				)
			),
			'ok',
			'it is used'
		);
		is( canonical(
				run('deleteConnectionWorkflow', { connectionId => $id })
				  ->{result}
			),
			'{"deleted":true}',
			'and deleted'
		);
	}

	# Temporal takes 1000 bytes; these do not compress
	srand(4);
	my $workflow_id = join '', map { chr(33 + int(rand(94))) } 1 .. 1000;
	%ids = (
		'of 1000 bytes' => $workflow_id,
		'with quotes' => 'ünï "quoted" \'id\'',
		'of two lines' => "a\nb"
	);
	foreach my $name (sort keys %ids)
	{
		my $id = $ids{$name};
		my $ended = run(
			'deleteConnectionWorkflow',
			{ connectionId => 'none' },
			workflow_id => $id
		);

		is(code_of($ended), 'ok', "a workflow id $name: it runs");
		is(facts($ended)->{state}, 'succeeded', 'and is recorded by it');
	}
	return;
}

# Previews are for people: one that a schedule or cron started is refused.
sub schedules
{
	my %preview = (connectionId => 'shop', sql => 'select 1');

	$client->create_schedule(
		schedule_id => 'nightly',
		$tenant->arguments('previewQueryWorkflow', {%preview})
	);
	my $started = $client->trigger_schedule(schedule_id => 'nightly');
	my $ended = { %$started, %{ $client->result(%$started) } };
	push @failures, canonical($ended->{error});
	is( failure_of($ended),
		'egress_denied, final',
		'a preview that a schedule started is refused'
	);
	is_deeply(
		facts($ended),
		{   kind => 'preview',
			connection_id => 'shop',
			state => 'failed',
			error_code => 'egress_denied',
			attempt => 1
		},
		'and recorded'
	);
	$client->delete_schedule(schedule_id => 'nightly');

	# begins with its cron
	my %cron = $tenant->arguments('previewQueryWorkflow', {%preview},
		cron_schedule => '@every 1s');
	$started = $client->start(%cron);
	my @jobs;
	ok( wait_until(
			sub {
				@jobs = $tenant->jobs_of($started);
				return @jobs > 0 && $jobs[0]{state} ne 'running';
			},
			90
		),
		'a cron workflow runs'
	);
	is( "$jobs[0]{state} $jobs[0]{error_code}",
		'failed egress_denied',
		'a preview of it is refused'
	);
	$client->terminate(workflow_id => $started->{workflow_id});

	# what brings no rows may be scheduled
	$client->create_schedule(
		schedule_id => 'watch',
		$tenant->arguments(
			'testCredentialsWorkflow', { connectionId => 'shop' }
		)
	);
	$started = $client->trigger_schedule(schedule_id => 'watch');
	is(code_of($client->result(%$started)),
		'ok', 'a test that a schedule started is not');
	$client->delete_schedule(schedule_id => 'watch');
	return;
}

# The activities are for workflows of other workers, too.
sub foreign_workflows
{
	my $queue = 'peers';
	my $call = sub {
		my ($activity, $input, %how) = @_;
		return run(
			'peerCall',
			{   activity => $activity,
				taskQueue => $how{queue} // $tenant->queue,
				input => { orgId => 'acme', %$input },
				%how
			},
			task_queue => $queue
		);
	};

	# of an activity's failure, its cause is ours
	my $cause = sub {
		my ($ended) = @_;
		push @failures, canonical($ended->{error});
		return failure_of({ error => $ended->{error}{cause} });
	};

	$client->start_worker(task_queue => $queue);
	my $ended = $call->(
		'storeCreds',
		{ connectionId => 'foreign', credentials => $credentials }
	);
	is($ended->{result}{status},
		'connected', 'an activity of a foreign workflow stores');
	is(facts($ended)->{kind}, 'store', 'which is recorded by that workflow');
	is( canonical(
			$call->('testCredentials', { connectionId => 'foreign' })
			  ->{result}{ok}
		),
		'true',
		'one tests'
	);
	my $sql = 'select * from item order by id limit 3';
	$ended =
	  $call->('previewQuery', { connectionId => 'foreign', sql => $sql });
	is( canonical($ended->{result}, 'durationMs'),
		canonical(
			json($agent, "select opdata_preview('foreign', '$sql')"),
			'durationMs'
		),
		'one previews, and returns what opdata_preview() returns'
	);
	is_deeply(
		facts($ended),
		{   kind => 'preview',
			connection_id => 'foreign',
			workspace_id => 'default',
			state => 'succeeded',
			row_count => 3,
			byte_count => facts($ended)->{byte_count},
			attempt => 1
		},
		'and is recorded'
	);
	$ended = $call->(
		'testCredentials',
		{ connectionId => 'foreign' },
		queue => $tenant->queue . '-bulk',
		taskQueue => $tenant->queue . '-bulk'
	);
	is(code_of($ended), 'ok', 'the queue of long jobs is served');
	is($tenant->job_of($ended)->{worker}, 'bulk 1', 'by the worker for them');
	is( canonical(
			$call->('deleteConnection', { connectionId => 'foreign' })
			  ->{result}
		),
		'{"deleted":true}',
		'one deletes'
	);

	# with an id of 1000 bytes, beside a workflow id of as many
	my $id = join '', map { chr(33 + int(rand(94))) } 1 .. 1000;
	$ended = $tenant->client->execute(
		$tenant->arguments(
			'peerCall',
			{   activity => 'deleteConnection',
				taskQueue => $tenant->queue,
				id => $id,
				input => { orgId => 'acme', connectionId => 'none' }
			},
			task_queue => $queue,
			workflow_id => scalar reverse $id
		)
	);
	is(code_of($ended), 'ok', 'an activity with a long id works');
	is($tenant->job_of($ended)->{activity_id}, $id, 'and is recorded by it');

	# what goes wrong
	$ended = $call->(
		'previewQuery',
		{ connectionId => 'shop', sql => "select '$canary'::int" },
		attempts => 5
	);
	is($cause->($ended), 'query_failed, final', 'its failure has our code');
	is($ended->{error}{retry_state},
		'NON_RETRYABLE_FAILURE', 'which ends it at once');
	is(facts($ended)->{attempt}, 1, 'after one attempt');
	is( $cause->(
			$call->(
				'previewQuery',
				{   orgId => 'evil',
					connectionId => 'shop',
					sql => 'select 1'
				}
			)
		),
		'tenant_mismatch, final',
		'one of another tenant is refused'
	);
	my $closed = credentials($source, %good,
		port => closed_port());
	$ended = $call->(
		'previewQuery',
		{ credentials => $closed, sql => 'select 1' },
		attempts => 3
	);
	is( $cause->($ended),
		'connection_refused, retryable',
		'what may become better'
	);
	is(facts($ended)->{attempt}, 3,
		'is tried as often as the workflow wants');

	$ended = $call->('baking', {}, attempts => 2);
	is( $cause->($ended),
		'NotFoundError, retryable',
		'an activity that we do not know is refused'
	);
	is($ended->{error}{retry_state},
		'MAXIMUM_ATTEMPTS_REACHED',
		'and tried again: a newer agent may know it');

	# started by a schedule
	my %preview = (connectionId => 'shop', sql => 'select 1');
	my %how = (
		activity => 'previewQuery',
		taskQueue => $tenant->queue,
		input => { orgId => 'acme', %preview }
	);
	$client->create_schedule(
		schedule_id => 'foreign',
		$tenant->arguments('peerCall', {%how}, task_queue => $queue)
	);
	my $started = $client->trigger_schedule(schedule_id => 'foreign');
	$ended = { %$started, %{ $client->result(%$started) } };
	is( $cause->($ended),
		'egress_denied, final',
		'a preview of a scheduled foreign workflow is refused'
	);
	is(facts($ended)->{error_code}, 'egress_denied', 'and recorded');
	$client->delete_schedule(schedule_id => 'foreign');

	# canceled
	my $mark = 0;
	ok( in_time(
			sub {
				my $sql = 'select pg_sleep(60) /* mark ' . ++$mark . ' */';

				$started = $tenant->start('peerCall', { %how, input => { orgId => 'acme', %preview, sql => $sql } },
					task_queue => $queue);
				wait_until(sub { n_begun($source, "/* mark $mark */") }) or return 0;
				eval { $client->cancel(%$started); 1 } or return 0;
				$ended = $client->result(%$started);
				wait_until(sub { $tenant->job_of($started)->{state} ne 'running' });
				return $tenant->job_of($started)->{state} eq 'canceled';
			}
		),
		'a slow one is canceled, which is recorded');
	ok( wait_until(sub { !at_source('pg_sleep') }, 30),
		'that ends it at the source'
	);
	is($ended->{error}{class},
		'CancelledError', 'and the workflow hears of it');
	$client->stop_worker(task_queue => $queue);
	return;
}

# Statements of the agent that hold this word and run at the source now.
sub at_source
{
	my ($word) = @_;
	return $source->safe_psql('postgres',
			"select count(*) from pg_stat_activity where usename = 'reader'"
		  . " and state = 'active' and query like '%$word%'");
}

# Workflows that we do not know harm nobody, and are left for who knows them.
sub unknown_types
{
	my @previews = map {
		{
			$tenant->arguments('previewQueryWorkflow',
				{ connectionId => 'shop', sql => "select $_" })
		}
	} 1 .. 40;
	my $previews_are_done = sub {
		my $ended = $client->execute_many(
			workflows => [
				map {
					{ %$_, workflow_id => "$_->{workflow_id} $_[0]" }
				} @previews
			]
		);
		my @wrong = grep {
			code_of($ended->[$_]) ne 'ok'
			  || $ended->[$_]{result}{rows}[0][0] != $_ + 1
		} 0 .. $#$ended;

		is(scalar @wrong, 0, "forty previews $_[0]");
		return;
	};
	my $events = sub {
		my ($workflow, $type) = @_;
		return grep { $_->{event_type} eq $type } @{ $client->history(%$workflow) };
	};
	my $unknown = sub {
		my $n = 0;
		foreach my $worker ($tenant->agent->workers)
		{
			my $told = $worker->{unknownType} // next;
			$n += $told->{count} if $told->{workflowType} eq 'peerEcho';
		}
		return $n;
	};

	my @started =
	  map { $tenant->start('peerEcho', { number => $_ }) } 1 .. 100;
	ok(wait_until(sub { $unknown->() >= 100 }),
		'the status tells of a hundred workflows of an unknown type');
	$previews_are_done->('beside workflows of an unknown type');

	# else there would be more than enough of them to take up all there is
	ok( wait_until(
			sub { !grep { $_->{running} > 0 || $_->{polls} == 0 } $tenant->agent->workers },
			undef, 0.05
		),
		'which are not in the way: no worker has one in hand'
	);
	is($client->describe(%{ $started[$_] })->{status},
		'RUNNING', 'the unknown ones still wait')
	  foreach 0, 99;
	my $failed;
	ok( wait_until(sub { ($failed) = $events->($started[0], 'WORKFLOW_TASK_FAILED') }),
		'their tasks fail'
	);
	is($failed->{attributes}{failure}{application_failure_info}{type},
		'UnknownWorkflowType', 'their history tells why');
	like(
		$failed->{attributes}{failure}{message},
		qr/\bopdata [0-9.]+\b.*"peerEcho"/,
		'and of which version'
	);

	$client->terminate(%$_) foreach @started;

	# An agent that knows them. A task that ours has taken comes back after
	# most of its timeout.
	my @late =
	  map { $tenant->start('peerEcho', { number => $_ }, task_timeout => 1) }
	  1 .. 10;
	ok( wait_until(sub { !grep { !$events->($_, 'WORKFLOW_TASK_STARTED') } @late }),
		'ten more are tried'
	);
	$client->start_worker(task_queue => $tenant->queue, only => ['peerEcho']);
	is( join(' ',
			map { $client->result(%$_)->{result}{number} // 'none' } @late),
		join(' ', 1 .. 10),
		'a newer agent on the same queue completes them'
	);
	$client->stop_worker(task_queue => $tenant->queue);
	is( code_of(
			run('previewQueryWorkflow',
				{ connectionId => 'shop', sql => 'select 1' }
			)
		),
		'ok',
		'and previews go on'
	);
	return;
}

sub sizes
{
	my %preview = (connectionId => 'shop');
	my $sql = 'select 1 /* ' . 'x' x 200_000 . ' */';

	is(code_of(run('previewQueryWorkflow', { %preview, sql => $sql })),
		'ok', 'a statement of 200 kB');
	my $ended = run_bad('previewQueryWorkflow',
		{ %preview, sql => 'select 1 /* ' . 'x' x 300_000 . ' */' });
	is( failure_of($ended),
		'statement_not_allowed, final',
		'one of 300 kB is refused'
	);

	# A task that has been lost on its way times out, and comes again.
	my %inputs = (
		(   map { ("$_ MB" => 'x' x ($_ * 1_000_000)) } 0.3,
			0.6, 1, 1.1, 1.3, 1.6, 1.9
		),
		'150,000 values' => [ map { [$_] } 1 .. 150_000 ]
	);
	foreach my $what (sort keys %inputs)
	{
		$ended = run('previewQueryWorkflow',
			{ %preview, sql => 'select 1', more => $inputs{$what} });
		is(code_of($ended), 'ok', "an input of $what");
		my @types = map { $_->{event_type} } @{ $client->history(workflow_id => $ended->{workflow_id}) };
		is(scalar(grep { $_ eq 'WORKFLOW_TASK_TIMED_OUT' } @types), 0, 'takes no second delivery');
	}
	my $bad = credentials($source, %good, password => $canary x 170_000);
	$ended = run_bad('storeCredsWorkflow',
		{ connectionId => 'large', credentials => $bad });
	is( failure_of($ended),
		'invalid_credentials, final',
		'a password of 1.9 MB is refused'
	);
	$ended = run_bad('previewQueryWorkflow',
		{ credentials => $bad, sql => 'select 1' });
	is( failure_of($ended),
		'invalid_credentials, final',
		'also where it is used once'
	);

	# Results are whole, or cut where the function cuts them, in any script.
	# The wire has more bytes than the megabyte that is counted.
	my $cell = sub { "repeat($_[0], 1024)" };
	my %results = (
		'a full megabyte' => 'select '
		  . join(', ', map { $cell->("'x'") . " as c$_" } 1 .. 12)
		  . ' from generate_series(1, 100)',
		'line ends' => 'select '
		  . join(', ', map { $cell->("E'\\n'") . " as c$_" } 1 .. 12)
		  . ' from generate_series(1, 100)',
		'quotes and backslashes' => 'select '
		  . join(', ', map { $cell->(q{'"\\'}) . " as c$_" } 1 .. 8)
		  . ' from generate_series(1, 100)',
		'four bytes a character' => 'select '
		  . join(', ', map { $cell->("U&'\\+01F600'") . " as c$_" } 1 .. 4)
		  . ' from generate_series(1, 100)',
		'1600 columns of numbers' => 'select '
		  . join(', ', map { "n as column_$_" } 1 .. 1600)
		  . ' from generate_series(1, 100) n',
		'1600 nulls' => 'select '
		  . join(', ', map { "null as column_$_" } 1 .. 1600)
		  . ' from generate_series(1, 100) n'
	);
	foreach my $what (sort keys %results)
	{
		my $sql = $results{$what};
		my $ended = run('previewQueryWorkflow', { %preview, sql => $sql });
		my $expected = json($agent,
			"select opdata_preview('shop', " . literal($sql) . ')');

		is(code_of($ended), 'ok', "a result of $what arrives");
		ok( canonical($ended->{result}, 'durationMs') eq
			  canonical($expected, 'durationMs'),
			'just as by SQL'
		);
		cmp_ok(length canonical($ended->{result}),
			'>', 400_000, 'and it is large');
	}
	return;
}

# Rows of jobs that are older than the setting go. A job that runs stays, and a
# recorded result for an hour, since a retry may ask for it.
sub retention
{
	my %preview = (connectionId => 'shop', sql => 'select 1');
	my %jobs = (
		young => run('previewQueryWorkflow', {%preview}),
		old => run('previewQueryWorkflow', {%preview}),
		result => run('deleteConnectionWorkflow', { connectionId => 'none' }),
		old_result =>
		  run('deleteConnectionWorkflow', { connectionId => 'none' })
	);
	my $age = sub {
		my ($age, $condition) = @_;
		return value(
				"update opdata.job set started_at = now() - interval '$age',"
			  . " finished_at = now() - interval '$age' where $condition");
	};

	$agent->set(job_retention => '30min');
	$age->('31 min', "run_id is distinct from '$jobs{young}{run_id}'");
	$age->('61 min', "run_id = '$jobs{old_result}{run_id}'");
	value(  "insert into opdata.job (kind, state, requested_by, started_at)"
		  . " select 'preview', 'succeeded', 'many', now() - interval '1 day' from generate_series(1, 2500)"
		  . " union all values ('preview', 'running', 'runs', now() - interval '31 min')"
	);

	# a worker prunes when it begins, and every ten minutes
	value(
		"select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'opdata worker'"
	);
	ok( wait_until(
			sub {
				value(
					q{select count(*) from opdata.job where started_at < now() - interval '1 hour'
					or started_at < now() - interval '30 min' and state <> 'running' and result is null}
				) == 0;
			}
		),
		'jobs older than the setting are deleted'
	);
	is( join(
			' ', map { "$_:" . $tenant->jobs_of($jobs{$_}) } sort keys %jobs
		),
		'old:0 old_result:0 result:1 young:1',
		'but none that is young, or has a result that may be asked for'
	);
	is( value(
			q{select count(*) from opdata_jobs where requested_by = 'runs'}),
		1,
		'nor one that runs'
	);
	value(q{delete from opdata.job where requested_by = 'runs'});
	$agent->set(job_retention => '30d');
	return;
}

# A role that has been granted nothing does as well.
sub worker_role
{
	value('create role opdata_worker login');
	$agent->append_conf('postgresql.conf',
		"opdata.worker_role = 'opdata_worker'\n");
	$agent->restart;
	ok( wait_until(
			sub {
				value(
					"select string_agg(distinct usename, ' ') from pg_stat_activity where backend_type = 'opdata worker'"
				) eq 'opdata_worker';
			}
		),
		'the workers run as a role without rights'
	);
	four_workflows('as a role without rights');
	is( value(
			"select string_agg(distinct requested_by, ' ') from opdata_jobs"
			  . ' where workflow_id is not null and started_at > pg_postmaster_start_time()'
		),
		'opdata_worker',
		'the records name that role'
	);
	is( failure_of(
			run_bad(
				'previewQueryWorkflow',
				{ connectionId => 'shop', sql => 'delete from item' }
			)
		),
		'statement_not_allowed, final',
		'what is refused is refused'
	);
	is( failure_of(
			run_bad(
				'deleteConnectionWorkflow',
				{ orgId => 'evil', connectionId => 'shop' }
			)
		),
		'tenant_mismatch, final',
		'as another tenant is'
	);
	return;
}

# Nothing that failed repeats what the source or a credential said, neither to
# the control plane nor in our log.
sub no_words
{
	my $secret = qr/canary|reader_pw|other_pw|item 1\b/;
	my @said = grep { $_ =~ $secret } @failures;

	cmp_ok(scalar @failures, '>', 100, 'there were enough failures');
	is(join("\n", @said),
		'', 'no failure holds a word of the source or a credential');

	# but for what the test itself has asked
	my @log =
	  grep { /$secret/ && !/^\S+ \S+ UTC \[\d+\] 070_workflows\.pl |^\t/ }
	  split(/\n/, slurp_file($agent->logfile));
	is(join("\n", @log), '', 'nor does a line of the log');
	return;
}
