
# The workers against a Temporal frontend that fails in every way a transport, a
# proxy or a hostile server can: each fault is told in opdata_status(), none harms
# a process, and work goes on when it is over.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use MIME::Base64;
use Opdata::FakeFrontend;
use Opdata::Faults;
use Opdata::Test;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);

# Far more than what is to happen at once takes, on a machine that is busy with
# something else; far less than the 70 seconds of a poll.
my $soon = 45;

# What one answer may make a worker hold: the largest that is taken (64 MiB),
# and the 256 MiB that it may become when it is decoded.
my $memory_bound_kb = 512 * 1024;

# Five of each kind at least; the queue of long jobs has activities only.
my %polled = (
	'tenant-acme' => [qw(PollWorkflowTaskQueue PollActivityTaskQueue)],
	'tenant-acme-bulk' => ['PollActivityTaskQueue']);

my $frontend = fake_frontend();
my $agent = agent_cluster('agent', conf => worker_conf($frontend->address));

# The deadline of a poll is longer than all else here: it passes meanwhile. So
# does the time after which a proxy may cut a poll without being at fault.
my $mute = fake_frontend();
$mute->fault('hang', rpc => 'Poll*', queue => 'tenant-acme-bulk');
$mute->fault('http', rpc => 'Poll*', queue => 'tenant-acme', status => 504, wait => 25);
my $patient = agent_cluster(
	'patient',
	conf => worker_conf(
		$mute->address,
		interactive_workers => 1,
		bulk_workers => 1));

my ($n_polls, %pids, %descriptors);
first_contact();
faults_of_polls();
outages();
garbage();
goaway();
faults_of_answers();
faults_of_history();
pauses();
slots();
heartbeats();
cancelled_polls();
interruptions();
connections();
deadlines();

is_deeply($_->ask('violations'), [], 'the workers kept to HTTP/2 and gRPC')
  foreach $frontend, $mute;
crash_free($_) foreach $agent, $patient;
$_->stop foreach $agent, $patient;
done_testing();

# ------------------------------------------------------------------ helpers

sub workers
{
	my ($node) = @_;
	return @{ json($node, 'select opdata_status()')->{workers} };
}

# A worker, once it is at work.
sub worker
{
	my ($name) = @_;
	my $worker;

	wait_until(
		sub {
			($worker) = grep { $_->{name} eq $name } workers($agent);
			return $worker->{pid} && $worker->{state} =~ /^(connecting|polling|unreachable)$/;
		}) or die "$name does not come";
	return $worker;
}

# Errors of the workers, each in one line.
sub errors
{
	return map { "$_->{name} $_->{lastError}{at} $_->{lastError}{code} $_->{lastError}{message}" }
	  grep { $_->{lastError} } workers($agent);
}

# Wait for an error that was not there before; undef when none comes.
sub new_error
{
	my ($pattern, @old) = @_;
	my %old = map { $_ => 1 } @old;
	my $error;

	wait_until(sub { ($error) = grep { !$old{$_} and /$pattern/ } errors() }, $soon);
	return $error;
}

# The simplest workflow task: its first step is an activity, so that it is
# answered at once and asks for nothing else.
sub task
{
	my (%opts) = @_;
	return $frontend->workflow_task('deleteConnectionWorkflow',
		{ orgId => 'acme', connectionId => 'crm' }, %opts);
}

sub works_on
{
	my ($after) = @_;
	my $answer = $frontend->answer_to(task(timeout => 60));

	is($answer && $answer->{rpc}, 'RespondWorkflowTaskCompleted', "work goes on after $after");
	return;
}

# Every poll that there should be is open: whatever failed is retried.
sub settled
{
	my ($after) = @_;

	ok( wait_until(sub { $frontend->open_polls == $n_polls }),
		"every poll is open again after $after")
	  or diag($frontend->open_polls . " of $n_polls polls are open");
	return;
}

sub same_processes
{
	my ($after) = @_;
	my %now = map { $_->{name} => $_->{pid} } workers($agent);

	is_deeply(\%now, \%pids, "the same processes work after $after");

	# answers and cancel requests under way have theirs; files are kept open
	my @leaky;
	ok( wait_until(
			sub {
				@leaky = grep { descriptors($_) > $descriptors{$_} + 5 } values %pids;
				return !@leaky;
			},
			$soon),
		"no descriptors are left behind by $after")
	  or diag(map { `ls -l /proc/$_/fd` } @leaky);
	return;
}

# Those that are no files: PostgreSQL keeps tables and catalogs open.
sub descriptors
{
	my ($pid) = @_;

	return scalar grep { (readlink($_) // '') =~ /^\w+:/ } glob "/proc/$pid/fd/*";
}

sub set
{
	my ($name, $value, $node) = @_;
	($node // $agent)->safe_psql('postgres', "alter system set $name = '$value'");
	($node // $agent)->safe_psql('postgres', 'select pg_reload_conf()');
	return;
}

# Let polls end every second, so that faults are met soon.
sub short_polls
{
	my ($on) = @_;

	$frontend->ask('set', poll_hold => $on ? 1 : 60);
	return unless $on;

	# those that are open, which is an error
	$frontend->ask('sever');
	settled('their connections were closed');
	return;
}

sub crash_free
{
	my ($node) = @_;
	my $log = slurp_file($node->logfile);

	unlike($log, qr/was terminated by signal|exited with exit code (?!1\b)|PANIC:/,
		'no process of ' . $node->name . ' crashed');
	return;
}

# ----------------------------------------------------------------- the tests

sub first_contact
{
	foreach my $queue (sort keys %polled)
	{
		foreach my $rpc (@{ $polled{$queue} })
		{
			ok( wait_until(
					sub {
						5 <= grep { $_->{rpc} eq $rpc } $frontend->open_polls(queue => $queue);
					}),
				"at least five $rpc wait at $queue");
		}
	}
	ok( wait_until(sub { !grep { $_->{state} ne 'polling' } workers($agent) }),
		'all workers say that they poll');

	# a worker begins all its polls at once
	ok(wait_until(sub { !grep { $_->{polls} == 0 } workers($agent) }), 'all workers tell their polls');
	$n_polls += $_->{polls} foreach workers($agent);
	settled('the start');
	%pids = map { $_->{name} => $_->{pid} } workers($agent);
	%descriptors = map { $_ => descriptors($_) } values %pids;
	is_deeply([ sort keys %pids ], [ 'bulk 1', 'interactive 1', 'interactive 2' ],
		'there are as many workers as the settings say');

	my %seen = map { Opdata::FakeFrontend::pid_of($_->{identity}) => 1 } $frontend->open_polls;
	is_deeply(
		[ sort keys %seen ],
		[ sort values %pids ],
		'each worker polls, with its process id as its identity');

	my ($call) = $frontend->calls(rpc => qr/^PollWorkflow/);
	my $headers = $call->{headers};
	is($headers->{'temporal-namespace'}, 'default', 'the namespace is sent for proxies');
	is($headers->{'grpc-accept-encoding'} // '', '', 'no compression is offered');
	is($headers->{'supported-server-versions'} // '', '', 'no server version is demanded');
	like($headers->{'user-agent'}, qr/^opdata/, 'the user agent is our own');
	isnt($call->{request}{workerInstanceKey} // '', '', 'a poll tells the instance of the worker');

	my $token = task(timeout => 60);
	my $answer = $frontend->answer_to($token);
	is($answer->{rpc}, 'RespondWorkflowTaskCompleted', 'a workflow task is answered');
	is($answer->{request}{commands}[0]{commandType},
		'COMMAND_TYPE_SCHEDULE_ACTIVITY_TASK', 'its first step is an activity');

	$answer = $frontend->answer_to(
		$frontend->activity_task('deleteConnection', { orgId => 'acme', connectionId => 'crm' }));
	is($answer->{rpc}, 'RespondActivityTaskCompleted', 'an activity is answered');
	return;
}

# One call fails in each way that there is.
sub faults_of_polls
{
	my $long = 'x' x 5000;
	my @faults = (
		[ 'UNAVAILABLE', 'status', { code => 14, message => 'not ready' }, qr/UNAVAILABLE not ready/ ],
		[
			'a percent-encoded text', 'status',
			{ code => 14, message => "nicht bereit: \x{fc} 100%\n\e[2J" },
			qr/UNAVAILABLE nicht bereit: \x{fc} 100%[^\e]*$/
		],
		[
			'a text that is badly encoded', 'status',
			{ code => 14, message => 'a%zz%', encoded => $false },
			qr/UNAVAILABLE a/
		],
		[ 'a text of 5 kB', 'status', { code => 14, message => $long }, qr/UNAVAILABLE x+/ ],
		[ 'RESOURCE_EXHAUSTED', 'status', { code => 8, message => 'rate' }, qr/RESOURCE_EXHAUSTED rate/ ],
		[ 'INTERNAL', 'status', { code => 13, message => 'oops' }, qr/INTERNAL oops/ ],
		[ 'UNAUTHENTICATED', 'status', { code => 16, message => 'who' }, qr/UNAUTHENTICATED who/ ],
		[ 'PERMISSION_DENIED', 'status', { code => 7, message => 'no' }, qr/PERMISSION_DENIED no/ ],
		[ 'UNIMPLEMENTED', 'status', { code => 12, message => 'what' }, qr/UNIMPLEMENTED what/ ],
		[ 'NOT_FOUND', 'status', { code => 5, message => 'namespace' }, qr/NOT_FOUND namespace/ ],
		[ 'INVALID_ARGUMENT', 'status', { code => 3, message => 'bad' }, qr/INVALID_ARGUMENT bad/ ],
		[ 'a status that nobody knows', 'status', { code => 99, message => 'new' }, qr/UNKNOWN new/ ],
		[ 'a status that is no number', 'status', { code => 'x', message => 'odd' }, qr/UNKNOWN odd/ ],
		[
			'a status in trailers', 'status',
			{ code => 14, message => 'late', how => 'trailers' },
			qr/UNAVAILABLE late/
		],
		[
			'a status behind a message', 'status',
			{ code => 14, message => 'spoiled', how => 'body' },
			qr/UNAVAILABLE spoiled/
		],
		(map { [ "HTTP $_->[0]", 'http', { status => $_->[0] }, qr/$_->[1] .*\b$_->[0]\b/ ] }
			[ 504, 'UNAVAILABLE' ],
			[ 502, 'UNAVAILABLE' ],
			[ 503, 'UNAVAILABLE' ],
			[ 404, 'UNIMPLEMENTED' ],
			[ 401, 'UNAUTHENTICATED' ],
			[ 403, 'PERMISSION_DENIED' ],
			[ 500, 'UNKNOWN' ]),
		[ 'a web page', 'http', { status => 200 }, qr/UNKNOWN/ ],
		[ 'another content type', 'content_type', { type => 'application/json' }, qr/UNKNOWN/ ],
		[ 'no content type', 'content_type', {}, qr/UNKNOWN/ ],
		[ 'neither message nor status', 'no_status', { frames => 0 }, qr/UNAVAILABLE/ ],
		[ 'two messages and no status', 'no_status', { frames => 2 }, qr/UNAVAILABLE/ ],
		[ 'a compressed message', 'frame', { flag => 1 }, qr/INTERNAL/ ],
		[ 'two messages', 'frame', { frames => 2 }, qr/INTERNAL/ ],
		[ 'no message', 'frame', { frames => 0 }, qr/INTERNAL/ ],
		[ 'a part of a prefix', 'frame', { cut => 3 }, qr/INTERNAL/ ],
		[ 'a message shorter than it says', 'frame', { length => 100 }, qr/INTERNAL/ ],
		[ 'a message longer than it says', 'frame', { extra => 3 }, qr/INTERNAL/ ],
		[ 'a message that claims 4 GiB', 'huge', { mib => 1, length => 2**32 - 1 }, qr/INTERNAL|RESOURCE_EXHAUSTED/ ],
		[ 'a message of 65 MiB', 'huge', { mib => 65 }, qr/RESOURCE_EXHAUSTED/ ],
		[ '400 kB of headers', 'headers', { n => 40, bytes => 10000 }, qr/UNAVAILABLE/ ],
		(
			map {
				[
					"a stream reset after $_", 'reset', { after => $_ }, qr/UNAVAILABLE/
				],
				  [ "a connection closed after $_", 'close', { after => $_ }, qr/UNAVAILABLE/ ],
				  [
					"a connection reset after $_", 'close',
					{ after => $_, tcp_reset => $true },
					qr/UNAVAILABLE/
				  ]
			} qw(nothing headers body)));

	short_polls(1);
	foreach my $fault (@faults)
	{
		my ($name, $kind, $opts, $pattern) = @$fault;
		my @old = errors();

		$frontend->fault($kind, rpc => 'Poll*', count => 1, %$opts);
		like(new_error($pattern, @old) // '', $pattern, "a poll answered with $name is told in the status");
		works_on($name);
	}

	# what looks odd and is none the less an answer
	foreach my $fault (
		[ 'no status behind a message', 'no_status', {} ],
		[ 'an answer byte by byte', 'drip', { delay => 0.01 } ],
		[ 'fields that are newer than ours', 'garbage', { what => 'unknown' } ],
		[ 'a type with a suffix', 'content_type', { type => 'application/grpc+proto' } ])
	{
		my ($name, $kind, $opts) = @$fault;
		my $since = $frontend->mark;
		my @old = errors();

		# once every poll has been answered so, all that are open will be
		$frontend->fault($kind, rpc => 'Poll*', effect => $true, %$opts);
		ok( wait_until(
				sub {
					$n_polls <= grep { ($_->{kind} // '') eq $kind } $frontend->ends(since => $since);
				}),
			"polls are answered with $name");
		works_on("a task with $name");
		is_deeply([ errors() ], \@old, "$name is no error");
		$frontend->clear;
	}
	short_polls(0);
	settled('single faults');
	same_processes('single faults');
	return;
}

# Nobody can poll for a while.
sub outages
{
	my @outages = (
		[ 'a frontend that is down', sub { $frontend->ask('down') }, qr/UNAVAILABLE/, 'unreachable' ],
		(
			map {
				my $how = $_->[0];
				[
					$_->[1],
					sub { $frontend->ask('accept', how => $how); $frontend->ask('sever') },
					qr/UNAVAILABLE/,
					'unreachable'
				]
			}[ 'close', 'a frontend that closes every connection' ],
			[ 'reset', 'a frontend that resets every connection' ],
			[ 'http1', 'a server of HTTP/1.1' ],
			[ 'garbage', 'a server of something else' ]),
		[
			'a proxy without its server',
			sub { $frontend->fault('http', rpc => '*', status => 503); $frontend->ask('sever') },
			qr/UNAVAILABLE/,
			'unreachable'
		],
		[
			'a server that lets nobody in',
			sub { $frontend->fault('status', rpc => '*', code => 16, message => 'who'); $frontend->ask('sever') },
			qr/UNAUTHENTICATED who/,
			'refused'
		],
		[
			'a server without the namespace',
			sub { $frontend->fault('status', rpc => 'Poll*', code => 5, message => 'no namespace'); $frontend->ask('sever') },
			qr/NOT_FOUND no namespace/,
			'refused'
		]);

	# Polls stay open for a minute now: whether workers are in contact again must
	# be known before the first of them ends.
	foreach my $outage (@outages)
	{
		my ($name, $begin, $pattern, $state) = @$outage;
		my @old = errors();

		$begin->();
		like(new_error($pattern, @old) // '', $pattern, "$name is told in the status");
		ok( wait_until(sub { !grep { $_->{state} ne $state } workers($agent) }),
			"with $name all workers are $state");

		$frontend->clear;
		$frontend->ask('accept', how => 'serve');
		$frontend->ask('listen') if $name =~ /is down/;
		works_on($name);
		settled($name);
		ok( wait_until(sub { !grep { $_->{state} ne 'polling' } workers($agent) }, $soon),
			"all workers say that they poll after $name");
	}
	same_processes('all outages');
	return;
}

# Bytes that are not what they should be, in the place of a task.
sub garbage
{
	my @garbage = (
		(map { [ "random bytes, no. $_", { what => 'random', seed => $_ } ] } 1 .. 5),
		(map { [ "flipped bits, no. $_", { what => 'flipped', seed => $_, effect => $true } ] } 1 .. 5),
		[ 'a cut message', { what => 'truncated', effect => $true } ],
		[ 'messages within messages', { what => 'nested' } ],
		[ 'groups within groups', { what => 'nested_unknown' } ],
		[ 'millions of events', { what => 'many', events => 10_000_000 } ],
		[ 'a length beyond the end', { what => 'length' } ],
		[ 'an endless number', { what => 'varint' } ],
		[ 'field zero', { what => 'field_zero' } ],
		[ 'numbers for messages', { what => 'wire_types' } ],
		[ 'texts that are none', { what => 'text' } ]);

	short_polls(1);
	foreach my $garbage (@garbage)
	{
		my ($name, $opts) = @$garbage;
		my $rpc = $opts->{what} eq 'text' ? 'PollWorkflowTaskQueue' : 'Poll*TaskQueue';
		my $since = $frontend->mark;

		$rpc = 'PollWorkflowTaskQueue' if $opts->{effect};
		$frontend->fault('garbage', rpc => $rpc, count => 1, queue => 'tenant-acme', %$opts);
		if ($opts->{effect})
		{
			wait_until(sub { $frontend->ask('left') == 0 });
			task(timeout => 60);
		}
		ok($frontend->ended($since, where => sub { $_[0]{how} eq 'fault' }),
			"a poll is answered with $name");
		works_on($name);
	}

	# the activity's poll, and an answer to an answer
	foreach my $what (qw(random truncated length))
	{
		my $since = $frontend->mark;
		$frontend->fault('garbage', rpc => 'PollActivityTaskQueue', count => 1, what => $what);
		ok($frontend->ended($since, rpc => qr/^PollActivity/, where => sub { $_[0]{how} eq 'fault' }),
			"an activity's poll is answered with garbage ($what)");
	}
	works_on('garbage for activities');

	# a task that can be done, but for its ids; they are written down
	$frontend->fault(
		'garbage',
		rpc => 'PollWorkflowTaskQueue',
		count => 1,
		what => 'text',
		type => 'previewQueryWorkflow',
		input => '{"orgId": "acme", "connectionId": "none", "sql": "select 1"}');
	my $junk = "\xff\xfe\x00\x1b[2J\xe2\x80\xae\xc3";
	my $answer = $frontend->answer_to(encode_base64("previewQueryWorkflow$junk", ''));
	is($answer && $answer->{rpc},
		'RespondWorkflowTaskCompleted', 'a task with ids that are no text is answered');
	is( $agent->safe_psql(
			'postgres', q{select count(*) > 0,
			bool_and(convert_from(textsend(workflow_id || run_id), 'UTF8') !~ '[\x01-\x1f]')
			from opdata.job where kind = 'preview'}),
		't|t',
		'its record holds text');
	short_polls(0);

	# what could not be decoded has been given up, the server would give it out again
	$frontend->ask('forget_tasks');
	settled('garbage');
	same_processes('garbage');
	foreach my $worker (workers($agent))
	{
		my $kb = status_kb($worker->{pid}, 'VmHWM');
		cmp_ok($kb, '<', $memory_bound_kb, "$worker->{name} stayed within its memory");
	}
	my $valid = $agent->safe_psql('postgres',
		q{select count(*) from jsonb_path_query(opdata_status(), '$.workers[*].** ? (@.type() == "string")') as texts (t)
		where t::text ~ '[\x01-\x1f]'});
	is($valid, '0', 'the status shows no control characters of a server');
	return;
}

# The server's age limit, at which libcurl 7.88 loses the trailers of a poll.
sub goaway
{
	my $since = $frontend->mark;

	$frontend->fault('goaway', rpc => 'PollWorkflow*', queue => 'tenant-acme');
	$frontend->ask('sever');
	ok($frontend->called($since, rpc => qr/^PollWorkflow/), 'polls meet a GOAWAY');
	my @tokens = map { task(timeout => 60) } 1 .. 5;
	foreach my $token (@tokens)
	{
		my $answer = $frontend->answer_to($token);
		is($answer && $answer->{rpc},
			'RespondWorkflowTaskCompleted',
			'a task is not lost that comes after a GOAWAY');
	}
	ok((grep { $_->{how} eq 'fault' and $_->{kind} eq 'goaway' } $frontend->ends(since => $since)) > 0,
		'tasks came after a GOAWAY');
	$frontend->clear;


	# now on connections that have not had one
	$frontend->ask('sever');
	settled('polls with a GOAWAY');
	my @old = errors();
	$frontend->ask('goaway');
	my $answer = $frontend->answer_to(task(timeout => 60));
	is($answer && $answer->{rpc},
		'RespondWorkflowTaskCompleted', 'a GOAWAY on all connections loses no task');
	settled('a GOAWAY');
	is_deeply([ errors() ], \@old, 'a GOAWAY is no error');
	same_processes('a GOAWAY');
	return;
}

# An answer that fails is given again if that can help, and only then.
sub faults_of_answers
{
	my @again = (
		[ 'UNAVAILABLE', 'status', { code => 14, message => 'x' } ],
		[ 'INTERNAL', 'status', { code => 13, message => 'x' } ],
		[ 'RESOURCE_EXHAUSTED', 'status', { code => 8, message => 'rate limit' } ],
		[ 'UNAUTHENTICATED', 'status', { code => 16, message => 'x' } ],
		[ 'HTTP 504', 'http', { status => 504 } ],
		[ 'another content type', 'content_type', { type => 'text/plain' } ],
		[ 'neither message nor status', 'no_status', { frames => 0 } ],
		[ 'a compressed message', 'frame', { flag => 1 } ],
		[ 'a stream reset', 'reset', {} ],
		[ 'a connection closed at once', 'close', {} ],
		[ 'a connection closed in the message', 'close', { after => 'body' } ]);
	my @once = (
		[ 'INVALID_ARGUMENT', 'status', { code => 3, message => 'UnhandledCommand' } ],
		[ 'NOT_FOUND', 'status', { code => 5, message => 'Workflow task not found.' } ],
		[ 'FAILED_PRECONDITION', 'status', { code => 9, message => 'x' } ],
		[ 'UNIMPLEMENTED', 'status', { code => 12, message => 'x' } ],
		[
			'a message that is too large', 'status',
			{ code => 8, message => 'grpc: received message larger than max (5 vs. 4)' }
		],
		[ 'no status behind the message', 'no_status', { effect => $true } ],
		[ 'an answer byte by byte', 'drip', { effect => $true, delay => 0.05 } ]);
	my @answered_once;

	foreach my $fault (@again)
	{
		my ($name, $kind, $opts) = @$fault;
		my $token;

		$frontend->fault($kind, rpc => 'RespondWorkflowTaskCompleted', count => 1, %$opts);
		$token = task(timeout => 60);
		ok(wait_until(sub { $frontend->answers_to($token) >= 2 }),
			"an answer is given again after $name");
		ok( wait_until(
				sub { !grep { $_->{taskToken} eq $token } @{ $frontend->ask('held_tasks') } }),
			"the answer arrives after $name");
	}
	foreach my $fault (@once)
	{
		my ($name, $kind, $opts) = @$fault;
		my $token;

		$frontend->fault($kind, rpc => 'RespondWorkflowTaskCompleted', count => 1, %$opts);
		$token = task(timeout => 60);
		ok($frontend->answer_to($token), "a task is answered before $name");
		push @answered_once, [ $name, $token ];
		works_on($name);
	}

	# It had arrived, only its confirmation was lost.
	$frontend->fault('close', rpc => 'RespondWorkflowTaskCompleted', count => 1, effect => $true);
	my $lost = task(timeout => 60);
	ok(wait_until(sub { $frontend->answers_to($lost) >= 2 }),
		'an answer whose confirmation was lost is given again');

	# each kind of answer
	my %orgs = (acme => 'Completed', another => 'Failed');
	foreach my $org (sort keys %orgs)
	{
		my $rpc = "RespondActivityTask$orgs{$org}";
		$frontend->fault('status', rpc => $rpc, count => 1, code => 14, message => 'x');
		my $token = $frontend->activity_task('deleteConnection', { orgId => $org, connectionId => 'x' });
		ok(wait_until(sub { 2 <= grep { $_->{rpc} eq $rpc } $frontend->answers_to($token) }),
			"$rpc is repeated");
	}
	$frontend->fault('status', rpc => 'RespondWorkflowTaskFailed', count => 1, code => 14, message => 'x');
	my $unknown = $frontend->workflow_task('nobodyKnowsWorkflow', {}, timeout => 60);
	ok( wait_until(
			sub { 2 <= grep { $_->{rpc} eq 'RespondWorkflowTaskFailed' } $frontend->answers_to($unknown) }),
		'RespondWorkflowTaskFailed is repeated');
	$frontend->fault('status', rpc => 'RespondQueryTaskCompleted', count => 1, code => 14, message => 'x');
	my $query = task(message => { query => { queryType => 'status' }, startedEventId => '0' });
	ok( wait_until(
			sub { 2 <= grep { $_->{rpc} eq 'RespondQueryTaskCompleted' } $frontend->answers_to($query) }),
		'RespondQueryTaskCompleted is repeated');

	# no answer at all: the next try comes after the deadline of the first
	$frontend->fault('hang', rpc => 'RespondWorkflowTaskCompleted', count => 1);
	my $token = task(timeout => 60);
	ok(wait_until(sub { $frontend->answers_to($token) >= 2 }),
		'an answer that nobody confirms is given again');
	my ($first, $second) = $frontend->answers_to($token);
	cmp_ok($second->{time} - $first->{time}, '>=', 5, 'a slow server is given time');
	cmp_ok($second->{time} - $first->{time}, '<', 10 + $soon, 'but not for ever');

	foreach my $task (@answered_once)
	{
		is(scalar $frontend->answers_to($task->[1]), 1, "no answer is given again after $task->[0]");
	}
	is(scalar $frontend->answers_to($lost), 2, 'a task that the server has no more is dropped');
	same_processes('faults of answers');
	return;
}

# A task whose history comes in pages.
sub faults_of_history
{
	my @signals = map {
		+{
			eventType => 'EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED',
			workflowExecutionSignaledEventAttributes => { signalName => "signal $_" }
		}
	} 1 .. 12;
	my @faults = (
		[ 'no fault' ],
		[ 'UNAVAILABLE', 'status', { code => 14, message => 'x' } ],
		[ 'a connection closed in the message', 'close', { after => 'body' } ],
		[ 'a cut message', 'garbage', { what => 'truncated', effect => $true } ],
		[ 'an answer byte by byte', 'drip', { delay => 0.001, effect => $true } ]);

	foreach my $fault (@faults)
	{
		my ($name, $kind, $opts) = @$fault;

		$frontend->fault($kind, rpc => 'GetWorkflowExecutionHistory', count => 1, %$opts) if $kind;
		my $answer = $frontend->answer_to(task(timeout => 60, pages => 4, events => \@signals));
		is($answer && $answer->{rpc}, 'RespondWorkflowTaskCompleted',
			"a history in four pages is read with $name");
	}

	# it cannot be had: the task is left to time out, or given back
	$frontend->fault('status', rpc => 'GetWorkflowExecutionHistory', code => 5, message => 'gone');
	my $since = $frontend->mark;
	my $token = task(pages => 4, events => \@signals);
	ok($frontend->called($since, rpc => qr/History/), 'a history that is gone is asked for');
	works_on('a history that is gone');
	$frontend->clear;
	is(scalar(grep { $_->{rpc} eq 'RespondWorkflowTaskCompleted' } $frontend->answers_to($token)),
		0, 'no decision is made on half a history');

	# pages without an end, each of which leads to the next one
	$frontend->fault(
		'message',
		rpc => 'GetWorkflowExecutionHistory',
		wait => 0.01,
		base64 => encode_base64("\x0a\x00\x1a\x04more", ''));
	$since = $frontend->mark;
	task(timeout => 5, pages => 2, events => \@signals);
	ok($frontend->called($since, rpc => qr/History/), 'a history without an end is asked for');
	works_on('a history without an end');
	ok( wait_until(
			sub {
				my ($last) = reverse $frontend->calls(rpc => qr/History/, since => $since);
				return $frontend->ask('now') > $last->{time} + 3;
			},
			60),
		'a history without an end is given up');
	$frontend->clear;
	$frontend->ask('forget_tasks');
	settled('faults of histories');
	same_processes('faults of histories');
	return;
}

# Calls that fail come at growing intervals, and at short ones again after one
# that did not fail.
sub pauses
{
	my $burst = sub {
		my ($seconds) = @_;
		my $since = $frontend->mark;
		my $calls;

		$frontend->fault('status', rpc => '*', code => 14, message => 'down');
		$frontend->ask('sever');
		my $first = $frontend->called($since)->{time};
		wait_until(
			sub {
				$calls = [ grep { $_->{time} >= $first } $frontend->log('rpc', since => $since) ];
				return $frontend->ask('now') >= $first + $seconds;
			});
		return map { $_->{time} - $first } @$calls;
	};
	my @times = $burst->(15);
	my $early = grep { $_ < 2 } @times;
	my $late = grep { $_ >= 9 and $_ < 15 } @times;

	cmp_ok($early, '>', 0, 'a call that failed is repeated');
	cmp_ok($late / 6, '<', $early / 2 / 2, 'the pauses between calls that fail grow')
	  or diag(join(' ', @times));

	$frontend->clear;
	works_on('an outage of 15 seconds');
	settled('an outage of 15 seconds');
	my @later = $burst->(2);
	cmp_ok(scalar @later, '>', $late / 6 * 2, 'a success makes them short again')
	  or diag(join(' ', @later));
	$frontend->clear;
	settled('a short outage');
	return;
}

# A worker never has more polls open than it could take tasks.
sub slots
{
	my $silent = silent_server(at => 'connect');
	my %input = (
		orgId => 'acme',
		type => 'postgres',
		credentials => {
			host => '127.0.0.1',
			port => $silent->port + 0,
			database => 'postgres',
			username => 'reader',
			password => 'reader_pw',
			sslMode => 'disable'
		});

	$frontend->ask('forget_tasks');
	$frontend->ask('peaks', forget => $true);
	my @tokens =
	  map { $frontend->workflow_task('testCredentialsWorkflow', \%input) } 1 .. 40;
	ok( wait_until(sub { $frontend->ask('waiting_tasks') == 0 }, 120),
		'forty tests of a silent source are taken');
	ok(wait_until(sub { !@{ $frontend->ask('held_tasks') } }, 120), 'all of them are answered');

	my $peaks = $frontend->ask('peaks');
	foreach my $identity (sort keys %$peaks)
	{
		cmp_ok($peaks->{$identity}{load}, '<=', 16,
			"polls and tasks of $identity fit into its sixteen slots");
	}
	my $most = 0;
	foreach (values %$peaks) { $most = $_->{tasks} if $_->{tasks} > $most; }
	cmp_ok($most, '>', 8, 'a worker had many tasks at once');
	settled('many tasks');
	$silent->stop;
	return;
}

# An activity that waits for its source, and is cancelled.
sub heartbeats
{
	my $silent = silent_server(at => 'connect');
	my $start = sub {
		return $frontend->activity_task(
			'storeCreds',
			{
				orgId => 'acme',
				connectionId => 'silent',
				name => 'silent',
				type => 'postgres',
				credentials => {
					host => '127.0.0.1',
					port => $silent->port + 0,
					database => 'postgres',
					username => 'reader',
					password => 'reader_pw',
					sslMode => 'disable'
				}
			},
			message => { heartbeatTimeout => '2s' });
	};
	my $beats = sub {
		my ($token) = @_;
		return $frontend->calls(
			rpc => qr/^RecordActivityTaskHeartbeat/,
			where => sub { $_[0]{request}{taskToken} eq $token });
	};

	$frontend->ask('set', heartbeat => { cancelRequested => $true });
	my $answer = $frontend->answer_to($start->());
	is($answer && $answer->{rpc}, 'RespondActivityTaskCanceled', 'a heartbeat can cancel an activity');
	$frontend->ask('set', heartbeat => {});

	# the server does not know it any more: nobody waits for an answer
	$frontend->fault('status', rpc => 'RecordActivityTaskHeartbeat', count => 1, code => 5, message => 'gone');
	my $token = $start->();
	ok(wait_until(sub { $beats->($token) >= 1 }), 'a heartbeat is told that the activity is gone');
	ok( wait_until(sub { !grep { $_->{running} > 0 } workers($agent) }),
		'an activity that is gone is given up');
	is(scalar $frontend->answers_to($token), 0, 'and not answered');

	# one heartbeat that fails is none of its business; the source is given up after ten
	# seconds, in which a busy machine may not get as far
	ok( wait_until(
			sub {
				$frontend->clear;
				$frontend->fault('close', rpc => 'RecordActivityTaskHeartbeat', count => 1);
				$token = $start->();
				$answer = $frontend->answer_to($token);
				return $beats->($token) >= 3;
			}),
		'heartbeats go on after one that failed');
	is($answer && $answer->{rpc}, 'RespondActivityTaskFailed', 'the activity ends by itself');
	$silent->stop;
	settled('heartbeats');
	same_processes('heartbeats');
	return;
}

# A poll that nobody waits for any more must be over for the server too, or the
# next task goes to it.
sub cancelled_polls
{
	my $since = $frontend->mark;

	set('opdata.enabled', 'off');
	ok(wait_until(sub { !$frontend->open_polls }, $soon), 'workers that are switched off leave their polls');
	ok( wait_until(sub { !@{ $frontend->ask('connections') } }, $soon),
		'the connections of these polls are closed');
	my @left = grep { $_->{how} ne 'answered' } $frontend->ends(since => $since, rpc => qr/^Poll/);
	cmp_ok(scalar @left, '>', 0, 'polls were left');
	is(scalar(grep { $_->{how} ne 'connection closed' } @left),
		0, 'all of them by closing their connections');
	set('opdata.enabled', 'on');
	settled('a while without workers');
	works_on('a while without workers');

	# another server
	my $other = fake_frontend();
	set('opdata.temporal_address', $other->address);
	ok(wait_until(sub { !$frontend->open_polls and !@{ $frontend->ask('connections') } }, $soon),
		'a reload with another address leaves the polls at the old one');
	ok(wait_until(sub { $other->open_polls == $n_polls }), 'and polls at the new one');
	set('opdata.temporal_address', $frontend->address);
	settled('a visit to another server');
	works_on('a visit to another server');
	ok(wait_until(sub { !@{ $other->ask('connections') } }, $soon), 'nothing is left open at the other server');
	is_deeply($other->ask('violations'), [], 'the workers kept to HTTP/2 and gRPC there');
	$other->kill;

	# one process
	my $worker = worker('interactive 1');
	is($agent->safe_psql('postgres', "select pg_terminate_backend($worker->{pid}, 20000)"),
		't', 'a worker ends when it is told to');
	ok(wait_until(sub { !$frontend->open_polls(pid => $worker->{pid}) }, $soon),
		'its polls end with it');
	settled('the end of a worker');
	works_on('the end of a worker');
	return;
}

# A worker is at a server's mercy in no phase of a call.
sub interruptions
{
	my $hole = black_hole();
	my %phases = (
		'connecting' => {
			begin => sub { set('opdata.temporal_address', '127.0.0.1:' . $hole->port) },
			reached => sub { sockets_to($hole->port, 'connecting') > 0 },
			end => sub { set('opdata.temporal_address', $frontend->address) }
		},
		'a greeting that never comes' => {
			begin => sub { $frontend->ask('accept', how => 'silent'); $frontend->ask('sever') },
			reached => sub { @{ $frontend->ask('connections') } > 0 },
			end => sub { $frontend->ask('accept', how => 'serve'); $frontend->ask('sever') }
		},
		(
			map {
				my $after = $_;
				(
					"a poll that hangs after $after" => {
						begin => sub {
							$frontend->fault('hang', rpc => 'Poll*', after => $after);
							$frontend->ask('sever');
						},
						reached => sub { $frontend->open_polls > 0 },
						end => sub { $frontend->clear; $frontend->ask('sever') }
					})
			} qw(nothing headers body)));
	my $session = session($agent);
	my $restart = sub {
		$session->quit;
		my $before = time();
		$agent->stop('fast', timeout => 60);
		my $seconds = time() - $before;
		$agent->start;
		$session = session($agent);
		return $seconds;
	};

	foreach my $name (sort keys %phases)
	{
		my $phase = $phases{$name};

		# whatever hung before is over, so that what is seen is this phase
		$phase->{begin}->();
		ok(wait_until($phase->{reached}), "workers have come to $name");

		$session->run('create database other');
		my $drop = $session->run("set statement_timeout = '${soon}s'; drop database other");
		is($drop->{error} && $drop->{error}{message}, undef, "$name: another database can be dropped");

		my $worker = worker('interactive 2');
		my $end = $session->run("select pg_terminate_backend($worker->{pid}, ${soon}000)");
		is($end->{out}, 't', "$name: a worker ends when it is told to");

		isnt(worker('interactive 2')->{pid}, $worker->{pid}, "$name: the next worker comes");
		ok(wait_until($phase->{reached}), "workers have come to $name again");
		cmp_ok($restart->(), '<', $soon, "$name: the server shuts down");
		ok(wait_until($phase->{reached}), "workers come to $name after a restart");
		$phase->{end}->();
		settled($name);
		works_on($name);
	}
	$session->quit;
	%pids = map { $_->{name} => $_->{pid} } workers($agent);
	return;
}

# Looks back at everything.
sub connections
{
	my %polls = map { $_->{connection} => 1 } $frontend->calls(rpc => qr/^Poll/);
	my @others = $frontend->calls(rpc => qr/^(?!Poll)/);
	my %open;
	my $shared = 0;

	cmp_ok(scalar @others, '>', 100, 'there were answers and heartbeats');
	is(scalar(grep { $polls{ $_->{connection} } } @others),
		0, 'no poll shared a connection with an answer or a heartbeat');

	$frontend->mark;
	foreach my $entry (@{ $frontend->{entries} })
	{
		next unless $entry->{event} =~ /^(rpc|end)$/ and $entry->{rpc} =~ /^Poll/;
		$open{ $entry->{connection} } += $entry->{event} eq 'rpc' ? 1 : -1;
		$shared++ if $open{ $entry->{connection} } > 1;
	}
	is($shared, 0, 'no two polls were open on one connection');

	my %timeouts = map { $_->{headers}{'grpc-timeout'} => 1 } $frontend->calls(rpc => qr/^Poll/);
	is_deeply([ keys %timeouts ], ['70000m'], 'a poll may take 70 seconds');
	is( scalar(
			grep { seconds($_->{headers}{'grpc-timeout'}) < 1 or seconds($_->{headers}{'grpc-timeout'}) > 30 } @others),
		0,
		'all other calls have a short deadline');
	return;
}

sub seconds
{
	my ($value, $unit) = $_[0] =~ /^(\d+)([HMSmun])$/ or return 0;
	return $value * { H => 3600, M => 60, S => 1, m => 1e-3, u => 1e-6, n => 1e-9 }->{$unit};
}

# A server that does not even keep the deadlines: the workers do. And a proxy that
# does not like long polls.
sub deadlines
{
	my $end = $mute->ended(
		0,
		rpc => qr/^Poll/,
		where => sub { $_[0]{how} eq 'connection closed' });
	ok($end, 'a poll that nobody answers comes to an end');
	my ($call) = $mute->calls(where =>
		  sub { $_[0]{connection} == $end->{connection} and $_[0]{stream} == $end->{stream} });
	my $seconds = $end->{time} - $call->{time};
	my $deadline = seconds($call->{headers}{'grpc-timeout'});

	cmp_ok($seconds, '>=', $deadline - 1, 'it has the time that it asked for');
	cmp_ok($seconds, '<', $deadline + $soon, 'and not much more');
	ok( wait_until(
			sub {
				grep { $_->{time} >= $end->{time} } $mute->calls(rpc => qr/^$call->{rpc}/);
			}),
		'the next poll follows');

	my @cuts = $mute->ends(where => sub { $_[0]{how} eq 'fault' and $_[0]{kind} eq 'http' });
	my ($worker) = grep { $_->{name} eq 'interactive 1' } workers($patient);
	cmp_ok(scalar @cuts, '>', 0, 'a proxy cut polls that had been open for 25 seconds');
	is($worker->{lastError}, undef, 'that is no error');
	is($worker->{state}, 'polling', 'and the worker goes on polling');
	return;
}
