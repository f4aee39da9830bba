
# Two workspaces attack each other through everything that the extension has:
# nothing is seen, used, changed or guessed. The workers are a role that is no
# superuser, and row security is no obstacle to them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::ControlPlane;
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(payload session);
use Opdata::Test;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $soon = $PostgreSQL::Test::Utils::timeout_default;

# Who attacks, and whom. There is no workspace gamma, nor anything in it.
my @sides = ([ 'alpha', 'beta' ], [ 'beta', 'alpha' ]);
my @levels = ('reader', 'developer', 'admin');

my $plane = control_plane('acme');
my $convex = $plane->convex;

my $source = source_cluster('source');
$source->safe_psql(
	'postgres', q{
	create role reader login password 'reader_pw';
	create table card (holder text, number text);
	insert into card values ('Ann', '4000');
	grant select on card to reader});

my $agent = agent_cluster('agent', soon => $soon, conf => $plane->conf(worker_role => 'plain_worker') . "log_line_prefix = '[%b] '\n");

psql(
	join(";\n",
		'create role plain_worker login',
		map {
			my $side = $_->[0];
			map { ("create role ${side}_$_ login", "select opdata_grant('${side}_$_', '$side', '$_')") } @levels
		} @sides));

# What a statement comes to, with everything that its error says.
psql(q{
	create function outcome(statement text) returns jsonb language plpgsql as $$
	declare
		result jsonb; state text; message text; detail text; hint text; context text;
	begin
		execute statement into result;
		return jsonb_build_object('result', result);
	exception when others then
		get stacked diagnostics state := returned_sqlstate, message := message_text,
			detail := pg_exception_detail, hint := pg_exception_hint;
		return jsonb_build_object('state', state, 'message', message, 'detail', detail, 'hint', hint);
	end $$;
	create function leak(value text) returns boolean language plpgsql cost 0.0000001 as $$
	begin
		raise notice 'leaked %', value;
		return true;
	end $$});

plain_worker();
functions();
views();
other_ways();
plans();
objects_of_others();
grants_at_once();
dump_and_restore();

my $log = slurp_file($agent->logfile);
ok($log !~ qr/reader_pw|agent_secret|eyJ/, 'no password, secret or token is in the log');
ok($log !~ qr/PANIC|terminated by signal|internal error/, 'nor an unexpected error');
done_testing();

# ---------------------------------------------------------------- questions

sub psql { return $agent->safe_psql('postgres', @_); }

# What a role gets from a query.
sub as
{
	my ($role, $sql, %opts) = @_;
	my $dbname = delete $opts{dbname} // 'postgres';
	my $node = delete $opts{node} // $agent;

	return $node->safe_psql($dbname, $sql, extra_params => [ '-U', $role ], %opts);
}

sub state_as
{
	my ($role, $sql, %opts) = @_;
	my $error = error_of($opts{node} // $agent, $sql, dbname => $opts{dbname} // 'postgres', extra_params => [ '-U', $role ]);

	return $error ? $error->{sqlstate} : 'none';
}

# Outcomes of several statements of a role.
sub outcomes
{
	my ($role, @statements) = @_;
	my $list = join(', ', map { s/'/''/gr =~ s/^|$/'/gr } @statements);

	return @{
		$json->decode(
			as($role, "select jsonb_agg(outcome(s) order by n) from unnest(array[$list]) with ordinality as t(s, n)"))
	};
}

# Without what differs between two targets.
sub neutral
{
	my ($outcome, $target) = @_;
	return $json->encode($outcome) =~ s/$target/TARGET/gr;
}

# All that there is, but jobs.
sub everything
{
	return psql(q{
		select id, workspace_id, name, payload, status from opdata.connection order by 1;
		select role_name, workspace_id, level from opdata.access order by 1, 2;
		select * from opdata.egress order by 1;
		select * from opdata.egress_head;
		select * from opdata.recipient;
		select * from opdata.suspension;
		select kid from opdata.sealing_key order by 1;
		select workspace_id, column_pattern, connection_id from opdata.mask order by 1, 2, 3;
		select * from opdata.egress_limit order by 1;
		select oid::regprocedure, proacl from pg_proc where proname like 'opdata\_%' order by 1::text});
}

sub workflow
{
	my ($type, %input) = @_;
	return $plane->run($type, \%input, timeout => 120);
}

# ---------------------------------------------------------------- tests

# The connections of both workspaces are stored by workflows, which leave jobs,
# messages and rows of the egress log.
sub plain_worker
{
	$agent->workers_get('polling', 'workers begin as a role that is no superuser');
	is( psql(q{
			select distinct usename, rolsuper, rolbypassrls from pg_stat_activity
			join pg_roles on rolname = usename where backend_type = 'opdata worker'}),
		'plain_worker|f|f',
		'and has no other power');
	foreach my $table (split /\n/, psql(q{select c.oid::regclass from pg_class c where relnamespace = 'opdata'::regnamespace and relkind = 'r'}))
	{
		is(state_as('plain_worker', "select 1 from $table"), '42501', "nor privileges on $table");
	}
	foreach my $side ('alpha', 'beta')
	{
		my $stored = workflow(
			'storeCredsWorkflow',
			workspaceId => $side,
			connectionId => "crm_$side",
			name => "CRM of $side",
			credentials => reader($source));
		is($stored->{result} && $stored->{result}{status}, 'connected', "$side: a connection is stored by workflow")
		  or diag($json->encode($stored));
		my $shown = workflow('previewQueryWorkflow', connectionId => "crm_$side", sql => "select holder, '$side' as side from card");
		is_deeply($shown->{result} && $shown->{result}{rows}, [ [ 'Ann', $side ] ], "$side: a preview is sent")
		  or diag($json->encode($shown));
		my $tested = workflow('testCredentialsWorkflow', connectionId => "crm_$side");
		ok($tested->{result} && $tested->{result}{ok}, "$side: it is tested by workflow");
		psql("select opdata_preview('crm_$side', 'select 1')");
	}
	is(psql(q{select string_agg(workspace_id, ' ' order by seq) from opdata.egress}), 'alpha beta', 'what was sent is in the log');
	is(psql(q{select opdata_verify_egress()->'ok'}), 'true', 'which is whole');
	is(psql(q{select count(*) from opdata.job where requested_by = 'plain_worker' and state = 'succeeded'}), 6, 'and the jobs are recorded');
	my $stolen = workflow('storeCredsWorkflow', workspaceId => 'alpha', connectionId => 'crm_beta', credentials => reader($source));
	is($stolen->{error} && $stolen->{error}{type}, 'workspace_denied', 'a workflow does not store over the id of another workspace');
	# a job of workspace alpha that names the id that it asked for
	psql(q{delete from opdata.job where error_code = 'workspace_denied'});
	workflow('storeCredsWorkflow', workspaceId => 'alpha', connectionId => 'gone', credentials => reader($source));
	is_deeply(workflow('deleteConnectionWorkflow', connectionId => 'gone')->{result}, { deleted => JSON::PP::true }, 'one is deleted by workflow');
	ok(wait_until(sub { psql('select count(*) from opdata.outbox') == 0 }, $soon), 'the control plane is told of all of it');
	is( join(' ', map { "$_->{args}{connectionId} $_->{args}{status}" } grep { $_->{status} == 200 } @{ $convex->calls('connections:setStatus') }),
		'crm_alpha connected crm_alpha connected crm_beta connected crm_beta connected gone connected gone deleted',
		'in order');
	psql(q{select opdata_mask('alpha', 'number'), opdata_mask('beta', 'number', 'crm_beta'), opdata_limit('alpha', 50, 50), opdata_limit('beta', 50, 50)});
	return;
}

# Every function, and what to try with it: OTHER is the workspace under attack, or
# one that does not exist, OWN the attacker's, ME the attacker. Whoever makes these
# learns nothing about OTHER. Where there are arguments instead it is a matter of
# the whole agent, or of nobody.
sub attacks
{
	my $payload = payload(port => $source->port);

	return (
		'opdata_store_creds(text,jsonb,text,text,text,boolean)' => [
			"opdata_store_creds('crm_OTHER', $payload, workspace_id => 'OTHER')",
			"opdata_store_creds('new_OTHER', $payload, workspace_id => 'OTHER', test => false)",
			"opdata_store_creds('crm_OTHER', $payload, workspace_id => '*')",
			"opdata_store_creds('crm_OTHER', '{\"sealed\": \"x\"}', workspace_id => 'OTHER')"
		],
		'opdata_test(text)' => ["opdata_test('crm_OTHER')"],
		'opdata_test(jsonb,text)' => ["opdata_test('{\"sealed\": \"crm_OTHER\"}'::jsonb)"],
		'opdata_preview(text,text)' => [
			"opdata_preview('crm_OTHER', 'select 1')",
			"opdata_preview('crm_OTHER', 'drop table card')",
			"opdata_preview('crm_OTHER', '')",
			"opdata_preview(' crm_OTHER', 'select 1')"
		],
		'opdata_delete(text)' => ["opdata_delete('crm_OTHER')"],
		'opdata_status()' => ['opdata_status() -> \'connections\''],
		'opdata_public_key()' => ['opdata_public_key() -> \'kty\''],
		'opdata_verify_egress(text)' => [ 'opdata_verify_egress()', "opdata_verify_egress('OTHER') - 'x'" ],
		'opdata_inventory()' => ['(select jsonb_agg(i) from opdata_inventory() i)'],
		'opdata_mask(text,text,text)' => [
			"opdata_mask('OTHER', '*')", "opdata_mask('OTHER', '*', 'crm_OTHER')", "opdata_mask('*', '*')",
			"opdata_mask('OWN', 'holder', 'crm_OTHER')"
		],
		'opdata_mask(text,text,text,text)' =>
		  [ "opdata_mask('OTHER', '*', null, 'text')", "opdata_mask('*', '*', null, 'text')", "opdata_mask('OWN', 'holder', 'crm_OTHER', 'text')" ],
		'opdata_unmask(text,text,text)' => [
			"opdata_unmask('OTHER', 'number')", "opdata_unmask('OTHER', 'number', 'crm_OTHER')",
			"opdata_unmask('*', 'number')", "opdata_unmask('OWN', 'holder', 'crm_OTHER')"
		],
		'opdata_limit(text,integer,integer)' => [ "opdata_limit('OTHER', 0, 0)", "opdata_limit('OTHER', null, null)", "opdata_limit('*', 0, 0)" ],
		'opdata_grant(name,text,text)' => [
			"opdata_grant('ME', 'OTHER', 'reader')", "opdata_grant('ME', '*', 'admin')",
			"opdata_grant('OTHER_reader', 'OTHER', 'admin')", "opdata_grant('nosuchrole', 'OTHER', 'admin')",
			"opdata_grant('ME', 'OTHER', 'nosuchlevel')"
		],
		'opdata_revoke(name,text,text)' => [
			"opdata_revoke('OTHER_admin', 'OTHER')", "opdata_revoke('OTHER_admin', '*')", "opdata_revoke('OTHER_admin', 'OWN')"
		],
		'opdata_trust_recipient(jsonb,text)' => q{'{}', 'mine'},
		'opdata_distrust_recipient(text)' => q{'theirs'},
		'opdata_rotate_public_key(interval)' => q{'0 s'},
		'opdata_rotate_key(text)' => q{'new.key'},
		'opdata_suspend()' => '',
		'opdata_resume()' => '',
		'opdata.egress_hash(opdata.egress)' => 'null',
		'opdata.find_role()' => '',
		'opdata.refuse_change()' => '');
}

sub functions
{
	my %attacks = attacks();
	my @functions = split /\n/, psql(q{
		select p.oid::regprocedure from pg_proc p join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid
		join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
		where e.extname = 'opdata' and d.deptype = 'e'});

	is_deeply([ sort @functions ], [ sort keys %attacks ], 'it is known how to attack each function');
	# whose key pair is made when the first asks for it
	psql(q{select opdata_public_key()});
	my $before = everything();
	foreach my $pair (@sides)
	{
		my ($own, $other) = @$pair;
		foreach my $level (@levels)
		{
			my $role = "${own}_$level";
			foreach my $function (sort keys %attacks)
			{
				my $attack = $attacks{$function};
				my $name = $function =~ s/\(.*//r;

				if (!ref $attack)
				{
					my ($outcome) = outcomes($role, "select to_jsonb($name($attack)::text)");
					is( $outcome->{message},
						'permission denied for ' . ($name =~ /^opdata\./ ? 'schema opdata' : "function $name"),
						"$role: $name is refused");
					next;
				}
				my %of;
				foreach my $target ($other, 'gamma')
				{
					my @statements = map { 'select to_jsonb(' . s/OTHER/$target/gr =~ s/OWN/$own/gr =~ s/ME/$role/gr . ')' } @$attack;
					$of{$target} = [ map { neutral($_, $target) } outcomes($role, @statements) ];
				}
				is_deeply($of{$other}, $of{gamma}, "$role: $function tells a foreign workspace from none by nothing");
				is(scalar(grep { /$other|CRM of|127\.0\.0\.1|reader_pw/ } @{ $of{$other} }), 0, "$role: $function does not name what it has");
			}
		}
		psql("delete from opdata.mask where column_pattern = 'holder'");
	}
	is(everything(), $before, 'and nothing has changed');
	is(psql(q{select string_agg(distinct workspace_id, ' ') from opdata.job where requested_by ~ '^(alpha|beta)' and workspace_id is not null}), '', 'no job was done for it');

	# the attacks would have done something at home
	foreach my $side ('alpha', 'beta')
	{
		my ($tested, $shown, $masked, $counted, $status) = outcomes(
			"${side}_admin",
			"select opdata_test('crm_$side') -> 'ok'",
			"select opdata_preview('crm_$side', 'select holder, number from card') -> 'rows'",
			"select opdata_mask('$side', 'holder', 'crm_$side')",
			"select to_jsonb(count(*)) from opdata_connections",
			'select opdata_status()');
		is_deeply([ $tested->{result}, $shown->{result} ], [ JSON::PP::true, [ [ 'Ann', '***' ] ] ], "$side: at home they work");
		ok($masked->{result}{masked}, "$side: an admin masks there");
		is($counted->{result}, 1, "$side: and sees one connection");
		is($status->{result}{connections}, 1, "$side: as the status counts");
		my ($other) = grep { $_ ne $side } 'alpha', 'beta';
		unlike($json->encode($status->{result}), qr/$other/, "$side: the status does not name the other");
		psql("select opdata_unmask('$side', 'holder', 'crm_$side')");
	}

	# the one thing that can be learned, as the interface has it: ids are global
	my $payload = payload(port => $source->port);
	my ($taken, $free) = outcomes('alpha_developer',
		map { "select opdata_store_creds('$_', $payload, workspace_id => 'alpha', test => false) -> 'status'" } 'crm_beta', 'crm_gamma');
	is_deeply(
		$taken,
		{   state => '42501',
			message => 'connection id belongs to another workspace',
			detail => 'workspace_denied',
			hint => 'Choose another id, or name the workspace that the connection is in.'
		},
		'storing over the id of another workspace is refused without naming it');
	is($free->{result}, 'pending', 'another id is free');
	as('alpha_developer', q{select opdata_delete('crm_gamma')});
	return;
}

# Rows of each view, as those see them who are in one workspace, in both, or in none.
sub views
{
	my @views = split /\n/, psql(q{
		select c.oid::regclass from pg_class c join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = c.oid
		join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
		where e.extname = 'opdata' and d.deptype = 'e' and c.relkind = 'v' order by c.oid::regclass::text collate "C"});
	is_deeply(
		\@views,
		[   'opdata.granted', 'opdata.visible', 'opdata_connections', 'opdata_egress', 'opdata_grants', 'opdata_jobs',
			'opdata_limits', 'opdata_masks', 'opdata_recipients'
		],
		'these are the views');
	psql(q{
		create role in_both login; create role no_one login; create role everywhere login;
		select opdata_grant('in_both', 'alpha', 'reader'), opdata_grant('in_both', 'beta', 'reader'), opdata_grant('everywhere', '*', 'reader');
		grant select on opdata_connections, opdata_egress, opdata_grants, opdata_jobs, opdata_limits, opdata_masks, opdata_recipients to no_one});
	psql('analyze opdata.connection, opdata.job, opdata.egress, opdata.access, opdata.mask, opdata.egress_limit');
	my @readers = ([ 'alpha_reader', 'alpha' ], [ 'beta_developer', 'beta' ], [ 'in_both', 'alpha beta' ], [ 'no_one', 'none' ], [ 'everywhere', 'alpha beta' ]);
	my @admins = ([ 'alpha_admin', '* alpha' ], [ 'beta_admin', '* beta' ], [ 'no_one', 'none' ]);
	foreach my $view (@views)
	{
		if ($view =~ /^opdata\./)
		{
			is(state_as($_, "table $view"), '42501', "$view: is not for $_") foreach 'alpha_admin', 'everywhere';
			next;
		}
		if ($view eq 'opdata_recipients')
		{
			is(state_as($_, "table $view"), '42501', "$view: is not for $_") foreach 'alpha_admin', 'everywhere';
			is(psql(qq{insert into opdata.recipient values ('l', 'k', '{}', 'x'); select count(*) from $view; set role no_one; select count(*) from $view}),
				"1\n0", "$view: nor for who has no more than the privilege");
			psql('delete from opdata.recipient');
			next;
		}
		my $workspaces = "select coalesce(string_agg(distinct workspace_id, ' ' order by workspace_id), 'none') from $view where workspace_id is not null";
		is(as($_->[0], $workspaces), $_->[1], "$view: $_->[0] sees $_->[1]")
		  foreach $view eq 'opdata_grants' ? @admins : @readers;

		# a function that tells all that it is asked about, wherever it stands
		my ($own, $theirs) = (psql("select count(*) from $view where workspace_id = 'alpha'"), psql("select count(*) from $view where workspace_id = 'beta'"));
		cmp_ok($theirs, '>', 0, "$view: there is something to leak");
		foreach my $where (
			"leak(workspace_id)",
			"leak(v::text)",
			"leak(workspace_id) and workspace_id = 'beta'",
			"workspace_id = 'beta' and leak(v::text)",
			"workspace_id > 'alpha' or leak(v::text)",
			"case when workspace_id = 'beta' then 1 / (length(workspace_id) - 4) > 0 else true end")
		{
			my ($stdout, $stderr) = ('', '');
			$agent->psql(
				'postgres', "select workspace_id from $view v where $where",
				extra_params => [ '-U', 'alpha_admin' ],
				stdout => \$stdout,
				stderr => \$stderr);
			unlike("$stdout$stderr", qr/beta|division by zero/, "$view: where $where leaks nothing");
			like("$stdout$stderr", qr/alpha/, 'it is asked about what may be seen') unless $where =~ /'beta' and|and workspace_id/;
		}
		foreach my $explain ('explain', 'explain (analyze, verbose, timing off)')
		{
			my $plan = as('alpha_admin', "$explain select * from $view where workspace_id >= 'a'");
			unlike($plan, qr/beta/, "$view: $explain shows no value of another workspace");
		}
		foreach my $sql (
			"insert into $view select * from $view",
			"update $view set workspace_id = 'alpha'",
			"delete from $view",
			"truncate $view",
			"lock table $view in access exclusive mode",
			"create trigger t instead of insert on $view for each row execute function suppress_redundant_updates_trigger()",
			"create rule r as on insert to $view do instead nothing",
			"alter view $view reset (security_barrier)",
			"create or replace view $view as select 1 as id")
		{
			like(state_as('alpha_admin', "begin; $sql; commit"), qr/^(?:42501|55000|42809|0A000)$/, "$view: $sql is refused");
		}
		as('alpha_admin', "grant select on $view to plain_worker");
		is(psql("select has_table_privilege('plain_worker', '$view', 'select')"), 'f', "$view: it cannot be passed on");
		is(state_as('alpha_admin', "select ctid from $view"), '42703', "$view: has no places of rows");
	}
	is( psql(q{set role no_one; select count(*) from opdata_jobs; reset role; select count(*) > 0 from opdata_jobs}),
		"0\nt", 'a privilege without a workspace shows no job');

	# rules for all are everybody's, but name no connection of another workspace
	psql(q{select opdata_mask('*', 'number', 'crm_alpha'), opdata_mask('*', 'number', 'crm_beta'), opdata_mask('*', 'pin'), opdata_limit('*', 90, null)});
	foreach my $case ([ 'alpha_reader', 'alpha', 1 ], [ 'beta_reader', 'beta', 1 ], [ 'everywhere', 'alpha crm_beta', 1 ], [ 'no_one', 'none', 0 ])
	{
		my ($role, $side, $limits) = @$case;
		is( as($role, q{select coalesce(string_agg(coalesce(connection_id, 'all'), ' ' order by connection_id), 'none') from opdata_masks where workspace_id = '*'}),
			$side eq 'none' ? 'none' : "crm_$side all",
			"$role sees the masks for all");
		is(as($role, q{select count(*) from opdata_limits where workspace_id = '*'}), $limits, "$role: and the limits");
	}
	psql(q{select opdata_unmask('*', column_pattern, connection_id) from opdata_masks where workspace_id = '*'; delete from opdata.egress_limit where workspace_id = '*'});

	# a job of no workspace is its requester's
	my $payload = payload(port => $source->port);
	as('alpha_developer', "select opdata_test($payload)");
	my $mine = q{select count(*) from opdata_jobs where workspace_id is null and requested_by = 'alpha_developer'};
	is(as($_->[0], $mine), $_->[1], "$_->[0] sees $_->[1] of the tests of alpha_developer")
	  foreach [ 'alpha_developer', 1 ], [ 'alpha_admin', 0 ], [ 'beta_admin', 0 ], [ 'everywhere', 1 ];
	return;
}

# What PostgreSQL itself tells about tables, and objects that come in the way.
sub other_ways
{
	foreach my $role ('alpha_reader', 'alpha_admin', 'everywhere')
	{
		is(as($role, q{select count(*) from pg_stats where schemaname = 'opdata'}), 0, "$role: no statistics of the tables");
		is(as($role, q{select count(*) from pg_stats_ext where schemaname = 'opdata'}), 0, "$role: nor extended ones");
		is(as($role, q{select count(*) from pg_sequences where schemaname = 'opdata' and last_value is not null}), 0, "$role: no value of a sequence");
		is(state_as($role, $_), '42501', "$role: $_ is refused")
		  foreach 'select last_value from opdata.outbox_id_seq', q{select nextval('opdata.outbox_id_seq')},
		  'table opdata.connection', 'copy opdata.connection to stdout', 'select workspace_id from opdata.access',
		  q{select * from opdata.egress_head}, 'create table opdata.mine ()', q{select pg_relation_filepath('opdata.connection'), pg_read_file('postgresql.conf')},
		  'analyze opdata.connection; lock table opdata.connection';
	}
	# nothing is held that another could wait for, or be held up by
	my $holder = session($agent);
	$holder->run(q{set role alpha_admin; select pg_advisory_lock(n), pg_advisory_lock(0, n::int) from generate_series(0, 100) n});
	$holder->run('begin; select count(*) from opdata_connections; select count(*) from opdata_jobs; lock table opdata_connections in access share mode');
	is(as('beta_developer', q{set statement_timeout = '60s'; select opdata_preview('crm_beta', 'select 1')->'rows'}),
		'[[1]]', 'the locks of one workspace stop no other');
	$holder->run('rollback; select pg_advisory_unlock_all()');
	$holder->quit;

	# objects of a caller's in front of ours, in his session and for others
	psql('create schema trap; grant all on schema trap to alpha_admin; grant usage on schema trap to public');
	as('alpha_admin', q{
		create function trap.pg_has_role(name, oid, text) returns boolean language sql as 'select true';
		create function trap.same(text, text) returns boolean language sql as 'select true';
		create operator trap.= (leftarg = text, rightarg = text, function = trap.same);
		create table trap.access (role_name name, workspace_id text, level text);
		insert into trap.access values ('alpha_admin', 'beta', 'admin');
		create view trap.visible as select '*'::text as workspace_id;
		create table trap.pg_roles as select * from pg_roles});
	is( as('alpha_admin', q{
			create temp table access (role_name name, workspace_id text, level text);
			insert into pg_temp.access values ('alpha_admin', '*', 'admin');
			create temp view visible as select '*'::text as workspace_id;
			create temp view granted as select 'alpha_admin'::name as role_name, 10::oid as role, '*'::text as workspace_id, 'admin'::text as level;
			set search_path = pg_temp, trap, pg_catalog, public;
			select string_agg(workspace_id, ' ') from public.opdata_connections;
			select public.outcome('select public.opdata_preview(''crm_beta'', ''select 1'')') operator(pg_catalog.->>) 'message';
			select public.opdata_delete('crm_beta')}),
		qq(alpha\nthere is no connection with this id\n{"deleted": false}),
		'objects of the same names are not looked at');
	foreach my $setting ('row_security = off', q{session_replication_role = 'replica'}, q{role = 'beta_admin'}, q{session authorization 'beta_admin'})
	{
		my $seen = $agent->psql('postgres', "set $setting; select string_agg(workspace_id, ' ') from opdata_connections",
			extra_params => [ '-U', 'alpha_admin' ], stdout => \my $stdout, stderr => \my $stderr);
		unlike($stdout, qr/beta/, "set $setting opens nothing");
	}
	return;
}

# A plan that was made for one role is used by another one of the session.
sub plans
{
	foreach my $mode ('auto', 'force_generic_plan', 'force_custom_plan')
	{
		my $session = session($agent);
		my $ask = sub {
			my ($role, $sql) = @_;
			my $result = $session->run(($role eq 'reset' ? 'reset role' : "set role $role") . "; $sql");
			return $result->{error} ? $result->{error}{message} : $result->{out};
		};

		$session->run("set plan_cache_mode = $mode; set datestyle = 'ISO'");
		$session->run(q{
			prepare seen as select coalesce(string_agg(id, ' ' order by id), 'none') from opdata_connections;
			prepare job as select coalesce(string_agg(distinct workspace_id, ' ' order by workspace_id), 'none') from opdata_jobs where workspace_id is not null;
			prepare sent as select coalesce(string_agg(distinct workspace_id, ' ' order by workspace_id), 'none') from opdata_egress;
			prepare used(text) as select coalesce(outcome(format('select opdata_preview(%L, ''select 1'')', $1))->>'detail', 'done');
			prepare counted as select opdata_status()->'connections';
			create or replace function pg_temp.seen() returns text language plpgsql as
				$f$ begin return (select coalesce(string_agg(id, ' ' order by id), 'none') from public.opdata_connections); end $f$;
			create or replace function pg_temp.seen_sql() returns text language sql stable as
				$f$ select coalesce(string_agg(id, ' ' order by id), 'none') from public.opdata_connections $f$});
		foreach my $round (1 .. 3)
		{
			foreach my $case (
				[ 'reset', 'crm_alpha crm_beta', 'alpha beta', 'done', 'done', 2 ],
				[ 'alpha_admin', 'crm_alpha', 'alpha', 'done', 'connection_not_found', 1 ],
				[ 'beta_admin', 'crm_beta', 'beta', 'connection_not_found', 'done', 1 ])
			{
				my ($role, $ids, $workspaces, $alpha, $beta, $n) = @$case;
				my @seen = map { $ask->($role, $_) } 'execute seen', 'select pg_temp.seen()', 'select pg_temp.seen_sql()',
				  'execute job', 'execute sent', q{execute used('crm_alpha')}, q{execute used('crm_beta')}, 'execute counted';
				is_deeply(\@seen, [ $ids, $ids, $ids, $workspaces, $workspaces, $alpha, $beta, $n ], "$mode, round $round: $role");
			}
			last if $mode ne 'auto';
			# the sixth execution may have a generic plan
			$session->run('reset role; execute seen; execute job; execute sent') foreach 1 .. 6;
		}
		$ask->('alpha_admin', 'begin; declare c cursor for select id from opdata_connections; declare h cursor with hold for select id from opdata_connections; commit');
		is($ask->('beta_admin', 'fetch all from h'), 'crm_alpha', "$mode: a cursor that was filled by one role keeps its rows");
		$ask->('alpha_admin', 'begin; declare c scroll cursor for select id from opdata_connections');
		like($ask->('beta_admin', 'fetch all from c'), qr/^crm_(?:alpha|beta)$/, "$mode: one that is open shows one workspace");
		$session->run('rollback');
		# who is let in, or no longer, notices at once
		psql(q{select opdata_grant('alpha_admin', 'beta', 'developer')});
		is($ask->('alpha_admin', 'execute seen'), 'crm_alpha crm_beta', "$mode: a grant counts for a plan that was made before");
		psql(q{select opdata_revoke('alpha_admin', 'beta')});
		is($ask->('alpha_admin', 'execute seen'), 'crm_alpha', "$mode: and so does its end");
		is($ask->('alpha_admin', q{execute used('crm_beta')}), 'connection_not_found', "$mode: also for a function");
		$session->quit;
	}
	return;
}

# Whose view or function wraps ours: workspaces are those of who is in effect.
sub objects_of_others
{
	psql('grant create on schema public to alpha_admin, beta_admin');
	as('alpha_admin', q{
		create view list as select id from opdata_connections;
		create function shown() returns setof text language sql as 'select id from opdata_connections';
		create function shown_by_definer() returns setof text language sql security definer set search_path = public, pg_temp as 'select id from opdata_connections';
		create materialized view copy as select id from opdata_connections;
		grant select on list, copy to beta_admin});
	is(as('beta_admin', $_->[0]), $_->[1], "beta_admin: $_->[0]")
	  foreach [ 'select id from list', 'crm_beta' ], [ 'select shown()', 'crm_beta' ], [ 'select shown_by_definer()', 'crm_alpha' ],
	  [ 'select id from copy', 'crm_alpha' ];
	psql('refresh materialized view copy');
	is(psql('select id from copy'), 'crm_alpha', 'a materialized view that a superuser refreshes has what its owner sees');
	psql('drop view list; drop materialized view copy; drop function shown, shown_by_definer; revoke create on schema public from alpha_admin, beta_admin');
	return;
}

# Two admins at the same time: none fails, and privileges are what the rows say.
sub grants_at_once
{
	psql('create role busy login');
	my ($one, $two) = (session($agent), session($agent));
	$one->run(q{set role alpha_admin; begin; select opdata_grant('busy', 'alpha', 'reader')});
	$two->start(q{set role beta_admin; select opdata_grant('busy', 'beta', 'developer')});
	ok(wait_until(sub { psql(q{select count(*) from pg_locks where not granted and relation = 'opdata.access'::regclass}) }), 'a grant waits for the one before');
	$one->run('commit');
	is($two->finish->{error}, undef, 'it does not fail for it');
	is(as('busy', q{select opdata_status()->'connections'}), 2, 'both count');
	is(as('busy', q{select opdata_preview('crm_beta', 'select 1')->'rows'}), '[[1]]', 'with their levels');
	$one->run(q{begin; select opdata_revoke('busy', 'alpha')});
	$two->start(q{select opdata_revoke('busy', 'beta')});
	ok(wait_until(sub { psql(q{select count(*) from pg_locks where not granted and relation = 'opdata.access'::regclass}) }), 'so does a revoke');
	$one->run('commit');
	is($two->finish->{error}, undef, 'which does not fail either');
	is(psql(q{select count(*) from pg_proc p, aclexplode(p.proacl) a where a.grantee = 'busy'::regrole}), 0, 'and nothing is left');
	$_->quit foreach $one, $two;
	psql('drop role busy');
	return;
}

sub dump_and_restore
{
	my $file = "$PostgreSQL::Test::Utils::tmp_check/tenancy.dump";
	my $rows = 'select role_name, workspace_id, level from opdata.access order by 1, 2';
	my $in_effect = 'select role_name, workspace_id, level from opdata_grants where in_effect order by 1, 2';

	# one who has the name of another who is gone, and a privilege besides
	psql(q{
		create role boss login; select opdata_grant('boss', '*', 'admin'); drop owned by boss; drop role boss;
		create role climber login; select opdata_grant('climber', 'alpha', 'reader'); alter role climber rename to boss;
		create role idle login; select opdata_grant('idle', 'alpha', 'admin'); drop owned by idle});
	is(as('boss', q{select count(*) from opdata_connections}), 0, 'a name brings nothing');
	command_ok([ 'pg_dump', '--format=custom', '-f', $file, $agent->connstr('postgres') ], 'the database is dumped');
	psql('create database restored template template0');
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $agent->connstr('restored'), $file ], 'and restored');
	is($agent->safe_psql('restored', $rows), psql($in_effect), 'with who may do what, and no more');
	is($agent->safe_psql('restored', $in_effect), psql($in_effect), 'all of it in effect');
	is(as('boss', q{select count(*) from opdata_connections}, dbname => 'restored'), 0, 'nor does a name bring more there');
	is(as('alpha_developer', q{select id from opdata_connections}, dbname => 'restored'), 'crm_alpha', 'which counts there');
	is(as('alpha_developer', q{select opdata_preview('crm_alpha', 'select 1')->'rows'}, dbname => 'restored'), '[[1]]', 'with the privileges');
	is(state_as('alpha_developer', q{select opdata_preview('crm_beta', 'select 1')}, dbname => 'restored'), '42704', 'and no others');
	psql('drop database restored');

	# where half of the roles are missing
	my $other = PostgreSQL::Test::Cluster->new('other');
	$other->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
	$other->append_conf('postgresql.conf', "shared_preload_libraries = 'opdata'\n");
	$other->start;
	$other->safe_psql('postgres', 'create role alpha_developer login');
	$other->safe_psql('postgres', 'create database restored template template0');
	$other->command_fails([ 'pg_restore', '-d', $other->connstr('restored'), $file ], 'where roles are missing a restore says so');
	is($other->safe_psql('restored', $rows), psql($in_effect), 'and goes on: the rows are there');
	$other->safe_psql('restored', 'create role beta_admin login');
	is(state_as('beta_admin', 'table opdata_connections', dbname => 'restored', node => $other), '42501', 'who comes later has nothing');
	$other->safe_psql('restored', 'grant select on opdata_connections to beta_admin; grant execute on function opdata_status() to beta_admin');
	is(as('beta_admin', 'select count(*) from opdata_connections', dbname => 'restored', node => $other), 0, 'nor with privileges');
	# of the GRANTs of one object none is made when one fails
	$other->safe_psql('restored', q{
		select opdata_grant(role_name, workspace_id, level) from opdata_grants where not in_effect and to_regrole(quote_ident(role_name::text)) is not null});
	is(as('alpha_developer', q{select id from opdata_connections}, dbname => 'restored', node => $other), 'crm_alpha', 'one statement lets in again whom there is');
	is(as('beta_admin', q{select id from opdata_connections}, dbname => 'restored', node => $other), 'crm_beta', 'each where he was');
	is($other->safe_psql('restored', $rows), psql($in_effect), 'and nobody else');
	is($other->safe_psql('restored', $in_effect), psql(q{
			select role_name, workspace_id, level from opdata.access where role_name in ('alpha_developer', 'beta_admin') order by 1, 2}), 'who is not there');
	$other->safe_psql('restored', q{
		create role late;
		set session_replication_role = 'replica';
		insert into opdata.access (role_name, role, workspace_id, level, granted_by) values ('late', 1, 'beta', 'reader', 'x')});
	is($other->safe_psql('restored', q{select role = 'late'::regrole from opdata.access where role_name = 'late'}), 't', 'a role is found by whatever session the row is made');

	# pg_upgrade keeps the rows and the roles that they are of
	my $before = $other->safe_psql('restored', 'table opdata.access');
	$other->stop;
	my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
	$upgraded->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
	$upgraded->append_conf('postgresql.conf', "shared_preload_libraries = 'opdata'\n");
	chomp(my $bindir = `pg_config --bindir`);
	chdir $PostgreSQL::Test::Utils::tmp_check;
	command_ok(
		[   'pg_upgrade', '-b', $bindir, '-d', $other->data_dir, '-D', $upgraded->data_dir,
			'-s', $other->host, '-p', $other->port, '-P', $upgraded->port ],
		'the cluster is upgraded');
	$upgraded->start;
	is($upgraded->safe_psql('restored', 'table opdata.access'), $before, 'with all rows');
	is(as('alpha_developer', q{select id from opdata_connections}, dbname => 'restored', node => $upgraded), 'crm_alpha', 'which count there');
	is($upgraded->safe_psql('restored', $in_effect), psql(q{
			select role_name, workspace_id, level from opdata.access where role_name in ('alpha_developer', 'beta_admin') order by 1, 2}), 'as before');
	$upgraded->stop;
	return;
}
