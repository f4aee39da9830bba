/*-------------------------------------------------------------------------
 *
 * envelope.h
 *	  Encryption of one value of one row, by pgcrypto.
 *
 * The ciphertext is an OpenPGP message that pgcrypto's
 * pgp_sym_encrypt_bytea() makes (AES-256, integrity-protected). OpenPGP has no
 * associated data, so the identity of the row (workspace, id, column) is put
 * in front of the plaintext and compared after decryption: a ciphertext copied
 * to another row is refused.
 *
 * pgcrypto is called as a C function. Neither key nor plaintext ever stands in
 * a SQL text, where a log line could show it.
 *
 * src/secret/envelope.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ENVELOPE_H
#define OPD_ENVELOPE_H

#include "secret/masterkey.h"

/* Which value of which row. */
typedef struct OpdEnvelopeIdentity
{
	const char *workspace_id;
	const char *id;
	const char *column;
} OpdEnvelopeIdentity;

/*
 * Encrypt a NUL-terminated text. Must be called between opd_sql_begin() and
 * opd_sql_end(). Returns a bytea in the current memory context. Raises what
 * pgcrypto raises, and 42883 when it is not installed.
 */
extern bytea *opd_envelope_close(const OpdMasterKey *key,
								 const OpdEnvelopeIdentity *identity,
								 const char *plaintext);

/*
 * Decrypt to a NUL-terminated text in the current memory context; the caller
 * wipes it with opd_envelope_wipe(). Must be called between opd_sql_begin()
 * and opd_sql_end(). Raises XX001 (data corrupted; code "internal") when the
 * value was altered or belongs to another row; the key is wiped then.
 */
extern char *opd_envelope_open(OpdMasterKey *key,
							   const OpdEnvelopeIdentity *identity,
							   bytea *ciphertext);

/* Overwrite a text that held a secret. NULL is ignored. */
extern void opd_envelope_wipe(char *plaintext);

#endif							/* OPD_ENVELOPE_H */
