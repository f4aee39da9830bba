
# What leaves by workflows: masked before it does, no more than may, each preview with
# a row in a chain that tells when somebody touched it, and nothing else than the
# inventory lists.

use strict;
use warnings;
use utf8;

use Digest::SHA qw(sha256_hex);
use Encode qw(encode_utf8);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use MIME::Base64 qw(decode_base64);
use Opdata::ControlPlane;
use Opdata::Credentials qw(reader);
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Utils;
use Test::More;

# Longer than anything takes that happens at all.
my $soon = $PostgreSQL::Test::Utils::timeout_default;

# What waits at the gate is not to be handed out once more meanwhile.
my $task_timeout = 30;

my $json = JSON::PP->new->canonical->allow_nonref;

my $plane = control_plane('acme');
my ($issuer, $convex, $temporal, $client) = map { $plane->$_ } qw(issuer convex temporal client);
my $silence = silent_server(at => 'connect');

my $source = source_cluster('source', conf => "log_connections = on\n");
$source->safe_psql(
	'postgres', q{
	create role reader login password 'reader_pw';
	create table person (id int, email text, phone text);
	insert into person select n, 'canary-' || n || '@x.test', '555-canary' from generate_series(1, 20) as n;
	grant select on person to reader;
});

my $agent = agent_cluster('agent', soon => $soon, conf => $plane->conf . "restart_after_crash = on\n");
my $dbname = 'postgres';

# While the file "gate" exists, a transaction that logs a preview waits just before its
# commit. tampered() tells what a verification finds after a statement that no trigger
# stops, and undoes it.
psql(q{
	create function public.wait_at_gate() returns trigger language plpgsql as $$
	begin
		while (pg_stat_file('gate', true)).size is not null loop
			perform pg_sleep(0.02);
		end loop;
		return null;
	end $$;
	create constraint trigger wait_at_gate after insert on opdata.egress deferrable initially deferred
		for each row execute function public.wait_at_gate();
	create function public.tampered(statement text, expected_head text default null) returns jsonb language plpgsql as $$
	declare
		result jsonb;
	begin
		begin
			perform set_config('session_replication_role', 'replica', true);
			execute statement;
			result := opdata_verify_egress(expected_head);
			raise exception 'undo';
		exception when raise_exception then
			return result;
		end;
	end $$;
});
foreach my $workspace (qw(here there elsewhere))
{
	psql("select opdata_store_creds('$workspace', '" . $json->encode(credentials()) . "', workspace_id => '$workspace', test => false)");
}

# every JSON message that came to the control plane, as [message, value]
my @messages;

$agent->workers_get('polling', 'the workers poll');
nothing_left();
masks();
the_log();
limits();
limits_at_once();
many_at_once();
sql_is_no_egress();
failures();
changed_meanwhile();
row_comes_first();
killed_before_the_answer();
append_only();
tampering();
other_messages();
not_listed();
dump_and_restore();
inventory();

my $log = slurp_file($agent->logfile);
ok($log !~ qr/reader_pw|agent_secret|eyJ|canary-/, 'no password, secret, token or value of the source is in the log');
ok($log !~ qr/PANIC/, 'nor a panic');
done_testing();

# ---------------------------------------------------------------- questions

sub psql { return $agent->safe_psql($dbname, @_); }

sub value { return json($agent, $_[0], dbname => $dbname); }

sub verified { return value('select opdata_verify_egress(' . (defined $_[0] ? "'$_[0]'" : '') . ')'); }

sub n_logged { return psql('select count(*) from opdata_egress'); }

# Rows of the log from a number on, as hashes.
sub logged
{
	my ($from) = @_;
	return @{ value("select coalesce(json_agg(e order by seq), '[]') from opdata_egress e where seq > $from") };
}

sub job
{
	my ($id) = @_;
	my $jobs = value("select coalesce(json_agg(j), '[]') from opdata_jobs j where workflow_id = '$id'");
	return $jobs->[0] // {};
}

# How often somebody came to the source.
sub n_visits
{
	my @visits = slurp_file($source->logfile) =~ /connection received/g;
	return scalar @visits;
}

# ---------------------------------------------------------------- workflows

sub credentials { return reader($source, @_); }

# Arguments of a workflow.
sub workflow
{
	my ($type, %input) = @_;
	return $plane->arguments($type, \%input);
}

sub run
{
	my ($type, %input) = @_;
	my $ended = $client->execute(workflow($type, %input));
	my $activity = $type =~ s/Workflow$//r;

	push @messages, [ "$activity result", $ended->{result} ] if $ended->{result};
	push @messages, map { [ 'failure details', $_ ] } @{ $ended->{error}{details} // [] } if $ended->{error};
	return $ended;
}

sub preview
{
	my ($id, $sql, %input) = @_;
	return run('previewQueryWorkflow', connectionId => $id, sql => $sql, %input);
}

sub n_rows { return preview($_[0], "select id from person limit $_[1]"); }

# Everything that the server keeps of a workflow, as text.
sub history_of
{
	my ($ended) = @_;
	my $bytes = decode_base64($client->history_bytes(workflow_id => $ended->{workflow_id})->{base64});
	return $bytes . $json->encode($client->history(workflow_id => $ended->{workflow_id}));
}

sub gate { return $agent->data_dir . '/gate'; }

sub close_gate { append_to_file(gate(), "closed\n"); return; }

sub open_gate { unlink gate() or die gate() . ": $!"; return; }

sub at_the_gate
{
	ok( wait_until(sub { psql(q{select count(*) from pg_stat_activity where wait_event = 'PgSleep'}) > 0 }, $soon),
		'a preview is about to be logged');
	return;
}

sub is_whole
{
	my ($name) = @_;
	my $found = verified();

	is_deeply(
		[ @$found{qw(ok rows firstBad)} ],
		[ JSON::PP::true, n_logged(), undef ],
		$name) or diag($json->encode($found));
	return;
}

# ---------------------------------------------------------------- tests

sub nothing_left
{
	is_deeply(
		verified(),
		{ ok => JSON::PP::true, rows => 0, head => undef, expectedHeadFound => undef, firstBad => undef },
		'a log without rows is whole');
	is(verified('0' x 64)->{ok}, JSON::PP::false, 'unless it had some');
	is_deeply($agent->status->{egress}, { rows => 0, head => undef }, 'the status has no head');
	return;
}

sub masks
{
	psql(q{select opdata_mask('here', '*MAIL*'), opdata_mask('there', 'phone')});
	my $ended = preview('here', 'select id, email, phone from person order by id limit 2');
	is_deeply(
		$ended->{result}{rows},
		[ [ 1, '***', '555-canary' ], [ 2, '***', '555-canary' ] ],
		'a workflow brings *** for a masked column') or diag($json->encode($ended));
	unlike(history_of($ended), qr/canary-/, 'and its value is not in the history');
	my ($row) = logged(0);
	is($row->{masked_columns}, 1, 'the log counts it');
	cmp_ok($row->{byte_count}, '>=', length($json->encode($ended->{result}{rows})), 'and the bytes');

	$ended = run('previewQueryWorkflow', credentials => credentials(), sql => 'select id, email, phone from person order by id limit 1');
	is_deeply($ended->{result}{rows}, [ [ 1, '***', '***' ] ], 'with credentials of the input the rules of all workspaces apply')
	  or diag($json->encode($ended));
	is((logged(1))[0]{masked_columns}, 2, 'and are counted');
	unlike(history_of($ended), qr/canary-|555-canary/, 'and no value is in the history');

	my $before = n_logged();
	my $visits = n_visits();
	foreach my $sql ('select upper(email) from person', 'select p.to_jsonb from person p', 'select id from person order by email',
		'select query_to_xml(\'table person\', true, true, \'\')', 'select new_syntax of email from person')
	{
		$ended = preview('here', $sql);
		is(code_of($ended), 'statement_not_allowed', "refused: $sql");
		unlike(history_of($ended), qr/canary-/, 'and nothing is in the history');
	}
	is(n_logged(), $before, 'what is refused is not logged');
	is(n_visits(), $visits, 'nor is the source asked');
	is_deeply(preview('there', 'select email, phone from person where id = 1')->{result}{rows},
		[ [ 'canary-1@x.test', '***' ] ], 'another workspace has its own rules');
	psql(q{select opdata_unmask('here', '*MAIL*'), opdata_unmask('there', 'phone')});
	return;
}

# JSON as PostgreSQL prints a jsonb.
sub printed
{
	my ($value, $is_number) = @_;
	my %short = ("\b" => '\b', "\f" => '\f', "\n" => '\n', "\r" => '\r', "\t" => '\t', '"' => '\"', '\\' => '\\\\');

	return 'null' unless defined $value;
	return $value if $is_number;
	$value =~ s/([\x00-\x1f"\\])/$short{$1} \/\/ sprintf('\\u%04x', ord $1)/ge;
	return qq{"$value"};
}

# The chain, computed without a word of the extension's: the number of rows, or what is wrong.
sub computed_chain
{
	my $rows = value(q{
		select json_agg(to_jsonb(e) || jsonb_build_object('us', (extract(epoch from sent_at) * 1000000)::bigint::text) order by seq)
		from opdata_egress e});
	my %is_number = map { $_ => 1 } qw(seq us row_count byte_count masked_columns);
	my $before = '';
	my $n = 0;

	foreach my $row (@$rows)
	{
		my $text = '[' . join(', ', map { printed($row->{$_}, $is_number{$_}) }
			  qw(seq us workspace_id connection_id host requested_by workflow_id run_id activity_id query
			  row_count byte_count masked_columns sealed_to error_code prev_hash)) . ']';

		$n++;
		return "row $n is row $row->{seq}" if $row->{seq} != $n;
		return "row $n has another row before it" if $row->{prev_hash} ne $before;
		$before = sha256_hex(encode_utf8($text));
		return "row $n has another hash" if $row->{hash} ne $before;
	}
	return $n;
}

sub the_log
{
	my $before = n_logged();
	my $sql = qq{select id, 'zoë "\\', \t/* \x{1F600}\n */ 1 from person limit 3};
	my $ended = preview('here', $sql);
	my ($row) = logged($before);
	my $started = $client->history(workflow_id => $ended->{workflow_id})->[0];

	is_deeply(
		[ @$row{qw(seq workspace_id connection_id host workflow_id run_id query row_count masked_columns sealed_to)} ],
		[ $before + 1, 'here', 'here', '127.0.0.1', $ended->{workflow_id}, $ended->{run_id}, $sql, 3, 0, undef ],
		'a preview that leaves has a row') or diag($json->encode($ended));
	ok($row->{requested_by}, 'with who asked');
	is($row->{requested_by}, $started->{attributes}{identity}, 'which is the identity of the client');
	my $result = $json->encode($ended->{result}) =~ s/("durationMs":)([\d.]+)/sprintf('%s%.3f', $1, $2)/er;
	is($row->{byte_count}, psql("select octet_length(\$j\$$result\$j\$::jsonb::text)"),
		'and the bytes of the result as jsonb');
	is(job($ended->{workflow_id})->{byte_count}, $row->{byte_count}, 'as its job has it');

	# the agent's own key is one that can be sealed to
	my $jwk = value('select opdata_public_key()');
	$ended = preview('here', 'select email from person limit 2', sealTo => $jwk);
	like($ended->{result}{sealed}, qr/^eyJ/, 'a sealed preview leaves sealed') or diag($json->encode($ended));
	($row) = logged($before + 1);
	is_deeply([ @$row{qw(row_count sealed_to)} ], [ 2, $jwk->{kid} ], 'its row says to whom');
	unlike(history_of($ended), qr/canary-/, 'and its rows are not in the history');

	$ended = run('previewQueryWorkflow', credentials => credentials(), sql => 'select 1');
	($row) = logged($before + 2);
	is_deeply([ @$row{qw(workspace_id connection_id host)} ], [ undef, undef, '127.0.0.1' ],
		'one with credentials of the input has neither connection nor workspace');

	my $rows = n_logged();
	foreach my $bad ([ 'here', 'select nothing from person' ], [ 'here', 'delete from person' ], [ 'nowhere', 'select 1' ])
	{
		isnt(code_of(preview(@$bad)), 'ok', "@$bad fails");
	}
	is(n_logged(), $rows, 'what failed before the source ran it is not logged');

	is(computed_chain(), $rows, 'the chain is what Perl computes');
	is( psql(q{
			select count(*) filter (where hash = encode(sha256(convert_to(jsonb_build_array(seq,
				(extract(epoch from sent_at) * 1000000)::bigint, workspace_id, connection_id, host, requested_by,
				workflow_id, run_id, activity_id, query, row_count, byte_count, masked_columns, sealed_to,
				error_code, prev_hash)::text, 'UTF8')), 'hex')) - count(*) from opdata_egress}),
		0, 'and what SQL computes');
	is_whole('and it is whole');
	is_deeply($agent->status->{egress}, { rows => $rows + 0, head => verified()->{head} }, 'the status has its head');
	is(verified($agent->status->{egress}{head})->{ok}, JSON::PP::true, 'which is found');
	is(psql("set timezone = 'Asia/Kolkata'; set datestyle = 'German, DMY'; set extra_float_digits = 0; set bytea_output = 'escape';"
		  . " select opdata_verify_egress()->'ok'"), 'true', 'whatever the settings of who asks');
	return;
}

# What counts for the limits of a workspace: previews of no workspace do for each.
sub used
{
	my ($workspace, $what) = @_;
	return psql("select coalesce($what, 0) from opdata_egress where workspace_id = '$workspace' or workspace_id is null");
}

sub limit
{
	my ($workspace, @limits) = @_;
	psql("select opdata_limit('$workspace', " . join(', ', map { $_ // 'null' } @limits) . ')');
	return;
}

# A preview is refused, and its record says why.
sub is_refused
{
	my ($ended, $message, $name) = @_;

	is(failure_of($ended), 'egress_denied, final', $name) or diag($json->encode($ended));
	like($ended->{error}{message} // '', $message, 'with the reason');
	# what is in the way of the record does not hold up the answer
	wait_until(sub { (job($ended->{workflow_id})->{state} // '') ne 'running' }, $soon);
	is_deeply([ @{ job($ended->{workflow_id}) }{qw(kind state error_code row_count)} ],
		[ 'preview', 'failed', 'egress_denied', undef ], 'it is a job record');
	return;
}

sub limits
{
	my $visits = n_visits();
	my $rows = n_logged();

	limit('elsewhere', 0, undef);
	is_refused(n_rows('elsewhere', 1), qr/no previews may leave/, 'with a limit of 0 no preview leaves');
	is_refused(run('previewQueryWorkflow', credentials => credentials(), sql => 'select 1'), qr/no previews may leave/,
		'nor one with credentials of the input, of whatever workspace');
	is(n_visits(), $visits, 'and the source is not asked');
	is(n_logged(), $rows, 'nor is anything logged');
	is(code_of(n_rows('there', 1)), 'ok', 'another workspace has other limits');
	is(code_of(run('testCredentialsWorkflow', connectionId => 'elsewhere')), 'ok', 'and a test is no preview');

	limit('elsewhere', used('elsewhere', 'count(*)') + 2, undef);
	is(code_of(n_rows('elsewhere', 2)), 'ok', "preview $_ of 2 leaves") foreach 1, 2;
	$visits = n_visits();
	is_refused(n_rows('elsewhere', 0), qr/as many previews as may/, 'the third does not');
	is(n_visits(), $visits, 'and the source is not asked');

	limit('elsewhere', undef, used('elsewhere', 'sum(row_count)') + 3);
	is_refused(n_rows('elsewhere', 4), qr/more rows would leave/, 'of rows, too many do not leave');
	is(code_of(n_rows('elsewhere', 3)), 'ok', 'those that just may do');
	is_refused(n_rows('elsewhere', 1), qr/more rows would leave/, 'then not one');
	is(code_of(n_rows('elsewhere', 0)), 'ok', 'but none');
	limit('elsewhere', 100, 0);
	is_refused(n_rows('elsewhere', 1), qr/more rows would leave/, 'with a limit of 0 rows none leaves');
	limit('elsewhere', undef, undef);
	is(code_of(n_rows('elsewhere', 20)), 'ok', 'without limits all do');

	# what has left long ago
	my $replica = q{set session_replication_role = replica;};
	limit('elsewhere', 1, undef);
	is(code_of(n_rows('elsewhere', 1)), 'egress_denied', 'what left within 24 hours counts');
	psql("$replica update opdata.egress set sent_at = sent_at - interval '24 hours 1 minute'");
	is(code_of(n_rows('elsewhere', 1)), 'ok', 'what left before does not');
	psql("$replica update opdata.egress set sent_at = sent_at + interval '24 hours 1 minute' where seq <> (select max(seq) from opdata.egress)");
	limit('elsewhere', undef, undef);
	is_whole('the log is as it was');

	# of all workspaces together
	limit('*', n_logged(), undef);
	is_refused(n_rows('there', 1), qr/as many previews as may/, 'a limit of all workspaces counts all of them');
	limit('*', n_logged() + 1, undef);
	is(code_of(n_rows('there', 1)), 'ok', 'up to the last one');
	limit('*', undef, undef);
	is_deeply(error_of($agent, q{select opdata_limit('here', -1, null)})->{sqlstate}, '22023', 'a negative limit is none');
	return;
}

sub limits_at_once
{
	my $n = n_logged();

	limit('there', used('there', 'count(*)') + 5, undef);
	my $ended = $client->execute_many(
		workflows => [ map { { workflow('previewQueryWorkflow', connectionId => 'there', sql => "select $_ from pg_sleep(0.1)") } } 1 .. 20 ]);
	my %codes;
	$codes{ code_of($_) }++ foreach @$ended;
	is_deeply(\%codes, { ok => 5, egress_denied => 15 }, 'of 20 previews at once with a limit of 5, 5 leave');
	is(scalar(grep { !defined $_->{error_code} } logged($n)), 5, 'and are logged');
	is(scalar(grep { defined $_->{error_code} && $_->{error_code} ne 'egress_denied' } logged($n)), 0, 'and else only those that were refused after they ran');
	ok( wait_until(
			sub { psql(q{select count(*) from opdata_jobs where kind = 'preview' and connection_id = 'there' and error_code = 'egress_denied'}) >= 15 },
			$soon),
		'the others are job records');

	limit('there', undef, used('there', 'sum(row_count)') + 9);
	$ended = $client->execute_many(
		workflows => [ map { { workflow('previewQueryWorkflow', connectionId => 'there', sql => 'select id from person, pg_sleep(0.1) limit 2') } } 1 .. 12 ]);
	is(scalar(grep { code_of($_) eq 'ok' } @$ended), 4, 'of previews of two rows, 4 leave when 9 rows may');
	limit('there', undef, undef);
	is_whole('the log is whole');
	return;
}

sub many_at_once
{
	my $n = n_logged();
	my $ended = $client->execute_many(
		workflows => [ map { { workflow('previewQueryWorkflow', connectionId => ('here', 'there', 'elsewhere')[ $_ % 3 ], sql => "select $_") } } 1 .. 40 ]);

	is(scalar(grep { code_of($_) eq 'ok' } @$ended), 40, '40 previews at once leave');
	is(n_logged() - $n, 40, 'there are 40 rows');
	is(psql('select max(seq) - count(*) from opdata_egress'), 0, 'without a gap');
	is(psql("select count(distinct workflow_id) from opdata_egress where seq > $n"), 40, 'of each one');
	is(computed_chain(), $n + 40, 'and the chain is right');
	is_whole('and whole');
	return;
}

sub sql_is_no_egress
{
	my $n = n_logged();

	limit('here', 0, 0);
	is(psql(q{select opdata_preview('here', 'select id from person limit 2')->'rowCount'}), 2, 'limits are not for previews from SQL');
	limit('here', undef, undef);
	is(n_logged(), $n, 'which are not logged');
	limit('here', used('here', 'count(*)') + 1, undef);
	is(code_of(n_rows('here', 1)), 'ok', 'nor counted');
	limit('here', undef, undef);
	return;
}

# A statement that fails with one row and not with another tells which it is.
sub failures
{
	my $n = n_logged();
	my $sql = q{select 1 / (case when email like 'canary-1%' then 0 else 1 end) from person where id = 1};
	my $ended = preview('here', $sql);
	my ($row) = logged($n);

	is(failure_of($ended), 'query_failed, final', 'a statement fails while the source runs it') or diag($json->encode($ended));
	like($ended->{error}{message}, qr/22012/, 'with the SQLSTATE');
	is_deeply(
		[ @$row{qw(workspace_id connection_id workflow_id query row_count byte_count masked_columns sealed_to error_code)} ],
		[ 'here', 'here', $ended->{workflow_id}, $sql, 0, 0, 0, undef, 'query_failed' ],
		'the log has it');
	limit('here', undef, used('here', 'sum(row_count)'));
	is_refused(n_rows('here', 1), qr/more rows would leave/, 'one is refused for its number of rows');
	is((logged($n + 1))[0]{error_code}, 'egress_denied', 'the log has that too');

	limit('here', used('here', 'count(*)') + 2, undef);
	$ended = $client->execute_many(
		workflows => [ map { { workflow('previewQueryWorkflow', connectionId => 'here', sql => "select 1 / 0, $_ from pg_sleep(0.1)") } } 1 .. 6 ]);
	my %codes;
	$codes{ code_of($_) }++ foreach @$ended;
	is_deeply(\%codes, { query_failed => 2, egress_denied => 4 }, 'of 6 that fail at once with a limit of 2, 2 say so');
	my %logged;
	$logged{ $_->{error_code} }++ foreach logged($n + 2);
	is($logged{query_failed}, 2, 'the log has these');
	is(join(' ', sort keys %logged), 'egress_denied query_failed', 'and the others, of which the source has run some') if keys %logged > 1;
	my $visits = n_visits();
	is_refused(preview('here', $sql), qr/as many previews as may/, 'then no other may fail');
	is(n_visits(), $visits, 'nor is the source asked');
	limit('here', undef, undef);

	# who takes it back has seen how long it took
	my %workflow = workflow('previewQueryWorkflow', connectionId => 'here', sql => 'select pg_sleep(9)');
	$n = n_logged();
	$client->start(%workflow);
	$source->poll_query_until('postgres', q{select count(*) = 1 from pg_stat_activity where wait_event = 'PgSleep'}) or die 'it does not run';
	$client->cancel(workflow_id => $workflow{workflow_id});
	$client->result(workflow_id => $workflow{workflow_id});
	ok(wait_until(sub { n_logged() == $n + 1 }, $soon), 'one that is cancelled is logged');
	is((logged($n))[0]{error_code}, 'canceled', 'as such');

	psql('alter system set opdata.require_sealed_preview = on');
	psql(q{select opdata_trust_recipient(opdata_public_key(), 'agent')});
	$agent->reload;
	ok(wait_until(sub { code_of(preview('here', 'select 1')) eq 'egress_denied' }, $soon), 'previews leave only sealed');
	$ended = preview('here', $sql, sealTo => value('select opdata_public_key()'));
	is(code_of($ended), 'query_failed', 'one that fails does so in plain');
	unlike($json->encode($ended), qr/22012/, 'but does not say why');
	psql('alter system reset opdata.require_sealed_preview');
	$agent->reload;
	ok(wait_until(sub { code_of(preview('here', 'select 1')) eq 'ok' }, $soon), 'previews leave in plain again');
	psql(q{select opdata_distrust_recipient('agent')});
	is(computed_chain(), n_logged(), 'the chain is what Perl computes');
	is_whole('and it is whole');
	return;
}

# While a preview waits for a lock on the source.
sub changed_meanwhile
{
	my $lock = $source->background_psql('postgres');
	my $key = value('select opdata_public_key()');
	my $failing = 'select 1 / (id - id) from person';

	psql(q{alter system set opdata.require_sealed_preview = on});
	psql(q{select opdata_trust_recipient(opdata_public_key(), 'agent')});
	$agent->reload;
	ok(wait_until(sub { code_of(preview('here', 'select 1')) eq 'egress_denied' }, $soon), 'previews leave only to whom one trusts');
	foreach my $case (
		[ 'a mask', q{select opdata_mask('here', '*phone')}, q{select opdata_unmask('here', '*phone')} ],
		[ 'a mask of all workspaces', q{select opdata_mask('*', '*phone', null, 'int*')}, q{select opdata_unmask('*', '*phone')} ],
		[ 'a recipient', q{select opdata_distrust_recipient('agent')}, q{select opdata_trust_recipient(opdata_public_key(), 'agent')} ],
		[ 'a limit', q{select opdata_limit('here', 0, null)}, q{select opdata_limit('here', null, null)}, qr/no previews may leave/ ],
		[ 'a mask', q{select opdata_mask('here', '*phone')}, q{select opdata_unmask('here', '*phone')}, undef, $failing ],
		[ 'a limit', q{select opdata_limit('here', 0, null)}, q{select opdata_limit('here', null, null)}, qr/no previews may leave/, $failing ])
	{
		my ($what, $change, $undo, $message, $sql) = @$case;
		my $which = defined $sql ? 'one that fails' : 'a preview';
		my %workflow = workflow('previewQueryWorkflow', connectionId => 'here', sql => $sql // 'select phone from person limit 1', sealTo => $key);
		my $n = n_logged();

		$lock->query_safe('begin; lock table person');
		my $ticket = $client->send('execute', %workflow);
		$source->poll_query_until('postgres', q{select count(*) = 1 from pg_stat_activity where usename = 'reader' and wait_event_type = 'Lock'})
		  or die 'it does not wait';
		psql($change);
		$lock->query_safe('rollback');
		is_refused({ %{ $client->receive($ticket) }, workflow_id => $workflow{workflow_id} }, $message // qr/was changed while the preview ran/,
			"$what that is changed while $which runs counts");
		is_deeply([ map { $_->{error_code} } logged($n) ], ['egress_denied'], 'and the log has that');
		psql($undo);
		is(code_of(run('previewQueryWorkflow', connectionId => 'here', sql => 'select phone from person limit 1', sealTo => $key)), 'ok', 'after that it leaves');
	}
	$lock->quit;
	psql(q{alter system reset opdata.require_sealed_preview});
	psql(q{select opdata_distrust_recipient('agent')});
	$agent->reload;
	ok(wait_until(sub { code_of(preview('here', 'select 1')) eq 'ok' }, $soon), 'previews leave in plain again');
	is_whole('the log is whole');
	return;
}

# The row is there before the answer is.
sub row_comes_first
{
	my $n = n_logged();
	my %workflow = (workflow('previewQueryWorkflow', connectionId => 'here', sql => 'select 7'), task_timeout => $task_timeout);

	close_gate();
	my $ticket = $client->send('execute', %workflow);
	at_the_gate();
	is($client->describe(workflow_id => $workflow{workflow_id})->{status}, 'RUNNING', 'before its row is committed it does not leave');
	is(n_logged(), $n, 'there is none yet');
	$temporal->kill;
	open_gate();
	ok(wait_until(sub { n_logged() == $n + 1 }, $soon), 'there is one while the server is away');
	is((logged($n))[0]{workflow_id}, $workflow{workflow_id}, 'of this preview');
	$temporal->start;
	my $ended = $client->receive($ticket);
	is_deeply($ended->{result}{rows}, [ [7] ], 'which leaves when the server is back') or diag($json->encode($ended));
	is_whole('the log is whole');
	$agent->workers_get('polling', 'all workers poll');
	return;
}

sub killed_before_the_answer
{
	my $n = n_logged();
	my %workflow = (workflow('previewQueryWorkflow', connectionId => 'here', sql => 'select 8'), task_timeout => $task_timeout);

	close_gate();
	my $ticket = $client->send('execute', %workflow);
	at_the_gate();
	$temporal->kill;
	open_gate();
	ok(wait_until(sub { (job($workflow{workflow_id})->{state} // '') eq 'succeeded' }, $soon), 'a preview is logged while the server is away');
	my $head = verified()->{head};
	my $job = job($workflow{workflow_id});
	my ($worker) = grep { $_->{name} eq $job->{worker} } @{ $agent->status->{workers} };
	kill 'KILL', $worker->{pid};
	ok( wait_until(
			sub {
				my $status = eval { $agent->status } // return;
				return !grep { ($_->{pid} // 0) == $worker->{pid} } @{ $status->{workers} };
			},
			$soon),
		'its worker is killed');
	$temporal->start;
	my $ended = $client->receive($ticket);
	is_deeply($ended->{result}{rows}, [ [8] ], 'it is done again') or diag($json->encode($ended));
	is_deeply([ map { $_->{workflow_id} } logged($n) ], [ ($workflow{workflow_id}) x 2 ], 'and logged again: the first may have left');
	is(verified($head)->{ok}, JSON::PP::true, 'the chain goes on where it was');
	is(computed_chain(), $n + 2, 'and is right');
	$agent->workers_get('polling', 'the workers are back');
	return;
}

sub append_only
{
	my $rows = psql('select md5(string_agg(e::text, chr(10) order by seq)) from opdata.egress e');

	foreach my $statement (
		q{update opdata.egress set query = 'select 1' where seq = 1},
		q{update opdata.egress set query = query where false},
		q{delete from opdata.egress},
		q{delete from opdata.egress where false},
		q{truncate opdata.egress},
		q{truncate opdata.egress cascade},
		q{merge into opdata.egress e using (select 1) s on true when matched then delete},
		q{insert into opdata.egress select * from opdata.egress on conflict (seq) do update set query = ''})
	{
		my $error = error_of($agent, $statement);

		is_deeply([ @$error{qw(sqlstate message)} ], [ '42501', 'rows of the egress log are never changed or removed' ],
			"refused to the owner too: $statement");
	}
	is(psql('select md5(string_agg(e::text, chr(10) order by seq)) from opdata.egress e'), $rows, 'all rows are as they were');
	return;
}

# What a verification says after a statement: "ok", or the first bad row.
sub found
{
	my ($statement, $expected) = @_;
	my $found = value('select tampered($s$' . $statement . '$s$' . (defined $expected ? ", '$expected'" : '') . ')');

	return $found->{ok} ? 'ok' : 'another head' unless $found->{firstBad};
	is($found->{ok}, JSON::PP::false, 'a log with a bad row is not ok') if $found->{ok};
	return "$found->{firstBad}{seq} $found->{firstBad}{problem}";
}

sub tampering
{
	my $n = n_logged();
	my $head = verified()->{head};
	my ($next, $last) = ($n + 1, $n - 1);
	my $e = 'opdata.egress';
	my %columns = (
		seq => "$n + 100",
		sent_at => "sent_at + interval '1 microsecond'",
		(map { ($_ => "coalesce($_, '') || 'x'") } qw(workspace_id connection_id host requested_by workflow_id run_id activity_id query sealed_to error_code)),
		(map { ($_ => "$_ + 1") } qw(row_count byte_count masked_columns)),
		prev_hash => q{'' || repeat('0', 64)},
		hash => q{repeat('0', 64)});
	my $columns = psql(q{select string_agg(attname, ' ' order by attname) from pg_attribute where attrelid = 'opdata.egress'::regclass and attnum > 0});
	my $rehash = q{do $d$
		declare
			before text;
			r opdata.egress;
		begin
			for r in select * from opdata.egress order by seq loop
				r.prev_hash := coalesce(before, '');
				r.hash := opdata.egress_hash(r);
				update opdata.egress set prev_hash = r.prev_hash, hash = r.hash where seq = r.seq;
				before := r.hash;
			end loop;
			update opdata.egress_head set (seq, hash) = (select seq, hash from opdata.egress order by seq desc limit 1);
		end $d$};

	is(join(' ', sort keys %columns), $columns, 'every column is tried');
	foreach my $column (sort keys %columns)
	{
		my $problem = $column eq 'seq' ? 'removed' : 'altered';

		is(found("update $e set $column = $columns{$column} where seq = $_"), "$_ $problem", "$column of row $_ is altered")
		  foreach 1, 5, $n;
	}
	is(found("update $e set $_ = null where seq = 3"), '3 altered', "$_ is made null")
	  foreach qw(workspace_id connection_id host requested_by);
	is(found("update $e set workspace_id = connection_id, connection_id = '' where seq = 3"), '3 altered', 'a value goes to another column');
	is(found("update $e set sent_at = '$_' where seq = 4"), '4 altered', "a row is of $_") foreach 'infinity', '-infinity';
	is(found("alter table $e alter $_ drop not null; update $e set $_ = null where seq = 4"), '4 altered', "$_ is made null against the table's word")
	  foreach qw(hash prev_hash query sent_at);

	is(found("delete from $e where seq = $_"), "$_ removed", "row $_ is deleted") foreach 1, 6, $n;
	is(found("delete from $e where seq between 4 and 8"), '4 removed', 'several are deleted');
	is(found("delete from $e where seq > $n - 3"), $n - 2 . ' removed', 'the last three are deleted');
	is(found("delete from $e"), '1 removed', 'all are deleted');
	is(found("truncate $e"), '1 removed', 'or truncated');
	is(found("delete from $e where seq = 6; update $e set seq = 1 - seq where seq > 6; update $e set seq = -seq where seq < 0"), '6 altered', 'one is deleted and the gap closed');

	my $all = 'sent_at, workspace_id, connection_id, host, requested_by, workflow_id, run_id, activity_id, query, row_count, byte_count, masked_columns, sealed_to, error_code';
	is(found("update $e set seq = -seq where seq in (5, 9); update $e set seq = 14 + seq where seq < 0"), '5 altered', 'two rows are swapped, by their numbers');
	is( found("update $e a set ($all) = (select $all from $e b where b.seq = 14 - a.seq) where seq in (5, 9)"),
		'5 altered', 'or by what they say');
	is( found("update $e a set ($all, prev_hash, hash) = (select $all, prev_hash, hash from $e b where b.seq = 14 - a.seq) where seq in (5, 9)"),
		'5 altered', 'with their hashes');
	is( found("update $e a set ($all) = (select $all from $e b where b.seq = 14 - a.seq) where seq in (5, 9); update $e e set hash = opdata.egress_hash(e) where seq in (5, 9)"),
		'6 reordered', 'with new hashes: the next row has another one before it');

	my $forged = "insert into $e select seq + 1, $all, hash, '' from $e where seq = (select max(seq) from $e); update $e e set hash = opdata.egress_hash(e) where hash = ''";
	is(found($forged), "$next added", 'a row is added with a right hash');
	is(found("$forged; $forged"), "$next added", 'two are, and the first one is named');
	is(found("$forged; update opdata.egress_head set seq = $next"), "$next altered", 'with the number in the head');
	is(found("$forged; update opdata.egress_head set (seq, hash) = (select seq, hash from $e where seq = $next)"), 'ok', 'with all of the head nothing shows inside');
	is(found("insert into $e select 0, $all, '', '' from $e where seq = 1"), '0 altered', 'a row comes before the first');
	is(found("update opdata.egress_head set hash = repeat('0', 64)"), "$n altered", 'the head is altered');
	is(found('delete from opdata.egress_head'), '1 added', 'or removed');
	is(found("update opdata.egress_head set seq = $last"), "$n added", 'or set back');

	# who rewrites everything is found out by the head alone, which others know
	my $lie = "update $e set query = 'select 1' where seq = 5; $rehash";
	is(found($lie), 'ok', 'the tail is rewritten with right hashes');
	is(found($lie, $head), 'another head', 'which shows by the head that was');
	my $cut = "delete from $e where seq > $n - 3; update opdata.egress_head set (seq, hash) = (select seq, hash from $e where seq = $n - 3)";
	is(found($cut), 'ok', 'the tail is cut with the head');
	is(found($cut, $head), 'another head', 'which shows by the head that was');
	is(found("delete from $e; delete from opdata.egress_head", $head), 'another head', 'so does all that was removed');
	is(found('select 1', (logged(2))[0]{hash}), 'ok', 'a head of earlier is found too');

	is(found('select 1'), 'ok', 'all of that was undone');
	is_whole('the log is whole');
	return;
}

# Whatever else is sent to the control plane.
sub other_messages
{
	my $ended = run('storeCredsWorkflow', connectionId => 'stored', workspaceId => 'here', name => 'One', credentials => credentials());
	is(code_of($ended), 'ok', 'a connection is stored');
	is(code_of(run('testCredentialsWorkflow', connectionId => 'stored')), 'ok', 'tested');
	is(code_of(run('testCredentialsWorkflow', credentials => credentials(password => 'wrong'))), 'ok', 'tested with a wrong password');
	is(code_of(run('testCredentialsWorkflow', credentials => credentials(sslMode => 'require'))), 'ok', 'tested without TLS');
	is(code_of(run('deleteConnectionWorkflow', connectionId => 'stored')), 'ok', 'and deleted');
	isnt(code_of(run('storeCredsWorkflow', connectionId => 'bad', credentials => credentials(password => 'wrong'))), 'ok', 'a bad one is refused');

	# one that lasts: heartbeats and answers to queries
	my %store = workflow('storeCredsWorkflow', connectionId => 'silent', credentials => credentials(port => $silence->port));
	my $heartbeat;
	$client->start(%store);
	ok( wait_until(
			sub {
				my ($activity) = @{ $client->describe(workflow_id => $store{workflow_id})->{pending_activities} // [] };
				$heartbeat = $activity && $activity->{heartbeat_details};
				return $heartbeat;
			},
			$soon),
		'a store that lasts sends heartbeats');
	$heartbeat = $heartbeat->{payloads} // $heartbeat if ref $heartbeat eq 'HASH';
	push @messages, map { [ 'heartbeat details', $_ ] } ref $heartbeat eq 'ARRAY' ? @$heartbeat : $heartbeat;
	my $answer = $client->query(workflow_id => $store{workflow_id}, name => 'status');
	ok($answer->{result}, 'it answers a query') or diag($json->encode($answer));
	push @messages, [ 'status answer', $answer->{result} ];
	$client->cancel(workflow_id => $store{workflow_id});
	my $outcome = $client->result(workflow_id => $store{workflow_id});
	ok($outcome->{error}, 'it is cancelled') or diag($json->encode($outcome));
	return;
}

# A field that is in no inventory does not leave, wherever it comes from.
sub not_listed
{
	# a result that an earlier attempt is said to have recorded
	psql('select opdata_suspend()');
	ok(wait_until(sub { !grep { $_->{state} ne 'suspended' } @{ $agent->status->{workers} } }, $soon), 'the workers wait');
	my %delete = workflow('deleteConnectionWorkflow', connectionId => 'here');
	my $started = $client->start(%delete);
	psql(<<"EOT");
insert into opdata.job (kind, connection_id, state, requested_by, started_at, workflow_id, run_id, activity_id, attempt, worker, result)
values ('delete', 'here', 'succeeded', 'x', now(), '$delete{workflow_id}', '$started->{run_id}', 'deleteConnection', 1, 'x',
	'{"deleted": true, "smuggled": {"value": "contraband"}}')
EOT
	psql('select opdata_resume()');
	my $ended = { %$started, %{ $client->result(workflow_id => $delete{workflow_id}) } };
	is(code_of($ended), 'internal', 'a result with a field that is not listed is a failure') or diag($json->encode($ended));
	unlike(history_of($ended), qr/smuggled|contraband/, 'and nothing of it is in the history');
	is(psql(q{select count(*) from opdata_connections where id = 'here'}), 1, 'nor was anything done');
	like(slurp_file($agent->logfile), qr/the field "smuggled" of deleteConnection result is in no inventory/, "the agent's log names the field");

	# a message that waits for the HTTP API
	psql(q{insert into opdata.outbox (function, args) values ('connections:setStatus', '{"connectionId": "here", "smuggled": "contraband"}')});
	ok(wait_until(sub { psql(q{select count(*) from opdata.outbox where args ? 'smuggled'}) == 0 }, $soon), 'a message with such a field is given up');
	like(slurp_file($agent->logfile), qr/gives up a message .*: the field "smuggled" of connections:setStatus arguments is in no inventory/,
		'which the log tells');
	is(scalar(grep { $json->encode($_) =~ /smuggled/ } @{ $convex->calls }), 0, 'and it does not leave');
	is(code_of(n_rows('here', 1)), 'ok', 'jobs go on');
	psql(q{select opdata_test('here')});
	ok(wait_until(sub { psql('select count(*) from opdata.outbox') == 0 }, $soon), 'and so do other messages');
	$agent->workers_get('polling', 'all workers poll');
	return;
}

# In another database of the same cluster, to which the agent then moves.
sub dump_and_restore
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/egress.dump";
	my $rows = 'select e from opdata.egress e order by seq';
	my $n = n_logged();
	my $before = verified();
	my $connstr = $agent->connstr('postgres');

	psql('create database restored template template0');
	command_ok([ 'pg_dump', '--format=custom', '-f', $file, $connstr ], 'the database is dumped');
	my $lines = psql($rows);
	$agent->append_conf('postgresql.conf', "opdata.database = 'restored'\n");
	$agent->restart;
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $agent->connstr('restored'), $file ], 'and restored');
	$dbname = 'restored';
	$agent->ask_in($dbname);
	is(psql($rows), $lines, 'with all rows of the log');
	is_deeply(verified($before->{head}), { %$before, expectedHeadFound => JSON::PP::true }, 'and they are whole');
	$agent->workers_get('polling', 'the agent works there');
	is(code_of(n_rows('there', 1)), 'ok', 'a preview leaves');
	is((logged($n))[0]{prev_hash}, $before->{head}, 'and the chain goes on');
	is(computed_chain(), $n + 1, 'as it should');
	is_whole('and is whole');

	# one that the agent sends at its start
	$agent->restart;
	my $status = { rows => $n + 1, head => verified()->{head} };
	ok( wait_until(
			sub { grep { $json->encode($_->{args}{egress}) eq $json->encode($status) } @{ $convex->calls('agents:heartbeat') } },
			$soon),
		'the heartbeat tells the head') or diag($json->encode($convex->calls('agents:heartbeat')));
	is_deeply($agent->status->{egress}, $status, 'the status tells the same');
	return;
}

# Every field of a value, as the inventory names it.
sub fields_of
{
	my ($value, $path) = @_;

	return map {
		my $field = length $path ? "$path.$_" : $_;
		($field, fields_of($value->{$_}, $field))
	} keys %$value if ref $value eq 'HASH';
	return map { (ref $_ ? () : "${path}[]", fields_of($_, "${path}[]")) } @$value if ref $value eq 'ARRAY';
	return;
}

sub inventory
{
	my $rows = value('select json_agg(i) from opdata_inventory() i');
	my (%listed, %seen);

	is_deeply([ grep { ($_->{meaning} // '') eq '' } @$rows ], [], 'every field of the inventory has a meaning');
	is_deeply([ grep { $listed{ $_->{message} }{ $_->{field} }++ } @$rows ], [], 'and is there once');

	foreach my $function ('connections:setStatus', 'agents:heartbeat')
	{
		push @messages, map { [ "$function arguments", $_->{args} ] } grep { $_->{args} } @{ $convex->calls($function) };
	}
	push @messages, map { [ 'token request form', { map { $_ => 1 } @{ $_->{fields} } } ] } $issuer->requests;
	foreach my $entry (@messages)
	{
		my ($message, $value) = @$entry;
		$seen{$message}{$_} = 1 foreach fields_of($value, '');
	}
	foreach my $message (sort keys %seen)
	{
		is_deeply([ grep { !$listed{$message}{$_} } sort keys %{ $seen{$message} } ], [], "every field that came of $message is listed");
	}
	is_deeply(
		[ sort keys %seen ],
		[   'agents:heartbeat arguments', 'connections:setStatus arguments', 'deleteConnection result',
			'failure details', 'heartbeat details', 'previewQuery result', 'status answer', 'storeCreds result',
			'testCredentials result', 'token request form'
		],
		'all messages have come');

	# headers are listed several in a row
	my %headers = map { $_ => 1 } map { split /, / } keys %{ $listed{'HTTP headers'} };
	my %came = map { $_ => 1 } map { @{ $_->{headers} } } @{ $convex->calls }, $issuer->requests;
	cmp_ok(scalar keys %came, '>', 3, 'headers have come');
	is_deeply([ grep { !$headers{$_} } sort keys %came ], [], 'and all are listed');

	my $made = "$PostgreSQL::Test::Utils::tmp_check/inventory.md";
	command_ok([ 'psql', '-X', '-A', '-t', '-q', '-d', $agent->connstr($dbname), '-o', $made, '-f', "$FindBin::RealBin/../harness/inventory.sql" ],
		'the inventory is written down');
	is(slurp_file($made), slurp_file("$FindBin::RealBin/../../INVENTORY.md"), 'INVENTORY.md has it; otherwise run: make inventory');
	return;
}
