
# Where secrets and rows end up. Every secret that is given to the agent, on every
# road and with every failure, and every cell that it reads, is a canary of its own.
# Then all that was written anywhere is searched for them, as they are, in base64 and
# in hexadecimal. What is found must be what is listed here, and nothing else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Find ();
use IPC::Run;
use JSON::PP;
use MIME::Base64 qw(encode_base64 decode_base64);
use Opdata::ControlPlane;
use Opdata::Credentials ();
use Opdata::Process;
use Opdata::Test;
use Opdata::Workflows ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $json = JSON::PP->new->canonical->ascii->allow_nonref;

# Letters and digits only, so that they look the same in a URL.
my $prefix = 'Cnry7qZxW';
my (@name, %expected);

# What is asked for by a workflow, and what it answers, stands there.
my $history = q{Temporal's database};
my @late;

my $plane = control_plane('acme', secret => canary('the secret of the agent itself'));
my ($issuer, $convex, $temporal, $client) = map { $plane->$_ } qw(issuer convex temporal client);

my $source = source_cluster('source', tls => 1);
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create table cells (road int, value text);
	grant select on cells to reader});
my $silent = silent_server(at => 'connect');
my $refused = closed_port();

my $agent = agent_cluster('agent', conf => $plane->conf . <<'EOT');
shared_preload_libraries = 'opdata, pg_stat_statements'
pg_stat_statements.track = all
log_statement = all
log_min_duration_statement = 0
log_parameter_max_length_on_error = -1
log_min_messages = debug2
restart_after_crash = on
max_prepared_transactions = 2
EOT
$agent->safe_psql('postgres', 'create extension pg_stat_statements');

my $public_key = json($agent, 'select opdata_public_key()');
my $recipient = node(
	q{const { publicKey, privateKey } = await jose.generateKeyPair('ECDH-ES+A256KW', { crv: 'P-256', extractable: true });
	out({ public: await jose.exportJWK(publicKey), private: await jose.exportJWK(privateKey) })}, {});
$agent->workers_get('polling', 'the workers poll');

plant();
by_sql($_) foreach 'plain', 'sealed';
sql_alone();
my %begun = map { $_ => begin_workflows($_) } 'plain', 'sealed';
by_workflow($_) foreach 'plain', 'sealed';
foreach my $late (@late)
{
	is(Opdata::Workflows::code_of($client->receive($late->[0])), 'query_timeout', $late->[1]);
}
killed();
statistics();
search();
done_testing();

# ---------------------------------------------------------------- canaries

# A new one; where it may be found.
sub canary
{
	my ($name, @places) = @_;

	push @name, $name;
	my $n = $#name;
	$expected{$_}{$n} = 1 foreach @places;
	return sprintf('%s%04dEnd', $prefix, $n);
}

# The canaries in a text: {number => forms}.
sub canaries_in
{
	my ($text) = @_;
	my %found;

	foreach my $form (
		[ 'plain', $prefix, sub { substr($_[0], length $prefix) } ],
		[ 'hexadecimal', unpack('H*', $prefix), sub { pack('H*', substr($_[0], 2 * length $prefix)) } ],
		[ 'hexadecimal', uc unpack('H*', $prefix), sub { pack('H*', substr($_[0], 2 * length $prefix)) } ],
		map {
			my $skip = $_;
			my $piece = substr($prefix, $skip, int((length($prefix) - $skip) / 3) * 3);
			[ 'base64', encode_base64($piece, ''),
				sub {
					(my $letters = $_[0]) =~ tr{-_}{+/};
					my ($text) = decode_base64($letters) =~ /^\Q@{[ substr($prefix, $skip) ]}\E(.*)/s;
					return $text;
				} ]
		} 0 .. 2)
	{
		my ($name, $begins, $rest) = @$form;
		my $at = -1;

		while (($at = index($text, $begins, $at + 1)) >= 0)
		{
			my ($n) = ($rest->(substr($text, $at, 48)) // '') =~ /^(\d{4})/ or next;
			$found{ $n + 0 }{$name} = 1;
		}
	}
	return \%found;
}

sub is_found
{
	my ($place, $text) = @_;
	my $found = canaries_in($text);
	my @names = sort map { $name[$_] } keys %$found;
	my @expected = sort map { $name[$_] } keys %{ $expected{$place} // {} };

	is_deeply(\@names, \@expected, "$place: what is found is what is expected")
	  or diag(map { "$name[$_]: " . join(' ', keys %{ $found->{$_} }) . "\n" } grep { !$expected{$place}{$_} } keys %$found);
	return;
}

# All forms of one are found, wherever in the text they begin.
sub plant
{
	my @all = ('the data directory', 'a dump');
	my @logged = (@all, q{the server's log});
	my $canary = canary('planted in a table', @logged);
	my $in_base64 = encode_base64('ab' . canary('planted in base64', @logged) . 'c', '');
	my $in_hex = unpack('H*', canary('planted in hexadecimal', @logged));

	$agent->safe_psql('postgres', "create table planted as select * from (values ('$canary'), ('$in_base64'), ('$in_hex')) v(t)");
	foreach my $before ('', 'x', 'xx')
	{
		my $found = canaries_in('...' . encode_base64("$before$canary and more", '') . '...');
		is($json->encode($found), $json->encode({ 1 => { base64 => 1 } }), 'the search finds base64 that begins ' . length($before) . ' letters before');
	}
	is($json->encode(canaries_in("...$canary...")), $json->encode({ 1 => { plain => 1 } }), 'the search finds what is not encoded');
	is($json->encode(canaries_in('..' . uc unpack('H*', $canary))), $json->encode({ 1 => { hexadecimal => 1 } }), 'the search finds hexadecimal digits');
	return;
}

# ---------------------------------------------------------------- tools

# The library of another maker, in JavaScript.
sub node
{
	my ($script, $input) = @_;
	my ($out, $err);

	IPC::Run::run(
		[ Opdata::Process::program('OPD_NODE'), '--input-type=module', '-e', <<"JS" ],
import * as jose from 'jose';
import { readFileSync } from 'node:fs';
const input = JSON.parse(readFileSync(0, 'utf8'));
const out = (value) => process.stdout.write(JSON.stringify(value));
$script
JS
		'<', \$json->encode($input), '>', \$out, '2>', \$err, init => sub { chdir "$FindBin::RealBin/../node" })
	  or die "node: $err";
	return $json->decode($out);
}

# Payloads as they are given: the same, or sealed.
sub given
{
	my ($how, @payloads) = @_;

	return @payloads if $how eq 'plain';
	my $tokens = node(
		q{const key = await jose.importJWK(input.key, 'ECDH-ES+A256KW');
		out(await Promise.all(input.payloads.map((payload) =>
			new jose.CompactEncrypt(new TextEncoder().encode(JSON.stringify(payload)))
				.setProtectedHeader({ alg: 'ECDH-ES+A256KW', enc: 'A256GCM', kid: input.key.kid })
				.encrypt(key))))},
		{ key => $public_key, payloads => \@payloads });
	return map { { sealed => $_ } } @$tokens;
}

sub literal { return Opdata::Credentials::literal(@_); }

# ---------------------------------------------------------------- roads

# A role of the source with this password.
sub role_for
{
	my ($password) = @_;
	my $role = 'role_' . $#name;

	$source->safe_psql('postgres', "create role $role login password '$password'; grant select on cells to $role");
	return $role;
}

# A cell, and the query that shows it.
sub cell
{
	my ($name, @places) = @_;
	my $canary = canary($name, @places);

	$source->safe_psql('postgres', "insert into cells values ($#name, '$canary')");
	return "select value from cells where road = $#name";
}

# Payloads, each with canaries: [name, what comes of a test, payload].
sub payloads
{
	my ($by, $how, @places) = @_;
	my $make = sub { return canary("$by, $how, $_[0]", @places); };
	my @payloads;
	my $right = $make->('the right password');

	push @payloads, [ 'right', 'ok', payload(username => role_for($right), password => $right) ];
	my $url = $make->('a connection URL');
	push @payloads, [ 'URL', 'ok', { dsn => 'postgresql://' . role_for($url) . ":$url\@127.0.0.1:" . $source->port . '/postgres?sslmode=disable' } ];
	my $pairs = $make->('a connection string');
	push @payloads, [ 'string', 'ok', { dsn => 'host=127.0.0.1 port=' . $source->port . ' dbname=postgres sslmode=disable user=' . role_for($pairs) . " password=$pairs" } ];
	push @payloads, [ 'wrong', 'authentication_failed', payload(username => 'reader', password => $make->('a wrong password')) ];
	push @payloads, [ 'refused', 'connection_refused', payload(port => $refused, password => $make->('a refused connection')) ];
	push @payloads, [ 'late', 'timeout', { dsn => 'host=127.0.0.1 port=' . $silent->port . ' dbname=d sslmode=disable user=u connect_timeout=1 password=' . $make->('a timeout') } ];
	push @payloads, [ 'unknown key', 'invalid_credentials', payload(pasword => $make->('an unknown key')) ];
	push @payloads, [ 'list', 'invalid_credentials', payload(password => [ $make->('a password that is a list') ]) ];
	push @payloads, [ 'bad URL', 'invalid_credentials', { dsn => 'postgresql://u:' . $make->('a malformed URL') . '%zz@h/d' } ];
	push @payloads, [ 'bad PEM', 'invalid_credentials', payload(
			password => $make->('a password beside a bad key'), sslMode => 'require', sslCert => 'no certificate',
			sslKey => "-----BEGIN PRIVATE KEY-----\n" . $make->('the text of a bad key') . "\n-----END PRIVATE KEY-----\n") ];

	# what stands around a key in PEM is no part of it
	my $key = slurp_file($source->data_dir . '/certs/certuser.key');
	push @payloads, [ 'PEM', 'ok', payload(
			password => 'reader_pw', sslMode => 'require',
			sslCert => slurp_file($source->data_dir . '/certs/certuser.crt'),
			sslKey => $make->('a line before a good key') . "\n$key") ];
	push @payloads, [ 'secret', 'any', {
			host => '127.0.0.1', port => $refused, database => 'd', username => 'u', mode => 'jwt',
			tokenUrl => 'https://127.0.0.1:1/token', clientId => 'c', clientSecret => $make->('the secret of a client') }, 'cockroachdb' ];
	push @payloads, [ 'token', 'any', {
			host => '127.0.0.1', port => $refused, database => 'd', username => 'u', mode => 'jwt',
			token => 'eyJhbGciOiJub25lIn0.' . $make->('a token') . '.x' }, 'cockroachdb' ];
	my @given = given($how, map { $_->[2] } @payloads);
	$_->[2] = shift @given foreach @payloads;
	return @payloads;
}

sub payload { return Opdata::Credentials::credentials($source, username => 'reader', @_); }

# ---------------------------------------------------------------- SQL

sub by_sql
{
	my ($how) = @_;

	foreach my $case (payloads('SQL', $how))
	{
		my ($name, $code, $payload, $type) = @$case;
		my $given = literal($payload) . '::jsonb';
		my $t = literal($type // 'postgres');
		my $error = error_of($agent, "select opdata_store_creds('$how $name', $given, type => $t)");

		is($error ? $error->{code} : 'ok', $code, "SQL, $how: a store of $name") unless $code eq 'any';
		$agent->psql('postgres', "select opdata_store_creds('$how $name untested', $given, type => $t, test => false)");
		$agent->psql('postgres', "select opdata_test($given, $t)");
		$agent->psql('postgres', "begin; select opdata_store_creds('$how $name back', $given, type => $t, test => false); rollback");
		$agent->psql('postgres', "begin; select opdata_store_creds('$how $name prepared', $given, type => $t, test => false); prepare transaction 'p'");
		$agent->psql('postgres', q{rollback prepared 'p'});
	}
	# the source's message is for who asked; as any error, it stands in the log
	my $query = cell("SQL, $how: a row of a preview");
	my $quoted = cell("SQL, $how: a row in an error", q{the server's log});
	like($agent->safe_psql('postgres', "select opdata_preview('$how right', '$query')"), qr/$prefix/, "SQL, $how: a preview shows a row");
	is(error_of($agent, "select opdata_preview('$how right', 'select value::int from ($quoted) q')")->{code}, 'query_failed', "SQL, $how: an error that quotes a row");
	ok(json($agent, "select opdata_test('$how right')")->{ok}, "SQL, $how: a stored one is tested");

	my $given = literal(given($how, payload(port => $silent->port + 0, password => canary("SQL, $how: a cancelled store"))));
	foreach my $end ('cancel', 'terminate')
	{
		my ($handle) = Opdata::Credentials::start_psql($agent, 'hangs', "select opdata_store_creds('$how $end', $given)");

		ok($agent->poll_query_until('postgres', q{select count(*) = 1 from pg_stat_activity where application_name = 'hangs' and state = 'active' and wait_event_type = 'Extension'}), "SQL, $how: a store hangs");
		is_found("pg_stat_activity, $how, $end", $agent->safe_psql('postgres', 'select a from pg_stat_activity a'));
		$agent->safe_psql('postgres', "select pg_${end}_backend(pid) from pg_stat_activity where application_name = 'hangs'");
		IPC::Run::finish($handle);
	}
	return;
}

# What is no JSON, and what no seal helps against.
sub sql_alone
{
	my ($token) = given('sealed', payload(password => canary('SQL: a sealed payload that is cut')));
	my $cut = substr($token->{sealed}, 0, -9);

	foreach my $case (
		[ 'what is no JSON', '22P02', q[opdata_store_creds('x', '{"password": "] . canary('SQL: what is no JSON') . q[", oops}')] ],
		[ 'what is nothing at all', '22P02', q[opdata_store_creds('x', '] . canary('SQL: what is nothing at all') . q[')] ],
		[ 'a payload for an id', '22023', q[opdata_test('] . $json->encode(payload(password => canary('SQL: a payload for an id'))) . q[')] ],
		[ 'a sealed payload that is cut', 'unsealing_failed', qq[opdata_store_creds('x', '{"sealed": "$cut"}')] ],
		[ 'what is no token', 'unsealing_failed', q[opdata_store_creds('x', '{"sealed": "] . canary('SQL: no token at all') . q["}')] ])
	{
		my ($name, $expected, $call) = @$case;
		my $error = error_of($agent, "select $call");

		is($expected =~ /^\d/ ? $error->{sqlstate} : $error->{code}, $expected, "SQL: $name");
	}
	return;
}

# ---------------------------------------------------------------- workflows

sub workflow
{
	my ($type, %input) = @_;
	return $plane->arguments("${type}Workflow", \%input);
}

sub begin_workflows
{
	my ($how) = @_;
	my @workflows;

	# what stands in an input stands in the history
	foreach my $case (payloads('workflow', $how, $how eq 'plain' ? $history : ()))
	{
		my ($name, $code, $payload, $type) = @$case;
		my @given = (type => $type // 'postgres', credentials => $payload);
		my $id = "workflow $how $name";

		push @workflows, [ "a store of $name", $code, { workflow('storeCreds', connectionId => $id, name => $id, @given) } ];
		push @workflows, [ "a test of $name", $code eq 'ok' ? 'ok' : 'any', { workflow('testCredentials', @given) } ];
		push @workflows, [ "a preview by $name", $code, { workflow('previewQuery', sql => cell("workflow, $how: a row shown by $name", $code eq 'ok' ? $history : ()), @given) } ];
		push @workflows, [ "a sealed preview by $name", $code, {
				workflow('previewQuery', sql => cell("workflow, $how: a row sealed by $name"), sealTo => $recipient->{public}, @given) } ];
	}
	return { workflows => \@workflows, ticket => $client->send('execute_many', workflows => [ map { $_->[2] } @workflows ]) };
}

sub by_workflow
{
	my ($how) = @_;
	my @workflows = @{ $begun{$how}{workflows} };
	my $ended = $client->receive($begun{$how}{ticket});
	my @sealed;
	foreach my $i (0 .. $#workflows)
	{
		my ($name, $code, $workflow) = @{ $workflows[$i] };

		is(Opdata::Workflows::code_of($ended->[$i]), $code, "workflow, $how: $name") unless $code eq 'any';
		next unless $ended->[$i]{result} && $ended->[$i]{result}{sealed};
		push @sealed, $ended->[$i]{result}{sealed};
	}
	my $opened = node(
		q{const key = await jose.importJWK(input.key, 'ECDH-ES+A256KW');
		out(await Promise.all(input.tokens.map(async (token) =>
			JSON.parse(new TextDecoder().decode((await jose.compactDecrypt(token, key)).plaintext)))))},
		{ tokens => \@sealed, key => $recipient->{private} });
	is(scalar(grep { $_->{rows}[0][0] =~ /^$prefix/ } @$opened), 4, "workflow, $how: sealed previews show their rows to who has the key");

	# of a stored one; the query stands in the egress log, in the history, and where tables are
	my @query_places = ($history, 'the data directory', 'a dump', 'opdata.egress');
	my $text = canary("workflow, $how: a literal in a query", @query_places);
	my $query = cell("workflow, $how: a row of a stored connection", $history);
	my $sealed_query = cell("workflow, $how: a sealed row of a stored connection");
	my $id = "workflow $how right";
	my $late = $client->send('execute',
		workflow('previewQuery', connectionId => $id, sql => 'select value, pg_sleep(60) from (' . cell("workflow, $how: a row too late") . ') q'));
	foreach my $case (
		[ 'a preview', 'ok', sql => "$query and '$text' <> ''" ],
		[ 'a sealed preview', 'ok', sql => $sealed_query, sealTo => $recipient->{public} ],
		[ 'an error that quotes a row', 'query_failed', sql => 'select value::int from (' . cell("workflow, $how: a row in an error") . ') q' ])
	{
		my ($name, $code, @input) = @$case;
		my $ended = $client->execute(workflow('previewQuery', connectionId => $id, @input));

		is(Opdata::Workflows::code_of($ended), $code, "workflow, $how: $name of a stored connection") or diag($json->encode($ended));
	}
	is(Opdata::Workflows::code_of($client->execute(workflow('testCredentials', connectionId => $id))), 'ok', "workflow, $how: a stored one is tested");

	my ($hangs) = given($how, payload(port => $silent->port + 0, password => canary("workflow, $how: a cancelled one", $how eq 'plain' ? $history : ())));
	my %hanging = workflow('testCredentials', type => 'postgres', credentials => $hangs);
	$client->start(%hanging);
	running($hanging{workflow_id}, "workflow, $how: one hangs");
	$client->cancel(workflow_id => $hanging{workflow_id});
	my $cancelled = $client->result(workflow_id => $hanging{workflow_id});
	ok($cancelled->{error}, "workflow, $how: and is cancelled");
	push @late, [ $late, "workflow, $how: a row that comes too late" ];
	return;
}

sub running
{
	my ($workflow_id, $name) = @_;

	ok($agent->poll_query_until('postgres', "select count(*) = 1 from opdata.job where workflow_id = '$workflow_id' and state = 'running'"), $name);
	return;
}

# Workers that die with a secret in hand, and the server with them.
sub killed
{
	foreach my $how ('plain', 'sealed')
	{
		my ($hangs) = given($how, payload(port => $silent->port + 0, password => canary("workflow, $how: a killed worker", $how eq 'plain' ? $history : ())));
		my %hanging = workflow('testCredentials', type => 'postgres', credentials => $hangs);

		$client->start(%hanging);
		running($hanging{workflow_id}, "$how: a worker is at work");
		my $worker = $agent->safe_psql('postgres', "select worker from opdata.job where workflow_id = '$hanging{workflow_id}'");
		my ($pid) = map { $_->{pid} } grep { $_->{name} eq $worker } $agent->workers;
		kill 'KILL', $pid;
		# nobody is to do it again
		$client->terminate(workflow_id => $hanging{workflow_id}, reason => 'enough');
		ok( wait_until(
				sub {
					my @workers = eval { $agent->workers };
					return 3 == grep { $_->{state} eq 'polling' && $_->{pid} != $pid } @workers;
				}),
			"$how: it is killed, and all are back");
	}
	return;
}

# ---------------------------------------------------------------- the search

sub statistics
{
	my $psql = sub { return $agent->safe_psql('postgres', $_[0]); };

	# statements of this very session have their literals taken out
	is_found('pg_stat_statements', $psql->('select query from pg_stat_statements'));
	is_found('pg_stat_activity', $psql->('select a from pg_stat_activity a'));
	is_found('pg_prepared_xacts', $psql->('select * from pg_prepared_xacts') . $psql->('select * from pg_prepared_statements'));
	foreach my $table (qw(job egress outbox connection sealing_key agent recipient access suspension))
	{
		is_found("opdata.$table", $psql->("select t::text from opdata.$table t"));
	}
	cmp_ok($psql->('select count(*) from opdata.egress'), '>', 10, 'the egress log has rows');
	foreach my $view (qw(opdata_connections opdata_jobs))
	{
		is_found($view, $psql->("select t::text from $view t"));
	}
	is_found('opdata_status', $psql->('select opdata_status()'));
	return;
}

# All files below a folder, less some.
sub files_in
{
	my ($folder, $skip) = @_;
	my $text = '';
	my $n = 0;

	File::Find::find(
		{   no_chdir => 1,
			wanted => sub {
				return unless -f $_ && !-l $_;
				return if $skip && $_ =~ $skip;
				# a server that runs may remove it meanwhile
				my $content = eval { slurp_file($_) };
				die $@ if !defined $content && -e $_;
				$text .= ($content // '') . "\0";
				$n++;
			}
		},
		$folder);
	return ($text, $n);
}

sub search
{
	ok( wait_until(sub { $agent->safe_psql('postgres', 'select count(*) from opdata.outbox') == 0 }), 'the control plane was told all');
	cmp_ok(scalar(@{ $convex->calls('connections:setStatus') }), '>', 5, 'which is something');
	is_found('calls of the control plane', $json->encode($convex->calls('connections:setStatus')) . $json->encode($convex->calls('agents:heartbeat')) . $json->encode($convex->documents));
	is_found(q{the control plane's log}, -e $convex->log_file ? slurp_file($convex->log_file) : '');
	is_found(q{the issuer's log}, slurp_file($issuer->log_file));

	my ($dump, $err);
	IPC::Run::run([ 'pg_dumpall', '-d', $agent->connstr('postgres') ], '>', \$dump, '2>', \$err) or die $err;
	like($dump, qr/COPY opdata\.egress/, 'a dump has the egress log');
	is_found('a dump', $dump);

	$agent->safe_psql('postgres', 'checkpoint');
	my ($running) = files_in($agent->data_dir);
	is_found('the data directory', $running);
	$agent->stop;
	my ($stopped, $n) = files_in($agent->data_dir);
	cmp_ok($n, '>', 900, 'the data directory has files');
	is_found('the data directory', $stopped);
	my $log = slurp_file($agent->logfile);
	like($log, qr/DEBUG:.*STATEMENT|statement: /s, 'the log has statements');
	is_found(q{the server's log}, $log);

	$temporal->stop;
	my ($folder) = $temporal->{db} =~ m{^(.*)/};
	my ($database) = files_in($folder);
	is_found(q{Temporal's database}, $database);
	is_found(q{Temporal's log}, slurp_file($temporal->log_file));
	return;
}
