
# The workflow engine by itself: what it decides at the end of a history, whatever
# came in between, and which histories it refuses. No Temporal server takes part;
# Opdata::Engine explains the words of a history.

use strict;
use warnings;

use Encode qw(encode_utf8);
use FindBin;
use lib "$FindBin::RealBin/../perl";
use JSON::PP;
use MIME::Base64 qw(encode_base64);
use Opdata::Engine;
use Opdata::Test;
use Test::More;
use Time::HiRes qw(time);

my ($true, $false) = (JSON::PP::true, JSON::PP::false);
my $engine = engine();
my $node = $engine->node;

steps();
cancelled();
timers();
local_steps();
checks();
lost_tasks();
misfits();
markers();
patches();
refused();
reasons();
repeated();
commands();
facts();
long();
bounds();

is(slurp_log() =~ /terminated by signal|PANIC/, '', 'nothing crashed');
$node->stop;
done_testing();

# Whatever the workflow, the history and the outcome of a local step are.
sub decides
{
	my ($workflow, $words, $expected, $name, $outcome) = @_;
	my $got = eval { $engine->decide($workflow, $words, $outcome) } // $@;

	if (ref $expected)
	{
		like($got, $expected, $name);
	}
	else
	{
		is($got, $expected, $name);
	}
	return;
}

sub slurp_log
{
	return PostgreSQL::Test::Utils::slurp_file($node->logfile);
}

# An activity's every outcome.
sub steps
{
	my $one = 'start task schedule:one:First';
	my $two = "$one done:one task schedule:two:Second";

	decides('sequence', 'start now', 'schedule one', 'a run begins with its first step');
	decides('sequence', "$one signal now", 'nothing', 'a step that goes on is waited for');
	decides('sequence', "$one done:one now", 'schedule two', 'the next follows it');
	decides('sequence', "$two signal now", 'nothing', 'which is waited for as well');
	decides(
		'sequence',
		"$two done:two now",
		'complete {"of":"two"}',
		'the result of the last is the workflow\'s'
	);
	decides('sequence', "$one signal task done:one now",
		'schedule two', 'tasks for nothing in between change nothing');
	decides('sequence', "$one failed:one:my_code now", 'fail my_code', 'a failed step ends the workflow');
	decides('sequence', "$two failed:two:my_code now", 'fail my_code', 'the second, too');
	decides('sequence', "$one failed:one now", 'fail internal', 'one that failed without a reason as well');
	decides('sequence', "$one slow:one:$_ now", 'fail timeout', "so does one timed out by $_")
	  foreach qw(START_TO_CLOSE HEARTBEAT SCHEDULE_TO_START SCHEDULE_TO_CLOSE);
	decides('restless', 'start now', 'schedule one', 'steps after one that waits do nothing');
	decides('restless', "$one failed:one:my_code now", 'fail my_code', 'nor do steps after the end');
	return;
}

# A cancel request before a step, while it goes on, and after it.
sub cancelled
{
	my $one = 'start task schedule:one:First';
	my $two = "$one done:one task schedule:two:Second";
	my $stop = "$one cancel task stop:one";

	decides('sequence', 'start cancel now', 'canceled', 'canceled before its first step');
	decides('sequence', "$one cancel now", 'stop 5', 'a step that goes on is asked to stop');
	decides('sequence', "$one cancel cancel now", 'stop 5', 'once, however often it was said');
	decides('sequence', "$stop signal now", 'nothing', 'and not again');
	decides('sequence', "$stop stopped:one now", 'canceled', 'when it has stopped, that is the end');
	decides(
		'sequence', "$one cancel task stop:one stopped:one signal now",
		'canceled', 'also if more has come meanwhile'
	);
	decides(
		'sequence', "$stop done:one now",
		'canceled', 'if it has ended all the same, the next does not begin'
	);
	decides('sequence', "$stop failed:one:my_code now",
		'fail my_code', 'if it has failed instead, so has the workflow');
	decides('sequence', "$stop slow:one:HEARTBEAT now", 'fail timeout', 'if its worker is lost, too');
	decides('sequence', "$one cancel done:one now", 'canceled', 'one that ended before it was asked');
	decides('sequence', "$one done:one cancel now", 'canceled', 'canceled between the steps');
	decides('sequence', "$two cancel now", 'stop 11', 'canceled in the second step');
	decides('sequence', "$two cancel task stop:two stopped:two now", 'canceled', 'which has stopped');
	decides(
		'sequence',
		"$two done:two cancel now",
		'complete {"of":"two"}',
		'a cancel request after the last step comes too late'
	);
	decides(
		'sequence',
		"$two cancel task stop:two done:two now",
		'complete {"of":"two"}',
		'as if the last step does not heed it'
	);
	decides('hasty', 'start cancel now', 'complete {"n":1}', 'a workflow without a step cannot be canceled');
	return;
}

sub timers
{
	my $timer = 'start task timer:pause';

	decides('timer', 'start now', 'timer pause', 'a timer is started');
	decides('timer', "$timer signal now", 'nothing', 'and waited for');
	decides('timer', "$timer fired:pause now", 'schedule one', 'when it has fired, it goes on');
	decides('timer', "$timer fired:pause task schedule:one:First now", 'nothing', 'with the next step');
	decides('timer', 'start cancel now', 'canceled', 'canceled before it');
	decides(
		'timer',
		"$timer cancel now",
		'untimer pause, canceled',
		'canceled while it runs: nobody waits for it any more'
	);
	decides('timer', "$timer cancel task untimer:pause now", 'canceled', 'a canceled timer is the end');
	decides('timer', "$timer fired:pause cancel now", 'canceled', 'canceled after it has fired');
	decides('timer', "$timer cancel fired:pause now", 'canceled', 'or just before');
	decides('timer', "$timer fired:pause task schedule:one:First cancel now", 'stop 10', 'or much later');
	decides('timer', "$timer cancel task untimer:pause schedule:one:First now",
		qr/^misfit: /, 'nothing may follow a canceled timer');
	decides(
		'timer',
		'start task timer:rest now',
		qr/^misfit: step "pause" meets event 5 .* timer "rest"/,
		'another timer does not fit'
	);
	return;
}

# Local steps leave a marker, or nothing while they run.
sub local_steps
{
	my $look = { id => 'look', result => { a => 1 } };
	my $think = { id => 'think', result => { b => 2 } };

	decides('locals', 'start now', 'run look {"n":1}', 'a local step is to be run');
	decides(
		'locals', 'start now',
		'step look {"a": 1}, run think {"a": 1}',
		'its outcome is noted, and the next is to be run', $look
	);
	decides('locals', 'start task step:look now', 'run think {"of":"look"}', 'as noted in the history');
	decides(
		'locals',
		'start task step:look now',
		'run think {"of":"look"}',
		'not with what is still known of the first', $look
	);
	decides(
		'locals',
		'start task step:look now',
		'step think {"b": 2}, schedule act',
		'the outcome of the second, and the activity after it', $think
	);
	decides(
		'locals', 'start now',
		'run look {"n":1}',
		'the outcome of a later step does not come early', $think
	);
	decides(
		'locals',
		'start task task task now',
		'run look {"n":1}',
		'tasks that were answered with nothing go by'
	);
	decides(
		'locals',
		'start task signal task task now',
		'step look {"a": 1}, run think {"a": 1}',
		'also when the outcome is there', $look
	);
	decides(
		'locals',
		'start task task step:look task task now',
		'run think {"of":"look"}',
		'those before and after a marker'
	);
	decides(
		'locals', 'start task task step:look task task step:think schedule:act:Act now',
		'nothing', 'and before the next'
	);
	decides(
		'locals',
		'start task step:look task step:think schedule:act:Act done:act now',
		'complete {"of":"act"}',
		'the steps are over'
	);
	decides(
		'locals',
		'start task step:look step:think schedule:act:Act done:act now',
		'complete {"of":"act"}',
		'noted in one task or in two'
	);
	decides(
		'locals', 'start now', 'fail my_code',
		'a failed local step ends the workflow, unnoted',
		{ id => 'look', failure => 'my_code' }
	);
	decides(
		'locals', 'start task step:look now',
		'fail my_code',
		'the second, too',
		{ id => 'think', failure => 'my_code' }
	);
	decides('locals', 'start task step:look task stepfailed:think:my_code now',
		'fail my_code', 'a noted failure is one');
	decides(
		'testCredentialsWorkflow', 'start now',
		'complete {"a": 1}',
		'the outcome of the last step is not noted',
		{ id => 'testCredentials', result => { a => 1 } }
	);

	decides('locals', 'start cancel now', 'canceled', 'canceled before a local step');
	decides('locals', 'start task task cancel now', 'canceled', 'canceled while it runs');
	decides('locals', 'start task step:look cancel now', 'canceled', 'canceled between two');
	decides('locals', 'start task cancel now',
		'canceled', 'canceled while the first runs, which has ended', $look);
	decides(
		'previewQueryWorkflow',
		'start task cancel now',
		'complete {"a": 1}',
		'canceled too late for the last, which has ended',
		{ id => 'previewQuery', result => { a => 1 } }
	);
	decides('locals', 'start task step:look step:think schedule:act:Act cancel now',
		'stop 7', 'canceled in the activity after them');
	decides(
		'locals',
		'start task cancel task step:look step:think schedule:act:Act now',
		'stop 11',
		'a worker that did not see the request'
	);
	return;
}

# opd_workflow_cancelled() is about the point at which it is asked.
sub checks
{
	my $one = 'start task schedule:one:First';
	my $pause = "$one done:one task timer:pause";
	my $fired = "$pause fired:pause";
	my $look = { id => 'look', result => 1 };

	decides('checks', 'start cancel now', 'complete "at the start"', 'seen at the start');
	decides('checks', "$one done:one now", 'timer pause', 'not seen after the first step');
	decides('checks', "$one $_ now", 'complete "after the activity"', "seen after the first step by: $_")
	  foreach 'done:one cancel', 'cancel done:one', 'cancel task stop:one done:one',
	  'done:one lost:late cancel';
	decides(
		'checks',
		"$pause cancel now",
		'untimer pause, canceled',
		'not at a point that had been passed without'
	);
	decides('checks', "$fired cancel now", 'complete "after the timer"', 'seen after the timer');
	decides('checks', "$fired now", 'run look', 'or not');
	decides('checks', "$fired task cancel now", 'canceled', 'while the local step runs, it is stopped');
	decides('checks', "$fired task task cancel now",
		'complete "after the local step"', 'or has ended', $look);
	decides('checks', "$fired task now", 'step look 1, schedule two', 'without a request', $look);
	decides(
		'checks',
		"$fired task cancel task step:look:1 schedule:two:Second now",
		qr/^misfit: the workflow ends where event 21 /,
		'it was there when the local step ended, so nothing can have followed'
	);
	decides('checks', "$fired task step:look:1 schedule:two:Second cancel now",
		'stop 17', 'a request that came later');
	decides(
		'checks',
		"$fired task step:look:1 schedule:two:Second done:two cancel now",
		'complete "at the end"',
		'or at last'
	);
	return;
}

# Workflow tasks that nothing came of.
sub lost_tasks
{
	my $one = 'start task schedule:one:First';

	foreach my $lost ('lost:failed', 'lost:late', 'unseen', 'lost:failed lost:late unseen lost:late')
	{
		decides('sequence', "start $lost now", 'schedule one', "first: $lost");
		decides(
			'sequence', "start $lost task schedule:one:First signal $lost now",
			'nothing', "in a step: $lost"
		);
		decides('sequence', "$one done:one $lost now", 'schedule two', "after a step: $lost");
		decides(
			'sequence', "$one $lost done:one $lost task schedule:two:Second $lost now",
			'nothing', "everywhere: $lost"
		);
		decides('sequence', "start $lost cancel now", 'canceled', "canceled after $lost");
		decides('sequence', "start cancel $lost now", 'canceled', "canceled before $lost");
		decides('sequence', "$one cancel $lost now", 'stop 5', "stopped by a task after $lost");
		decides(
			'sequence', "$one cancel $lost task stop:one $lost stopped:one $lost now",
			'canceled', "the stop survives $lost"
		);
		decides(
			'locals',
			"start $lost task $lost task $lost now",
			'run look {"n":1}',
			"while a local step runs: $lost"
		);
		decides(
			'locals',
			"start task $lost task step:look $lost now",
			'run think {"of":"look"}',
			"after a local step: $lost"
		);
		decides('timer', "start $lost task timer:pause $lost fired:pause $lost now",
			'schedule one', "around a timer: $lost");
		decides('patched v2', "start $lost now", 'patch p, schedule new', "a patch is free to be new: $lost");
		decides('patched v2', "start task schedule:old:Old $lost now", 'nothing', "or old: $lost");
	}
	return;
}

# History and function that do not belong together.
sub misfits
{
	my $one = 'start task schedule:one:First';
	my $two = "$one done:one task schedule:two:Second";

	decides(
		'sequence',
		'start task schedule:one:Renamed now',
		qr/^misfit: step "one" meets event 5 /,
		'an activity of another type'
	);
	decides(
		'sequence',
		'start task schedule:eins:First now',
		qr/^misfit: step "one" meets event 5 .*activity "eins"/,
		'an activity of another id'
	);
	decides(
		'reordered', "$one now",
		qr/^misfit: step "two" meets event 5 .*activity "one"/,
		'steps in another order'
	);
	decides('reordered', "$two now", qr/^misfit: step "two" meets event 5 /, 'however far it got');
	decides('shortened', "$two now", qr/^misfit: the workflow ends where event 11 /, 'a step was taken away');
	decides('shortened', "$one done:one now", 'complete {"of":"one"}', 'it may be where no run has got to');
	decides(
		'lengthened', "$two now",
		qr/^misfit: step "pause" meets event 11 .*activity "two"/,
		'a step was put in between'
	);
	decides('lengthened', "$one done:one now", 'timer pause', 'it may be where no run has got to');
	decides(
		'sequence',
		'start task signal now',
		qr/^misfit: step "one" does not stand in the history.* event 4/,
		'the first step is missing'
	);
	decides(
		'sequence',
		"$one done:one task signal now",
		qr/^misfit: step "two" does not stand in the history.* event 10/,
		'the second is missing'
	);
	decides(
		'sequence',
		"$one schedule:two:Second now",
		qr/^misfit: the workflow waits before event 6 /,
		'one step too many'
	);
	decides(
		'sequence',
		"$two done:two task schedule:three:Third now",
		qr/^misfit: the workflow ends where event 17 /,
		'one too many at the end'
	);
	decides(
		'sequence',
		"$one timer:pause now",
		qr/^misfit: the workflow waits before event 6 /,
		'a timer too many'
	);
	decides(
		'sequence',
		'start task timer:one now',
		qr/^misfit: step "one" meets event 5 .*timer "one"/,
		'a timer for an activity'
	);
	decides(
		'sequence',
		'start task step:one now',
		qr/^misfit: step "one" meets event 5 .*marker "one"/,
		'a local step for an activity'
	);
	decides(
		'locals',
		'start task schedule:look:Look now',
		qr/^misfit: step "look" meets event 5 .*activity "look"/,
		'an activity for a local step'
	);
	decides(
		'locals',
		'start task step:think now',
		qr/^misfit: step "look" meets event 5 .*marker "think"/,
		'another local step'
	);
	decides('sequence', "$two stop:one now", qr/^misfit: /, 'a stop of another step');
	decides('sequence', "$one stop:one stop:one now", qr/^misfit: /, 'a second stop');
	decides('sequence', "$two failed:two:my_code task schedule:one:First now",
		qr/^misfit: /, 'steps after a failure');

	# commands that no function of ours can give, alone and with others
	foreach my $foreign (qw(child external signalexternal search properties nexus))
	{
		decides(
			'sequence',
			"start task $foreign now",
			qr/^misfit: step "one" meets event 5 /,
			"a foreign command: $foreign"
		);
		decides(
			'sequence',
			"start task $foreign schedule:one:First now",
			qr/^misfit: step "one" meets event 5 /,
			"before the step: $foreign"
		);
		decides(
			'sequence',
			"$one $foreign now",
			qr/^misfit: the workflow waits before event 6 /,
			"after it: $foreign"
		);
		decides(
			'hasty',
			"start task $foreign now",
			qr/^misfit: the workflow ends where event 5 /,
			"at the end: $foreign"
		);
	}

	decides('endless', 'start now', 'schedule one', 'a function that will not come to an end');
	decides('endless', "$one now", 'nothing', 'is fine as long as it waits');
	decides(
		'endless',
		"$one done:one now",
		qr/^misfit: the workflow returned without an end/,
		'and then it is told'
	);
	decides('hasty', 'start now', 'complete {"n":1}', 'a function that ends at once');
	decides('hasty', "$one now", qr/^misfit: the workflow ends where event 5 /, 'does not fit what began');
	decides('sequence', $_, qr/^misfit: the history has no workflow task/, "no task: $_")
	  foreach 'start', 'start wait', 'start lost:late', 'start unseen', 'start cancel';
	return;
}

# What other workers note is not for us, and signals and updates are not either.
sub markers
{
	my $foreign = join ' ',
	  map { "marker:$_" }
	  qw(core_patch core_local_activity Version LocalActivity SideEffect MutableSideEffect opdata_other);

	decides(
		'sequence', "start task $foreign schedule:one:First $foreign now",
		'nothing', 'foreign markers are ignored'
	);
	decides('sequence', "start task schedule:one:First done:one $foreign now",
		'schedule two', 'at every place');
	decides(
		'locals',
		"start task $foreign step:look $foreign now",
		'run think {"of":"look"}',
		'beside our own'
	);
	decides(
		'patched v2',
		"start task $foreign now",
		qr/^misfit: step "old" does not stand/,
		'another library\'s patch is not ours'
	);
	decides(
		'sequence', "start update signal task signal schedule:one:First update signal now",
		'nothing', 'signals and updates are ignored'
	);
	return;
}

# A new version beside runs of the old.
sub patches
{
	my $old = 'start task schedule:old:Old';
	my $new = 'start task patch:p schedule:new:New';
	my $one = 'start task schedule:one:First';

	decides('patched v1', 'start now', 'schedule old', 'the first version');
	decides('patched v2', 'start now', 'patch p, schedule new', 'a new run is one of the second');
	decides('patched v2', "$new now", 'nothing', 'and stays one');
	decides('patched v2', "$new done:new now", 'complete {"of":"new"}', 'to its end');
	decides('patched v2', "$old now", 'nothing', 'a run of the first stays one');
	decides('patched v2', "$old done:old now", 'complete {"of":"old"}', 'to its end');
	decides(
		'patched v2',
		"$old signal task done:old signal now",
		'complete {"of":"old"}',
		'whatever comes in between'
	);
	decides('patched v2', "$old cancel now", 'stop 5', 'it is canceled as before');
	decides('patched v2', "$new cancel now", 'stop 6', 'and the new one as well');
	decides('patched v2', 'start cancel now', qr/^(patch p, )?canceled$/, 'also before its first step');
	decides(
		'patched v1', "$new now",
		qr/^misfit: step "old" meets event 5 .*marker "p"/,
		'the old version refuses the new run'
	);
	decides(
		'patched v2',
		'start task patch:other schedule:new:New now',
		qr/^misfit: step "old" meets event 5 .*marker "other"/,
		'another patch is no answer'
	);

	# in the middle of a task that goes on after a step
	decides('patched middle', 'start now', 'schedule one', 'nothing is asked yet');
	decides('patched middle', "$one now", 'nothing', 'nor while the step before goes on');
	decides(
		'patched middle',
		"$one done:one now",
		'patch p, schedule new',
		'a run that has not got there is new from there on'
	);
	decides('patched middle', "$one done:one task patch:p schedule:new:New now", 'nothing', 'and stays so');
	decides(
		'patched middle',
		"$one done:one task patch:p schedule:new:New done:new now",
		'complete {"of":"new"}',
		'to its end'
	);
	decides(
		'patched middle',
		"$one done:one task schedule:two:Second now",
		'nothing',
		'a run that has passed it stays old'
	);
	decides(
		'patched middle',
		"$one done:one task schedule:two:Second done:two now",
		'complete {"of":"two"}',
		'to its end'
	);
	decides(
		'patched middle',
		"$one done:one lost:late now",
		'patch p, schedule new',
		'a lost task has not passed it'
	);

	# several patches, with local steps between
	my $extra = { id => 'extra', result => 7 };
	my $patched = "$one done:one task patch:p";
	decides(
		'patched twice',
		"$one done:one now",
		'patch p, run extra {"of":"one"}',
		'a patch in front of a local step'
	);
	decides(
		'patched twice',
		"$one done:one now",
		'patch p, step extra 7, patch q, schedule new',
		'and one behind it', $extra
	);
	decides('patched twice', "$patched now", 'run extra {"of":"one"}', 'the first is noted');
	decides(
		'patched twice',
		"$patched task task now",
		'run extra {"of":"one"}',
		'however long the step takes'
	);
	decides(
		'patched twice',
		"$patched task now",
		'step extra 7, patch q, schedule new',
		'the second when it is there', $extra
	);
	decides('patched twice', "$patched step:extra patch:q schedule:new:New now", 'nothing', 'both are noted');
	decides(
		'patched twice',
		"$patched task step:extra schedule:two:Second now",
		'nothing', 'a run that has the first only'
	);
	decides('patched twice', "$one done:one task schedule:two:Second now",
		'nothing', 'and one that has none');

	decides('locals patched', 'start task now', 'run look {"n":1}', 'a run whose local step goes on');
	decides(
		'locals patched',
		'start task now',
		'step look 7, patch p, run think 7',
		'is new from then on',
		{ id => 'look', result => 7 }
	);
	decides(
		'locals patched',
		'start task task step:look patch:p task now',
		'run think {"of":"look"}',
		'and stays so'
	);
	decides(
		'locals patched',
		'start task task step:look schedule:act:Act now',
		'nothing', 'but one beyond is not'
	);
	return;
}

# Histories that no server writes.
sub refused
{
	my $one = 'start task schedule:one:First';

	decides('sequence', 'start gap now', qr/^problem: event 3 follows event 1$/, 'a gap');
	decides('sequence', "$one gap done:one now", qr/^problem: event 7 follows event 5$/, 'a later gap');
	decides('sequence', 'gap start now', qr/^problem: event 2 follows event 0$/, 'a missing beginning');
	decides('sequence', 'start again now', qr/^problem: event 1 follows event 1$/, 'an event twice');
	decides('sequence', "$one again again now", qr/^problem: event 4 follows event 5$/, 'a step back');
	decides('sequence', "start bare:$_ now", 'problem: event 2 lacks its attributes', "$_ without attributes")
	  foreach qw(WORKFLOW_EXECUTION_STARTED WORKFLOW_TASK_COMPLETED ACTIVITY_TASK_SCHEDULED
	  ACTIVITY_TASK_COMPLETED ACTIVITY_TASK_FAILED ACTIVITY_TASK_TIMED_OUT
	  ACTIVITY_TASK_CANCEL_REQUESTED ACTIVITY_TASK_CANCELED TIMER_STARTED TIMER_FIRED
	  TIMER_CANCELED MARKER_RECORDED);
	decides('sequence', "start bare:$_ now", 'schedule one', "$_ needs none")
	  foreach qw(UNSPECIFIED WORKFLOW_TASK_FAILED WORKFLOW_TASK_TIMED_OUT ACTIVITY_TASK_STARTED
	  WORKFLOW_EXECUTION_SIGNALED WORKFLOW_EXECUTION_OPTIONS_UPDATED
	  WORKFLOW_EXECUTION_UPDATE_COMPLETED NEXUS_OPERATION_COMPLETED
	  CHILD_WORKFLOW_EXECUTION_COMPLETED);
	decides(
		'sequence', 'start bare:WORKFLOW_EXECUTION_CANCEL_REQUESTED now',
		'canceled', 'a cancel request needs none either'
	);

	my $crossed = $engine->ask(
		{   op => 'build',
			events => [
				{   eventId => 1,
					eventType => 'EVENT_TYPE_ACTIVITY_TASK_SCHEDULED',
					timerFiredEventAttributes => { timerId => 'x' }
				}
			]
		}
	);
	is( $engine->replay('sequence', $crossed->{pieces})->{problem},
		'event 1 lacks its attributes',
		'attributes of another event are none'
	);

	my $unknown = $engine->ask({ op => 'build', events => [ { eventId => 1, eventType => 9999 } ] });
	is($engine->replay('sequence', $unknown->{pieces})->{problem},
		undef, 'events of the future are passed by');

	is( $engine->replay('sequence', ['00'])->{problem},
		'these bytes are no history',
		'bytes that are no history'
	);
	is($engine->replay('sequence', [])->{misfit}, 'the history has no workflow task', 'no history at all');

	# a field number that is none, written so that protobuf-c takes it once, but
	# not again what it makes of it: in the input, which is to be kept
	my $odd = eval { $engine->replay('sequence', [ event(1, 1, 6, "\x32\x03\x82\x00\x00") ]) };
	is($@, '', 'an input that cannot be copied raises nothing');
	ok(defined $odd->{problem}, 'the history is refused');

	my $pieces = $engine->build("$one done:one now")->{pieces};
	is( $engine->replay('sequence', [ @$pieces[ 0 .. 3 ], @$pieces[ 5 .. 8 ] ])->{problem},
		'event 6 follows event 4',
		'a page is missing'
	);
	is( $engine->replay('sequence', [ [ @$pieces[ 0 .. 3 ] ], [ @$pieces[ 3 .. 8 ] ] ])->{problem},
		'event 4 follows event 4',
		'a page overlaps'
	);
	is( $engine->replay('sequence', [ '', [ @$pieces[ 0 .. 3 ] ], '', [ @$pieces[ 4 .. 8 ] ], '' ])
		  ->{commands}[0]{id},
		'two',
		'empty pages do no harm'
	);
	return;
}

# The reason goes to the log and to the server: what it quotes is a peer's.
sub reasons
{
	my %id = (
		'long' => 'x' x 100_000,
		'of several lines' => "a\nLOG:  b",
		'that drives a terminal' => "\e[2Ja",
		'that reads backwards' => "\x{202e}a",
		'that is no UTF-8' => undef
	);

	foreach my $name (sort keys %id)
	{
		my @pieces = @{ $engine->build('start task schedule:one:First now')->{pieces} };

		# an activity's attributes, in which the id is the first member
		my $activity = defined $id{$name} ? encode_utf8($id{$name}) : "a\xff\xc3";
		$pieces[4] = event(5, 10, 15, "\x0a" . varint(length $activity) . $activity);
		my $replayed = $engine->replay('sequence', \@pieces);

		like($replayed->{misfit}, qr/^step "one" meets event 5/, "it is told of an id $name");
		is($replayed->{misfitIsFit}, $true, 'in words that are fit for the log');
	}
	return;
}

# What is told twice is taken once.
sub repeated
{
	my $one = 'start task schedule:one:First';

	is( $engine->replay('sequence', $engine->build("$one done:one:1 done:one:2 now")->{pieces})
		  ->{commands}[0]{input},
		'1',
		'of two ends of an activity the first counts'
	);
	decides(
		'sequence',
		"$one done:one failed:one:my_code now",
		'schedule two',
		'a failure after the end is none'
	);
	decides('sequence', "$one failed:one:my_code done:one now",
		'fail my_code', 'nor an end after the failure');
	decides('timer', 'start task timer:pause fired:pause fired:pause now',
		'schedule one', 'a timer that fires twice');
	decides(
		'sequence', "start done:one task schedule:one:First now",
		'nothing', 'the end of an activity that has not begun'
	);
	return;
}

# Every command in full.
sub commands
{
	my $sequence = $engine->replay('sequence', $engine->build(qq(start:{"n":[1,"\x{e4}"]} now))->{pieces});

	is_deeply(
		$sequence->{commands},
		[   {   type => 'SCHEDULE_ACTIVITY_TASK',
				id => 'one',
				activityType => 'First',
				queue => 'tenant-acme',
				input => qq({"n":[1,"\x{e4}"]}),
				startToCloseMs => 61500,
				heartbeatMs => 10000,
				retryAfterMs => 1000,
				backoff => 2,
				maxAttempts => 3
			}
		],
		'an activity in full'
	);
	is($sequence->{closed}, $false, 'which is no end');
	is_deeply(
		$engine->replay('bulk', $engine->build('start now')->{pieces})->{commands},
		[   {   type => 'SCHEDULE_ACTIVITY_TASK',
				id => 'long',
				activityType => 'Long',
				queue => 'tenant-acme-bulk',
				input => undef,
				startToCloseMs => 3600000,
				heartbeatMs => 500,
				retryAfterMs => 1000,
				backoff => 2,
				maxAttempts => 0
			}
		],
		'one of the queue of long jobs'
	);
	is_deeply(
		$engine->replay('timer', $engine->build('start now')->{pieces})->{commands},
		[ { type => 'START_TIMER', id => 'pause', afterMs => 1500 } ],
		'a timer in full'
	);

	my $one = 'start task schedule:one:First';
	is( $engine->replay('sequence', $engine->build("$one done:one:[2] now")->{pieces})->{commands}[0]{input},
		'[2]',
		'a result is handed on as it is'
	);
	is_deeply(
		$engine->replay('sequence', $engine->build("$one failed:one:my_code now")->{pieces})->{commands},
		[   {   type => 'FAIL_WORKFLOW_EXECUTION',
				failure => {
					message => 'it failed',
					source => 'opdata',
					type => 'my_code',
					nonRetryable => $true,
					details => '{"code":1}'
				}
			}
		],
		'a failure is handed on with all it says'
	);

	my $late = $engine->replay('sequence', $engine->build("$one slow:one:HEARTBEAT now")->{pieces});
	my $slow =
	  $engine->replay('sequence', $engine->build("$one slow:one:START_TO_CLOSE now")->{pieces});
	is( $late->{commands}[0]{failure}{message},
		'the agent stopped working on it',
		'of a lost agent it is told'
	);
	is($slow->{commands}[0]{failure}{message}, 'the agent did not end it in time', 'of a slow one, too');

	my $noted = $engine->replay(
		'locals',
		$engine->build('start now')->{pieces},
		{ id => 'look', result => { a => [ 1, "\x{1F600}" ] } }
	);
	is_deeply(
		$noted->{commands},
		[   {   type => 'RECORD_MARKER',
				name => 'opdata_step',
				id => 'look',
				result => qq({"a": [1, "\x{1F600}"]}),
				failure => undef
			}
		],
		'the marker of a local step in full'
	);
	is_deeply(
		$noted->{local},
		{ id => 'think', type => 'Think', input => qq({"a": [1, "\x{1F600}"]}) },
		'a local step in full'
	);
	is_deeply(
		$engine->replay('patched v2', $engine->build('start now')->{pieces})->{commands}[0],
		{   type => 'RECORD_MARKER',
			name => 'opdata_patch',
			id => 'p',
			result => undef,
			failure => undef
		},
		'the marker of a patch in full'
	);
	return;
}

# What is remembered of a run beside its steps.
sub facts
{
	my $facts = $engine->replay('sequence', $engine->build('start now')->{pieces})->{history};

	is_deeply(
		$facts,
		{   type => 'some workflow',
			identity => 'somebody',
			input => '{"n":1}',
			state => 'running',
			bySchedule => $false,
			taskTimeoutMs => 7500,
			startedAtMs => 1767312001250,
			lastEventId => 3,
			tasks => 1,
			commands => 0
		},
		'what is known of a run'
	);

	my %state = (
		'task cancel now' => 'cancel_requested',
		'task complete' => 'completed',
		'task fail' => 'failed',
		'task cancel now canceled' => 'canceled',
		'terminated' => 'terminated',
		'timedout' => 'timed_out',
		'task continued' => 'continued_as_new'
	);
	foreach my $words (sort keys %state)
	{
		is($engine->replay('sequence', $engine->build("start $words")->{pieces})->{history}{state},
			$state{$words}, "a run is $state{$words}");
	}

	my %scheduled = (
		'a cron job' => { cronSchedule => '* * * * *' },
		'one of a schedule' => {
			searchAttributes => {
				indexedFields => {
					Other => {},
					TemporalScheduledById => { data => encode_base64('"plan"', '') }
				}
			}
		}
	);
	foreach my $name (sort keys %scheduled)
	{
		my $started = $engine->ask(
			{   op => 'build',
				events => [
					{   eventId => 1,
						eventType => 'EVENT_TYPE_WORKFLOW_EXECUTION_STARTED',
						workflowExecutionStartedEventAttributes => $scheduled{$name}
					}
				]
			}
		);
		is($engine->replay('sequence', $started->{pieces})->{history}{bySchedule},
			$true, "a run that is $name is known as such");
	}
	my $other = $engine->ask(
		{   op => 'build',
			events => [
				{   eventId => 1,
					eventType => 'EVENT_TYPE_WORKFLOW_EXECUTION_STARTED',
					workflowExecutionStartedEventAttributes =>
					  { searchAttributes => { indexedFields => { Other => {} } } }
				}
			]
		}
	);
	is_deeply(
		$engine->replay('sequence', $other->{pieces})->{history},
		{   type => '',
			identity => '',
			input => undef,
			state => 'running',
			bySchedule => $false,
			taskTimeoutMs => 0,
			startedAtMs => 0,
			lastEventId => 1,
			tasks => 0,
			commands => 0
		},
		'one that says nothing of itself is taken, too'
	);
	return;
}

# Long histories.
sub long
{
	my @laps = map { "task schedule:lap-$_:Lap done:lap-$_" } 1 .. 5000;
	my @pieces = @{ $engine->build("start @laps now")->{pieces} };
	my @all = @pieces;
	my @page;
	push @page, [ splice @pieces, 0, 256 ] while @pieces;
	my $start = time();
	my ($whole, $pages) =
	  @{ $engine->replays([ 'marathon', [ \@all ] ], [ 'marathon', \@page ]) };

	is($whole->{history}{lastEventId}, 30003, 'thirty thousand events');
	is($whole->{commands}[0]{id}, 'lap-5001', 'five thousand steps');
	is_deeply($pages->{commands}, $whole->{commands}, 'the same by pages');
	cmp_ok(time() - $start, '<', 120, 'and not slow');

	# id and type of each, and of the signals nothing
	cmp_ok($whole->{allocated}, '<', 8 * 1024 * 1024, 'and not large');
	my $most = $engine->limits->{historyEvents};
	my $signals = join '', map { event($_, 26) } 2 .. $most - 1;
	my $signalled = $engine->replay('sequence', [ event(1, 1, 6, '') . $signals . event($most, 6) ]);
	is($signalled->{commands}[0]{id}, 'one', 'as many signals, of which nothing is kept,');
	cmp_ok($signalled->{allocated}, '<', 64 * 1024, 'take no memory');
	is( $engine->replay('sequence', [ event(1, 1, 6, '') . $signals, event($most, 6), event($most + 1, 26) ])
		  ->{problem},
		'the history is longer than we take',
		'one more is more than we take'
	);
	return;
}

# One event, serialized in hexadecimal: its id, its type, and one attribute.
sub event
{
	my ($id, $type, $number, $attributes) = @_;
	my $event = "\x08" . varint($id) . "\x18" . varint($type);

	$event .= varint($number << 3 | 2) . varint(length $attributes) . $attributes if $number;
	return unpack 'H*', "\x0a" . varint(length $event) . $event;
}

sub varint
{
	my ($n) = @_;
	my $bytes = '';

	for (; $n > 127; $n >>= 7)
	{
		$bytes .= chr($n & 127 | 128);
	}
	return $bytes . chr($n);
}

# What a hostile server can make us keep: fifty pieces, each with a few megabytes
# in one place, or with few bytes that become megabytes. An honest history, of
# which the whole is kept, may take twice its bytes.
sub bounds
{
	my $limit = 2 * $engine->limits->{historyBytes} + 16 * 1024 * 1024;

	$node->safe_psql('postgres', <<~'SQL');
		CREATE FUNCTION big() RETURNS bytea
			LANGUAGE sql IMMUTABLE RETURN convert_to(repeat('0123456789abcdef', 262144), 'UTF8');
		CREATE FUNCTION many() RETURNS bytea
			LANGUAGE sql IMMUTABLE RETURN decode(repeat('0a00', 100000), 'hex');
		SQL

	# the value, as the attributes of which event, in which of its fields
	my $payloads = 'field(1, field(2, big()))';
	my %place = (
		'results of activities' => "12, 17, field(1, $payloads)",
		'results of very many parts' => '12, 17, field(1, many())',
		'failures of activities' => '13, 18, field(1, field(1, big()))',
		'ids of activities' => '10, 15, field(1, big())',
		'types of activities' => '10, 15, field(2, field(1, big()))',
		'ids of timers' => '17, 20, field(1, big())',
		'ids of markers' =>
		  "25, 25, field(1, 'opdata_step') || field(2, field(1, 'id') || field(2, $payloads))",
		'results of markers' =>
		  "25, 25, field(1, 'opdata_step') || field(2, field(1, 'result') || field(2, $payloads))",
		'results of other markers' =>
		  "25, 25, field(1, 'other') || field(2, field(1, 'result') || field(2, $payloads))",
		'identities' => '1, 6, field(15, big())',
		'inputs' => "1, 6, field(6, $payloads)",
		'inputs of very many parts' => '1, 6, field(6, many())',
		'signals' => "26, 26, field(2, $payloads)"
	);

	foreach my $name (sort keys %place)
	{
		# the outcome of an activity is kept if there is one
		my $outcome = $place{$name} =~ /^1[23],/;
		my $sql =
		  $outcome
		  ? "event(2 * n - 1, 10, 15, '') || event(2 * n, $place{$name} || '\\x10' || varint(2 * n - 1))"
		  : "event(n, $place{$name})";
		my $replayed = json($node,
			"SELECT engine_replay('sequence', ARRAY(SELECT $sql FROM generate_series(1, 50) n), NULL)");

		cmp_ok($replayed->{allocated}, '<', $limit, "$name are bounded");
	}
	return;
}
