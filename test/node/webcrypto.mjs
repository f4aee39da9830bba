// Seals credentials with nothing but what every browser has: the Web Cryptography API.
//
// ECDH-ES+A256KW with A256GCM, as compact JWE (RFC 7516, RFC 7518, section 4.6).

const { subtle } = globalThis.crypto;
const alg = 'ECDH-ES+A256KW';
const bytesOf = (text) => new TextEncoder().encode(text);
const base64url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)))
	.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

function uint32(n) {
	const bytes = new Uint8Array(4);

	new DataView(bytes.buffer).setUint32(0, n);
	return bytes;
}

const concat = async (...parts) => new Uint8Array(await new Blob(parts).arrayBuffer());

// The token for a key like that of opdata_public_key().
export async function seal({ kty, crv, x, y, kid }, plaintext) {
	const ecdh = { name: 'ECDH', namedCurve: crv };
	const recipient = await subtle.importKey('jwk', { kty, crv, x, y }, ecdh, false, []);
	const ephemeral = await subtle.generateKey(ecdh, true, ['deriveBits']);
	const secret = await subtle.deriveBits({ name: 'ECDH', public: recipient }, ephemeral.privateKey, 256);

	// Concat KDF, of which one round gives 256 bits; without apu and apv
	const wrappingKey = await subtle.importKey('raw',
		await subtle.digest('SHA-256', await concat(uint32(1), secret, uint32(alg.length), alg, uint32(0), uint32(0), uint32(256))),
		'AES-KW', false, ['wrapKey']);
	const contentKey = await subtle.generateKey({ name: 'AES-GCM', length: 256 }, true, ['encrypt']);
	const wrapped = await subtle.wrapKey('raw', contentKey, wrappingKey, 'AES-KW');

	const point = await subtle.exportKey('jwk', ephemeral.publicKey);
	const epk = { kty: point.kty, crv: point.crv, x: point.x, y: point.y };
	const header = base64url(bytesOf(JSON.stringify({ alg, enc: 'A256GCM', kid, epk })));
	const iv = crypto.getRandomValues(new Uint8Array(12));
	const sealed = await subtle.encrypt({ name: 'AES-GCM', iv, additionalData: bytesOf(header) }, contentKey, bytesOf(plaintext));

	// the tag is the last 16 bytes
	return [header, base64url(wrapped), base64url(iv), base64url(sealed.slice(0, -16)), base64url(sealed.slice(-16))].join('.');
}
