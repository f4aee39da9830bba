// The rival: a worker of Temporal's own SDK, with its default settings.
//
//     node worker.js ADDRESS TASK-QUEUE BUNDLE SOURCES
//
// SOURCES is a JSON object: connection id -> settings of pg's Client. It ends
// upon SIGTERM.
'use strict';

const { DefaultLogger, NativeConnection, Runtime, Worker } = require('@temporalio/worker');
const { createActivities } = require('./activities');

async function main() {
	const [address, taskQueue, codePath, sources] = process.argv.slice(2);
	Runtime.install({ logger: new DefaultLogger('WARN') });
	const connection = await NativeConnection.connect({ address });
	try {
		const worker = await Worker.create({
			connection,
			taskQueue,
			workflowBundle: { codePath },
			activities: createActivities(JSON.parse(sources)),
		});
		await worker.run();
	} finally {
		await connection.close();
	}
}

main().catch((error) => {
	console.error(error);
	process.exit(1);
});
