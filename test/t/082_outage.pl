
# Temporal away, silent, somebody else, or behind a network that loses what is
# said: the workers tell so, come back by themselves, and each workflow ends
# once. So it is with sources that are away.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use IO::Socket::INET;
use JSON::PP;
use List::Util qw(sum0);
use Opdata::Credentials qw(reader);
use Opdata::Faults qw(in_time n_begun);
use Opdata::Temporal;
use Opdata::Test;
use Opdata::Toxiproxy;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

# A worker that is in contact again does a job at once, but while it is not it
# tries every 12 seconds at the latest; one that is refused, every 72.
my $soon = 90;
my $refused_soon = 170;

my $json = JSON::PP->new->canonical->allow_nonref;
my $number = 0;

my $temporal = temporal_server('temporal', start => 0);
my $client = $temporal->client;

my $source = source_cluster('source');
$source->safe_psql('postgres',
	q{create role reader login password 'reader_pw'});

my $agent = agent_cluster(
	'agent', soon => $soon, conf => <<"EOT");
log_line_prefix = '[%b] '
opdata.org_id = 'acme'
opdata.temporal_address = '@{[ $temporal->address ]}'
opdata.temporal_tls = off
EOT
$agent->note_effects;

started_before_temporal();
a_minute_without_temporal();
silent_temporal();
wrong_namespace();
somebody_else();
lost_answers();
bad_network();
source_away();
ok(wait_until(sub { $agent->safe_psql('postgres', q{select count(*) from opdata_jobs where state = 'running'}) == 0 }),
	'no job is left running');
unlike(slurp_file($agent->logfile), qr/terminated by signal|PANIC|reader_pw/, 'no crash, and no password, is in the log');
done_testing();

# ---------------------------------------------------------------- questions

sub log_end { return -s $agent->logfile; }

# How often each worker said something since then; not what.
sub said
{
	my ($from) = @_;
	my $log = slurp_file($agent->logfile, $from);
	my %lines;

	$lines{$1}++ while $log =~ /^\[opdata worker\] LOG:  opdata worker "([^"]*)"/mg;
	return \%lines;
}

# ---------------------------------------------------------------- workflows

sub workflow
{
	my ($type, $id, %input) = @_;

	return (
		type => $type,
		workflow_id => $id,
		task_queue => 'tenant-acme',
		input => { orgId => 'acme', %input });
}

# Both take the id of the workflow; a store's is that of its connection too.
sub store
{
	my ($id) = @_;
	return workflow('storeCredsWorkflow', $id, connectionId => $id, credentials => reader($source));
}

sub preview
{
	my ($id, $sql) = @_;
	return workflow('previewQueryWorkflow', $id, credentials => reader($source), sql => $sql // "select '$id'");
}

# A store or a preview by its id has ended well, once.
sub ended_once
{
	my ($ended, $id, $name) = @_;
	my $result = $ended->{result};
	my $history = $client->history(workflow_id => $id);
	my @got;

	if ($history->[0]{attributes}{workflow_type}{name} eq 'storeCredsWorkflow')
	{
		@got = ($result && $result->{connectionId}, $agent->effects($id));
		is_deeply(\@got, [ $id, 'INSERT' ], $name)
		  or diag($json->encode([ $ended, $history ]));
	}
	else
	{
		is($result && $result->{rows}[0][0], $id, $name)
		  or diag($json->encode([ $ended, $history ]));
	}
	is(scalar(grep { $_->{event_type} =~ /^WORKFLOW_EXECUTION_(?!STARTED)/ } @$history), 1, 'once')
	  or diag($json->encode($history));
	return;
}

sub works
{
	my ($name) = @_;
	my $id = 'check ' . ++$number;
	my $ended = $client->execute(preview($id));

	is($ended->{result} && $ended->{result}{rows}[0][0], $id, $name)
	  or diag($json->encode($ended));
	return;
}

# ---------------------------------------------------------------- Temporal away

sub started_before_temporal
{
	$agent->workers_get('unreachable', 'workers wait for a server that is not there');
	foreach my $worker ($agent->workers)
	{
		is($worker->{lastError}{code}, 'UNAVAILABLE', "$worker->{name} tells so");
		like($worker->{lastError}{message}, qr/connect/i, 'and why');
		is($worker->{lastPollAt}, undef, 'it never was in contact');
	}
	ok($agent->warned('temporal_unreachable'), 'the status warns');
	my $before = $agent->pids;
	$temporal->start;
	$agent->workers_get('polling', 'they find the server when it comes');
	is($agent->pids, $before, 'without a restart');
	ok(!$agent->warned('temporal_unreachable'), 'the warning is gone');
	works('a workflow is done');
	return;
}

sub a_minute_without_temporal
{
	my $faults = toxiproxy('faults');
	my @queued = ((map { { preview("queued preview $_") } } 1 .. 5), (map { { store("queued store $_") } } 1 .. 3));
	my %slow = preview('slow', q{select 'slow' from pg_sleep(4)});

	# the way by which Temporal comes back at once, however slowly it starts
	$agent->renew(temporal_address => $faults->add('temporal', $temporal->address));
	$agent->workers_get('polling', 'the workers poll');
	my $from = log_end();
	my $before = $agent->pids;

	# due while the server is away
	$client->start(%$_, start_delay => 5) foreach @queued;
	my $ticket = $client->send('execute', %slow);
	ok(wait_until(sub { n_begun($source, q{'slow'}) }, undef, 0.1), 'a preview runs');

	$temporal->stop;
	$agent->workers_get('unreachable', 'Temporal is stopped, and the workers tell so');
	foreach my $worker ($agent->workers)
	{
		is($worker->{lastError}{code}, 'UNAVAILABLE', "$worker->{name} tells why");
		isnt($worker->{lastPollAt}, undef, 'and that it was in contact');
	}
	ok($agent->warned('temporal_unreachable'), 'the status warns');
	ok(wait_until(sub { keys %{ said($from) } == 3 }, $soon), 'each logs it');
	$from = log_end();
	sleep 60;
	is_deeply(said($from), {}, 'once, in a minute');

	$faults->disable('temporal');
	$temporal->start;
	$faults->enable('temporal');
	$agent->workers_get('polling', 'Temporal is back, and so are the workers');
	is($agent->pids, $before, 'without a restart');
	is_deeply(said($from), { 'interactive 1' => 1, 'interactive 2' => 1, 'bulk 1' => 1 },
		'each logs that once, too');
	ended_once($client->receive($ticket), 'slow', 'the preview that was running is done');
	foreach my $queued (@queued)
	{
		my $id = $queued->{workflow_id};
		ended_once($client->result(workflow_id => $id), $id, "$id is done");
	}
	$agent->renew(temporal_address => $temporal->address);
	$faults->stop;
	return;
}

# Temporal says nothing any more, while its connections stay. A second longer
# than a call takes at most.
sub silent_temporal
{
	my $before = $agent->pids;
	my %slow = preview('through silence', q{select 'through silence' from pg_sleep(2)});
	my %store = store('stored in silence');
	my $ticket = $client->send('execute', %slow);

	ok( wait_until(
			sub {
				$agent->safe_psql('postgres', q{select count(*) from opdata_jobs where workflow_id = 'through silence'});
			}
		),
		'a preview runs');
	$temporal->freeze;
	my $other = $client->send('execute', %store);
	sleep 11;

	# nothing that the agent's own users do waits for Temporal
	$agent->safe_psql('postgres', 'create database other');
	$agent->safe_psql('postgres', 'drop database other');
	is($agent->pids, $before, 'the workers live through the silence of Temporal');
	$temporal->thaw;
	ended_once($client->receive($ticket), 'through silence', 'a preview is done after it');
	ended_once($client->receive($other), 'stored in silence', 'and a store');
	$agent->workers_get('polling', 'all workers poll');
	return;
}

# ---------------------------------------------------------------- refused

sub wrong_namespace
{
	my $from = log_end();

	$agent->renew(temporal_namespace => 'elsewhere');
	$agent->workers_get('refused', 'workers are refused a namespace that does not exist');
	foreach my $worker ($agent->workers)
	{
		is($worker->{lastError}{code}, 'NOT_FOUND', "$worker->{name} tells so");
		like($worker->{lastError}{message}, qr/elsewhere/, 'naming it');
	}
	ok($agent->warned('temporal_refused'), 'the status warns');
	my @hints;
	wait_until(sub { (@hints = slurp_file($agent->logfile, $from) =~ /^\[opdata worker\] HINT:  (.*)$/mg) >= 3 }, $soon);
	is_deeply(\@hints, [ ('Check opdata.temporal_namespace.') x 3 ], 'the log names the setting');

	my $before = $agent->pids;
	$client->make_namespace(name => 'elsewhere');
	$agent->workers_get('polling', 'when it has been made they are not refused any more', timeout => $refused_soon);
	is($agent->pids, $before, 'without a restart');
	my $elsewhere = Opdata::Temporal::Client->new('elsewhere', address => $temporal->address, namespace => 'elsewhere');
	is($elsewhere->execute(preview('elsewhere'))->{result}{rows}[0][0], 'elsewhere', 'a workflow is done there');
	$agent->renew(temporal_namespace => 'default');
	$agent->workers_get('polling', 'the workers are back');
	return;
}

# Servers that speak something else, and names that are none.
sub somebody_else
{
	my $web = web_server();
	my %others = (
		'a web server' => [ '127.0.0.1:' . $web->{port}, qr/^(?:unreachable|refused)$/ ],
		'a PostgreSQL server' => [ '127.0.0.1:' . $source->port, qr/^unreachable$/ ],
		'a name that does not resolve' => [ 'temporal.invalid:7233', qr/^unreachable$/ ]);

	foreach my $who (sort keys %others)
	{
		my ($address, $state) = @{ $others{$who} };
		my $from = log_end();

		$agent->renew(temporal_address => $address);
		ok( wait_until(
				sub {
					!grep { $_->{state} !~ $state || !$_->{lastError} } $agent->workers;
				},
				$soon),
			"$who in Temporal's place is noticed") or diag($json->encode([ $agent->workers ]));
		like($_->{lastError}{message}, qr/\w{3}/, "$_->{name} tells: $_->{lastError}{code} $_->{lastError}{message}")
		  foreach $agent->workers;
		ok(wait_until(sub { keys %{ said($from) } == 3 }, $soon), 'each logs it');
		sleep 5;
		is_deeply(said($from), { 'interactive 1' => 1, 'interactive 2' => 1, 'bulk 1' => 1 }, 'once');

		my ($worker) = $agent->workers;
		is($agent->safe_psql('postgres', "select pg_terminate_backend($worker->{pid}, 60000)"),
			't', 'a worker can be terminated meanwhile');
	}
	$web->kill;
	$agent->renew(temporal_address => $temporal->address);
	$agent->workers_get('polling', 'the workers are back at Temporal');
	works('a workflow is done');
	return;
}

# ---------------------------------------------------------------- lost answers

# A network between workers and Temporal that loses what the test wants it to:
# each workflow ends once, with the one effect.
sub lost_answers
{
	my $proxy = Proxy->to($temporal->port);
	my (@rules, @workflows);

	$agent->renew(temporal_address => '127.0.0.1:' . $proxy->{port});
	$agent->workers_get('polling', 'the workers poll through a proxy');

	# Each call has its connection, which is told by what is said on it: a
	# task token holds the workflow's id. A preview has one answer. A store has
	# the answer to its first workflow task, that of its activity, and that of
	# the second workflow task; its tasks come by two polls and a third.
	foreach my $loss ('refuse', 'lose', 'cut', 'stall')
	{
		foreach my $what ([ 'preview', 0 ], map { [ 'store', $_ ] } 0 .. 2)
		{
			my ($kind, $after) = @$what;
			my $id = "$kind-$loss-answer-$after";

			push @rules, { id => $id, side => 'request', do => $loss, after => $after };
			push @workflows, { $kind eq 'store' ? store($id) : preview($id) };
		}
	}
	foreach my $what ([ 'preview', 0 ], map { [ 'store', $_ ] } 0 .. 2)
	{
		my ($kind, $after) = @$what;
		my $id = "$kind-task-$after";

		push @rules, { id => $id, side => 'reply', do => 'refuse', after => $after };
		push @workflows, { $kind eq 'store' ? store($id) : preview($id) };
	}
	$proxy->rule(%$_) foreach @rules;

	my @ended = @{ $client->receive($client->send('execute_many', workflows => \@workflows)) };
	foreach my $n (0 .. $#rules)
	{
		my $id = $rules[$n]{id};

		is($proxy->met($id), 1, "what was to be lost was lost: $id");
		ended_once($ended[$n], $id, 'and the workflow is done');
	}
	ok(wait_until(sub { !grep { $_->{running} > 0 } $agent->workers }, $soon), 'no worker has anything left to do');

	# of a heartbeat nothing more than itself may be lost
	foreach my $loss ('refuse', 'stall')
	{
		my $id = "heartbeat-$loss";

		$proxy->rule(id => $id, side => 'request', do => $loss, after => 0, also => 'elapsedMs');
		kill 'STOP', $source->{_pid};
		my $ticket = $client->send('execute', store($id));
		ok(wait_until(sub { $proxy->met($id) }), "a heartbeat is lost: $id");
		kill 'CONT', $source->{_pid};
		ended_once($client->receive($ticket), $id, 'and the workflow is done');
	}

	$agent->renew(temporal_address => $temporal->address);
	$agent->workers_get('polling', 'the workers poll without the proxy');
	$proxy->kill;
	return;
}

# A network on which every call may be lost, in any way; of one workflow two at
# most, since a store is tried three times.
sub bad_network
{
	my $proxy = Proxy->to($temporal->port);
	my $seed = srand();
	my @ids = map { ("bad preview $_", "bad store $_") } 'a' .. 'j';

	note("random seed $seed");
	$agent->renew(temporal_address => '127.0.0.1:' . $proxy->{port});
	$agent->workers_get('polling', 'the workers poll through a proxy');
	$proxy->rule(id => 'tenant-acme', side => 'request', do => 'refuse', after => 5);
	$proxy->rule(id => 'tenant-', side => 'request', do => 'refuse', share => 0.1, seed => $seed);
	$proxy->rule(id => $_, do => 'any', share => 0.25, most => 2) foreach @ids;
	my @ended = @{
		$client->execute_many(workflows => [ map { { /store/ ? store($_) : preview($_) } } @ids ])
	};
	is($proxy->met('tenant-acme'), 1, 'polls are lost');
	cmp_ok(sum0(map { $proxy->met($_) } @ids), '>', 0, 'so are tasks and answers');
	ended_once($ended[$_], $ids[$_], "$ids[$_] is done") foreach 0 .. $#ids;
	$agent->renew(temporal_address => $temporal->address);
	$agent->workers_get('polling', 'the workers poll without the proxy');
	$proxy->kill;
	return;
}

# ---------------------------------------------------------------- the source

sub started_attempts
{
	my ($id) = @_;
	return map { $_->{attributes}{attempt} }
	  grep { $_->{event_type} eq 'ACTIVITY_TASK_STARTED' } @{ $client->history(workflow_id => $id) };
}

sub source_away
{
	# silent for the first attempt; the next one may begin at once
	kill 'STOP', $source->{_pid};
	my $ticket = $client->send('execute', store('another attempt'));
	my $failure;
	ok( wait_until(
			sub {
				# it may not have been started yet
				my $told = eval { $client->describe(workflow_id => 'another attempt') } // {};
				my ($activity) = @{ $told->{pending_activities} // [] };

				$failure = $activity->{last_failure}{application_failure_info}{type};
			}
		),
		'a store fails at a silent source');
	kill 'CONT', $source->{_pid};
	is($failure, 'timeout', 'for want of an answer');
	ended_once($client->receive($ticket), 'another attempt', 'and is done by another attempt');
	my @attempts = started_attempts('another attempt');
	is(scalar(@attempts), 1, 'which is the last one');
	cmp_ok($attempts[0], '>', 1, 'and not the first');

	# gone while a preview runs, which does not wait for its time to be over
	my ($id, $ended);
	ok( in_time(
			sub {
				$id = 'interrupted ' . ++$number;
				$source->start unless $source->{_pid};
				$ticket = $client->send('execute', preview($id, "select pg_sleep(60) /* $id */"));
				wait_until(sub { n_begun($source, "/* $id */") }, undef, 0.1) or return 0;
				$source->stop('immediate');
				$ended = $client->receive($ticket);
				return ($ended->{error}{type} // '') ne 'query_timeout';
			}
		),
		'a preview runs when its source goes away, and ends at once');
	is($ended->{error}{class}, 'ApplicationError', 'it fails')
	  or diag($json->encode($ended));
	is( $agent->safe_psql('postgres', qq{select state from opdata_jobs where workflow_id = '$id'}),
		'failed', 'so does its job');

	# gone for good
	$ended = $client->execute(store('no source'));
	is($ended->{error}{type}, 'connection_refused', 'a store without a source fails in the end')
	  or diag($json->encode($ended));
	is_deeply([ started_attempts('no source') ], [3], 'after three attempts');
	is($agent->effects('no source'), '', 'and stores nothing');
	$source->start;
	works('a workflow is done when the source is back');
	return;
}

# ---------------------------------------------------------------- peers

# A web server that knows nothing.
sub web_server
{
	return Opdata::Process->listening(
		'web',
		sub {
			my ($listener) = @_;

			while (my $client = $listener->accept)
			{
				sysread($client, my $request, 65536);
				syswrite($client,
					"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnope\n");
			}
		});
}

# A proxy for HTTP/2 without TLS, and for one call on each connection. A rule
# chooses connections by a text, "id", and if given by another one, "also", in
# the "side" that is named, the request or the reply, or in either; "after" so
# many were let pass, and one of them, or each with the probability "share" but
# not more than "most". What it does to them:
#
#   refuse   closes the connection instead of passing on the text
#   lose     passes the request on, and closes when the reply is whole
#   cut      the same, but lets the head of the reply through
#   stall    says nothing more to either side
#   any      one of these
package Proxy;

use IO::Select;
use JSON::PP;
use Socket;
use parent 'Opdata::Process';

sub to
{
	my ($class, $upstream) = @_;

	socketpair(my $ours, my $theirs, Socket::AF_UNIX, Socket::SOCK_STREAM, 0)
	  or die "could not make a pair of sockets: $!";
	$ours->autoflush(1);
	my $self = $class->listening(
		'proxy',
		sub {
			my ($listener) = @_;

			close $ours;
			serve($upstream, $listener, $theirs);
		});

	@$self{qw(control met unread)} = ($ours, {}, '');
	return $self;
}

sub rule
{
	my ($self, %rule) = @_;

	syswrite($self->{control}, encode_json(\%rule) . "\n");
	return;
}

# How many connections met the rule with this id.
sub met
{
	my ($self, $id) = @_;
	my $select = IO::Select->new($self->{control});

	while ($select->can_read(0))
	{
		sysread($self->{control}, my $told, 65536) or last;
		$self->{unread} .= $told;
	}
	$self->{met}{$1}++ while $self->{unread} =~ s/^(.*)\n//;
	return $self->{met}{$id} // 0;
}

sub serve
{
	my ($upstream, $listener, $control) = @_;
	my $select = IO::Select->new($listener, $control);
	my (@rules, %side);
	my $commands = '';

	while (1)
	{
		foreach my $socket ($select->can_read)
		{
			if ($socket == $control)
			{
				sysread($control, $commands, 65536, length $commands) or return;
				while ($commands =~ s/^(.*)\n//)
				{
					push @rules, decode_json($1);
					srand($rules[-1]{seed}) if $rules[-1]{seed};
				}
			}
			elsif ($socket == $listener)
			{
				my $client = $listener->accept or next;
				my $server = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $upstream)
				  or next;
				my $call = { sockets => [ $client, $server ] };

				$side{$client} = { call => $call, name => 'request', to => $server, seen => '' };
				$side{$server} = { call => $call, name => 'reply', to => $client, seen => '', frames => '' };
				$select->add($client, $server);
			}
			elsif (my $side = $side{$socket})
			{
				my $call = $side->{call};
				my $n = sysread($socket, my $data, 65536);

				if (!$n || !pass($call, $side, $data, \@rules, $control))
				{
					foreach my $end (@{ $call->{sockets} })
					{
						delete $side{$end};
						$select->remove($end);
						close $end;
					}
				}
			}
		}
	}
}

# Pass data on, or do what a rule wants; false closes the connection.
sub pass
{
	my ($call, $side, $data, $rules, $control) = @_;
	my $loss = $call->{loss};

	$side->{seen} .= $data;
	if (!$loss)
	{
		foreach my $rule (@$rules)
		{
			next if $call->{asked}{ $rule->{id} } || !chosen($rule, $side);
			$call->{asked}{ $rule->{id} } = 1;
			next if $rule->{share} ? rand() >= $rule->{share} : $rule->{after}-- != 0;
			next if defined $rule->{most} && $rule->{most}-- <= 0;
			$loss = $rule->{do};
			$loss = (qw(refuse lose cut stall))[ rand 4 ] if $loss eq 'any';
			$call->{loss} = $loss;
			syswrite($control, "$rule->{id}\n");
			last;
		}
	}

	return 0 if $loss && $loss eq 'refuse';
	return 1 if $loss && $loss eq 'stall';
	if ($loss && $side->{name} eq 'reply')
	{
		# the second block of headers is the trailers, or the first the whole
		my $whole = headers_seen($side, $data);

		if ($loss eq 'cut')
		{
			Opdata::Test::SilentServer::write_all($side->{to}, $data);
			return 0 if $side->{headers};
		}
		return !$whole;
	}
	headers_seen($side, $data) if $side->{name} eq 'reply';
	Opdata::Test::SilentServer::write_all($side->{to}, $data);
	return 1;
}

sub chosen
{
	my ($rule, $side) = @_;

	return
		 ($rule->{side} // $side->{name}) eq $side->{name}
	  && index($side->{seen}, $rule->{id}) >= 0
	  && (!$rule->{also} || index($side->{seen}, $rule->{also}) >= 0);
}

# Count the frames with headers; true when the stream has ended.
sub headers_seen
{
	my ($side, $data) = @_;
	my $ended = 0;

	$side->{frames} .= $data;
	while (length $side->{frames} >= 9)
	{
		my ($high, $low, $type, $flags) = unpack('C n C C', $side->{frames});
		my $length = 9 + ($high << 16) + $low;

		last if length $side->{frames} < $length;
		substr($side->{frames}, 0, $length, '');
		next unless $type == 1;
		$side->{headers}++;
		$ended = 1 if $flags & 1;
	}
	return $ended;
}
