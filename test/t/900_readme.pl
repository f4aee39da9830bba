
# Runs every SQL example of README.md, in the order in which they stand there,
# and compares what psql prints with what the README says it does.
#
# An example is a block fenced as ```sql. Each gets a psql of its own:
#
#   - in the agent's database, as a superuser;
#   - in the source database "shop", as a superuser too, if the line before it
#     is the comment <!-- source -->.
#
# A block fenced as ```text that follows an example directly is its output.
# An example may print an error only if its output shows one.
#
# The README writes for a reader at home: source and agent on one host, port
# 5432. %here says what the words of its examples are in this test, and
# comparable() blanks what differs from run to run.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IPC::Run;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = slurp_file("$FindBin::RealBin/../../README.md");

# What an example that asks for a password gets to hear. A file, since most of
# them end without reading it, and IPC::Run dies when it cannot write.
my $typed = replace_file(PostgreSQL::Test::Utils::tempdir() . '/typed', "choose-a-password\n");

my $source = shop_source();
my $agent = agent_cluster('agent',
	conf => "opdata.key_file = 'agent.key'\n");
$agent->safe_psql('postgres',
	q{create database agent encoding 'UTF8' template template0});

my %here = (
	'5432' => $source->port,
	'/path/to/ca.crt' => $source->data_dir . '/certs/ca.crt',
	'/path/to/client.crt' => $source->data_dir . '/certs/certuser.crt',
	'/path/to/client.key' => $source->data_dir . '/certs/certuser.key',
	'/etc/opdata/opdata.key' => $agent->data_dir . '/agent.key',);

my @configured;    # settings in examples of configuration
my @examples = examples($readme);
cmp_ok(scalar(@examples), '>', 15, 'the README has examples');
check_example($_) foreach @examples;
check_reference();
check_claims();

done_testing();

# The database that the README's reader has. Its owner is not the role that
# the examples connect as.
sub shop_source
{
	my $node = source_cluster(
		'source',
		tls => 1,
		hba => "hostssl all opdata_cert 127.0.0.1/32 cert map=readme\n"
		  . "host all all 127.0.0.1/32 scram-sha-256\n");

	# the test's client certificate has a name of its own
	$node->append_conf('pg_ident.conf', 'readme certuser opdata_cert');
	$node->reload;
	$node->safe_psql('postgres', 'create database shop');
	$node->safe_psql(
		'shop', q{
		create table customer (id int primary key, name text, email text);
		insert into customer values
			(1, 'Ada', 'ada@example.com'),
			(2, 'Grace', 'grace@example.com'),
			(3, 'Edsger', 'edsger@example.com');
		create table purchase (
			id int primary key, customer_id int references customer, amount numeric(10, 2));
		insert into purchase select n, 1 + n % 3, n * 1.25 from generate_series(1, 250) n;});
	return $node;
}

# All examples: {line, where, sql, output}.
sub examples
{
	my ($text) = @_;
	my @found;
	my $fences = 0;
	my $end_of_sql = 0;

	while ($text =~ /^(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)^```\n/gms)
	{
		my ($where, $language, $body) = ($1, $2, $3);
		my ($start, $end) = ($-[0], $+[0]);

		$fences++;
		if ($language eq 'sql')
		{
			$where //= 'agent';
			die "unknown place \"$where\"\n"
			  unless $where =~ /^(?:agent|source)$/;
			push @found,
			  {
				line => 1 + (substr($text, 0, $start) =~ tr/\n//),
				where => $where,
				sql => $body
			  };
			$end_of_sql = $end;
		}
		elsif ($language eq 'text')
		{
			die "the block \"$body\" is no example's output\n"
			  unless @found
			  && substr($text, $end_of_sql, $start - $end_of_sql) =~ /^\n*$/;
			$found[-1]{output} = $body;
		}
		elsif ($language eq 'ini')
		{
			push @configured, $1 while $body =~ /^([\w.]+) = '[^'\n]*'(?: +#[^\n]*)?$/gm;
		}
		elsif ($language ne 'sh')
		{
			die "unknown language \"$language\"\n";
		}
	}
	is(scalar(() = $text =~ /^\s*```/mg),
		2 * $fences, 'every fenced block of the README is understood');
	return @found;
}

sub check_example
{
	my ($example) = @_;
	my $what = "example in line $example->{line}";
	my $output = run_example($example);

	if (defined $example->{output})
	{
		is(comparable($output), comparable($example->{output}),
			"the $what prints what the README shows");
	}
	else
	{
		unlike($output, qr/^(?:ERROR|FATAL|error|invalid command)\b/m,
			"the $what works");
	}
	return;
}

# psql reads the example from a file, and standard input for \prompt.
sub run_example
{
	my ($example) = @_;
	my $connstr =
	    $example->{where} eq 'source'
	  ? $source->connstr('shop')
	  : $agent->connstr('agent');
	my $file = PostgreSQL::Test::Utils::tempdir() . '/example.sql';
	my $output;

	open my $fh, '>', $file or die "$file: $!";
	print $fh replace($example->{sql}, %here);
	close $fh;

	IPC::Run::run([ 'psql', '-X', '-d', $connstr, '-f', $file ],
		'<', $typed, '>&', \$output);
	$output =~ s/^psql:\Q$file\E:\d+: //mg;
	return replace($output, reverse %here);
}

# Put values in the place of words; a number is a word only as a whole.
sub replace
{
	my ($text, %value) = @_;

	foreach my $word (sort keys %value)
	{
		$text =~ s/(?<!\d)\Q$word\E(?!\d)/$value{$word}/g;
	}
	return $text;
}

# Without times, versions and ids, nor the blanks and lines that psql fills
# its columns with.
sub comparable
{
	my ($text) = @_;

	$text =~ s/("(?:latencyMs|durationMs)"): [\d.]+/$1: TIME/g;
	$text =~ s/("(?:server)?[vV]ersion"): "[^"]*"/$1: "VERSION"/g;
	$text =~ s/("cipher"): "[^"]*"/$1: "CIPHER"/g;
	$text =~ s/\bTLSv[\d.]+/TLS_VERSION/g;
	$text =~ s/\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*/TIMESTAMP/g;
	$text =~ s/\b[0-9a-f]{16}\b/KEY_ID/g;
	$text =~ s/-{2,}/-/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/ ?\+?$//mg;
	$text =~ s/^ //mg;
	$text =~ s/\n+/\n/g;
	return $text;
}

# The reference names everything that there is, with its defaults.
sub check_reference
{
	my $functions = $agent->safe_psql(
		'agent', q{
		select p.proname || '(' || pg_get_function_arguments(p.oid) || ')'
		from pg_proc p join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid
		where d.deptype = 'e'
			and d.refobjid = (select oid from pg_extension where extname = 'opdata')
			and p.proname ~ '^opdata_'
		order by 1});
	foreach my $signature (split /\n/, $functions)
	{
		$signature =~ s/::(?:text|interval)\b//g;
		$signature =~ s/\b(?:DEFAULT|NULL)\b/\L$&/g;
		like($readme, qr/\Q`$signature`\E/, "the README describes $signature");
	}

	# the reader's page has the default of every setting
	my $settings = $agent->safe_psql(
		'agent', q{
		select '| `' || name || '` | ' || case when boot_val = '' then 'empty'
			when unit is not null then '`' || current_setting(name) || '`'
			else '`' || boot_val || '`' end || ' |'
		from pg_settings where name like 'opdata.%' order by 1});
	foreach my $row (split /\n/, $settings)
	{
		like($readme, qr/^\Q$row\E/m, "the README has the setting $row");
	}

	my %is_setting = map { $_ => 1 }
	  split /\n/, $agent->safe_psql('agent', q{select name from pg_settings});
	cmp_ok(scalar(@configured), '>', 10, 'the README has examples of configuration');
	ok($is_setting{$_}, "$_ is a setting") foreach @configured;

	my $columns = $agent->safe_psql(
		'agent', q{
		select c.relname || '.' || a.attname
		from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
		where c.relkind = 'v' and c.relname like 'opdata\_%'
		order by c.relname, a.attnum});
	foreach my $column (split /\n/, $columns)
	{
		my ($view, $name) = split /\./, $column;
		like($readme, qr/^\| `\Q$view\E` \|.*`\Q$name\E`/m,
			"the README describes column $name of $view");
	}
	return;
}

# Each defence that SECURITY.md tells of names a test that there is.
sub check_claims
{
	my $claims = slurp_file("$FindBin::RealBin/../../SECURITY.md");
	my %named = map { $_ => 1 } $claims =~ /`(\d{2,3}_\w+\.(?:pl|sql))`/g;

	cmp_ok(scalar(keys %named), '>', 20, 'SECURITY.md names tests');
	foreach my $name (sort keys %named)
	{
		my $folder = $name =~ /sql$/ ? 'sql' : 't';
		ok(-e "$FindBin::RealBin/../$folder/$name", "there is $name");
	}
	my ($n_rows, $in_table) = (0, 0);
	foreach my $line (split /\n/, $claims)
	{
		# tables of attacks, and what they meet
		$in_table = $line =~ /^\|/ && ($in_table || $line =~ /\| test \|$/);
		next unless $in_table && $line !~ /\| test \|$|^\|[-|]+$/;
		$n_rows++;
		like($line, qr/\| [^|]*`\d{2,3}_\w+\.(?:pl|sql)`[^|]* \|$/, 'a test for: ' . substr($line, 2, 60));
	}
	cmp_ok($n_rows, '>', 20, 'SECURITY.md has many claims');
	return;
}
