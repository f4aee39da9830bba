
# Our declarations of Temporal's messages have the official numbers, names and
# types: test/python/check_descriptors.py compares them with those of Temporal's
# Python library, and prints one test for each message.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Opdata::Process;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my @command = (Opdata::Process::program('OPD_PYTHON'), '-B', "$root/test/python/check_descriptors.py");
my $proto = slurp_file("$root/src/temporal/temporal.proto");
my ($out, $err) = ('', '');

my $status = IPC::Run::run([ @command, "$root/src/temporal/temporal.proto" ], '>', \$out, '2>', \$err);
my @lines = split /\n/, $out;

# each as a test of its own, with what differs below
my $n = 0;
while (@lines)
{
	my $line = shift @lines;
	my ($no, $name) = $line =~ /^(not )?ok \d+ - (.*)/ or next;
	my @different;

	push @different, shift @lines while @lines && $lines[0] =~ /^#/;
	ok(!$no, $name) or diag(join "\n", @different);
	$n++;
}
is($err, '', 'nothing else was said');
is($status ? 'well' : 'badly', (grep { /^not ok/ } split /\n/, $out) ? 'badly' : 'well',
	'it ends as it says');
is($n, scalar(() = $proto =~ /^\s*(?:message|enum)\s+\w+\s*\{/mg), 'every message and enum was compared');

# That it can tell: one wrong number, one wrong type, one name nobody knows.
my $wrong = PostgreSQL::Test::Utils::tempdir() . '/wrong.proto';
foreach my $change (
	[ 'a number', qr/int64 event_id = 1;/, 'int64 event_id = 9;' ],
	[ 'a type', qr/int64 scheduled_event_id = 1;/, 'int32 scheduled_event_id = 1;' ],
	[ 'an enum value', qr/EVENT_TYPE_MARKER_RECORDED = 25;/, 'EVENT_TYPE_MARKER_RECORDED = 24;' ],
	[ 'an official name', qr/temporal\.api\.common\.v1\.Payloads\n/, "temporal.api.common.v1.Load\n" ]
  )
{
	my ($name, $from, $to) = @$change;
	my $text = $proto;

	$text =~ s/$from/$to/ or die "there is no $from";
	open my $file, '>', $wrong or die "$wrong: $!";
	print $file $text;
	close $file or die "$wrong: $!";
	my $ok = IPC::Run::run([ @command, $wrong ], '>', \$out, '2>', \$err);
	ok(!$ok && $out =~ /^not ok/m, "$name that is wrong would be found");
}
done_testing();
