/*-------------------------------------------------------------------------
 *
 * connections.h
 *	  Rows of opdata.connection.
 *
 * Every function here runs SQL as the owner of the tables, by itself: callers
 * need no scope. All raise what SQL raises.
 *
 * src/store/connections.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CONNECTIONS_H
#define OPD_CONNECTIONS_H

#include "base/error.h"
#include "secret/masterkey.h"
#include "utils/jsonb.h"

typedef struct OpdConnection
{
	char	   *id;
	char	   *workspace_id;
	char	   *type;
	char	   *name;
	char	   *key_id;			/* master key that the payload needs */
	bytea	   *payload;		/* encrypted */
} OpdConnection;

/* What opd_connections_put() writes. */
typedef struct OpdConnectionChange
{
	const char *id;
	const char *workspace_id;
	const char *type;
	const char *name;			/* NULL: keep the old one, or take the id */
	const char *payload;		/* plaintext JSON */
	Jsonb	   *safe_metadata;
	const char *status;			/* connected or pending */
	bool		tested;			/* sets last_tested_at to now */
} OpdConnectionChange;

/* Find a connection; NULL when there is none of that id. */
extern OpdConnection *opd_connections_find(const char *id);

/*
 * Decrypt the payload with its master key: JSON text, which the caller
 * wipes with opd_envelope_wipe(). Raises 55000 (secret_unavailable) when the
 * key is missing or another one.
 */
extern char *opd_connections_payload(const OpdConnection *connection, const OpdKeySource *keys);

/*
 * Insert or replace a connection. Makes the key file when there is none and no
 * row is encrypted yet. Returns the display name that the row has now, or NULL
 * when the id belongs to another workspace, in which case nothing changed.
 */
extern char *opd_connections_put(const OpdConnectionChange *change, const OpdKeySource *keys);

/*
 * Note the outcome of a test of the credentials that were found; error_code is
 * NULL when it succeeded. Does nothing if they were replaced meanwhile.
 */
extern void opd_connections_note_test(const OpdConnection *connection, const char *error_code);

/* Delete, in this workspace or any (NULL); returns it, or NULL when there was no such connection. */
extern char *opd_connections_delete(const char *id, const char *workspace_id);

#endif							/* OPD_CONNECTIONS_H */
