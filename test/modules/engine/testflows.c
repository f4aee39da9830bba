/*-------------------------------------------------------------------------
 *
 * testflows.c
 *	  Workflows that only the tests of the engine know.
 *
 * test/modules/engine/testflows.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "temporal/payload.h"
#include "testflows.h"

static bool
activity(OpdWorkflow *workflow, const char *id, const char *type, Tp__Payloads *input, Tp__Payloads **result)
{
	const OpdActivityOptions options = {
		.id = id,
		.type = type,
		.max_attempts = 3,
		.start_to_close_ms = 61500,
		.heartbeat_ms = 10000
	};

	return opd_workflow_activity(workflow, &options, input, result);
}

static Tp__Payloads *
json_payload(const char *json)
{
	return opd_payload_of_text(json, strlen(json));
}

/* Two activities, the second with the result of the first. */
static void
sequence(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!activity(workflow, "one", "First", opd_workflow_input(workflow), &result))
		return;
	if (!activity(workflow, "two", "Second", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* The same the other way round. */
static void
reordered(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!activity(workflow, "two", "Second", opd_workflow_input(workflow), &result))
		return;
	if (!activity(workflow, "one", "First", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* As "sequence" began, and nothing more. */
static void
shortened(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!activity(workflow, "one", "First", opd_workflow_input(workflow), &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* "sequence" with a step in between. */
static void
lengthened(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!activity(workflow, "one", "First", opd_workflow_input(workflow), &result))
		return;
	if (!opd_workflow_timer(workflow, "pause", 1000))
		return;
	if (!activity(workflow, "two", "Second", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* An activity on the queue of long jobs, without a limit of attempts or an input. */
static void
bulk(OpdWorkflow *workflow)
{
	const OpdActivityOptions options = {
		.id = "long",
		.type = "Long",
		.bulk = true,
		.start_to_close_ms = 3600000,
		.heartbeat_ms = 500
	};

	if (opd_workflow_activity(workflow, &options, NULL, NULL))
		opd_workflow_complete(workflow, NULL);
}

static void
timer(OpdWorkflow *workflow)
{
	if (!opd_workflow_timer(workflow, "pause", 1500))
		return;
	if (!activity(workflow, "one", "First", opd_workflow_input(workflow), NULL))
		return;
	opd_workflow_complete(workflow, NULL);
}

/* The first version, and the second, which replaces its step. */
static void
patched_v1(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (activity(workflow, "old", "Old", opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

static void
patched_v2(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!opd_workflow_patched(workflow, "p"))
	{
		patched_v1(workflow);
		return;
	}
	if (activity(workflow, "new", "New", opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

/* "sequence" with another second step. */
static void
patched_middle(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!activity(workflow, "one", "First", opd_workflow_input(workflow), &result))
		return;
	if (opd_workflow_patched(workflow, "p"))
	{
		if (!activity(workflow, "new", "New", result, &result))
			return;
	}
	else if (!activity(workflow, "two", "Second", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* "sequence" with a step more at its end, and one more at that one's. */
static void
patched_twice(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!activity(workflow, "one", "First", opd_workflow_input(workflow), &result))
		return;
	if (opd_workflow_patched(workflow, "p") &&
		!opd_workflow_local(workflow, "extra", "Extra", result, &result))
		return;
	if (opd_workflow_patched(workflow, "q") &&
		!activity(workflow, "new", "New", result, &result))
		return;
	if (!activity(workflow, "two", "Second", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* Two local steps, then an activity. */
static void
locals(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!opd_workflow_local(workflow, "look", "Look", opd_workflow_input(workflow), &result))
		return;
	if (!opd_workflow_local(workflow, "think", "Think", result, &result))
		return;
	if (!activity(workflow, "act", "Act", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* Two local steps, and a patch before the second. */
static void
locals_patched(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!opd_workflow_local(workflow, "look", "Look", opd_workflow_input(workflow), &result))
		return;
	if (opd_workflow_patched(workflow, "p") &&
		!opd_workflow_local(workflow, "think", "Think", result, &result))
		return;
	if (!activity(workflow, "act", "Act", result, &result))
		return;
	opd_workflow_complete(workflow, result);
}

/* It looks after each step whether it is to stop, and tells where it did. */
static void
checks(OpdWorkflow *workflow)
{
	if (opd_workflow_cancelled(workflow))
	{
		opd_workflow_complete(workflow, json_payload("\"at the start\""));
		return;
	}
	if (!activity(workflow, "one", "First", NULL, NULL))
		return;
	if (opd_workflow_cancelled(workflow))
	{
		opd_workflow_complete(workflow, json_payload("\"after the activity\""));
		return;
	}
	if (!opd_workflow_timer(workflow, "pause", 1000))
		return;
	if (opd_workflow_cancelled(workflow))
	{
		opd_workflow_complete(workflow, json_payload("\"after the timer\""));
		return;
	}
	if (!opd_workflow_local(workflow, "look", "Look", NULL, NULL))
		return;
	if (opd_workflow_cancelled(workflow))
	{
		opd_workflow_complete(workflow, json_payload("\"after the local step\""));
		return;
	}
	if (!activity(workflow, "two", "Second", NULL, NULL))
		return;
	opd_workflow_complete(workflow, json_payload("\"at the end\""));
}

/* It returns without an end after its first step. */
static void
endless(OpdWorkflow *workflow)
{
	(void) activity(workflow, "one", "First", NULL, NULL);
}

/* It ends at once. */
static void
hasty(OpdWorkflow *workflow)
{
	opd_workflow_complete(workflow, opd_workflow_input(workflow));
}

/* It goes on after its end, which changes nothing. */
static void
restless(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	(void) activity(workflow, "one", "First", NULL, &result);
	(void) activity(workflow, "two", "Second", NULL, &result);
	(void) opd_workflow_timer(workflow, "pause", 1000);
	(void) opd_workflow_local(workflow, "look", "Look", NULL, &result);
	(void) opd_workflow_patched(workflow, "p");
	opd_workflow_complete(workflow, NULL);
}

/* Very many activities, one after the other. */
static void
marathon(OpdWorkflow *workflow)
{
	for (int i = 1; i <= 100000; i++)
	{
		if (!activity(workflow, psprintf("lap-%d", i), "Lap", NULL, NULL))
			return;
	}
	opd_workflow_complete(workflow, NULL);
}

/*
 * What somebody could make of the library's workflows without thinking of those
 * under way: another name, another step in front.
 */
static void
store_renamed(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (activity(workflow, "storeCreds", "storeCredentials", opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

static void
store_after_test(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (!opd_workflow_local(workflow, "testCredentials", "testCredentials", opd_workflow_input(workflow), &result))
		return;
	if (activity(workflow, "storeCreds", "storeCreds", opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

static void
store_local(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (opd_workflow_local(workflow, "storeCreds", "storeCreds", opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

static void
preview_remote(OpdWorkflow *workflow)
{
	Tp__Payloads *result;

	if (activity(workflow, "previewQuery", "previewQuery", opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

static const struct
{
	const char *name;
	OpdWorkflowFunction function;
}			workflows[] = {
	{"sequence", sequence},
	{"reordered", reordered},
	{"shortened", shortened},
	{"lengthened", lengthened},
	{"bulk", bulk},
	{"timer", timer},
	{"patched v1", patched_v1},
	{"patched v2", patched_v2},
	{"patched middle", patched_middle},
	{"patched twice", patched_twice},
	{"locals", locals},
	{"locals patched", locals_patched},
	{"checks", checks},
	{"endless", endless},
	{"hasty", hasty},
	{"restless", restless},
	{"marathon", marathon},
	{"store renamed", store_renamed},
	{"store after test", store_after_test},
	{"store local", store_local},
	{"preview remote", preview_remote},
};

OpdWorkflowFunction
testflows_find(const char *name)
{
	for (int i = 0; i < (int) lengthof(workflows); i++)
	{
		if (strcmp(workflows[i].name, name) == 0)
			return workflows[i].function;
	}
	return NULL;
}

OpdWorkflowFunction
testflows_each(int i)
{
	return i < (int) lengthof(workflows) ? workflows[i].function : NULL;
}
