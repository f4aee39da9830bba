// Convex's own client, to be told what to call.
//
//     node convex_oracle.mjs URL
//
// Each line of the input is a JSON list of calls to make at once, each
// {kind, path, args, token}; kind is "query" or "mutation", and without a token
// there is no header. For each line there is one of output: the list of what the
// calls gave, {value} or {error}, with {data} if the function sent some. To see
// that, the client is asked for nothing but what its documentation promises.

import { createInterface } from 'node:readline';

import { load } from './load.mjs';

const { ConvexHttpClient } = await load('convex/browser');
const { makeFunctionReference } = await load('convex/server');

async function perform({ kind, path, args, token }) {
	const client = new ConvexHttpClient(process.argv[2],
		{ skipConvexDeploymentUrlCheck: true, logger: false });

	if (token !== undefined)
		client.setAuth(token);
	try {
		return { value: await client[kind](makeFunctionReference(path), args) };
	} catch (error) {
		return { error: String(error.message), data: error.data };
	}
}

for await (const line of createInterface({ input: process.stdin }))
	console.log(JSON.stringify(await Promise.all(JSON.parse(line).map(perform))));
