/*-------------------------------------------------------------------------
 *
 * pem.h
 *	  Checks of certificates and keys before libpq sees them.
 *
 * libpq reports a malformed certificate in its own, localised words, and asks
 * on the terminal for the passphrase of an encrypted key. Both are found here,
 * when the payload is stored.
 *
 * src/secret/pem.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PEM_H
#define OPD_PEM_H

#include "datatype/timestamp.h"

/*
 * What is wrong with a PEM text of one or more certificates? NULL when
 * nothing, else a static phrase such as "is not a PEM certificate". Never
 * throws.
 */
extern const char *opd_pem_certificate_problem(const char *pem);

/*
 * What is wrong with a PEM private key, which must be unencrypted and belong
 * to the first certificate of "certificate_pem", called "certificate_name"? In
 * the current memory context. Raises only 53200.
 */
extern char *opd_pem_key_problem(const char *pem, const char *certificate_pem,
								 const char *certificate_name);

/*
 * When does the first certificate of a PEM text that was found good end?
 * Infinitely late when that cannot be told. Never throws.
 */
extern TimestampTz opd_pem_not_after(const char *pem);

/*
 * File that holds the system's trusted CA certificates, or NULL when none of
 * the usual ones exists. A static string. Never throws.
 */
extern const char *opd_pem_system_bundle(void);

#endif							/* OPD_PEM_H */
