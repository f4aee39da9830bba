/*-------------------------------------------------------------------------
 *
 * sealing.h
 *	  The agent's key pairs that credentials are sealed to.
 *
 * Every function runs SQL as the owner of the tables, by itself.
 *
 * src/store/sealing.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_SEALING_H
#define OPD_SEALING_H

#include "base/error.h"
#include "datatype/timestamp.h"
#include "secret/masterkey.h"
#include "utils/jsonb.h"

/*
 * The public key to seal to, as a JWK with use, alg and kid. Makes the first pair
 * on first use; raises 25006 where nothing can be written then.
 */
extern Jsonb *opd_sealing_public_key(const OpdKeySource *keys);

/*
 * Make another pair, which is the one to seal to from now on. Those before open
 * for "overlap" longer, and are deleted some time after. Returns the public key.
 */
extern Jsonb *opd_sealing_rotate(const OpdKeySource *keys, const Interval *overlap);

/* What sealed credentials are to be used as; NULL: as none that is stored. */
typedef struct OpdSealedUse
{
	const char *workspace_id;
	const char *connection_id;
} OpdSealedUse;

/*
 * The payload to work with: what was sealed if it is {"sealed": "<compact JWE>"},
 * else itself, which is an error (sealed_required) where sealing is demanded. Who
 * seals may name the connection, its workspace, or both beside the credentials
 * ("connectionId", "workspaceId"), and it is an error to use them as another; to
 * test them (use is NULL) never is. Returns NULL, or the error.
 */
extern OpdError *opd_sealing_take(const Jsonb *payload, bool required, const OpdKeySource *keys,
								  const OpdSealedUse *use, Jsonb **plain);

/* Delete pairs that have ended. Returns how many there were. */
extern uint64 opd_sealing_prune(void);

#endif							/* OPD_SEALING_H */
