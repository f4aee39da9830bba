// An OpenID provider for the tests: client credentials become access tokens.
//
//	issuer.mjs PORT FOLDER
//
// It serves on 127.0.0.1 and says "ready" on standard output. FOLDER holds
//
//	state.json       read at each request: {clients: {ID: {secret, org_id, permissions}},
//	                 ttl, audience, delay (seconds), fail: {status, headers} or null}
//	requests         written: one line of JSON for each request for a token, with
//	                 its client_id and status and the names of its fields and
//	                 headers, before the answer is sent
//	key.pem          the key that signs, made by the first start
//
// The tokens are JWTs with the claims of WorkOS Connect: iss, aud, sub and
// client_id (both the client's id), org_id, permissions, jti, iat, exp.

import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';

import { Provider } from 'oidc-provider';

const [port, folder] = process.argv.slice(2);
const tokenPath = '/oauth2/token';

function state() {
	return JSON.parse(readFileSync(`${folder}/state.json`));
}

function signingKey() {
	const path = `${folder}/key.pem`;

	if (!existsSync(path)) {
		const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
		writeFileSync(path, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 });
	}
	return { ...createPrivateKey(readFileSync(path)).export({ format: 'jwk' }), alg: 'RS256', use: 'sig' };
}

// Clients are those of the state at each moment; what else the provider keeps,
// such as the tokens that it issued, is of no use to anybody here.
class Adapter {
	constructor(model) {
		this.model = model;
	}

	async find(id) {
		const client = this.model === 'Client' ? state().clients[id] : undefined;

		return client && {
			client_id: id,
			client_secret: client.secret,
			token_endpoint_auth_method: 'client_secret_post',
			grant_types: ['client_credentials'],
			redirect_uris: [],
			response_types: [],
		};
	}

	async upsert() {}
	async destroy() {}
	async consume() {}
	async findByUid() {}
	async findByUserCode() {}
	async revokeByGrantId() {}
}

const provider = new Provider(`http://127.0.0.1:${port}`, {
	adapter: Adapter,
	jwks: { keys: [signingKey()] },
	routes: { token: tokenPath, jwks: '/oauth2/jwks' },
	scopes: ['read', 'write'],
	features: {
		devInteractions: { enabled: false },
		clientCredentials: { enabled: true },
		resourceIndicators: {
			enabled: true,
			defaultResource: () => state().audience,
			getResourceServerInfo: (ctx, audience) => ({
				audience,
				scope: 'read write',
				accessTokenFormat: 'jwt',
				accessTokenTTL: state().ttl,
				jwt: { sign: { alg: 'RS256' } },
			}),
		},
	},
	extraTokenClaims: (ctx, token) => {
		const { org_id, permissions } = state().clients[token.clientId];
		return { org_id: org_id ?? undefined, permissions };
	},
});

// In front of the provider: what goes wrong on purpose, and the record.
provider.use(async (ctx, next) => {
	if (ctx.path !== tokenPath) {
		return next();
	}
	const { delay, fail } = state();

	if (delay) {
		await pause(1000 * delay);
	}
	if (fail) {
		ctx.status = fail.status;
		ctx.set(fail.headers);
		ctx.body = { error: 'server_error', error_description: 'told to fail' };
	} else {
		await next();
	}
	appendFileSync(`${folder}/requests`,
		JSON.stringify({
			client_id: ctx.oidc?.body?.client_id ?? null, status: ctx.status,
			fields: Object.keys(ctx.oidc?.body ?? {}), headers: Object.keys(ctx.headers),
		}) + '\n');
});

// an orderly end, which libfaketime needs to clean up behind itself
process.on('SIGTERM', () => process.exit(0));
provider.listen(Number(port), '127.0.0.1', () => console.log('ready'));
