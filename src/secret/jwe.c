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
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/param_build.h>
#include <openssl/rand.h>

#include "base/json.h"
#include "base/limits.h"
#include "port/pg_bswap.h"
#include "secret/jwe.h"

#define ALG "ECDH-ES+A256KW"
#define ENC "A256GCM"

#define KEY_BYTES		32		/* content key, and the one that wraps it */
#define WRAPPED_BYTES	40
#define IV_BYTES		12
#define TAG_BYTES		16
#define COORDINATE_MAX	66		/* of P-521 */
#define PARTY_MAX_BYTES	1024	/* apu, apv */

typedef struct Curve
{
	const char *crv;			/* in JOSE and in OpenSSL */
	size_t		bytes;			/* of a coordinate */
} Curve;

static const Curve curves[] = {
	{"P-256", 32},
	{"P-384", 48},
	{"P-521", 66},
};

/* -------------------------------------------------------------- base64url */

static int
digit(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' :
		c >= 'a' && c <= 'z' ? c - 'a' + 26 :
		c >= '0' && c <= '9' ? c - '0' + 52 :
		c == '-' ? 62 : c == '_' ? 63 : -1;
}

/*
 * Bytes of a base64url text without padding (RFC 7515, section 2), in palloc'd
 * memory with a NUL behind; NULL when it is none. Bits that stand for nothing must
 * be zero, so that a value has one form only.
 */
static uint8 *
decode(const char *text, size_t *n_bytes)
{
	size_t		len = strlen(text);
	uint8	   *bytes;
	uint32		bits = 0;
	int			n_bits = 0;

	*n_bytes = 0;
	if (len % 4 == 1)
		return NULL;
	bytes = palloc(len / 4 * 3 + 3);
	for (size_t i = 0; i < len; i++)
	{
		int			d = digit(text[i]);

		if (d < 0)
			return NULL;
		bits = (bits << 6 | d) & 0xFFFF;
		n_bits += 6;
		if (n_bits >= 8)
		{
			n_bits -= 8;
			bytes[(*n_bytes)++] = (uint8) (bits >> n_bits);
		}
	}
	if ((bits & ((1 << n_bits) - 1)) != 0)
		return NULL;
	bytes[*n_bytes] = '\0';
	return bytes;
}

/* The same for a value of so many bytes. */
static uint8 *
decode_exactly(const char *text, size_t n_bytes)
{
	size_t		n;
	uint8	   *bytes = text != NULL ? decode(text, &n) : NULL;

	return bytes != NULL && n == n_bytes ? bytes : NULL;
}

static char *
encode(const uint8 *bytes, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char	   *text = palloc(n / 3 * 4 + 5);
	char	   *p = text;

	for (size_t i = 0; i < n; i += 3)
	{
		uint32		bits = (uint32) bytes[i] << 16 |
			(i + 1 < n ? (uint32) bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
		int			n_digits = n - i >= 3 ? 4 : (int) (n - i) + 1;

		for (int d = 0; d < n_digits; d++)
			*p++ = digits[bits >> (18 - 6 * d) & 63];
	}
	*p = '\0';
	return text;
}

/* ------------------------------------------------------------------- keys */

/* A string member; NULL when there is none. */
static char *
string_of(const Jsonb *object, const char *name)
{
	JsonbValue	v;

	return opd_json_find(object, name, &v) && v.type == jbvString ? opd_json_string(&v) : NULL;
}

static bool
has(const Jsonb *object, const char *name)
{
	JsonbValue	v;

	return opd_json_find(object, name, &v);
}

static const Curve *
find_curve(const Jsonb *jwk)
{
	const char *crv = string_of(jwk, "crv");
	const char *kty = string_of(jwk, "kty");

	for (int i = 0; i < (int) lengthof(curves); i++)
	{
		if (kty != NULL && crv != NULL && strcmp(kty, "EC") == 0 && strcmp(crv, curves[i].crv) == 0)
			return &curves[i];
	}
	return NULL;
}

/*
 * The key of a JWK, with its private part if that is wanted; NULL when it is none
 * (RFC 7518, section 6.2). A point that is not on the curve is refused.
 */
static EVP_PKEY *
load_key(const Jsonb *jwk, const Curve *curve, bool want_private)
{
	uint8	   *x = decode_exactly(string_of(jwk, "x"), curve->bytes);
	uint8	   *y = decode_exactly(string_of(jwk, "y"), curve->bytes);
	char	   *d_text = want_private ? string_of(jwk, "d") : NULL;
	uint8	   *d = decode_exactly(d_text, curve->bytes);
	uint8		point[1 + 2 * COORDINATE_MAX];
	OSSL_PARAM_BLD *builder = NULL;
	OSSL_PARAM *params = NULL;
	EVP_PKEY_CTX *make = NULL;
	EVP_PKEY_CTX *check = NULL;
	EVP_PKEY   *key = NULL;
	BIGNUM	   *scalar = NULL;
	bool		ok;

	if (d_text != NULL)
		OPENSSL_cleanse(d_text, strlen(d_text));
	if (x == NULL || y == NULL || (want_private && d == NULL))
		return NULL;
	Assert(curve->bytes <= COORDINATE_MAX);
	point[0] = POINT_CONVERSION_UNCOMPRESSED;
	memcpy(point + 1, x, curve->bytes);
	memcpy(point + 1 + curve->bytes, y, curve->bytes);

	ok = (builder = OSSL_PARAM_BLD_new()) != NULL &&
		OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, curve->crv, 0) &&
		OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * curve->bytes);
	if (ok && want_private)
		ok = (scalar = BN_secure_new()) != NULL && BN_bin2bn(d, (int) curve->bytes, scalar) != NULL &&
			OSSL_PARAM_BLD_push_BN_pad(builder, OSSL_PKEY_PARAM_PRIV_KEY, scalar, curve->bytes);
	ok = ok && (params = OSSL_PARAM_BLD_to_param(builder)) != NULL &&
		(make = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL)) != NULL &&
		EVP_PKEY_fromdata_init(make) == 1 &&
		EVP_PKEY_fromdata(make, &key, want_private ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params) == 1 &&
		(check = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL)) != NULL &&
		EVP_PKEY_public_check(check) == 1;
	EVP_PKEY_CTX_free(check);
	EVP_PKEY_CTX_free(make);
	OSSL_PARAM_free(params);
	OSSL_PARAM_BLD_free(builder);
	BN_clear_free(scalar);
	if (d != NULL)
		OPENSSL_cleanse(d, curve->bytes);
	if (ok)
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

/* A number of a key in base64url, or NULL. */
static char *
number_of(const EVP_PKEY *key, const char *name, const Curve *curve)
{
	uint8		bytes[COORDINATE_MAX];
	BIGNUM	   *number = NULL;
	char	   *text;
	bool		ok;

	ok = EVP_PKEY_get_bn_param(key, name, &number) == 1 &&
		BN_bn2binpad(number, bytes, (int) curve->bytes) == (int) curve->bytes;
	BN_clear_free(number);
	text = ok ? encode(bytes, curve->bytes) : NULL;
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return text;
}

/* A public key as the text that its thumbprint is of (RFC 7638, section 3); or NULL. */
static char *
print_key(const EVP_PKEY *key, const Curve *curve)
{
	const char *x = number_of(key, OSSL_PKEY_PARAM_EC_PUB_X, curve);
	const char *y = number_of(key, OSSL_PKEY_PARAM_EC_PUB_Y, curve);

	return x != NULL && y != NULL ?
		psprintf("{\"crv\":\"%s\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}", curve->crv, x, y) : NULL;
}

/* False only when OpenSSL fails. */
static bool
describe(const EVP_PKEY *key, const Curve *curve, OpdJwk *jwk)
{
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned int len;

	jwk->jwk = print_key(key, curve);
	if (jwk->jwk == NULL || EVP_Digest(jwk->jwk, strlen(jwk->jwk), digest, &len, EVP_sha256(), NULL) != 1)
		return false;
	jwk->kid = encode(digest, len);
	return true;
}

static void
throw_failed(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not %s", what),
			 errdetail_internal("internal")));
}

char *
opd_jwe_generate(OpdJwk *public_part)
{
	const Curve *curve = &curves[0];
	EVP_PKEY   *key = EVP_EC_gen(curve->crv);
	char	   *d = key != NULL ? number_of(key, OSSL_PKEY_PARAM_PRIV_KEY, curve) : NULL;
	bool		ok = d != NULL && describe(key, curve, public_part);
	char	   *private_jwk = NULL;

	EVP_PKEY_free(key);
	if (!ok)
		throw_failed("generate a key pair");
	/* the members of the public part, and this one before its closing brace */
	private_jwk = psprintf("%.*s,\"d\":\"%s\"}", (int) strlen(public_part->jwk) - 1, public_part->jwk, d);
	OPENSSL_cleanse(d, strlen(d));
	return private_jwk;
}

bool
opd_jwe_check_recipient(const char *text, OpdJwk *recipient, const char **problem)
{
	Jsonb	   *jwk = strlen(text) <= OPD_JWK_MAX_BYTES ? opd_json_parse_object(text, strlen(text)) : NULL;
	const Curve *curve;
	const char *alg;
	const char *use;
	EVP_PKEY   *key;
	bool		ok;

	*problem = "it is no JSON object, or too long";
	if (jwk == NULL)
		return false;
	*problem = "it is a private key, which nobody else may know; make another pair and keep that";
	if (has(jwk, "d"))
		return false;
	*problem = "it is no key of kty EC on P-256, P-384 or P-521";
	curve = find_curve(jwk);
	if (curve == NULL)
		return false;
	*problem = "it is not for " ALG;
	alg = string_of(jwk, "alg");
	use = string_of(jwk, "use");
	if ((has(jwk, "alg") && (alg == NULL || strcmp(alg, ALG) != 0)) ||
		(has(jwk, "use") && (use == NULL || strcmp(use, "enc") != 0)))
		return false;
	*problem = "its x and y are no point on its curve";
	key = load_key(jwk, curve, false);
	if (key == NULL)
		return false;
	ok = describe(key, curve, recipient);
	EVP_PKEY_free(key);
	if (!ok)
		throw_failed("print a public key");
	*problem = NULL;
	return true;
}

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
	uint8		info[4 + sizeof(ALG) + 4 + PARTY_MAX_BYTES + 4 + PARTY_MAX_BYTES + 4];
	char		digest[] = "SHA256";
	uint8	   *p = info;
	uint8		secret[COORDINATE_MAX];
	size_t		secret_len = sizeof(secret);
	EVP_PKEY_CTX *derive = EVP_PKEY_CTX_new_from_pkey(NULL, own, NULL);
	EVP_KDF    *kdf = EVP_KDF_fetch(NULL, OSSL_KDF_NAME_SSKDF, NULL);
	EVP_KDF_CTX *kdf_ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
	OSSL_PARAM	params[4];
	bool		ok;

	put_bytes(&p, ALG, strlen(ALG));
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
	const char *text = string_of(json, name);

	*bytes = NULL;
	*len = 0;
	if (text != NULL)
		*bytes = decode(text, len);
	return !has(json, name) || (*bytes != NULL && *len <= PARTY_MAX_BYTES);
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
	uint8	   *text = decode(part, &len);
	Jsonb	   *json = text != NULL && len <= OPD_JWE_HEADER_MAX_BYTES ? opd_json_parse_object(text, len) : NULL;
	const char *alg;
	const char *enc;
	JsonbValue	v;

	memset(header, 0, sizeof(*header));
	if (json == NULL)
		return "its header is no JSON object, or too long";
	if (has_member_twice((char *) text, json))
		return "its header has a member twice";
	alg = string_of(json, "alg");
	enc = string_of(json, "enc");
	if (alg == NULL || strcmp(alg, ALG) != 0 || enc == NULL || strcmp(enc, ENC) != 0)
		return "its algorithms are others than " ALG " with " ENC;
	for (int i = 0; i < (int) lengthof(refused); i++)
	{
		if (has(json, refused[i]))
			return "its header has a member that is not taken (crit, zip, p2c, p2s, b64)";
	}
	header->kid = string_of(json, "kid");
	if (has(json, "kid") && header->kid == NULL)
		return "its kid is no string";
	if (!read_party(json, "apu", &header->apu, &header->apu_len) ||
		!read_party(json, "apv", &header->apv, &header->apv_len))
		return "its apu or apv is malformed";
	if (opd_json_find(json, "epk", &v) && v.type == jbvBinary)
		header->epk = JsonbValueToJsonb(&v);
	if (header->epk == NULL || find_curve(header->epk) != &curves[0] || has(header->epk, "d"))
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
		if (jwe->parts[i] == NULL || decode(jwe->parts[i], &n) == NULL)
			return false;
	}
	if (rest != NULL)
		return false;
	*problem = "its key, initialization vector or tag has a wrong size";
	for (int i = 0; i < 5; i++)
	{
		if (sizes[i] > 0 && decode_exactly(jwe->parts[i], sizes[i]) == NULL)
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
	ciphertext = decode(jwe->parts[3], &len);
	plaintext = palloc(len + 1);
	for (int i = 1; i < 5; i++)
		parts[i] = decode(jwe->parts[i], &(size_t) {0});
	own = load_key(private_json, &curves[0], true);
	OPENSSL_cleanse(private_json, VARSIZE(private_json));
	peer = load_key(header.epk, &curves[0], false);
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
	const Curve *curve = jwk != NULL ? find_curve(jwk) : NULL;
	uint8	   *ciphertext = palloc(len + 1);
	uint8		wrapping_key[KEY_BYTES];
	uint8		content_key[KEY_BYTES];
	uint8		wrapped[WRAPPED_BYTES];
	uint8		iv[IV_BYTES];
	uint8		tag[TAG_BYTES];
	char	   *epk = NULL;
	char	   *header = NULL;
	EVP_PKEY   *peer = curve != NULL ? load_key(jwk, curve, false) : NULL;
	EVP_PKEY   *ephemeral = curve != NULL ? EVP_EC_gen(curve->crv) : NULL;
	bool		ok = peer != NULL && ephemeral != NULL && (epk = print_key(ephemeral, curve)) != NULL;

	if (ok)
	{
		header = psprintf("{\"alg\":\"" ALG "\",\"enc\":\"" ENC "\",\"kid\":\"%s\",\"epk\":%s}", recipient->kid, epk);
		header = encode((uint8 *) header, strlen(header));
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
		throw_failed("encrypt to a recipient");
	return psprintf("%s.%s.%s.%s.%s", header, encode(wrapped, sizeof(wrapped)), encode(iv, sizeof(iv)),
					encode(ciphertext, len), encode(tag, sizeof(tag)));
}
