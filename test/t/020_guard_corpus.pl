
# Every case of test/corpus/guard.txt through opdata_preview; then the source
# must be as it was.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use File::Spec;
use IPC::Run;
use JSON::PP;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $corpus = "$FindBin::RealBin/../corpus";
my $mark = '=====case';
my $key_words = qr/rows|columns|types|with|sqlstate|seconds|since|until/;

# Seconds that a preview may take, and what a busy machine adds: less than the
# statements would take without that limit.
my $deadline = 10;
my $slack = 15;
my $scripts = 0;

my @cases = read_cases("$corpus/guard.txt");

my $source = source_cluster('source');
$source->safe_psql('postgres', 'create database src');
system_or_bail('psql', '-XqAt', '-o', File::Spec->devnull, '-d',
	$source->connstr('src'), '-f', "$corpus/guard_source.sql");
$source->safe_psql('src', q{alter role reader password 'correct horse'});

my $agent = agent_cluster('agent');
my $port = $source->port;
is( json(
		$agent,
		qq{select opdata_store_creds('src', '{"host": "127.0.0.1",
			"port": $port, "database": "src", "username": "reader",
			"password": "correct horse", "sslMode": "disable"}')}
	)->{status},
	'connected',
	'the source is stored');

cmp_ok(scalar(@cases), '>=', 150, 'cases in the corpus');
cmp_ok(scalar(grep { $_->{codes}{ok} } @cases), '>=', 100, 'legal ones');
cmp_ok(scalar(grep { !$_->{codes}{ok} } @cases), '>=', 100, 'others');

# the session of the test is part of it for as long as it is there
my $sessions = q{select count(*) from pg_stat_activity where usename = 'reader'};
ok(wait_until(sub { $source->safe_psql('src', $sessions) eq '0' }), 'the test has left the source');
my $before = fingerprint();

# Those that run into the time limit wait side by side with all the others.
@cases = grep { for_this_version($_) } @cases;
my @slow = map { start_cases([$_]) } grep { is_slow($_) } @cases;
my @fast = grep { !is_slow($_) } @cases;
run_cases(\@fast);
judge($_) foreach @fast;

# The caller's settings must not matter: not where a string ends, nor how
# values are written.
my @again = grep { !defined $_->{head}{seconds} } @fast;
delete $_->{answer} foreach @again;
run_cases(\@again, q{
	set standard_conforming_strings = off;
	set escape_string_warning = off;
	set backslash_quote = on;
	set default_transaction_read_only = on;
	set search_path = pg_temp;
	set datestyle = 'German';
	set intervalstyle = 'iso_8601';
	set timezone = 'Asia/Kolkata';
	set bytea_output = 'escape';
	set extra_float_digits = -15;
	set xmloption = document;
	set transform_null_equals = on;
	set check_function_bodies = off;
	set row_security = off;
});
my @differ = grep { wrongs_of($_) } @again;
is(join(', ', map { $_->{title} } @differ),
	'', q{the caller's settings do not matter});

finish_cases($_) foreach @slow;
foreach my $case (map { @{ $_->{cases} } } @slow)
{
	judge($case);
	my $seconds = $case->{answer}{seconds} // 'no time';
	ok($seconds =~ /^[0-9]/ && $seconds < $deadline + $slack,
		"$case->{title}: in time")
	  or diag("took $seconds");
}

ok( wait_until(
		sub {
			$source->safe_psql('src',
				"$sessions and query !~ 'f_stubborn'") eq '0';
		}),
	'queries past the time limit are cancelled at the source');
ok(wait_until(sub { $source->safe_psql('src', $sessions) eq '0' }),
	'no session is left at the source');
is(fingerprint(), $before, 'the source is as it was');

done_testing();


# The cases of a file, as {title, codes => {code => 1}, sql, head => {...}}.
sub read_cases
{
	my ($path) = @_;
	my (@found, %seen, $case, @lines, $escaped, $in_head);

	open(my $file, '<:raw:encoding(UTF-8)', $path) or die "$path: $!";
	while (my $line = <$file>)
	{
		$line =~ s/\n\z//;
		if (!$case)
		{
			next if $line eq '' or $line =~ /^#/;
			my ($codes, $title);
			($codes, $escaped, $title) =
			  $line =~ /^-- ([a-z_]+(?:\|[a-z_]+)*)(-escaped)?: (.+)\z/
			  or die "$path:$.: no case begins here: $line\n";
			die "$path:$.: a second \"$title\"\n" if $seen{$title}++;
			$case = {
				title => $title,
				codes => { map { $_ => 1 } split(/\|/, $codes) },
				head => {}
			};
			@lines = ();
			$in_head = 1;
		}
		elsif ($line eq '--;;')
		{
			$case->{sql} =
			  $escaped ? unescape(join('', @lines)) : join("\n", @lines);
			push @found, $case;
			undef $case;
		}
		elsif ($in_head and $line =~ /^-- ($key_words): (.+)\z/)
		{
			my ($key, $value) = ($1, $2);
			if ($key =~ /^(?:rows|columns|types|with)\z/)
			{
				$value =~ s/\\\{(\d+)\*([^}]*)\}/$2 x $1/ge;
				die "$path:$.: no JSON\n"
				  unless eval { JSON::PP->new->decode($value); 1 };
			}
			$case->{head}{$key} = $value;
		}
		else
		{
			$in_head = 0;
			push @lines, $line;
		}
	}
	close $file;
	die "$path: \"$case->{title}\" does not end\n" if $case;
	return @found;
}

sub unescape
{
	my ($text) = @_;
	my %plain = (n => "\n", r => "\r", t => "\t", '\\' => '\\');

	$text =~ s{
		\\(?: \{(\d+)\*([^\}]*)\} | x([0-9A-Fa-f]{2}) | u\{([0-9A-Fa-f]+)\}
			| ([nrt\\]) )
	}{
		defined $1 ? $2 x $1
		: defined $3 ? chr(hex($3))
		: defined $4 ? chr(hex($4))
		: $plain{$5}
	}gex;
	return $text;
}

sub for_this_version
{
	my ($case) = @_;
	my $version = $source->pg_version;
	my ($since, $until) = @{ $case->{head} }{qw(since until)};

	return 0 if defined $since and $version < $since;
	return 0 if defined $until and $version >= $until + 1;
	return 1;
}

sub is_slow
{
	my ($case) = @_;
	return join('|', keys %{ $case->{codes} }) eq 'query_timeout';
}

# A text as an SQL literal that no setting touches.
sub quote
{
	my ($text) = @_;
	my $tag = 'q';

	$tag .= 'q' while $text =~ /\$$tag/;
	return "\$$tag\$$text\$$tag\$";
}

# What psql is to do for one case: a line for each check of a result (name,
# whether it holds, found, wanted), or the error.
sub script_of
{
	my ($case, $number) = @_;
	my $head = $case->{head};

	# holds for every result
	my @checks = (
		q{('shape',
			jsonb_typeof(r->'columns') = 'array' and jsonb_typeof(r->'rows') = 'array'
			and (r->'rowCount')::int = jsonb_array_length(r->'rows') and (r->'rowCount')::int <= 100
			and (r->>'truncated')::bool = (r->'truncatedBy' ?| array['rows', 'bytes'])
			and (r->'durationMs')::float8 >= 0
			and not exists (select from jsonb_array_elements(r->'rows') x(cells)
				where jsonb_array_length(cells) <> jsonb_array_length(r->'columns'))
			and length(convert_from(convert_to(r::text, 'UTF8'), 'UTF8')) between 1 and 2000000,
			r - 'rows' - 'columns', null::jsonb)});
	my %found = (
		rows => q{r->'rows'},
		columns => q{jsonb_path_query_array(r, '$.columns[*].name')},
		types => q{jsonb_path_query_array(r, '$.columns[*].type')},
		with => q{r - 'rows' - 'columns'});
	foreach my $key (grep { defined $head->{$_} } sort keys %found)
	{
		my $want = quote($head->{$key}) . '::jsonb';
		my $operator = $key eq 'with' ? '@>' : '=';
		push @checks,
		  "('$key', $found{$key} $operator $want, $found{$key}, $want)";
	}

	return
	    "\\echo $mark $number\n\\warn $mark $number\n"
	  . "select name, coalesce(holds, false), left(found::text, 1000), left(wanted::text, 1000)\n"
	  . "from public.opdata_preview('src', "
	  . quote($case->{sql})
	  . ") r,\nlateral (values "
	  . join(",\n", @checks)
	  . ") as c(name, holds, found, wanted);\n";
}

# Starts one session that runs some cases.
sub start_cases
{
	my ($list, $setup) = @_;
	my $path = "$PostgreSQL::Test::Utils::tmp_check/guard_corpus."
	  . (++$scripts) . '.sql';
	my %run = (cases => $list, out => '', err => '');

	open(my $file, '>:raw:encoding(UTF-8)', $path) or die "$path: $!";
	print $file "\\encoding UTF8\n\\set VERBOSITY verbose\n\\timing on\n";
	print $file "set statement_timeout = '5min';\n";
	print $file "$setup\n" if defined $setup;
	print $file script_of($list->[$_], $_) foreach 0 .. $#$list;
	print $file "\\echo $mark end\n\\warn $mark end\n";
	close $file;

	$run{handle} = IPC::Run::start(
		[
			'psql', '-XqAt', '-F', "\t", '-v', 'ON_ERROR_STOP=0', '-d',
			$agent->connstr('postgres'), '-f', $path
		],
		'<', \undef, '>', \$run{out}, '2>', \$run{err},
		IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default));
	return \%run;
}

# Waits for a session and gives its cases their answers. Returns how many it
# got through; fewer than all when the connection was lost.
sub finish_cases
{
	my ($run) = @_;
	my $list = $run->{cases};

	IPC::Run::finish($run->{handle});
	my %out = split_by_case($run->{out});
	my %err = split_by_case($run->{err});

	foreach my $number (0 .. $#$list)
	{
		my ($out, $err) = ($out{$number}, $err{$number});
		return $number if !defined $out and !defined $err;
		$out //= '';
		$err //= '';

		my %answer = (text => $err . $out);
		$answer{seconds} = $1 / 1000
		  if $out =~ s/^Time: ([0-9.]+) ms.*\n//m;
		if ($err =~ /(?:ERROR|FATAL|PANIC):  ([0-9A-Z]{5}): /)
		{
			$answer{sqlstate} = $1;
			($answer{code}) = $err =~ /^DETAIL:  (\w+)/m;
			$answer{code} //= "none, SQLSTATE $1";
		}
		elsif ($out =~ /^shape\t/m)
		{
			$answer{code} = 'ok';
			$answer{checks} =
			  [ map { [ split(/\t/, $_, -1) ] } split(/\n/, $out) ];
		}
		else
		{
			$answer{code} = 'none, no answer';
		}
		$list->[$number]{answer} = \%answer;
	}
	return scalar @$list;
}

sub split_by_case
{
	my ($text) = @_;
	my (undef, @parts) = split(/^\Q$mark\E (\d+|end)\n/m, $text, -1);
	return @parts;
}

# Runs cases in one session, or in several when one breaks off.
sub run_cases
{
	my ($list, $setup) = @_;
	my @left = @$list;

	while (@left)
	{
		my $done = finish_cases(start_cases(\@left, $setup));
		if ($done == 0)
		{
			diag('no session could be had');
			last;
		}
		splice(@left, 0, $done);
		$agent->poll_query_until('postgres', 'select true') if @left;
	}
	return;
}

# What is wrong with a case's answer, as texts.
sub wrongs_of
{
	my ($case) = @_;
	my $answer = $case->{answer} // { code => 'none, not run', text => '' };
	my @wrong;

	push @wrong,
	  'code: ' . $answer->{code} . ', not ' . join(' or ', sort keys %{ $case->{codes} })
	  unless $case->{codes}{ $answer->{code} };
	my $sqlstate = $case->{head}{sqlstate};
	push @wrong,
	  'SQLSTATE: ' . ($answer->{sqlstate} // 'none') . ", not $sqlstate"
	  if defined $sqlstate and ($answer->{sqlstate} // '') ne $sqlstate;
	my $seconds = $case->{head}{seconds};
	push @wrong, 'seconds: ' . ($answer->{seconds} // 'none') . ", not $seconds"
	  if defined $seconds and ($answer->{seconds} // 0) > $seconds;
	foreach my $check (@{ $answer->{checks} // [] })
	{
		my ($name, $holds, $found, $wanted) = @$check;
		push @wrong, "$name: $found\n    not: $wanted" if $holds ne 't';
	}

	return unless @wrong;
	push @wrong, substr($case->{sql}, 0, 500);
	push @wrong, substr($answer->{text}, 0, 1000) unless $answer->{code} eq 'ok';
	s/([^\n\t\x20-\x7e])/sprintf('\\x{%X}', ord($1))/ge foreach @wrong;
	return @wrong;
}

# One test for each case.
sub judge
{
	my ($case) = @_;
	my @wrong = wrongs_of($case);

	ok(!@wrong, $case->{title}) or diag(join("\n", @wrong));
	return;
}

# Everything at the source that a statement might have changed.
sub fingerprint
{
	return $source->safe_psql(
		'src', q{
select 'table', c.oid::regclass, (xpath('/row/s/text()', query_to_xml(format(
	'select count(*) || '' '' || coalesce(md5(string_agg(t::text, chr(10) order by t::text)), ''-'') as s from only %s t',
	c.oid::regclass), true, true, '')))[1]
from pg_class c
where c.relkind in ('r', 'm') and c.relnamespace in (select oid from pg_namespace where nspname !~ '^pg_' and nspname <> 'information_schema')
order by 2;
select 'sequence', oid::regclass, pg_sequence_last_value(oid) from pg_class where relkind = 'S' order by 2;
select 'relation', oid, relnamespace::regnamespace, relname, relkind, relnatts, relowner, relacl, relfilenode, relchecks, relhasrules
from pg_class where oid >= 16384 order by 2;
select 'other', count(*) from pg_proc union all
select 'other', count(*) from pg_type union all
select 'other', count(*) from pg_namespace union all
select 'other', count(*) from pg_rewrite union all
select 'other', count(*) from pg_extension union all
select 'other', count(*) from pg_description union all
select 'other', count(*) from pg_database union all
select 'other', count(*) from pg_largeobject_metadata union all
select 'other', count(*) from pg_replication_slots union all
select 'other', count(*) from pg_prepared_xacts union all
select 'other', count(*) from pg_stat_activity where backend_type = 'client backend' and wait_event = 'ClientRead' and usename = 'reader' union all
select 'advisory', count(*) from pg_locks where locktype = 'advisory' union all
select 'auto.conf', count(*) from pg_file_settings where sourcefile ~ 'auto';
select 'role', rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls, rolconfig from pg_roles order by 2;
select 'member', roleid, member from pg_auth_members order by 2, 3;
});
}
