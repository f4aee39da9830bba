
# An agent at work for a long time: jobs of all kinds, good and bad, through TLS,
# tokens, a proxy and with a Convex deployment, while the network, certificates,
# tokens and workers have their mishaps. No job may be lost or done twice, and
# what the workers hold may not grow.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use List::Util qw(max sum0);
use Opdata::Convex;
use Opdata::Credentials qw(reader);
use Opdata::Faults ();
use Opdata::HttpProxy;
use Opdata::Issuer;
use Opdata::TemporalServer;
use Opdata::Test;
use Opdata::Toxiproxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $minutes = $ENV{SOAK_MINUTES};
my $seed = $ENV{SOAK_SEED};
my $turn_s = 10;

# What is not looked at: until caches are filled. A tenth, at least a minute.
my $warm_up_s = max(60, $minutes * 60 / 10);

# How much more the median of the last third may be than that of the first: a
# share of that and a number. Connections come and go with faults, and libcurl
# keeps idle ones, up to four for each call under way: theirs is wide, but a
# leak would be hundreds.
my %margin = (
	'memory kB' => [ 0.05, 2048 ],
	'other descriptors' => [ 0, 2 ],
	'sockets' => [ 0.5, 10 ],
	'threads' => [ 0, 1 ],
	'connections to the source' => [ 0, 3 ],
	'connections to Temporal' => [ 0.5, 20 ],
	'waiting for Convex' => [ 0, 20 ],
	'jobs running' => [ 0, 6 ]);

# Codes of what a fault between agent and source can do to a job that would be
# done otherwise.
my $by_fault = qr/^(?:connection_refused|timeout|query_timeout|query_failed)$/;

my @kinds = qw(store store store test test preview preview preview
  bad_store bad_test bad_preview bad_tenant slow_preview canceled unknown);

my $json = JSON::PP->new->canonical->allow_nonref;
my $out = Test::More->builder->output;
my $number = 0;
my (%known, %told, @samples, @stored);

srand $seed;
say_it("$minutes minutes, SOAK_SEED=$seed");

# ---------------------------------------------------------------- the cast

my $faults = toxiproxy('faults');
my $issuer = issuer('issuer');
$issuer->add_client('agent', 'agent_secret', 'acme', [ 'default:write', 'default:worker' ]);
$issuer->add_client('operator', 'operator_secret', undef, ['temporal-system:admin']);
my $temporal = secure_temporal('temporal', tls => 'mtls', jwks => $issuer->jwks_url);
$temporal->make_namespace('default', $issuer->token('operator'));
my $client = $temporal->client;
my $signed_in = 0;
sign_in();
my $convex = convex_server('convex', issuer => $issuer->url, audience => 'urn:opdata', jwks => $issuer->jwks_url);

my $source = source_cluster('source');
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create table item as select n, repeat('x', 500) as text from generate_series(1, 500) n;
	grant select on item to reader});

my %upstream = (
	temporal => $temporal->address,
	issuer => $issuer->url =~ s{^http://}{}r,
	convex => $convex->address,
	source => '127.0.0.1:' . $source->port);
my %through = map { $_ => $faults->add($_, $upstream{$_}) } sort keys %upstream;
my $proxy = http_proxy('proxy', user => 'agent', password => 'proxy_pw',
	ports => [ map { /:(\d+)$/ } @through{qw(temporal issuer convex)} ]);
$through{proxy} = $faults->add('proxy', $proxy->address);

my $folder = PostgreSQL::Test::Utils::tempdir('files');
write_file('secret', "agent_secret\n");
write_file('proxy_password', "proxy_pw\n");
rotate_certificate();

my $agent = agent_cluster(
	'agent', conf => <<"EOT");
log_statement = none
opdata.org_id = 'acme'
opdata.job_retention = '5min'
opdata.temporal_address = '$through{temporal}'
opdata.temporal_tls_ca = '@{[ $temporal->ca ]}'
opdata.temporal_tls_cert = '$folder/tls.crt'
opdata.temporal_tls_key = '$folder/tls.key'
opdata.temporal_auth = 'token'
opdata.auth_token_url = 'http://$through{issuer}/oauth2/token'
opdata.auth_client_id = 'agent'
opdata.auth_client_secret_file = '$folder/secret'
opdata.convex_url = 'http://$through{convex}'
opdata.proxy = 'http://agent\@$through{proxy}'
opdata.proxy_password_file = '$folder/proxy_password'
EOT
my ($source_port) = $through{source} =~ /:(\d+)$/;

# what is done to the table of connections is written down
$agent->safe_psql(
	'postgres', q{
	create table public.effect (n bigint generated always as identity, id text, operation text);
	create index on public.effect (id);
	create function public.note_effect() returns trigger language plpgsql as $$
	begin
		insert into public.effect (id, operation) values (coalesce(new.id, old.id), tg_op);
		return null;
	end $$;
	create trigger note_effect after insert or delete on opdata.connection
		for each row execute function public.note_effect();
});
wait_until(sub { is_polling() }) or die "the agent does not poll\n";

# ---------------------------------------------------------------- the play

my $began = time();
my (@open, %faulty);

for (my $turn = 1; time() - $began < $minutes * 60; $turn++)
{
	my $turn_began = time();
	my @batch = map { begin_job() } 1 .. 12;

	# mishaps and questions at their moments of the turn
	mishap($turn);
	foreach my $second (1 .. $turn_s - 1)
	{
		sleep max(0, $turn_began + $second - time());
		fault();
		ask_about($batch[ rand @batch ]);
		session() if $second % 3 == 0;
	}
	push @samples, sample(time() - $began);
	sign_in();

	# those of the turn before have had their time, but may have waited for a fault
	end_faults(sort keys %faulty);
	end_job($_) foreach splice @open;
	@open = @batch;
	sleep max(0, $turn_began + $turn_s - time());
}

# ---------------------------------------------------------------- the end

$faults->reset;
$issuer->set_ttl(300);
end_job($_) foreach splice @open;
ok(wait_until(sub { is_polling() }, 150), 'all workers poll in the end');
ok(wait_until(sub { count_of('opdata.outbox') == 0 }, 150), 'Convex was told everything');
told_once();
ok(wait_until(sub { count_of("opdata.job where state = 'running'") == 0 }, 60), 'no job is left running');
ok( wait_until(
		sub {
			$source->safe_psql('postgres',
				q{select count(*) from pg_stat_activity where usename = 'reader'}) == 0;
		},
		60),
	'nothing is left at the source');
clean_logs();
report();
done_testing();

# ---------------------------------------------------------------- questions

sub say_it { print {$out} "# $_[0]\n"; return; }

sub is_polling
{
	my $status = $agent->status;
	return $status->{healthy} && !grep { $_->{state} ne 'polling' } @{ $status->{workers} };
}

sub count_of { return $agent->safe_psql('postgres', "select count(*) from $_[0]"); }

sub write_file { return replace_file("$folder/$_[0]", $_[1]); }

# ---------------------------------------------------------------- jobs

sub credentials { return reader($source, port => $source_port + 0, @_); }

# Type, input and expected end of a job of a kind.
sub job_of
{
	my ($kind, $id) = @_;
	my $wrong = credentials(password => 'wrong_pw');

	return {
		store => [ 'storeCreds', { connectionId => $id, credentials => credentials() }, 'ok' ],
		test => [ 'testCredentials', { credentials => credentials() }, 'ok' ],
		preview => [ 'previewQuery', { credentials => credentials(), sql => "select '$id', * from item" }, 'ok' ],
		bad_store => [ 'storeCreds', { connectionId => $id, credentials => $wrong }, 'authentication_failed' ],
		bad_test => [ 'testCredentials', { credentials => $wrong }, 'authentication_failed' ],
		bad_preview => [ 'previewQuery', { credentials => credentials(), sql => 'delete from item' }, 'statement_not_allowed' ],
		bad_tenant => [ 'testCredentials', { orgId => 'other', credentials => credentials() }, 'tenant_mismatch' ],
		slow_preview => [ 'previewQuery', { credentials => credentials(), sql => "select '$id' from pg_sleep(4)" }, 'ok' ],
		canceled => [ 'previewQuery', { credentials => credentials(), sql => 'select pg_sleep(9)' }, 'CancelledError' ],
		delete => [ 'deleteConnection', { connectionId => $id }, 'ok' ],
		unknown => [ 'nobodyKnows', {}, 'TimeoutError' ]
	}->{$kind};
}

# Jobs of a turn begin at any time of it. Deletes follow stores.
sub begin_job
{
	my $kind = @stored > 20 && rand() < 0.25 ? 'delete' : $kinds[ rand @kinds ];
	my $id = $kind eq 'delete' ? shift @stored : 'c' . ++$number;
	my ($type, $input, $wanted) = @{ job_of($kind, $id) };
	my $job = { kind => $kind, id => $id, workflow_id => "$kind $id", wanted => $wanted };

	$job->{ticket} = $client->send(
		'execute',
		type => "${type}Workflow",
		workflow_id => $job->{workflow_id},
		task_queue => 'tenant-acme',
		start_delay => rand($turn_s - 1),
		input => { orgId => 'acme', %$input },
		$kind eq 'unknown' ? (run_timeout => 15) : ());
	$known{begun}{$kind}++;
	return $job;
}

# Temporal's client has its own way to the server: whatever it cannot do is an error.
sub ask_about
{
	my ($job) = @_;
	my $what = $job->{kind} eq 'canceled' ? 'cancel' : (qw(query signal none))[ rand 3 ];
	my @which = (workflow_id => $job->{workflow_id});

	return if $what eq 'none' || $job->{kind} eq 'unknown';
	if ($what eq 'query')
	{
		push @{ $job->{asked} }, [ $what, $client->send('query', @which, name => 'status', timeout => 30) ];
	}
	elsif ($what eq 'signal')
	{
		push @{ $job->{asked} }, [ $what, $client->send('signal', @which, name => 'nothing', input => {}) ];
	}
	else
	{
		push @{ $job->{asked} }, [ $what, $client->send('cancel', @which) ];
	}
	return;
}

# Its end, and what it did. One to be canceled is, if nobody has done it.
sub end_job
{
	my ($job) = @_;
	my ($kind, $id) = @$job{qw(kind id)};

	eval { $client->cancel(workflow_id => $job->{workflow_id}) } if $kind eq 'canceled';

	# what was asked of it may have come too late for it
	foreach my $asked (@{ $job->{asked} // [] })
	{
		my $answer = eval { $client->receive($asked->[1]) };
		my $class = $@ ? 'late' : ref $answer && $answer->{error} ? $answer->{error}{class} : 'ok';

		$told{"$asked->[0]: $class"}++;
	}

	my $ended = $client->receive($job->{ticket});
	my $result = $ended->{result};
	my $end =
	    $result ? (ref $result && $result->{error} ? $result->{error}{code} : 'ok')
	  : $ended->{error}{class} eq 'ApplicationError' ? $ended->{error}{type}
	  :   $ended->{error}{class};
	my $good = $end eq $job->{wanted} || $end =~ $by_fault;

	# a preview that ended before it was to be canceled
	$good ||= $kind eq 'canceled' && $end eq 'ok';
	$good &&= $result->{rows}[0][0] eq $id if $kind =~ /preview/ && $end eq 'ok';
	if ($kind =~ /store|delete/)
	{
		my $effects = $agent->safe_psql('postgres',
			"select coalesce(string_agg(operation, ' ' order by n), 'nothing') from public.effect where id = '$id'");
		my $wanted = $kind eq 'delete' ? 'INSERT DELETE' : $end eq 'ok' ? 'INSERT' : 'nothing';

		$good &&= $effects eq $wanted;
		push @stored, $id if $kind eq 'store' && $end eq 'ok';
		$ended->{effects} = $effects;
	}
	$known{ended}{$kind}++;
	$known{ $end eq $job->{wanted} ? 'as wanted' : 'by a fault' }{$kind}++;
	return if $good;
	fail("$job->{workflow_id} does not end as it should, but with $end");
	diag($json->encode($ended));
	return;
}

# What an SQL user of the agent does. The error is the source's way, or none.
sub session
{
	my $payload = $json->encode(credentials());
	my $id = $stored[ rand @stored ] // return;
	my $sql = (
		"select opdata_test('$payload'::jsonb)",
		"select opdata_preview('$id', 'select * from item')",
		"select opdata_preview('$id', 'selec')",
		'select count(*) from opdata_jobs',
		'select opdata_status()')[ rand 5 ];
	my $error = error_of($agent, $sql);

	$told{'SQL: ' . ($error ? $error->{code} // $error->{sqlstate} : 'ok')}++;
	return;
}

# Each store and each delete was told once, in this order.
sub told_once
{
	my (%of, @wrong);

	push @{ $of{ $_->{connectionId} } }, $_->{status} foreach @{ $convex->documents->{statuses} };
	my %effects = map { split /\|/, $_, 2 } split /\n/, $agent->safe_psql('postgres',
		q{select id, string_agg(case operation when 'INSERT' then 'connected' else 'deleted' end, ' ' order by operation desc)
			from public.effect group by id});
	foreach my $id (sort keys %effects)
	{
		my $told = join ' ', @{ $of{$id} // [] };

		push @wrong, "$id: $told" if $told ne $effects{$id};
	}
	is(join("\n", @wrong), '', 'Convex was told each change once, in order');
	return;
}

# ---------------------------------------------------------------- mishaps

# Toxics come and go at random, each on one leg for some seconds. Nothing of it
# lasts as long as three attempts of a job.
sub fault
{
	end_faults(grep { time() >= $faulty{$_} } sort keys %faulty);
	return if keys %faulty >= 2 || rand() > 0.3;

	my $leg = (sort keys %through)[ rand keys %through ];
	my $direction = (qw(downstream upstream))[ rand 2 ];
	my ($type, $attributes) = @{ (
		[ latency => { latency => 300, jitter => 200 } ],
		[ bandwidth => { rate => 20 } ],
		[ slicer => { average_size => 100, size_variation => 50, delay => 500 } ],
		[ limit_data => { bytes => 10000 } ],
		[ reset_peer => { timeout => 1500 } ],
		[ timeout => { timeout => 1000 } ],
		['disable'])[ rand 7 ] };

	return if $faulty{$leg};
	$faulty{$leg} = time() + 1 + rand 4;
	$told{"fault: $type"}++;
	$type eq 'disable' ? $faults->disable($leg) : $faults->toxic($leg, $type, $attributes, $direction);
	return;
}

sub end_faults
{
	foreach my $leg (@_)
	{
		$faults->clear($leg);
		$faults->enable($leg);
		delete $faulty{$leg};
	}
	return;
}

sub mishap
{
	my ($turn) = @_;

	$issuer->set_ttl(5 + int rand 26);
	rotate_certificate() if $turn % 9 == 0;
	$agent->reload if $turn % 5 == 0;

	# Of the others the growth is to be seen.
	if ($turn % 7 == 0)
	{
		my ($worker) = grep { $_->{name} eq 'interactive 2' && $_->{pid} } @{ $agent->status->{workers} };
		$agent->safe_psql('postgres', "select pg_terminate_backend($worker->{pid})") if $worker;
		$told{'worker terminated'}++;
	}
	return;
}

# First the key: a look in between sees two files that do not belong together.
sub rotate_certificate
{
	my $name = ('certuser', 'next_user')[ $told{'certificate rotated'}++ % 2 ];

	write_file('tls.key', slurp_file($temporal->key($name)));
	write_file('tls.crt', slurp_file($temporal->cert($name)));
	chmod 0600, "$folder/tls.key";
	return;
}

# The client of the tests; tokens of agents are shorter.
sub sign_in
{
	return if time() < $signed_in + 600;
	$issuer->set_ttl(1500);
	$client->sign_in(authorization => 'Bearer ' . $issuer->token('operator'));
	$issuer->set_ttl(30);
	$signed_in = time();
	return;
}

# ---------------------------------------------------------------- figures

sub sample
{
	my ($at) = @_;
	my %sample = (at => $at);

	foreach my $worker (@{ $agent->status->{workers} })
	{
		my $pid = $worker->{pid} // next;
		my $rollup = eval { slurp_file("/proc/$pid/smaps_rollup") } // next;

		$sample{"memory kB, $worker->{name}"} = sum0($rollup =~ /^Private_(?:Clean|Dirty):\s+(\d+) kB$/mg);
		$sample{"threads, $worker->{name}"} = eval { Opdata::Faults::count_entries($pid, 'task') };

		# PostgreSQL keeps the files of tables open, as many as there are
		my @open = grep { $_ ne '' && !m{/pgdata/(?:base|global|pg_)} } map { readlink($_) // '' } glob "/proc/$pid/fd/*";
		$sample{"sockets, $worker->{name}"} = grep { /^socket:/ } @open;
		$sample{"other descriptors, $worker->{name}"} = grep { !/^socket:/ } @open;
	}
	$sample{'connections to the source'} = $source->safe_psql('postgres',
		q{select count(*) from pg_stat_activity where usename = 'reader'});
	$sample{'connections to Temporal'} = Opdata::Faults::sockets_to($temporal->port, 'connected');
	$sample{'waiting for Convex'} = count_of('opdata.outbox');
	$sample{'jobs running'} = count_of("opdata.job where state = 'running'");
	return \%sample;
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ $#sorted / 2 ];
}

sub report
{
	my @counted = grep { $_->{at} >= $warm_up_s } @samples;
	my $third = int(@counted / 3);
	my %names = map { $_ => 1 } grep { $_ ne 'at' } map { keys %$_ } @counted;

	BAIL_OUT('too short for figures') if $third < 2;
	say_it(sprintf '%-34s %12s %12s %12s %12s', 'medians', 'first third', 'last third', 'maximum', 'may be');
	foreach my $name (sort keys %names)
	{
		my @all = grep { defined } map { $_->{$name} } @counted;
		my $first = median(grep { defined } map { $_->{$name} } @counted[ 0 .. $third - 1 ]);
		my $last = median(grep { defined } map { $_->{$name} } @counted[ -$third .. -1 ]);
		my ($share, $more) = @{ $margin{ $name =~ s/,.*//r } };
		my $limit = int($first * (1 + $share) + $more);

		say_it(sprintf '%-34s %12d %12d %12d %12d', $name, $first, $last, max(@all), $limit);
		cmp_ok($last, '<=', $limit, "$name: it does not grow");
	}

	say_it(sprintf '%-34s %12s %12s %12s %12s', 'jobs', 'begun', 'ended', 'as wanted', 'by a fault');
	foreach my $kind (sort keys %{ $known{begun} })
	{
		say_it(sprintf '%-34s %12d %12d %12d %12d',
			$kind, map { $known{$_}{$kind} // 0 } 'begun', 'ended', 'as wanted', 'by a fault');
		is($known{ended}{$kind}, $known{begun}{$kind}, "$kind: no job is lost");
		cmp_ok($known{'as wanted'}{$kind} // 0, '>', 0, "$kind: nor are all of them the victims of faults");
	}
	say_it(sprintf '%-34s %12d', $_, $told{$_}) foreach sort keys %told;
	return;
}

# Every log, those of the other servers too: what they log is what they were sent.
sub clean_logs
{
	my $secret = qr/reader_pw|wrong_pw|agent_secret|proxy_pw|BEGIN [A-Z ]*PRIVATE KEY|eyJ[\w-]{20,}\.eyJ/;

	foreach my $log (sort glob "$PostgreSQL::Test::Utils::log_path/*.log")
	{
		my ($name) = $log =~ m{([^/]+)\.log$};
		my $text = slurp_file($log);

		unlike($text, qr/terminated by signal|PANIC|TRAP:|stack smashing|segfault/, "$name: no crash is in the log");

		# psql commands of this test, and set-up of roles, are in the source's
		next if $name =~ /source/;
		unlike($text, $secret, "$name: no secret is in the log");
	}
	return;
}
