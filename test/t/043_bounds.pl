
# What a preview of something huge costs the agent: memory that does not depend
# on the source's data.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use Opdata::Faults;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

# The promise: at most this much more than the session had before.
my $bound_kb = 32 * 1024;

# Huge cells are made by the source, in its memory: up to three times their
# size. They are above the bound, but no larger than a busy machine can make well
# within the 10 seconds of a preview. On a small machine they are smaller.
my ($available_kb) = slurp_file('/proc/meminfo') =~ /^MemAvailable:\s+(\d+) kB$/m;
my $room = $available_kb > 2 * 1024 * 1024 ? 1 : 2;
my $text_length = 80_000_000 / $room;
my $bytea_length = 40_000_000 / $room;

my $source = source_cluster('source');
$source->safe_psql('postgres', q{
	create role reader login password 'reader_pw';
	create table stored as
		select n, repeat(md5(n::text), 3125) as filler from generate_series(1, 100) n;
	grant select on stored to reader;
});

my $agent = agent_cluster('agent');
my $session = session($agent);
store($agent, 'source', port => $source->port);

# what the first preview of a session loads is not counted
preview('select 1');

my $result = bounded("a text cell of $text_length characters",
	"select 1 as n, repeat(repeat('x', 1000), $text_length / 1000) as huge, 2 as m");
is(length $result->{rows}[0][1], 1024, 'a huge text cell is cut');
is($result->{rows}[0][2], 2, 'what stands behind a huge text cell is there');
is_deeply($result->{truncatedBy}, ['cells'], 'a cut text cell is told');

$result = bounded("a bytea cell of $bytea_length bytes",
	"select convert_to(repeat(repeat('x', 1000), $bytea_length / 1000), 'UTF8') as huge");
like($result->{rows}[0][0] // '', qr/^\\x(78){300,}$/, 'a huge bytea cell is cut');
is_deeply($result->{truncatedBy}, ['cells'], 'a cut bytea cell is told');

my $elements = $text_length / 80;
$result = bounded("a json cell of $elements elements",
	"select to_json(array_fill(1, array[$elements])) as huge");
like($result->{rows}[0][0] // '', qr/^\[1(,1)*,?$/, 'a huge json cell is cut');

$result = bounded("an array cell of $elements elements",
	"select array_fill('abc'::text, array[$elements]) as huge");
like($result->{rows}[0][0] // '', qr/^\{abc(,abc)*/, 'a huge array cell is cut');

# the widest rows that there are: 1600 columns of more characters than are
# shown, of four bytes each
my $smiley = q{chr(128512)};
my $wide = join(', ', map { "t.v as c$_" } 1 .. 1600);
$result = bounded('1600 columns of long text',
	"select $wide from (select repeat('x', 25000) as v) t, generate_series(1, 100)");
is(scalar @{ $result->{columns} }, 1600, '1600 columns are named');
is_deeply($result->{truncatedBy}, ['bytes'], 'a row that is larger than a result is left out');
$result = bounded('1600 columns of long text in four-byte characters',
	"select $wide from (select repeat($smiley, 2000) as v) t, generate_series(1, 100)");
is_deeply($result->{truncatedBy}, ['bytes'], 'a row of four-byte characters is left out');

# rows that fit, until the result is full
my $tens = join(', ', map { "repeat($smiley, 2000) as c$_" } 1 .. 20);
$result = bounded('100 rows of 80 kB each', "select $tens from generate_series(1, 100)");
is($result->{truncated}, JSON::PP::true, 'a result of 8 MB is cut short');
is_deeply($result->{truncatedBy}, [ 'bytes', 'cells' ], 'it is told by what');
cmp_ok($result->{rowCount}, '>=', 10, 'the rows that fit are there');

$result = bounded('100 rows of 100 kB each', 'select n, filler from stored order by n');
is($result->{rowCount}, 100, '100 rows of 100 kB are all there');
is_deeply($result->{truncatedBy}, [ 'rows', 'cells' ], 'their cells are cut');
is($result->{rows}[99][0], 100, 'and they are the right ones');

$result = bounded('a million rows', 'select n from generate_series(1, 1000000) n');
is($result->{rowCount}, 100, 'of a million rows 100 are shown');

# 1600 columns with the longest names
my $names = join(', ', map { sprintf('1 as "%s%04d"', 'n' x 59, $_) } 1 .. 1600);
$result = bounded('1600 columns with long names', "select $names");
is(scalar @{ $result->{columns} }, 1600, 'columns with long names are there');

# many calls in one session do not add up
my $before = status_kb($session->pid, 'VmRSS');
preview("select $tens from generate_series(1, 100)") foreach 1 .. 30;
cmp_ok(status_kb($session->pid, 'VmRSS') - $before,
	'<', $bound_kb, '30 previews of 8 MB do not add up');

$session->quit;
done_testing();

sub preview
{
	my ($query) = @_;
	$query =~ s/'/''/g;
	my $result = $session->run("select opdata_preview('source', '$query')");

	is($result->{error}, undef, 'no error') or diag($result->{text})
	  if $result->{error};
	return $result->{out};
}

# A preview that may take no more memory than the bound; its decoded result.
sub bounded
{
	my ($name, $query) = @_;

	open(my $file, '>', '/proc/' . $session->pid . '/clear_refs') or die "clear_refs: $!";
	print $file '5';
	close $file or die "clear_refs: $!";

	my $before = status_kb($session->pid, 'VmRSS');
	my $out = preview($query);
	my $grown = status_kb($session->pid, 'VmHWM') - $before;

	cmp_ok($grown, '<', $bound_kb, "$name: memory");
	note("$name: grew by $grown kB");
	cmp_ok(length $out, '<=', 1024 * 1024, "$name: size of the result");
	return $out eq '' ? { columns => [], rows => [] } : JSON::PP->new->utf8->decode($out);
}
