/*-------------------------------------------------------------------------
 *
 * certfiles.h
 *	  Certificates and a key in files that somebody may replace at any time.
 *
 * Files are replaced one after the other, so that for a moment a certificate
 * and a key may not belong together. What was read last and fitted stays in
 * use until the files fit again.
 *
 * src/secret/certfiles.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CERTFILES_H
#define OPD_CERTFILES_H

#include "datatype/timestamp.h"

/*
 * Where the PEM texts are: paths, relative ones to the data directory. A value
 * that begins with "-----BEGIN" is the text itself. NULL or "": none.
 */
typedef struct OpdCertPaths
{
	const char *ca;				/* trusted certificates; none: the system's */
	const char *cert;			/* of the client, with what its issuer needs */
	const char *key;
} OpdCertPaths;

typedef struct OpdCertFiles
{
	const char *ca;				/* PEM texts in use, or NULL */
	const char *cert;
	const char *key;
	TimestampTz not_after;		/* of the client certificate; 0: none */
	const char *problem;		/* why the files as they are now cannot be used; or NULL */
	bool		usable;			/* what is above may be used */
} OpdCertFiles;

/*
 * Read the files for the first time; the result lives in the current memory
 * context, whose reset wipes the key. What is wrong with them is told in
 * "problem". Raises only 53200.
 */
extern OpdCertFiles *opd_certfiles_new(const OpdCertPaths *paths);

/*
 * Read them again if they have changed. True when other texts are in use now.
 * Raises only 53200.
 */
extern bool opd_certfiles_look(OpdCertFiles *files);

/*
 * A small text file with a secret, such as a token; a relative path is relative
 * to the data directory. Without white space at its end, in the current memory context. NULL, and why in *problem, when it cannot
 * be read, is empty, or holds more than "max_bytes" or control characters.
 * Raises only 53200.
 */
extern char *opd_secretfile_read(const char *path, size_t max_bytes, char **problem);

#endif							/* OPD_CERTFILES_H */
