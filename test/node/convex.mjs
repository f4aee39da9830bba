// A stand-in for a Convex deployment: its HTTP API over Convex's own mock of
// its engine.
//
//     node convex.mjs --port P --control-port P --issuer URL --jwks URL --audience A
//                     [--cert FILE --key FILE]
//
// The database, the validators and the way functions run are convex-test's. The
// API is written from docs.convex.dev/http-api and the source of the server
// (get-convex/convex-backend: crates/local_backend/src/public_api.rs,
// crates/authentication/src/lib.rs), and convex_oracle.mjs drives it with the
// official client. It is not the real server: no limits, no conflicts between
// mutations, no /api/run, no actions.
//
// With a certificate the API is HTTPS, HTTP/1.1 and HTTP/2.
//
// The control port, which no client of the API knows:
//
//     /ctl/calls                     what came: [{time, endpoint, path, args,
//                                    authorization, headers, subject, status}];
//                                    headers are their names, status is null
//                                    while there is no answer
//     /ctl/documents                 {connections, statuses, heartbeats, models}
//     /ctl/model                     POST {orgId, modelId, model} for models:get
//     /ctl/fail?status=S&count=N     answer S and {code, message}; with html=1 a
//                                    page, as a gateway has it; retry_after=T
//     /ctl/fail560?count=N           the function throws
//     /ctl/failed-status?status=S    of functions that fail, 560 at first. The
//                                    official client knows 560, the server's
//                                    source has 200: be ready for both
//     /ctl/hang?count=N              never answer, and do nothing
//     /ctl/lose?count=N              do it, then cut the connection
//     /ctl/clear                     end all of these, and what hangs
//
// count is 1 if it is not given. With path=P it counts the calls of that function
// alone, and no other is struck.

import crypto from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import { parseArgs } from 'node:util';

import { load } from './load.mjs';

const { convexTest } = await load('convex-test');
const { defineSchema, defineTable, makeFunctionReference, mutationGeneric, queryGeneric } =
	await load('convex/server');
const { ConvexError, convexToJson, jsonToConvex, v } = await load('convex/values');

const { values: options } = parseArgs({
	options: Object.fromEntries(
		['port', 'control-port', 'issuer', 'jwks', 'audience', 'cert', 'key'].map(
			(name) => [name, { type: 'string' }])),
});

// ----- The deployment: its schema and its functions

const setStatusArgs = {
	orgId: v.string(),
	agentId: v.string(),
	workspaceId: v.string(),
	connectionId: v.string(),
	type: v.optional(v.string()),
	status: v.union(v.literal('connected'), v.literal('pending'), v.literal('error'),
		v.literal('deleted')),
	errorCode: v.union(v.string(), v.null()),
	lastTestedAt: v.union(v.number(), v.null()),
	safeMetadata: v.any(),
	idempotencyKey: v.string(),
};
const heartbeatArgs = {
	orgId: v.string(),
	agentId: v.string(),
	version: v.string(),
	healthy: v.boolean(),
	reasons: v.array(v.string()),
	sentAt: v.number(),
	egress: v.optional(v.object({ rows: v.number(), head: v.union(v.string(), v.null()) })),
	idempotencyKey: v.string(),
};

// "statuses" and "heartbeats" have what was accepted, in order, "connections"
// what holds now.
const schema = defineSchema({
	statuses: defineTable(setStatusArgs).index('by_key', ['idempotencyKey']),
	connections: defineTable(setStatusArgs).index('by_connection', ['orgId', 'connectionId']),
	heartbeats: defineTable(heartbeatArgs).index('by_key', ['idempotencyKey']),
	models: defineTable({ orgId: v.string(), modelId: v.string(), model: v.any() })
		.index('by_model', ['orgId', 'modelId']),
});

// A deployment accepts every caller; to ask who it is, is the functions' duty.
async function requireOrg(ctx, orgId) {
	const identity = await ctx.auth.getUserIdentity();

	if (identity === null)
		throw new ConvexError({ code: 'unauthenticated' });
	if (identity.org_id !== orgId)
		throw new ConvexError({ code: 'forbidden' });
}

async function isRepeated(ctx, table, key) {
	return null !== await ctx.db.query(table)
		.withIndex('by_key', (q) => q.eq('idempotencyKey', key)).unique();
}

const setStatus = mutationGeneric({
	args: setStatusArgs,
	handler: async (ctx, args) => {
		await requireOrg(ctx, args.orgId);
		if (await isRepeated(ctx, 'statuses', args.idempotencyKey))
			return { applied: false };
		await ctx.db.insert('statuses', args);
		const known = await ctx.db.query('connections').withIndex('by_connection',
			(q) => q.eq('orgId', args.orgId).eq('connectionId', args.connectionId)).unique();
		if (known)
			await ctx.db.replace(known._id, args);
		else
			await ctx.db.insert('connections', args);
		return { applied: true };
	},
});

const heartbeat = mutationGeneric({
	args: heartbeatArgs,
	handler: async (ctx, args) => {
		await requireOrg(ctx, args.orgId);
		if (await isRepeated(ctx, 'heartbeats', args.idempotencyKey))
			return { applied: false };
		await ctx.db.insert('heartbeats', args);
		return { applied: true };
	},
});

const getModel = queryGeneric({
	args: { orgId: v.string(), modelId: v.string() },
	handler: async (ctx, { orgId, modelId }) => {
		await requireOrg(ctx, orgId);
		const found = await ctx.db.query('models').withIndex('by_model',
			(q) => q.eq('orgId', orgId).eq('modelId', modelId)).unique();
		return found && found.model;
	},
});

const kinds = {
	'connections:setStatus': 'mutation',
	'agents:heartbeat': 'mutation',
	'models:get': 'query',
};
const engine = convexTest(schema, {
	'./convex/_generated/api.js': async () => ({}),
	'./convex/connections.js': async () => ({ setStatus }),
	'./convex/agents.js': async () => ({ heartbeat }),
	'./convex/models.js': async () => ({ get: getModel }),
});

// ----- Who calls

// Becomes the answer {code, message}.
class Refusal extends Error {
	constructor(status, code, message) {
		super(message);
		Object.assign(this, { status, code });
	}
}

const badToken = (message, code = 'InvalidAuthHeader') => new Refusal(401, code, message);

function decodePart(part) {
	try {
		const value = JSON.parse(Buffer.from(part, 'base64url'));
		if (value !== null && typeof value === 'object')
			return value;
	} catch { /* told below */ }
	throw badToken('Could not parse JWT payload. Check that the token is a valid JWT format with '
		+ 'three base64-encoded parts separated by dots.');
}

// Asked for at each call, as the real server does: a key that was rotated
// counts at once.
async function fetchKeys() {
	let response;

	try {
		response = await fetch(options.jwks, { headers: { accept: 'application/json' } });
	} catch (error) {
		throw badToken(`Could not fetch JWKS from URL '${options.jwks}': ${error.message}.`);
	}
	if (response.status !== 200)
		throw badToken(`Could not fetch JWKS from URL '${options.jwks}': HTTP ${response.status}.`);
	const type = (response.headers.get('content-type') ?? 'unknown').split(';')[0].trim();
	if (!options.jwks.startsWith('data:')
		&& !['application/json', 'application/jwk-set+json'].includes(type.toLowerCase()))
		throw badToken(`Invalid Content-Type '${type}' when fetching JWKS from '${options.jwks}'.`);
	const { keys } = await response.json().catch(() => ({}));
	if (!Array.isArray(keys))
		throw badToken(`Invalid JWKS response body from '${options.jwks}'.`);
	return keys;
}

// A custom JWT provider with "RS256" and an applicationID: the claims as an
// identity, or a refusal.
async function verify(token) {
	const parts = token.split('.');
	const claims = decodePart(parts[1] ?? '');
	const audiences = [claims.aud ?? []].flat();
	const bare = (issuer) => issuer.replace(/\/+$/, '');

	if (typeof claims.iss !== 'string')
		throw badToken("Missing issuer claim ('iss') in JWT payload.");
	if (bare(claims.iss) !== bare(options.issuer) || !audiences.includes(options.audience))
		throw badToken('No auth provider found matching the given token', 'NoAuthProvider');

	const keys = await fetchKeys();
	const header = decodePart(parts[0]);
	const key = keys.find((k) => k.kid === header.kid && k.kty === 'RSA');
	if (parts.length !== 3 || header.alg !== 'RS256' || header.typ === undefined
		|| header.kid === undefined || key === undefined
		|| !crypto.verify('RSA-SHA256', Buffer.from(`${parts[0]}.${parts[1]}`),
			crypto.createPublicKey({ key, format: 'jwk' }), Buffer.from(parts[2], 'base64url')))
		throw badToken(`Could not decode token. The JWT's 'kid' (key ID) header is '${header.kid}', `
			+ "does this key match any key in the provider's JWKS?");

	// five seconds for clocks that differ, as the real server has it
	const now = Date.now() / 1000;
	if (typeof claims.exp !== 'number')
		throw badToken('Missing expiry');
	if (claims.exp + 5 < now || (claims.nbf ?? 0) - 5 > now)
		throw badToken('Could not validate token: expired or not valid yet');
	if (typeof claims.sub !== 'string')
		throw badToken('Missing subject');

	const { sub: subject, iss: issuer, aud, exp, nbf, iat, ...custom } = claims;
	return { ...custom, subject, issuer };
}

// The identity of the call, null without the header.
function authenticate(header) {
	if (header === undefined)
		return null;
	if (header.length < 7)
		throw new Refusal(400, 'InvalidHeaderFailure', 'Invalid authentication header');
	if (/^convex /i.test(header))
		throw new Refusal(401, 'BadAdminKey', 'The provided admin key was invalid for this instance');
	if (!/^bearer ./i.test(header))
		throw new Refusal(400, 'InvalidAdminKey', 'Invalid admin key');
	return verify(header.slice(7).trim());
}

// ----- The API

const calls = [];
const faults = { fail: 0, fail560: 0, hang: 0, lose: 0 };
const struckPaths = {};
const hanging = new Set();
let failWith;
let failedStatus = 560;

// Is the fault to strike now?
const strikes = (fault, path) => faults[fault] > 0
	&& (struckPaths[fault] ?? path) === path && faults[fault]-- > 0;

// Values as format=json has them. All numbers of Convex are floats, and the
// real server writes the one as 1.0.
function cleanJson(value) {
	if (typeof value === 'number') {
		if (!Number.isFinite(value))
			return JSON.stringify(String(value));
		if (Number.isInteger(value))
			return Math.abs(value) < 1e16 ? `${Object.is(value, -0) ? '-0' : value}.0`
				: value.toExponential().replace('+', '');
		return String(value).replace('+', '');
	}
	if (typeof value === 'bigint')
		return `"${value}"`;
	if (value instanceof ArrayBuffer)
		return `"${Buffer.from(value).toString('base64')}"`;
	if (Array.isArray(value))
		return `[${value.map(cleanJson).join(',')}]`;
	if (value !== null && typeof value === 'object')
		return `{${Object.entries(value).filter(([, member]) => member !== undefined).map(
			([key, member]) => `${JSON.stringify(key)}:${cleanJson(member)}`).join(',')}}`;
	return JSON.stringify(value);
}

const formats = {
	json: cleanJson,
	convex_encoded_json: (value) => JSON.stringify(convexToJson(value)),
};

async function readBody(request) {
	const chunks = [];

	for await (const chunk of request)
		chunks.push(chunk);
	return Buffer.concat(chunks).toString();
}

function send(call, response, status, body, headers = {}) {
	if (call)
		call.status = status;
	response.writeHead(status, { 'content-type': 'application/json', ...headers });
	response.end(body);
}

// {path, args, format} of a request.
function parseCall(request, body) {
	const isJson = /^application\/([^;]+\+)?json\s*(;|$)/i.test(request.headers['content-type'] ?? '');
	let parsed;

	if (!isJson)
		throw new Refusal(400, 'BadJsonBody',
			'Expected request with `Content-Type: application/json`');
	try {
		parsed = JSON.parse(body);
	} catch (error) {
		throw new Refusal(400, 'BadJsonBody', `Failed to parse the request body as JSON: ${error.message}`);
	}
	const { path, args, format = 'json' } = parsed ?? {};
	if (typeof path !== 'string' || args === undefined)
		throw new Refusal(400, 'BadJsonBody', 'Failed to deserialize the JSON body into the target type');
	if (!/^[\w/]+(\.js)?(:\w+)?$/.test(path))
		throw new Refusal(400, 'BadConvexFunctionIdentifier',
			`${path} is not a valid path to a Convex function.`);
	if (!Object.hasOwn(formats, format))
		throw new Refusal(400, 'BadFormat', `unrecognized value format "${format}"`);
	return { path, args: Array.isArray(args) ? args[0] ?? {} : args, write: formats[format] };
}

// The engine's parts of a call, whose errors are those of the function.
async function runFunction(kind, path, args, identity) {
	if (strikes('fail560', path))
		throw new Error('Uncaught Error: told to fail');
	if (kinds[path] === undefined)
		throw new Error(`Could not find public function for '${path}'.`);
	if (kinds[path] !== kind)
		throw new Error(`Trying to execute ${path} as ${kind}, but it is defined as ${kinds[path]}.`);
	const accessor = identity === null ? engine : engine.withIdentity(identity);
	return accessor[kind](makeFunctionReference(path), jsonToConvex(args));
}

// [HTTP status, envelope]
async function perform(kind, { path, args, write }, identity) {
	try {
		const value = await runFunction(kind, path, args, identity);
		return [200, `{"status":"success","value":${write(value ?? null)}}`];
	} catch (error) {
		const id = crypto.randomBytes(8).toString('hex');
		const text = `[Request ID: ${id}] Server Error\n${error.message}`;
		// the engine hands on such data as text
		const data = typeof error.data === 'string' ? JSON.parse(error.data) : error.data;
		return [failedStatus, `{"status":"error","errorMessage":${JSON.stringify(text)}`
			+ (data === undefined ? '}' : `,"errorData":${write(jsonToConvex(data))}}`)];
	}
}

async function answer(kind, request, response) {
	const call = {
		time: Date.now(), endpoint: kind, path: null, args: null,
		authorization: request.headers.authorization !== undefined,
		headers: Object.keys(request.headers), subject: null, status: null,
	};

	calls.push(call);
	try {
		const parsed = parseCall(request, await readBody(request));
		Object.assign(call, { path: parsed.path, args: parsed.args });

		if (strikes('hang', parsed.path)) {
			hanging.add(response);
			return;
		}
		if (strikes('fail', parsed.path)) {
			send(call, response, failWith.status, failWith.body, failWith.headers);
			return;
		}
		const identity = await authenticate(request.headers.authorization);
		call.subject = identity?.subject ?? null;
		const [status, envelope] = await perform(kind, parsed, identity);
		if (strikes('lose', parsed.path))
			cut(response);
		else
			send(call, response, status, envelope);
	} catch (error) {
		if (!(error instanceof Refusal))
			throw error;
		send(call, response, error.status,
			JSON.stringify({ code: error.code, message: error.message }));
	}
}

// HTTP/2 has a stream to end, HTTP/1.1 its connection.
function cut(response) {
	if (response.stream)
		response.stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
	else
		response.destroy();
}

function api(request, response) {
	const kind = /^\/api\/(query|mutation)(?:\?|$)/.exec(request.url)?.[1];

	if (kind === undefined)
		send(null, response, 404, '');
	else if (request.method !== 'POST')
		send(null, response, 405, '', { allow: 'POST' });
	else
		answer(kind, request, response).catch((error) => {
			console.error(error);
			send(null, response, 500, '{"code":"InternalServerError","message":"see the log"}');
		});
}

// ----- The control port

const tables = ['connections', 'statuses', 'heartbeats', 'models'];

function setFail(query) {
	const status = Number(query.get('status'));
	const html = query.get('html') === '1';
	const headers = html ? { 'content-type': 'text/html' } : {};

	if (query.has('retry_after'))
		headers['retry-after'] = query.get('retry_after');
	failWith = {
		status,
		headers,
		body: html ? `<html><body><h1>${status}</h1></body></html>\n`
			: JSON.stringify({ code: 'ToldToFail', message: `told to answer ${status}` }),
	};
}

function clear() {
	for (const fault of Object.keys(faults))
		faults[fault] = 0;
	failedStatus = 560;
	hanging.forEach(cut);
	hanging.clear();
}

async function control(request, response) {
	const url = new URL(request.url, 'http://control');
	const action = url.pathname.replace(/^\/ctl\//, '');
	let result = true;

	if (action === 'calls') {
		result = calls;
	} else if (action === 'documents') {
		result = await engine.run(async (ctx) => Object.fromEntries(await Promise.all(
			tables.map(async (table) => [table, await ctx.db.query(table).collect()]))));
	} else if (action === 'model') {
		const { orgId, modelId, model } = JSON.parse(await readBody(request));
		await engine.run(async (ctx) => {
			const known = await ctx.db.query('models').withIndex('by_model',
				(q) => q.eq('orgId', orgId).eq('modelId', modelId)).unique();
			if (known)
				await ctx.db.patch(known._id, { model });
			else
				await ctx.db.insert('models', { orgId, modelId, model });
		});
	} else if (action === 'failed-status') {
		failedStatus = Number(url.searchParams.get('status'));
	} else if (action === 'clear') {
		clear();
	} else if (Object.hasOwn(faults, action)) {
		if (action === 'fail')
			setFail(url.searchParams);
		faults[action] = Number(url.searchParams.get('count') ?? 1);
		struckPaths[action] = url.searchParams.get('path') ?? undefined;
	} else {
		send(null, response, 404, '"no such page"');
		return;
	}
	send(null, response, 200, JSON.stringify(result));
}

// The control port comes last: when it answers, the API does.
const server = options.cert
	? http2.createSecureServer({
		cert: readFileSync(options.cert), key: readFileSync(options.key), allowHTTP1: true,
	}, api)
	: http.createServer(api);

server.listen(Number(options.port), '127.0.0.1', () => {
	http.createServer((request, response) => {
		control(request, response).catch((error) => {
			send(null, response, 500, JSON.stringify(String(error.stack)));
		});
	}).listen(Number(options['control-port']), '127.0.0.1');
});
process.on('SIGTERM', () => process.exit(0));
