/*-------------------------------------------------------------------------
 *
 * jwk.c
 *	  JSON Web Keys: pairs that we make, and public keys of others.
 *
 * What OpenSSL allocates is freed before anything is raised, but for out of memory.
 *
 * src/secret/jwk.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/param_build.h>

#include "base/limits.h"
#include "secret/base64url.h"
#include "secret/jwk.h"

typedef struct Curve
{
	const char *crv;			/* in JOSE and in OpenSSL */
	int			bytes;			/* of a coordinate */
} Curve;

static const Curve curves[] = {
	{OPD_JWK_OWN_CURVE, 32},
	{"P-384", 48},
	{"P-521", OPD_COORDINATE_MAX},
};

static const Curve *
curve_of(const Jsonb *jwk)
{
	const char *crv = opd_json_find_string(jwk, "crv");
	const char *kty = opd_json_find_string(jwk, "kty");

	for (int i = 0; i < (int) lengthof(curves); i++)
	{
		if (kty != NULL && crv != NULL && strcmp(kty, "EC") == 0 && strcmp(crv, curves[i].crv) == 0)
			return &curves[i];
	}
	return NULL;
}

/* Of a key that is on one of them. */
static const Curve *
curve_of_key(const EVP_PKEY *key)
{
	int			bytes = (EVP_PKEY_get_bits(key) + 7) / 8;
	int			i = 0;

	while (curves[i].bytes != bytes)
		i++;
	return &curves[i];
}

EVP_PKEY *
opd_jwk_load(const Jsonb *jwk, bool want_private)
{
	const Curve *curve = curve_of(jwk);
	int			n_bytes = curve != NULL ? curve->bytes : 0;
	uint8	   *x = opd_base64url_decode_exactly(opd_json_find_string(jwk, "x"), n_bytes);
	uint8	   *y = opd_base64url_decode_exactly(opd_json_find_string(jwk, "y"), n_bytes);
	char	   *d_text = want_private ? opd_json_find_string(jwk, "d") : NULL;
	uint8	   *d = opd_base64url_decode_exactly(d_text, n_bytes);
	uint8		point[1 + 2 * OPD_COORDINATE_MAX];
	OSSL_PARAM_BLD *builder = NULL;
	OSSL_PARAM *params = NULL;
	EVP_PKEY_CTX *make = NULL;
	EVP_PKEY_CTX *check = NULL;
	EVP_PKEY   *key = NULL;
	BIGNUM	   *scalar = NULL;
	bool		ok;

	if (d_text != NULL)
		OPENSSL_cleanse(d_text, strlen(d_text));
	if (curve == NULL || x == NULL || y == NULL || (want_private && d == NULL))
		return NULL;
	point[0] = POINT_CONVERSION_UNCOMPRESSED;
	memcpy(point + 1, x, n_bytes);
	memcpy(point + 1 + n_bytes, y, n_bytes);

	ok = (builder = OSSL_PARAM_BLD_new()) != NULL &&
		OSSL_PARAM_BLD_push_utf8_string(builder, OSSL_PKEY_PARAM_GROUP_NAME, curve->crv, 0) &&
		OSSL_PARAM_BLD_push_octet_string(builder, OSSL_PKEY_PARAM_PUB_KEY, point, 1 + 2 * n_bytes);
	if (ok && want_private)
		ok = (scalar = BN_secure_new()) != NULL && BN_bin2bn(d, n_bytes, scalar) != NULL &&
			OSSL_PARAM_BLD_push_BN_pad(builder, OSSL_PKEY_PARAM_PRIV_KEY, scalar, n_bytes);
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
		OPENSSL_cleanse(d, n_bytes);
	if (ok)
		return key;
	EVP_PKEY_free(key);
	return NULL;
}

EVP_PKEY *
opd_jwk_generate_beside(const Jsonb *jwk)
{
	const Curve *curve = curve_of(jwk);

	return curve != NULL ? EVP_EC_gen(curve->crv) : NULL;
}

bool
opd_jwk_is_public(const Jsonb *jwk)
{
	return curve_of(jwk) == &curves[0] && !opd_json_has(jwk, "d");
}

/* A number of a key in base64url, or NULL. */
static char *
number_of(const EVP_PKEY *key, const char *name)
{
	int			n_bytes = curve_of_key(key)->bytes;
	uint8		bytes[OPD_COORDINATE_MAX];
	BIGNUM	   *number = NULL;
	char	   *text;
	bool		ok;

	ok = EVP_PKEY_get_bn_param(key, name, &number) == 1 &&
		BN_bn2binpad(number, bytes, n_bytes) == n_bytes;
	BN_clear_free(number);
	text = ok ? opd_base64url_encode(bytes, n_bytes) : NULL;
	OPENSSL_cleanse(bytes, sizeof(bytes));
	return text;
}

char *
opd_jwk_print(const EVP_PKEY *key)
{
	const char *x = number_of(key, OSSL_PKEY_PARAM_EC_PUB_X);
	const char *y = number_of(key, OSSL_PKEY_PARAM_EC_PUB_Y);

	return x != NULL && y != NULL ?
		psprintf("{\"crv\":\"%s\",\"kty\":\"EC\",\"x\":\"%s\",\"y\":\"%s\"}", curve_of_key(key)->crv, x, y) : NULL;
}

/* False only when OpenSSL fails. */
static bool
describe(const EVP_PKEY *key, OpdJwk *jwk)
{
	uint8		digest[EVP_MAX_MD_SIZE];
	unsigned int len;

	jwk->jwk = opd_jwk_print(key);
	if (jwk->jwk == NULL || EVP_Digest(jwk->jwk, strlen(jwk->jwk), digest, &len, EVP_sha256(), NULL) != 1)
		return false;
	jwk->kid = opd_base64url_encode(digest, len);
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
opd_jwk_generate(OpdJwk *public_part)
{
	EVP_PKEY   *key = EVP_EC_gen(OPD_JWK_OWN_CURVE);
	char	   *d = key != NULL ? number_of(key, OSSL_PKEY_PARAM_PRIV_KEY) : NULL;
	bool		ok = d != NULL && describe(key, public_part);
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
opd_jwk_check_recipient(const char *text, OpdJwk *recipient, const char **problem)
{
	Jsonb	   *jwk = strlen(text) <= OPD_JWK_MAX_BYTES ? opd_json_parse_object(text, strlen(text)) : NULL;
	const char *alg;
	const char *use;
	EVP_PKEY   *key;
	bool		ok;

	*problem = "it is no JSON object, or too long";
	if (jwk == NULL)
		return false;
	*problem = "it is a private key, which nobody else may know; make another pair and keep that";
	if (opd_json_has(jwk, "d"))
		return false;
	*problem = "it is no key of kty EC on P-256, P-384 or P-521";
	if (curve_of(jwk) == NULL)
		return false;
	*problem = "it is not for " OPD_JWK_ALG;
	alg = opd_json_find_string(jwk, "alg");
	use = opd_json_find_string(jwk, "use");
	if ((opd_json_has(jwk, "alg") && (alg == NULL || strcmp(alg, OPD_JWK_ALG) != 0)) ||
		(opd_json_has(jwk, "use") && (use == NULL || strcmp(use, "enc") != 0)))
		return false;
	*problem = "its x and y are no point on its curve";
	key = opd_jwk_load(jwk, false);
	if (key == NULL)
		return false;
	ok = describe(key, recipient);
	EVP_PKEY_free(key);
	if (!ok)
		throw_failed("print a public key");
	*problem = NULL;
	return true;
}
