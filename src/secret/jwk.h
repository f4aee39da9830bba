/*-------------------------------------------------------------------------
 *
 * jwk.h
 *	  JSON Web Keys (RFC 7517) on an elliptic curve, as text or parsed.
 *
 * A key's id is its thumbprint (RFC 7638) by SHA-256. Ours are on P-256, those of
 * recipients also on P-384 and P-521. What is returned is in the current memory
 * context, but for an EVP_PKEY, which the caller frees.
 *
 * src/secret/jwk.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_JWK_H
#define OPD_JWK_H

#include <openssl/evp.h>

#include "base/json.h"

#define OPD_JWK_OWN_CURVE	"P-256"
#define OPD_JWK_ALG			"ECDH-ES+A256KW"	/* what all of them are for */
#define OPD_COORDINATE_MAX	66	/* bytes, of P-521 */

/* A public key. */
typedef struct OpdJwk
{
	char	   *jwk;			/* {"crv","kty","x","y"}, nothing else */
	char	   *kid;			/* thumbprint */
} OpdJwk;

/*
 * Make a key pair on P-256: the private JWK, which the caller wipes, and the public
 * part of it. Raises XX000 when OpenSSL cannot.
 */
extern char *opd_jwk_generate(OpdJwk *public_part);

/*
 * Is this a public key that can be encrypted to? False, and why in *problem (a
 * sentence without a period). A private key is refused too: who gives one has made
 * it known. Raises XX000 when OpenSSL cannot print it.
 */
extern bool opd_jwk_check_recipient(const char *text, OpdJwk *recipient, const char **problem);

/* Is it a public key on P-256, as far as one can tell without its point? Never throws. */
extern bool opd_jwk_is_public(const Jsonb *jwk);

/*
 * The key of a JWK, with its private part if that is wanted; NULL when it is none
 * (RFC 7518, section 6.2). A point that is not on the curve is refused.
 */
extern EVP_PKEY *opd_jwk_load(const Jsonb *jwk, bool want_private);

/* A new key pair on the curve of that key; NULL when there is none. */
extern EVP_PKEY *opd_jwk_generate_beside(const Jsonb *jwk);

/* A public key as the text that its thumbprint is of (RFC 7638, section 3); or NULL. */
extern char *opd_jwk_print(const EVP_PKEY *key);

#endif							/* OPD_JWK_H */
