/*-------------------------------------------------------------------------
 *
 * work.c
 *	  The work of a workflow's local step or of an activity.
 *
 * src/worker/work.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "utils/memutils.h"

#include "base/limits.h"
#include "base/text.h"
#include "temporal/payload.h"
#include "worker/work.h"

struct OpdWork
{
	MemoryContext context;		/* holds all of it */
	const char *type;			/* of the task */
	OpdTask    *task;			/* NULL: the input could not be read */
	OpdError   *input_error;
};

/* An id that a peer chose, fit to be stored. */
static char *
clean_id(const char *id)
{
	return opd_text_clean(id, strlen(id), OPD_TEMPORAL_ID_MAX_CHARS, NULL);
}

/*
 * Keys as this process found them at its start, since it asked the command that was
 * set then; but what stands for the file may be a link, which leads elsewhere by now.
 */
static OpdKeySource
keys_of(OpdAgent *agent)
{
	OpdKeySource now = opd_conf_keys();

	return agent->keys.command[0] == '\0' && now.command[0] == '\0' ? now : agent->keys;
}

OpdWork *
opd_work_start(OpdAgent *agent, MemoryContext parent, const OpdWorkOrder *order)
{
	MemoryContext context = AllocSetContextCreate(parent, "opdata work", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	OpdWork    *work = palloc0(sizeof(OpdWork));
	OpdTaskSpec *spec = palloc0(sizeof(OpdTaskSpec));

	work->context = context;
	spec->type = work->type = pstrdup(order->type);
	spec->input = opd_payload_to_json(order->input, &work->input_error);
	spec->key.workflow_id = clean_id(order->workflow_id);
	spec->key.run_id = clean_id(order->run_id);
	spec->key.activity_id = clean_id(order->activity_id);
	spec->key.attempt = Max(1, order->attempt);
	spec->key.worker = agent->name;
	spec->by_schedule = order->by_schedule;
	spec->requested_by = order->requested_by != NULL ? clean_id(order->requested_by) : NULL;
	spec->require_sealed = opd_conf_require_sealed();
	spec->require_sealed_preview = opd_conf_require_sealed_preview;
	spec->org_id = agent->conf->org_id;
	spec->keys = keys_of(agent);
	spec->tell = agent->conf->convex_url[0] != '\0';
	spec->policy = opd_conf_host_policy();
	spec->policy.allowed_hosts = pstrdup(spec->policy.allowed_hosts);	/* outlives a reload */
	if (work->input_error == NULL)
		work->task = opd_task_start(agent->loop, spec);
	MemoryContextSwitchTo(old);
	return work;
}

static OpdWorkEnd
failed(const OpdError *error)
{
	OpdWorkEnd	end = {NULL, opd_failure_of_error(error, opd_error_is_permanent(error))};

	return end;
}

bool
opd_work_advance(OpdWork *work, OpdWorkEnd *end)
{
	if (work->task != NULL && !opd_task_advance(work->task))
		return false;

	if (work->task == NULL)
		*end = failed(work->input_error);
	else if (work->task->error != NULL)
		*end = failed(work->task->error);
	else
	{
		end->failure = NULL;
		end->result = opd_payload_of_json(psprintf("%s result", work->type), work->task->result);
		if (opd_payload_size(end->result) > OPD_RESULT_MAX_BYTES)
		{
			end->failure = opd_failure_of_error(opd_error_new(OPD_INTERNAL, "the result is larger than Temporal takes"),
												true);
			end->result = NULL;
		}
	}
	MemoryContextDelete(work->context);
	return true;
}

double
opd_work_again_ms(const OpdWork *work)
{
	return work->task != NULL ? work->task->again_ms : 0;
}

const char *
opd_work_phase(const OpdWork *work)
{
	return work->task != NULL ? work->task->phase : "starting";
}

void
opd_work_cancel(OpdWork *work)
{
	if (work->task != NULL)
		opd_task_note_cancel(work->task);
	MemoryContextDelete(work->context);
}

bool
opd_work_owns(const OpdWork *work, MemoryContext context)
{
	return opd_agent_context_in(context, work->context);
}

void
opd_work_break(OpdWork *work, OpdWorkEnd *end)
{
	if (work->task != NULL)
		opd_task_note_failure(work->task);
	*end = failed(opd_error_hint(opd_error_new(OPD_INTERNAL, "the agent met an error"),
								 "Look into the log of the agent's server."));
	MemoryContextDelete(work->context);
}
