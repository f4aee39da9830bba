/*-------------------------------------------------------------------------
 *
 * credential.h
 *	  A credential payload, checked.
 *
 * The payload is JSON that a user or the control plane wrote. Reading it
 * turns it into a struct of known members, or names the member that is wrong;
 * the value of a member is never repeated.
 *
 * src/source/credential.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CREDENTIAL_H
#define OPD_CREDENTIAL_H

#include "base/error.h"

typedef struct OpdCredential
{
	const char *type;			/* "postgres" or "cockroachdb" */
	const char *mode;			/* "fields" or "dsn" */
	char	   *host;
	int			port;
	char	   *database;
	char	   *username;
	char	   *password;		/* or NULL, as all below */
	const char *ssl_mode;		/* never NULL: disable, require, verify-ca, verify-full */
	char	   *schema;
	char	   *ssl_root_cert;	/* PEM texts */
	char	   *ssl_cert;
	char	   *ssl_key;
	char	   *options;		/* routing of a CockroachDB cluster */
	char	   *application_name;
	int			connect_timeout_s;	/* 0: none of its own */
} OpdCredential;

/*
 * Read a payload. Returns NULL and fills the credential, or the error:
 * invalid_credentials, or unsupported for a type or a payload that a later
 * version may take. All in the current memory context.
 */
extern OpdError *opd_credential_read(const char *type, const Jsonb *payload,
									 OpdCredential *credential);

/* Is the host the directory of a Unix socket? */
extern bool opd_credential_is_socket(const OpdCredential *credential);

/* The part of a payload that may be shown and sent. */
extern Jsonb *opd_credential_safe_metadata(const OpdCredential *credential);

/* Error for the member "key"; the format is the rest of the sentence. */
extern OpdError *opd_credential_invalid(const char *key, const char *fmt,...) pg_attribute_printf(2, 3);

/*
 * Rules for single values, shared by both modes: each fills the member, or
 * returns the error that names the key. (credential.c, used by dsn.c)
 */
extern OpdError *opd_credential_set_host(OpdCredential *credential, const char *key, const char *value);
extern OpdError *opd_credential_set_port(OpdCredential *credential, const char *key, const char *value);
extern OpdError *opd_credential_set_ssl_mode(OpdCredential *credential, const char *key, const char *value);

#endif							/* OPD_CREDENTIAL_H */
