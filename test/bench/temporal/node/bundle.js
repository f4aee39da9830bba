// Bundles the workflow once, so that a worker need not at its start.
//
//     node bundle.js OUTPUT
'use strict';

const { writeFileSync } = require('node:fs');
const { bundleWorkflowCode, DefaultLogger } = require('@temporalio/worker');

async function main() {
	const logger = new DefaultLogger('WARN');
	const { code } = await bundleWorkflowCode({ workflowsPath: require.resolve('./workflows'), logger });
	writeFileSync(process.argv[2], code);
}

main().catch((error) => {
	console.error(error);
	process.exit(1);
});
