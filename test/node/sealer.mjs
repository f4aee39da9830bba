// Seals and opens compact JWE by Node's "jose", for test/perl/Opdata/Jose.pm.
//
// Reads requests, one JSON object a line, and answers each by a line:
//
//	{op: "generate", crv}                     a private JWK
//	{op: "seal", jwk, plaintext, header}      a token; the header is protected
//	{op: "open", jwk, token}                  the plaintext
//	{op: "sealInBrowser", jwk, plaintext}     a token, without "jose"
//
// The answer is {value} or {error}.

import { createInterface } from 'node:readline';

import { CompactEncrypt, base64url, compactDecrypt, exportJWK, generateKeyPair, importJWK } from 'jose';

import { seal as sealInBrowser } from './webcrypto.mjs';

const alg = 'ECDH-ES+A256KW';

const ops = {
	async generate({ crv }) {
		const { privateKey } = await generateKeyPair(alg, { crv, extractable: true });

		return exportJWK(privateKey);
	},

	async seal({ jwk, plaintext, header: { apu, apv, ...header } }) {
		const token = new CompactEncrypt(new TextEncoder().encode(plaintext));

		token.setProtectedHeader({ alg, enc: 'A256GCM', ...header });
		if (apu !== undefined || apv !== undefined)
			token.setKeyManagementParameters({
				...(apu !== undefined && { apu: base64url.decode(apu) }),
				...(apv !== undefined && { apv: base64url.decode(apv) })
			});
		return token.encrypt(await importJWK(jwk, alg));
	},

	async open({ jwk, token }) {
		const { plaintext } = await compactDecrypt(token, await importJWK(jwk, alg));

		return new TextDecoder().decode(plaintext);
	},

	async sealInBrowser({ jwk, plaintext }) {
		return sealInBrowser(jwk, plaintext);
	}
};

for await (const line of createInterface({ input: process.stdin })) {
	const request = JSON.parse(line);
	let answer;

	try {
		answer = { value: await ops[request.op](request) };
	} catch (error) {
		answer = { error: String(error) };
	}
	process.stdout.write(`${JSON.stringify(answer)}\n`);
}
