// The rival's workflow. On a task queue whose name ends with "-local" the
// preview is a local activity (within the workflow task, as opdata does it),
// on any other an activity, as most programs are written.
'use strict';

const { proxyActivities, proxyLocalActivities, workflowInfo } = require('@temporalio/workflow');

const options = { startToCloseTimeout: '15 seconds', retry: { maximumAttempts: 1 } };
const activities = proxyActivities(options);
const localActivities = proxyLocalActivities(options);

exports.previewQueryWorkflow = async function previewQueryWorkflow(input) {
	const local = workflowInfo().taskQueue.endsWith('-local');
	return (local ? localActivities : activities).previewQuery(input);
};
