/*-------------------------------------------------------------------------
 *
 * dsn.h
 *	  Connection strings: postgresql:// URLs and key/value strings.
 *
 * src/source/dsn.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_DSN_H
#define OPD_DSN_H

#include "source/credential.h"

/*
 * Read a connection string into the credential, whose defaults are set. Only
 * parameters that this file lists are taken; what names a local file, a
 * service or a socket is not among them. Returns NULL or the error; what libpq
 * says of a malformed string quotes parts of it and is never repeated.
 */
extern OpdError *opd_dsn_read(const char *dsn, OpdCredential *credential);

#endif							/* OPD_DSN_H */
