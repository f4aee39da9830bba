/*-------------------------------------------------------------------------
 *
 * jwe.h
 *	  JSON Web Encryption in its compact form (RFC 7516, section 3.1).
 *
 * One kind only: alg ECDH-ES+A256KW, enc A256GCM (RFC 7518, sections 4.6 and
 * 5.3), with a key on the curve P-256; to recipients also on P-384 and P-521. A
 * token never decides how it is opened: its header is compared with this list. The
 * cryptography is OpenSSL's.
 *
 * What is returned is in the current memory context.
 *
 * src/secret/jwe.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_JWE_H
#define OPD_JWE_H

#include "secret/jwk.h"

/* A token that could be one of ours. */
typedef struct OpdJwe
{
	char	   *parts[5];		/* header, key, iv, ciphertext, tag: base64url */
	char	   *kid;			/* NULL: the header has none */
} OpdJwe;

/*
 * Take a token apart and look at everything in it but the ciphertext. False, and
 * why in *problem (a sentence without a period that quotes nothing of it).
 */
extern bool opd_jwe_parse(const char *token, OpdJwe *jwe, const char **problem);

/*
 * Open a token with a private key. Returns the plaintext, NUL-terminated, which
 * the caller wipes; NULL when the key is another one, anything was altered, or
 * the plaintext has a NUL in it.
 */
extern char *opd_jwe_open(const OpdJwe *jwe, const char *private_jwk);

/*
 * Encrypt to a recipient. Returns a token; raises XX000 when OpenSSL cannot.
 */
extern char *opd_jwe_seal(const OpdJwk *recipient, const char *plaintext, size_t len);

#endif							/* OPD_JWE_H */
