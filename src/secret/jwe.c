/*-------------------------------------------------------------------------
 *
 * jwe.c
 *	  JSON Web Encryption in its compact form.
 *
 * A content key is agreed on with an ephemeral key (ECDH, RFC 7518, section
 * 4.6): the shared secret gives a key (Concat KDF) by which a random content key
 * is wrapped (AES Key Wrap, RFC 3394), by which the content is encrypted
 * (AES-256-GCM) with the header as associated data.
 *
 * What OpenSSL allocates is freed before anything is raised, but for out of memory.
 *
 * src/secret/jwe.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/rand.h>

#include "base/json.h"
#include "base/limits.h"
#include "port/pg_bswap.h"
#include "secret/base64url.h"
#include "secret/jwe.h"

#define ENC "A256GCM"

#define KEY_BYTES		32		/* content key, and the one that wraps it */
#define WRAPPED_BYTES	40
#define IV_BYTES		12
#define TAG_BYTES		16
#define PARTY_MAX_BYTES	1024	/* apu, apv */

/* ------------------------------------------------------- key agreement */

static void
put_length(uint8 **p, uint32 length)
{
	uint32		big_endian = pg_hton32(length);

	memcpy(*p, &big_endian, sizeof(big_endian));
	*p += sizeof(big_endian);
}

static void
put_bytes(uint8 **p, const void *bytes, size_t n)
{
	put_length(p, (uint32) n);
	if (n > 0)
		memcpy(*p, bytes, n);
	*p += n;
}

/*
 * The key that wraps the content key: Concat KDF over what both sides know (RFC
 * 7518, section 4.6.2; NIST SP 800-56A). "own" has a private part.
 */
static bool
agree(EVP_PKEY *own, EVP_PKEY *peer, const uint8 *apu, size_t apu_len,
	  const uint8 *apv, size_t apv_len, uint8 key[KEY_BYTES])
{
	uint8		info[4 + sizeof(OPD_JWK_ALG) + 4 + PARTY_MAX_BYTES + 4 + PARTY_MAX_BYTES + 4];
	char		digest[] = "SHA256";
	uint8	   *p = info;
	uint8		secret[OPD_COORDINATE_MAX];
	size_t		secret_len = sizeof(secret);
	EVP_PKEY_CTX *derive = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
	EVP_KDF    *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_SSKDF, NULL);
	EVP_KDF_CTX *kdf_ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	OSSL_PARAM	params[4];
	bool		ok;

	put_bytes(&p, OPD_JWK_ALG, strlen(OPD_JWK_ALG));
	put_bytes(&p, apu, apu_len);
	put_bytes(&p, apv, apv_len);
	put_length(&p, KEY_BYTES * 8);

	ok = derive != NULL && kdf_ctx != NULL &&
		EVP_PKEY_derive_init(derive) == 1 &&
		EVP_PKEY_derive_set_peer_ex(derive, peer, 1) == 1 &&
		EVP_PKEY_derive(derive, secret, &secret_len) == 1;
	params[0] = OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0);
	params[1] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, secret, secret_len);
	params[2] = OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, p - info);
	params[3] = OSSL_PARAM_construct_end();
	ok = ok && EVP_KDF_derive(kdf_ctx, key, KEY_BYTES, params) == 1;
	OPENSSL_cleanse(secret, sizeof(secret));
	EVP_KDF_CTX_free(kdf_ctx);
	EVP_KDF_free(kdf);
	EVP_PKEY_CTX_free(derive);
	return ok;
}

/* Wrap (RFC 3394) or unwrap a content key. */
static bool
wrap(bool wrapping, const uint8 key[KEY_BYTES], const uint8 *from, int from_len, uint8 *to, int to_len)
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8		out[WRAPPED_BYTES + 16];
	int			n = 0;
	int			rest = 0;
	bool		ok;

	if (ctx != NULL)
		EVP_CIPHER_CTX_set_flags(ctx, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
	ok = ctx != NULL &&
		EVP_CipherInit_ex(ctx, EVP_aes_256_wrap(), NULL, key, NULL, wrapping) == 1 &&
		EVP_CipherUpdate(ctx, out, &n, from, from_len) == 1 &&
		EVP_CipherFinal_ex(ctx, out + n, &rest) == 1 && n + rest == to_len;
	if (ok)
		memcpy(to, out, to_len);
	OPENSSL_cleanse(out, sizeof(out));
	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

/* AES-256-GCM, either way; the tag is made or checked. "to" has room for "len". */
static bool
gcm(bool encrypting, const uint8 key[KEY_BYTES], const uint8 iv[IV_BYTES], const char *header,
	const uint8 *from, size_t len, uint8 *to, uint8 tag[TAG_BYTES])
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	uint8		rest[16];
	int			n = 0;
	bool		ok;

	ok = ctx != NULL &&
		EVP_CipherInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, iv, encrypting) == 1 &&
		EVP_CipherUpdate(ctx, NULL, &n, (const uint8 *) header, (int) strlen(header)) == 1 &&
		EVP_CipherUpdate(ctx, to, &n, from, (int) len) == 1;
	if (ok && !encrypting)
		ok = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES, tag) == 1;
	ok = ok && EVP_CipherFinal_ex(ctx, rest, &n) == 1;
	if (ok && encrypting)
		ok = EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_BYTES, tag) == 1;
	EVP_CIPHER_CTX_free(ctx);
	return ok;
}

/* -------------------------------------------------------------- the token */

/* What a header tells, once it was looked at. */
typedef struct Header
{
	Jsonb	   *epk;
	uint8	   *apu;
	size_t		apu_len;
	uint8	   *apv;
	size_t		apv_len;
	char	   *kid;			/* NULL: none */
} Header;

/* An optional member in base64url; false when it is there and none. */
static bool
read_party(const Jsonb *json, const char *name, uint8 **bytes, size_t *len)
{
	const char *text = opd_json_find_string(json, name);

	*bytes = NULL;
	*len = 0;
	if (text != NULL)
		*bytes = opd_base64url_decode(text, len);
	return !opd_json_has(json, name) || (*bytes != NULL && *len <= PARTY_MAX_BYTES);
}

/*
 * Is there a member twice in an object of this text, which was parsed to that? Of
 * two jsonb keeps the last one, others the first: what a token says must not depend
 * on who reads it (RFC 7516, section 4). In JSON each member has a colon.
 */
static bool
has_member_twice(const char *text, Jsonb *json)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		in_string = false;
	int			n_lost = 0;

	for (const char *p = text; *p != '\0'; p++)
	{
		if (in_string && *p == '\\')
			p++;
		else if (*p == '"')
			in_string = !in_string;
		else if (*p == ':' && !in_string)
			n_lost++;
	}
	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			n_lost--;
	}
	return n_lost != 0;
}

/* What is wrong with a header; NULL: nothing. */
static const char *
read_header(const char *part, Header *header)
{
	/* members that would change how a token is opened */
	static const char *const refused[] = {"crit", "zip", "p2c", "p2s", "b64"};
	size_t		len;
	uint8	   *text = opd_base64url_decode(part, &len);
	Jsonb	   *json = text != NULL && len <= OPD_JWE_HEADER_MAX_BYTES ? opd_json_parse_object(text, len) : NULL;
	const char *alg;
	const char *enc;
	JsonbValue	v;

	memset(header, 0, sizeof(*header));
	if (json == NULL)
		return "its header is no JSON object, or too long";
	if (has_member_twice((char *) text, json))
		return "its header has a member twice";
	alg = opd_json_find_string(json, "alg");
	enc = opd_json_find_string(json, "enc");
	if (alg == NULL || strcmp(alg, OPD_JWK_ALG) != 0 || enc == NULL || strcmp(enc, ENC) != 0)
		return "its algorithms are others than " OPD_JWK_ALG " with " ENC;
	for (int i = 0; i < (int) lengthof(refused); i++)
	{
		if (opd_json_has(json, refused[i]))
			return "its header has a member that is not taken (crit, zip, p2c, p2s, b64)";
	}
	header->kid = opd_json_find_string(json, "kid");
	if (opd_json_has(json, "kid") && header->kid == NULL)
		return "its kid is no string";
	if (!read_party(json, "apu", &header->apu, &header->apu_len) ||
		!read_party(json, "apv", &header->apv, &header->apv_len))
		return "its apu or apv is malformed";
	if (opd_json_find(json, "epk", &v) && v.type == jbvBinary)
		header->epk = JsonbValueToJsonb(&v);
	if (header->epk == NULL || !opd_jwk_is_public(header->epk))
		return "its epk is no public key on P-256";
	return NULL;
}

bool
opd_jwe_parse(const char *token, OpdJwe *jwe, const char **problem)
{
	static const size_t sizes[] = {0, WRAPPED_BYTES, IV_BYTES, 0, TAG_BYTES};
	Header		header;
	char	   *rest;
	size_t		n;

	memset(jwe, 0, sizeof(*jwe));
	*problem = "it is too long";
	if (strlen(token) > OPD_SEALED_MAX_BYTES)
		return false;
	*problem = "it is no compact JWE, five parts in base64url";
	rest = pstrdup(token);
	for (int i = 0; i < 5; i++)
	{
		jwe->parts[i] = strsep(&rest, ".");
		if (jwe->parts[i] == NULL || opd_base64url_decode(jwe->parts[i], &n) == NULL)
			return false;
	}
	if (rest != NULL)
		return false;
	*problem = "its key, initialization vector or tag has a wrong size";
	for (int i = 0; i < 5; i++)
	{
		if (sizes[i] > 0 && opd_base64url_decode_exactly(jwe->parts[i], sizes[i]) == NULL)
			return false;
	}
	*problem = read_header(jwe->parts[0], &header);
	jwe->kid = header.kid;
	return *problem == NULL;
}

char *
opd_jwe_open(const OpdJwe *jwe, const char *private_jwk)
{
	Header		header;
	Jsonb	   *private_json = opd_json_parse_object(private_jwk, strlen(private_jwk));
	uint8		wrapping_key[KEY_BYTES];
	uint8		content_key[KEY_BYTES];
	uint8	   *ciphertext;
	uint8	   *plaintext;
	size_t		len;
	EVP_PKEY   *own;
	EVP_PKEY   *peer;
	uint8	   *parts[5];
	bool		ok;

	if (private_json == NULL || read_header(jwe->parts[0], &header) != NULL)
		return NULL;
	ciphertext = opd_base64url_decode(jwe->parts[3], &len);
	plaintext = palloc(len + 1);
	for (int i = 1; i < 5; i++)
		parts[i] = opd_base64url_decode(jwe->parts[i], &(size_t) {0});
	own = opd_jwk_load(private_json, true);
	OPENSSL_cleanse(private_json, VARSIZE(private_json));
	peer = opd_jwk_load(header.epk, false);
	ok = own != NULL && peer != NULL &&
		agree(own, peer, header.apu, header.apu_len, header.apv, header.apv_len, wrapping_key) &&
		wrap(false, wrapping_key, parts[1], WRAPPED_BYTES, content_key, KEY_BYTES) &&
		gcm(false, content_key, parts[2], jwe->parts[0], ciphertext, len, plaintext, parts[4]);
	EVP_PKEY_free(peer);
	EVP_PKEY_free(own);
	OPENSSL_cleanse(wrapping_key, sizeof(wrapping_key));
	OPENSSL_cleanse(content_key, sizeof(content_key));
	plaintext[len] = '\0';
	/* what did not stand the check is no plaintext of anybody's */
	if (!ok || strlen((char *) plaintext) != len)
	{
		OPENSSL_cleanse(plaintext, len);
		return NULL;
	}
	return (char *) plaintext;
}

char *
opd_jwe_seal(const OpdJwk *recipient, const char *plaintext, size_t len)
{
	Jsonb	   *jwk = opd_json_parse_object(recipient->jwk, strlen(recipient->jwk));
	uint8	   *ciphertext = palloc(len + 1);
	uint8		wrapping_key[KEY_BYTES];
	uint8		content_key[KEY_BYTES];
	uint8		wrapped[WRAPPED_BYTES];
	uint8		iv[IV_BYTES];
	uint8		tag[TAG_BYTES];
	char	   *epk = NULL;
	char	   *header = NULL;
	EVP_PKEY   *peer = jwk != NULL ? opd_jwk_load(jwk, false) : NULL;
	EVP_PKEY   *ephemeral = jwk != NULL ? opd_jwk_generate_beside(jwk) : NULL;
	bool		ok = peer != NULL && ephemeral != NULL && (epk = opd_jwk_print(ephemeral)) != NULL;

	if (ok)
	{
		header = psprintf("{\"alg\":\"" OPD_JWK_ALG "\",\"enc\":\"" ENC "\",\"kid\":\"%s\",\"epk\":%s}", recipient->kid, epk);
		header = opd_base64url_encode((uint8 *) header, strlen(header));
	}
	ok = ok && RAND_bytes(content_key, sizeof(content_key)) == 1 && RAND_bytes(iv, sizeof(iv)) == 1 &&
		agree(ephemeral, peer, NULL, 0, NULL, 0, wrapping_key) &&
		wrap(true, wrapping_key, content_key, KEY_BYTES, wrapped, WRAPPED_BYTES) &&
		gcm(true, content_key, iv, header, (const uint8 *) plaintext, len, ciphertext, tag);
	EVP_PKEY_free(ephemeral);
	EVP_PKEY_free(peer);
	OPENSSL_cleanse(wrapping_key, sizeof(wrapping_key));
	OPENSSL_cleanse(content_key, sizeof(content_key));
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not encrypt to a recipient"),
				 errdetail_internal("internal")));
	return psprintf("%s.%s.%s.%s.%s", header, opd_base64url_encode(wrapped, sizeof(wrapped)), opd_base64url_encode(iv, sizeof(iv)),
					opd_base64url_encode(ciphertext, len), opd_base64url_encode(tag, sizeof(tag)));
}
