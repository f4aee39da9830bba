/*-------------------------------------------------------------------------
 *
 * task.c
 *	  One task of the control plane: from its input to its recorded result.
 *
 *		begin (transaction) -> job on the loop -> record (transaction)
 *
 * Between the two transactions nothing is locked. The second one therefore
 * claims the job's row again, and finds out if another attempt was faster.
 *
 * Nor does any of them wait long for somebody else's lock, while which the other
 * tasks of the process stand still: it is rolled back and tried again later.
 *
 * src/task/task.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/guarded.h"
#include "base/limits.h"
#include "secret/envelope.h"
#include "task/ending.h"
#include "task/tasktype.h"

/* Pauses after a transaction that met a lock. */
#define PAUSE_MS			20
#define PAUSE_MAX_MS		500

/*
 * Who tries again may wait a little for the lock, which is mostly that of another
 * worker until its commit is durable: all tasks of the process together for a share of
 * the time, and each not for long.
 */
#define WAIT_SHARE			0.2
#define WAIT_MAX_MS			100

bool
opd_task_is_known(const char *type)
{
	return opd_tasktype_find(type) != NULL;
}

OpdTask *
opd_task_start(OpdLoop *loop, const OpdTaskSpec *spec)
{
	Task	   *task = palloc0(sizeof(Task));

	task->context = CurrentMemoryContext;
	task->type = opd_tasktype_find(spec->type);
	task->spec = *spec;
	task->loop = loop;
	task->record = opd_jobs_begin(task->type->kind, NULL, NULL);
	task->patience_ms = task->type->patience_ms;
	task->public.phase = "starting";
	return &task->public;
}

/* In a transaction: is the task for us, and what does it work on? */
static void
begin(void *arg)
{
	Task	   *task = arg;
	char	   *org_id;

	/* those of a try before are gone */
	task->record.connection_id = NULL;
	task->record.workspace_id = NULL;
	org_id = opd_tasktype_input(task, "orgId", 0);
	if (org_id == NULL || strcmp(org_id, task->spec.org_id) != 0)
		opd_error_throw(opd_error_hint(opd_error_new(OPD_TENANT_MISMATCH, "the job is not for the organisation of this agent"),
									   "Compare orgId of the input with the agent's setting opdata.org_id."));
	task->type->begin(task);
}

static void
record(void *arg)
{
	Task	   *task = arg;

	if (task->claimed || opd_tasktype_claim(task))
		task->type->record(task);
}

/*
 * The row of a job without an effect is written when the connection to the
 * source is under way, so that neither waits for the other.
 */
static void
claim_late(void *arg)
{
	(void) opd_tasktype_claim(arg);
}

/* May that it failed depend on rows of the source? */
static bool
failure_tells(const Task *task, OpdEgress *egress)
{
	return task->type->failure_tells != NULL && task->type->failure_tells(task, egress);
}

/* In a transaction: the failure of such a task, of which another one may come. */
static void
record_failure(void *arg)
{
	Task	   *task = arg;
	OpdJobRecord record = task->record;
	OpdError   *answer;

	if (!task->claimed && !opd_tasktype_claim(task))
		return;
	answer = task->type->record_failure(task);
	record.error_code = opd_error_name(answer->code);
	opd_jobs_finish(&task->spec.key, &record, NULL);
	task->public.error = answer;
	task->public.done = true;
}

/* The end of the task, whether or not somebody hears of it. */
static void
record_end(Task *task)
{
	OpdEgress	egress;

	opd_ending_record(&task->spec.key, &task->record, task->claimed,
					  failure_tells(task, &egress) ? &egress : NULL);
}

/*
 * The task has failed: write it down, or see to it that it is before anybody hears
 * of it. The error may hold what the source said; nobody sends that on.
 */
static void
fail(Task *task, OpdError *error)
{
	OpdEgress	egress;
	bool		answer = task->failure != NULL || !failure_tells(task, &egress);

	task->failure = error;
	task->record.n_rows = -1;
	task->record.n_bytes = -1;
	task->record.error_code = opd_error_name(error->code);
	if (!answer)
		return;
	task->public.result = NULL;
	task->public.error = error;
	task->public.done = true;
	record_end(task);
}

/*
 * A transaction of the task was rolled back, with the claim if it was made in it.
 * What we raised ourselves is the answer; anything else goes to the log, and its words stay here.
 */
static void
fail_by_exception(Task *task, const ErrorData *exception)
{
	OpdError   *error = opd_error_of_exception(exception);

	if (error->code == OPD_INTERNAL)
		ereport(LOG,
				(errmsg("opdata job %s failed: %s", task->type->name, exception->message),
				 errdetail_internal("SQLSTATE %s", error->sqlstate)));
	fail(task, error);
}

static void
wipe_payload(Task *task)
{
	if (task->change.payload != NULL)
		opd_envelope_wipe(unconstify(char *, task->change.payload));
	task->change.payload = NULL;
}

static ErrorData *
try_again(Task *task, void (*function) (void *arg), bool wait_for_disk)
{
	static double may_wait_ms;
	static double since_ms;
	double		now = opd_now_ms();
	ErrorData  *exception;

	may_wait_ms = Min(WAIT_MAX_MS, may_wait_ms + (now - since_ms) * WAIT_SHARE);
	since_ms = now;
	if (may_wait_ms > OPD_LOCK_TIMEOUT_MS)
		SetConfigOption("lock_timeout", psprintf("%d", (int) may_wait_ms), PGC_USERSET, PGC_S_OVERRIDE);
	exception = opd_guarded_transaction(function, task, wait_for_disk);
	SetConfigOption("lock_timeout", CppAsString2(OPD_LOCK_TIMEOUT_MS), PGC_USERSET, PGC_S_OVERRIDE);
	may_wait_ms = Max(0, may_wait_ms - (opd_now_ms() - now));
	return exception;
}

/*
 * A transaction of the task, in memory of its own. False when it is to be tried
 * again, since it has met a lock. Whatever else it raises is the end of the task.
 */
static bool
run_transaction(Task *task, void (*function) (void *arg), bool wait_for_disk)
{
	bool		claimed = task->claimed;	/* what a rollback leaves of it */
	bool		again = task->pause_ms > 0;
	MemoryContext context;
	MemoryContext old;
	ErrorData  *exception;

	if (again && opd_now_ms() < task->public.again_ms)
		return false;
	if (task->failed_try != NULL)
		MemoryContextDelete(task->failed_try);
	task->failed_try = NULL;
	context = AllocSetContextCreate(task->context, "opdata transaction", ALLOCSET_DEFAULT_SIZES);
	task->last_try = again && opd_now_ms() >= task->until_ms;
	old = MemoryContextSwitchTo(context);
	exception = again ? try_again(task, function, wait_for_disk) : opd_guarded_transaction(function, task, wait_for_disk);
	MemoryContextSwitchTo(old);
	if (exception == NULL)
	{
		if (again)
			task->patience_ms = Max(0, task->until_ms - opd_now_ms());
		task->pause_ms = 0;
		return true;
	}

	task->claimed = claimed;
	task->public.result = NULL;
	task->public.done = false;
	if (task->last_try || !opd_guarded_met_lock(exception))
	{
		if (again)
			task->patience_ms = Max(0, task->until_ms - opd_now_ms());
		task->pause_ms = 0;
		fail_by_exception(task, exception);
		return true;
	}
	task->failed_try = context;
	if (!task->job_started)
		wipe_payload(task);
	if (!again)
		task->until_ms = opd_now_ms() + task->patience_ms;
	task->pause_ms = again ? Min(task->pause_ms * 1.5, PAUSE_MAX_MS) : PAUSE_MS;
	task->public.again_ms = Min(opd_now_ms() + task->pause_ms, task->until_ms);
	return false;
}

static void
advance(Task *task)
{
	OpdError   *error;

	if (!task->job_started)
	{
		task->begun = true;
		if (!run_transaction(task, begin, task->type->durable && task->type->record == NULL) ||
			task->public.done)
			return;
		task->job_started = true;
		task->type->start_job(task);
	}
	else if (!task->claimed)
		(void) run_transaction(task, claim_late, false);
	if (task->public.done || !task->type->job_done(task, &error))
		return;
	task->public.phase = "recording";
	if (task->failure == NULL && error != NULL)
		fail(task, error);
	else if (task->failure == NULL)
		(void) run_transaction(task, record, task->type->durable);
	if (task->failure != NULL && !task->public.done)
		(void) run_transaction(task, record_failure, task->type->durable);
}

bool
opd_task_advance(OpdTask *public)
{
	Task	   *task = (Task *) public;
	MemoryContext caller;

	if (task->public.done)
		return true;
	caller = MemoryContextSwitchTo(task->context);
	advance(task);
	if (task->pause_ms == 0)
		task->public.again_ms = INFINITY;
	if (task->public.done)
		wipe_payload(task);
	MemoryContextSwitchTo(caller);
	return task->public.done;
}

static void
note_end(OpdTask *public, bool canceled)
{
	Task	   *task = (Task *) public;

	if (!task->begun || task->public.done)
		return;
	/* without what a transaction that met a lock has set */
	task->record.n_rows = -1;
	task->record.n_bytes = -1;
	task->record.canceled = canceled;
	task->record.error_code = canceled ? NULL : opd_error_name(OPD_INTERNAL);
	record_end(task);
}

void
opd_task_note_cancel(OpdTask *task)
{
	note_end(task, true);
}

void
opd_task_note_failure(OpdTask *task)
{
	note_end(task, false);
}
