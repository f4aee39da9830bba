
# A worker that is leaving, since its settings have changed, still obeys: nothing leaves
# after opdata_suspend(); and a reload, by which keys of a command are forgotten, fails no
# preview.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(session);
use Opdata::Test;
use Opdata::Workflows;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = source_cluster('source');
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create table gate as select 'passed';
	grant select on gate to reader});

my $tenant = tenant('acme');
my $agent = $tenant->agent;
my $client = $tenant->client;
is(code_of($tenant->run('storeCredsWorkflow', { connectionId => 'shop', credentials => reader($source) })),
	'ok',
	'a connection is stored');

suspended_while_leaving();
reloaded_with_key_command();
ok(slurp_file($agent->logfile) !~ /PANIC|terminated by signal|reader_pw/, 'no crash, and no password, is in the log');
done_testing();

sub psql { return $agent->safe_psql('postgres', @_); }

# How many sessions the agent has there.
sub at_source
{
	return $source->safe_psql('postgres', "select count(*) from pg_stat_activity where usename = 'reader'$_[0]");
}

# A worker that leaves lets what runs end, for five seconds: this would end when the
# gate is opened.
sub suspended_while_leaving
{
	my $gate = session($source);

	$gate->run('begin; lock table gate');
	my $ticket = $client->send(
		'execute',
		$tenant->arguments('previewQueryWorkflow', { connectionId => 'shop', sql => 'select * from gate' }));

	ok(wait_until(sub { at_source(q{ and wait_event_type = 'Lock'}) }), 'a preview runs');
	$agent->set(org_id => 'other');
	psql('select opdata_suspend()');
	$gate->run('rollback');
	$gate->quit;
	ok(wait_until(sub { !at_source('') }), 'it does no more');
	ok( wait_until(
			sub {
				psql(q{select bool_and(w->>'state' = 'suspended' or w->>'pid' is null)
					from jsonb_array_elements(opdata_status()->'workers') w}) eq 't';
			}),
		'all workers have noticed');
	is(psql('select count(*) from opdata_egress'), 0, 'and nothing has left');
	$agent->set(org_id => 'acme');
	psql('select opdata_resume()');
	is(code_of($client->receive($ticket)), 'ok', 'resumed: it is done after all');
	is(psql('select count(*) from opdata_egress'), 1, 'resumed: and has left once');
	return;
}

# It takes its time. Whoever asks for a preview meanwhile waits.
sub reloaded_with_key_command
{
	my $file = $agent->data_dir . '/opdata.key';

	$agent->set(key_command => "sleep 1; cat $file");
	foreach my $n (1 .. 4)
	{
		$agent->reload if $n > 1;
		is( code_of($tenant->run('previewQueryWorkflow', { connectionId => 'shop', sql => 'select 1' })),
			'ok',
			"a preview after reload $n");
	}
	return;
}
