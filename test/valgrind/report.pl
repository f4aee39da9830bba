# report.pl: print the errors of valgrind's XML files whose stack goes through
# opdata.so, each distinct one once; exit status 1 if there is any.

use strict;
use warnings;

my ($processes, %seen) = (0);

sub text
{
	my ($xml, $tag) = @_;
	my $text = $xml =~ m{<$tag>(.*?)</$tag>}s ? $1 : '';
	my %entity = (lt => '<', gt => '>', amp => '&', quot => '"', apos => "'");
	$text =~ s/&(\w+);/$entity{$1}/ge;
	return $text;
}

foreach my $path (@ARGV)
{
	open my $fh, '<', $path or die "could not open $path: $!\n";
	my $xml = do { local $/; <$fh> };

	# the report of a killed process just ends somewhere
	$processes++;
	foreach my $error ($xml =~ m{<error>(.*?)</error>}sg)
	{
		next unless $error =~ m{<obj>[^<]*/opdata\.so</obj>};
		my $report = text($error, 'kind') . ': ' . (text($error, 'what') || text($error, 'text')) . "\n";
		foreach my $frame ($error =~ m{<frame>(.*?)</frame>}sg)
		{
			my $place = text($frame, 'file') ? text($frame, 'file') . ':' . text($frame, 'line') : text($frame, 'obj');
			$report .= sprintf "    %s (%s)\n", text($frame, 'fn') || '?', $place;
		}
		print "$report\n" unless $seen{$report}++;
	}
}
die "valgrind left no report\n" unless $processes;
printf "valgrind: %d processes, %d errors in opdata.so\n", $processes, scalar keys %seen;
exit(%seen ? 1 : 0);
