/*-------------------------------------------------------------------------
 *
 * ending.c
 *	  The record of a task that has ended without a result.
 *
 * Nobody waits for it: where a lock is in the way it is kept here, and written
 * later, when the task itself is long gone.
 *
 * src/task/ending.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "base/guarded.h"
#include "task/ending.h"
#include "wire/loop.h"

#define PAUSE_MS			500
#define UNRECORDED_MAX		200 /* ends of one process that wait to be recorded */

typedef struct Ending
{
	dlist_node	node;			/* in "unrecorded" */
	MemoryContext context;		/* holds it there */
	OpdJobKey	key;
	OpdJobRecord record;
	bool		claimed;
	bool		tells;			/* its row for the log of what left: */
	OpdEgress	egress;
} Ending;

/* Several in one transaction. */
typedef struct Many
{
	double		until_ms;
	int			n;				/* written */
} Many;

static dlist_head unrecorded = DLIST_STATIC_INIT(unrecorded);
static int	n_unrecorded;
static double catch_up_at_ms;

static void
record_ending(void *arg)
{
	Ending	   *ending = arg;

	if (ending->tells)
	{
		opd_egress_hold();
		(void) opd_egress_append(&ending->egress);
	}
	/* one that was claimed meanwhile by another worker is left to that */
	if (ending->claimed || opd_jobs_claim(&ending->key, &ending->record) == NULL)
		opd_jobs_finish(&ending->key, &ending->record, NULL);
}

/* False: somebody's lock is in the way. */
static bool
write_ending(Ending *ending)
{
	ErrorData  *exception = opd_guarded_transaction(record_ending, ending, ending->tells);

	if (exception == NULL)
		return true;
	if (opd_guarded_met_lock(exception))
		return false;
	ereport(LOG,
			(errmsg("opdata could not record the end of a job: %s", exception->message)));
	return true;
}

static void
copy_text(const char **text)
{
	if (*text != NULL)
		*text = pstrdup(*text);
}

/* Keep an end that cannot be written down now; it outlives its task. */
static void
keep_ending(const Ending *ending)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "opdata ended task", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Ending	   *copy = palloc(sizeof(Ending));

	*copy = *ending;
	copy->context = context;
	copy_text(&copy->key.workflow_id);
	copy_text(&copy->key.run_id);
	copy_text(&copy->key.activity_id);
	copy_text(&copy->record.connection_id);
	copy_text(&copy->record.workspace_id);
	if (copy->tells)
	{
		copy_text(&copy->egress.workspace_id);
		copy_text(&copy->egress.connection_id);
		copy_text(&copy->egress.host);
		copy_text(&copy->egress.requested_by);
		copy_text(&copy->egress.query);
		copy->egress.workflow_id = copy->key.workflow_id;
		copy->egress.run_id = copy->key.run_id;
		copy->egress.activity_id = copy->key.activity_id;
	}
	copy->record.late = true;
	dlist_push_tail(&unrecorded, &copy->node);
	n_unrecorded++;
	catch_up_at_ms = opd_now_ms() + PAUSE_MS;
	MemoryContextSwitchTo(old);
}

void
opd_ending_record(const OpdJobKey *key, const OpdJobRecord *record, bool claimed, const OpdEgress *egress)
{
	Ending		ending = {.key = *key, .record = *record, .claimed = claimed, .tells = egress != NULL};

	if (egress != NULL)
	{
		ending.egress = *egress;
		ending.egress.told = true;
	}
	if (write_ending(&ending))
		return;
	if (n_unrecorded < UNRECORDED_MAX)
		keep_ending(&ending);
	else
		ereport(LOG,
				(errmsg("opdata could not record the end of a job: too many wait for a lock")));
}

static void
forget_first(void)
{
	Ending	   *ending = dlist_container(Ending, node, dlist_pop_head_node(&unrecorded));

	n_unrecorded--;
	MemoryContextDelete(ending->context);
}

/* False: a lock is still in the way of the first. */
static bool
write_first(void)
{
	if (!write_ending(dlist_container(Ending, node, dlist_head_node(&unrecorded))))
		return false;
	forget_first();
	return true;
}

double
opd_ending_catch_up(void)
{
	if (n_unrecorded == 0)
		return INFINITY;
	if (opd_now_ms() < catch_up_at_ms)
		return catch_up_at_ms;
	if (!write_first())
	{
		catch_up_at_ms = opd_now_ms() + PAUSE_MS;
		return catch_up_at_ms;
	}
	/* the others of the process come in between: each may wait for the disk */
	return n_unrecorded == 0 ? INFINITY : 0;
}

static void
record_many(void *arg)
{
	Many	   *many = arg;
	dlist_iter	iter;

	dlist_foreach(iter, &unrecorded)
	{
		if (opd_now_ms() >= many->until_ms)
			break;
		record_ending(dlist_container(Ending, node, iter.cur));
		many->n++;
	}
}

void
opd_ending_give_up(double until_ms)
{
	Many		many = {.until_ms = until_ms};

	if (n_unrecorded == 0)
		return;
	/* the disk is waited for once; where one of them meets a lock, for each */
	if (opd_guarded_transaction(record_many, &many, true) == NULL)
	{
		for (int i = 0; i < many.n; i++)
			forget_first();
	}
	else
	{
		while (n_unrecorded > 0 && opd_now_ms() < until_ms && write_first())
			;
	}
	if (n_unrecorded > 0)
		ereport(LOG,
				(errmsg("opdata could not record the ends of %d jobs before its worker ended", n_unrecorded)));
}
