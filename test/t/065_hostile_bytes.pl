
# Whatever bytes a server sends as a task or a history: nothing crashes, and memory
# is bounded. The mutations are the same in each run (test/python/mutate.py); for
# a search that goes on for longer there is test/fuzz.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use Opdata::Engine;
use Opdata::Process;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;

my $seed = 1;
my $count = 20_000;
my $batch = 2000;

my $engine = engine();
my $node = $engine->node;

# What one message may become when it is decoded, with what blocks of memory add.
my $decoded_max = 1.05 * $engine->limits->{decodedBytes};

mutations();
monsters();
is(slurp_file($node->logfile) =~ /terminated by signal|PANIC/, '', 'nothing crashed');
$node->stop;
done_testing();

sub mutations
{
	my $file = PostgreSQL::Test::Utils::tempdir() . '/mutations';
	my @histories = sort glob "$FindBin::RealBin/../histories/*/*.txt";

	IPC::Run::run(
		[   Opdata::Process::program('OPD_PYTHON'), '-B',
			"$FindBin::RealBin/../python/mutate.py", $seed,
			$count, @histories
		],
		'>', $file
	) or die 'mutate.py failed';
	$node->safe_psql('postgres', <<~"SQL");
		CREATE TABLE hostile (n int GENERATED ALWAYS AS IDENTITY, message text, bytes bytea);
		COPY hostile (message, bytes) FROM '$file';
		CREATE TABLE outcome (n int, message text, size int, result jsonb);
		SQL

	for (my $from = 1; $from <= $count; $from += $batch)
	{
		my $to = $from + $batch - 1;
		my $status = $node->psql(
			'postgres',
			"INSERT INTO outcome SELECT n, message, length(bytes), engine_decode(message, bytes)
			 FROM hostile WHERE n BETWEEN $from AND $to",
			stderr => \my $stderr
		);

		ok($status == 0, "mutations $from to $to of seed $seed")
		  or diag($stderr), return;
	}

	is($node->safe_psql('postgres', 'SELECT count(*) FROM outcome'), $count, 'each has an outcome');

	# else the mutations are too harsh or too mild to find anything
	my %reached = (
		'some are no messages' => q{NOT (result ->> 'decoded')::bool},
		'some are' => q{(result ->> 'decoded')::bool},
		'some histories are refused' => q{result ->> 'problem' IS NOT NULL},
		'some are replayed, and fit nothing' => q{result ->> 'fits' = '0'},
		'some fit a workflow' => q{(result ->> 'fits')::int > 0},
		'some inputs are refused' => q{result ->> 'inputError' IS NOT NULL},
		'some are read' => q{result -> 'inputError' = 'null'}
	);
	foreach my $name (sort keys %reached)
	{
		cmp_ok($node->safe_psql('postgres', "SELECT count(*) FROM outcome WHERE $reached{$name}"),
			'>', $count / 200, $name);
	}

	# two bytes may become a struct of a hundred, and a page of some kilobytes at least
	is( $node->safe_psql(
			'postgres', q{SELECT max((result ->> 'allocated')::bigint - 200 * size) <= 65536 FROM outcome}
		),
		't',
		'none takes much more memory than it has bytes'
	);
	return;
}

# Few bytes that ask for much, and many.
sub monsters
{
	my %monster = (

		# a message of nothing but empty parts, at several depths
		'some hundred thousand events' => [ 'History', q{repeat('0a00', 300000)}, 1 ],
		'sixteen million events' => [ 'History', q{repeat('0a00', 16000000)}, 0 ],
		'ten million payloads' =>
		  [ 'PollActivityTaskQueueResponse', q{'42' || '80dac409' || repeat('0a00', 10000000)}, 0 ],
		'sixteen million queries' => [ 'PollWorkflowTaskQueueResponse', q{repeat('7200', 16000000)}, 0 ],
		'ten million unknown fields' => [ 'History', q{repeat('f80100', 10000000)}, 0 ],

		# parts that are merged with each other, over and over
		'a hundred thousand histories in one' =>
		  [ 'PollWorkflowTaskQueueResponse', q{repeat('42020a00', 100000)}, 0 ],
		'a thousand histories in one' => [ 'PollWorkflowTaskQueueResponse', q{repeat('42020a00', 1000)}, 1 ],
		'a million inputs, of which the last counts' =>
		  [ 'PollActivityTaskQueueResponse', q{repeat('4200', 1000000)}, undef ],

		# more than is there
		'a length of 4 GB' => [ 'History', q{'0affffffff0f'}, 0 ],
		'a length of 2^64' => [ 'History', q{'0affffffffffffffffff01'}, 0 ],
		'a number without an end' => [ 'History', q{repeat('ff', 1000000)}, 0 ],
		'groups, which are not of this age' => [ 'History', q{repeat('0b', 1000000)}, 0 ],

		# deep: protobuf-c decodes by recursion, but does not enter what it does not know
		'a failure with a hundred thousand causes' => [ 'History', q{encode(cause(100000), 'hex')}, 1 ]
	);

	# Failure { cause (4): Failure { cause ... } } of an activity that has failed
	$node->safe_psql('postgres', <<~'SQL');
		CREATE FUNCTION cause(depth int) RETURNS bytea LANGUAGE plpgsql AS $$
		DECLARE
			length int := 0;
			heads bytea[] := '{}';
		BEGIN
			FOR i IN 1 .. depth LOOP
				heads := heads || ('\x22'::bytea || varint(length));
				length := length + octet_length(heads[i]);
			END LOOP;
			RETURN field(1, '\x0801180d' || field(18, field(1,
				(SELECT string_agg(head, '' ORDER BY i DESC) FROM unnest(heads) WITH ORDINALITY u(head, i)))));
		END $$;
		SQL

	foreach my $name (sort keys %monster)
	{
		my ($message, $hex, $decoded) = @{ $monster{$name} };
		my $result = json($node, "SELECT engine_decode('$message', decode($hex, 'hex'))");

		is($result->{decoded} ? 1 : 0, $decoded, "$name: decoded or not, as it should be")
		  if defined $decoded;
		cmp_ok($result->{allocated}, '<', $decoded_max, "$name: memory is bounded");
	}
	return;
}
