
# Many at once: previews are not mixed up, one id may be stored, tested and
# deleted by several sessions, and one key is made.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Faults;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = source_cluster('source');
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create role writer login password 'writer_pw';
	create function whoami() returns text language sql as 'select session_user::text';
});

my $agent = agent_cluster('agent');
store($agent, 'source', port => $source->port);

# deciphering for the test's own look at a row
my %passwords = map { $_ => "${_}_pw" } qw(reader writer);

previews_at_once($_) foreach (8, 40);
one_id();
stale_verdict();
one_key();
one_key_in_two_databases();
done_testing();

sub preview
{
	my ($id, $query) = @_;
	$query =~ s/'/''/g;
	return "select opdata_preview('$id', '$query')";
}

sub decode { return JSON::PP->new->utf8->decode($_[0]); }

# Each asks for its own number, several times, and for some time.
sub previews_at_once
{
	my ($n) = @_;
	my $rounds = 5;
	my @sessions = map { session($agent) } 1 .. $n;

	foreach my $i (0 .. $#sessions)
	{
		$sessions[$i]->start(join(";\n",
			map { preview('source', "select $i * 1000 + $_ as n, pg_sleep(0.05)::text || repeat('x', $i)") }
			  1 .. $rounds));
	}

	my ($wrong, $errors) = (0, '');
	foreach my $i (0 .. $#sessions)
	{
		my $result = $sessions[$i]->finish;
		my @rows = map { decode($_)->{rows} } split(/\n/, $result->{out});

		$errors .= $result->{text};
		$wrong++ if @rows != $rounds;
		foreach my $round (1 .. @rows)
		{
			my $row = $rows[ $round - 1 ][0];
			$wrong++ if $row->[0] != $i * 1000 + $round or $row->[1] ne 'x' x $i;
		}
		$sessions[$i]->quit;
	}
	is($errors, '', "$n previews at once: no error");
	is($wrong, 0, "$n previews at once: each got its own rows");
	ok( wait_until(
			sub { $source->safe_psql('postgres', q{select count(*) from pg_stat_activity where usename = 'reader'}) == 0 }),
		"$n previews at once: no connection is left at the source");
	return;
}

# Sessions store, test, preview and delete the same id for some rounds.
sub one_id
{
	my $rounds = 15;
	my %scripts = (
		reader => "select opdata_store_creds('shared', "
		  . payload(port => $source->port) . ')->>\'status\'',
		writer => "select opdata_store_creds('shared', "
		  . payload(port => $source->port, username => 'writer', password => 'writer_pw') . ')->>\'status\'',
		untested => "select opdata_store_creds('shared', "
		  . payload(port => $source->port) . ', test => false)->>\'status\'',
		test => q{select opdata_test('shared')->>'ok'},
		preview => preview('shared', 'select whoami()'),
		delete => q{select opdata_delete('shared')->>'deleted'});
	my %allowed = (test => 'connection_not_found', preview => 'connection_not_found');
	my %sessions = map { $_ => session($agent) } sort keys %scripts;

	foreach my $name (sort keys %scripts)
	{
		$sessions{$name}->start(join(";\n", ($scripts{$name}) x $rounds));
	}
	my %answers;
	foreach my $name (sort keys %scripts)
	{
		my $result = $sessions{$name}->finish;
		my @codes = $result->{text} =~ /^DETAIL:  (\w+)/mg;
		my @errors = $result->{text} =~ /(?:ERROR|FATAL|WARNING):  /g;
		my $allowed = $allowed{$name} // '';

		is(scalar @errors, scalar(grep { $_ eq $allowed } @codes),
			"one id, many sessions: $name gives none but documented errors")
		  or diag($result->{text});
		$answers{$name} = [ split(/\n/, $result->{out}) ];
		is(@errors + @{ $answers{$name} }, $rounds, "one id, many sessions: $name ran to its end");
		$sessions{$name}->quit;
	}
	is_deeply([ grep { $_ ne 'connected' } @{ $answers{$_} } ],
		[], "one id, many sessions: every store of $_ was done")
	  foreach ('reader', 'writer');
	is_deeply([ grep { $_ ne 'true' } @{ $answers{test} } ],
		[], 'one id, many sessions: every test succeeded');
	is_deeply(
		[ grep { !/^(reader|writer)$/ } map { decode($_)->{rows}[0][0] } @{ $answers{preview} } ],
		[], 'one id, many sessions: every preview had one of the credentials');

	my $left = $agent->safe_psql('postgres', q{select count(*) from opdata_connections where id = 'shared'});
	like($left, qr/^[01]$/, 'one id, many sessions: there is one row at most');
	$agent->safe_psql('postgres', $scripts{writer});
	my $session = session($agent);
	my $result = $session->run(preview('shared', 'select whoami()'));
	is(decode($result->{out})->{rows}[0][0],
		'writer', 'one id, many sessions: what is stored last is used');
	$session->quit;

	# the same without a delete: the final state is one of those stored
	my @stores = map { session($agent)->start(join(";\n", ($scripts{$_}) x $rounds)) } ('reader', 'writer');
	foreach my $store (@stores)
	{
		is($store->finish->{text}, '', 'two sessions store one id without an error');
		$store->quit;
	}
	is($agent->safe_psql('postgres', q{select count(*) from opdata_connections where id = 'shared'}),
		'1', 'two sessions store one id once');
	is(json($agent, q{select opdata_test('shared')})->{ok},
		JSON::PP::true, 'what two sessions stored decrypts and works');
	return;
}

# A test that takes long may not pass its verdict on credentials that were
# stored in the meantime.
sub stale_verdict
{
	my $silent = silent_server(at => 'connect');
	my $session = session($agent);

	store($agent, 'stale', port => $silent->port);
	$session->start(q{select opdata_test('stale')});
	ok(wait_until(sub { sockets_to($silent->port, 'connected') > 0 }), 'a test is under way');
	is( json($agent, q{select opdata_store_creds('stale', } . payload(port => $source->port) . ')')->{status},
		'connected',
		'meanwhile other credentials are stored');
	$silent->stop;
	$session->finish;
	is( $agent->safe_psql('postgres',
			q{select status, last_error from opdata_connections where id = 'stale'}),
		'connected|',
		'the test of the old credentials says nothing about the new ones');

	# nor may it bring back what was deleted
	my $other = silent_server(at => 'connect');
	store($agent, 'stale', port => $other->port);
	$session->start(q{select opdata_test('stale')});
	ok(wait_until(sub { sockets_to($other->port, 'connected') > 0 }), 'another test is under way');
	$agent->safe_psql('postgres', q{select opdata_delete('stale')});
	$other->stop;
	is($session->finish->{error}, undef, 'a connection that is deleted during its test is no error');
	is($agent->safe_psql('postgres', q{select count(*) from opdata_connections where id = 'stale'}),
		'0', 'a connection that is deleted during its test stays deleted');
	$session->quit;
	return;
}

sub set_key_file
{
	my ($name) = @_;

	$agent->safe_psql('postgres', "alter system set opdata.key_file = '$name'");
	$agent->reload;
	return $agent->data_dir . "/$name";
}

# Several sessions make a key on first use: one key, and all rows are under it.
sub one_key
{
	my @sessions = map { session($agent) } 1 .. 4;
	my $rounds = 25;
	my ($errors, $wrong, $missing, $undecipherable, $litter) = ('', 0, 0, 0, 0);

	foreach my $round (1 .. $rounds)
	{
		$agent->safe_psql('postgres', 'delete from opdata.connection');
		my $path = set_key_file("round_$round.key");
		foreach my $session (@sessions)
		{
			wait_until(sub { $session->run('show opdata.key_file')->{out} eq "round_$round.key" });
		}

		$sessions[$_]->start(
			"select opdata_store_creds('id$_', " . payload(port => $source->port) . ', test => false)')
		  foreach 0 .. $#sessions;
		$errors .= $_->finish->{text} foreach @sessions;

		$missing++ unless -f $path and -s $path == 32 and ((stat $path)[2] & 07777) == 0600;
		$litter++ if glob("$path.*");
		$wrong++
		  if $agent->safe_psql('postgres', 'select count(distinct key_id), count(*) from opdata.connection') ne
		  '1|' . scalar @sessions;

		# each decrypts what another stored
		foreach my $i (0 .. $#sessions)
		{
			my $answer = $sessions[$i]->run(q{select opdata_preview('id} . ($i + 1) % @sessions . q{', 'select 1')});
			$undecipherable++ if $answer->{error};
		}
	}
	is($errors, '', 'sessions that need the first key at once all get it');
	is($missing, 0, 'the key file is whole and private each time');
	is($litter, 0, 'no temporary file is left');
	is($wrong, 0, 'there is one key each time');
	is($undecipherable, 0, 'each row can be deciphered by every session');
	$_->quit foreach @sessions;
	return;
}

# Two databases of one server share the key file, but no lock on a table.
sub one_key_in_two_databases
{
	my $rounds = 25;
	my ($errors, $wrong) = ('', 0);
	my @databases = ('one', 'two');

	foreach my $database (@databases)
	{
		$agent->safe_psql('postgres', "create database $database");
		$agent->safe_psql($database, 'create extension opdata cascade');
	}
	my @sessions = map { session($agent, $_) } @databases;
	foreach my $round (1 .. $rounds)
	{
		$_->run('delete from opdata.connection') foreach @sessions;
		set_key_file("shared_$round.key");
		foreach my $session (@sessions)
		{
			wait_until(sub { $session->run('show opdata.key_file')->{out} eq "shared_$round.key" });
		}

		$_->start(q{select opdata_store_creds('it', } . payload(port => $source->port) . ', test => false)')
		  foreach @sessions;
		$errors .= $_->finish->{text} foreach @sessions;
		my %keys = map { $_->run('select key_id from opdata.connection')->{out} => 1 } @sessions;
		$wrong++ if keys %keys != 1;
		$errors .= $_->run(q{select opdata_preview('it', 'select 1')})->{text} foreach @sessions;
	}
	is($errors, '', 'two databases that need the first key at once both get it');
	is($wrong, 0, 'two databases of one server have one key each time');
	$_->quit foreach @sessions;
	return;
}
