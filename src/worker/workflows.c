/*-------------------------------------------------------------------------
 *
 * workflows.c
 *	  The workflows, as lists of steps.
 *
 * Each must replay over every history that an earlier version wrote: a change
 * of its steps goes behind opd_workflow_patched(). Recorded histories are
 * replayed in the tests.
 *
 * src/worker/workflows.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/limits.h"
#include "worker/agent.h"

/*
 * One activity, whose result is the workflow's. It has an effect, so that the
 * server keeps its state and retries it.
 */
static void
run_activity(OpdWorkflow *workflow, const char *type)
{
	const OpdActivityOptions options = {
		.id = type,
		.type = type,
		.max_attempts = 3,
		.start_to_close_ms = OPD_ACTIVITY_TIMEOUT_MS,
		.heartbeat_ms = 10000
	};
	Tp__Payloads *result;

	if (opd_workflow_activity(workflow, &options, opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

/*
 * One step inside the workflow task: without an effect and short, so that one
 * poll and one answer do.
 */
static void
run_local(OpdWorkflow *workflow, const char *type)
{
	Tp__Payloads *result;

	if (opd_workflow_local(workflow, type, type, opd_workflow_input(workflow), &result))
		opd_workflow_complete(workflow, result);
}

static void
store_creds_workflow(OpdWorkflow *workflow)
{
	run_activity(workflow, "storeCreds");
}

static void
test_credentials_workflow(OpdWorkflow *workflow)
{
	run_local(workflow, "testCredentials");
}

static void
preview_query_workflow(OpdWorkflow *workflow)
{
	run_local(workflow, "previewQuery");
}

static void
delete_connection_workflow(OpdWorkflow *workflow)
{
	run_activity(workflow, "deleteConnection");
}

OpdWorkflowFunction
opd_workflows_find(const char *type)
{
	static const struct
	{
		const char *type;
		OpdWorkflowFunction function;
	}			workflows[] = {
		{"storeCredsWorkflow", store_creds_workflow},
		{"testCredentialsWorkflow", test_credentials_workflow},
		{"previewQueryWorkflow", preview_query_workflow},
		{"deleteConnectionWorkflow", delete_connection_workflow},
	};

	for (int i = 0; i < (int) lengthof(workflows); i++)
	{
		if (strcmp(workflows[i].type, type) == 0)
			return workflows[i].function;
	}
	return NULL;
}
