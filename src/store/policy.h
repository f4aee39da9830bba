/*-------------------------------------------------------------------------
 *
 * policy.h
 *	  What the customer lets leave: masks, limits, recipients.
 *
 * src/store/policy.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_POLICY_H
#define OPD_POLICY_H

#include "base/error.h"
#include "guard/mask.h"
#include "utils/jsonb.h"

/*
 * The mask for a connection, in the current memory context, its rules in an order of
 * their own. Without a workspace
 * (NULL), for credentials that are not stored, all rules there are: who has seen
 * such credentials before could else go round the rules of the connection that they
 * were stored as.
 */
extern OpdMask *opd_policy_mask_of(const char *workspace_id, const char *connection_id);

/*
 * Add a rule; connection and type may be NULL, for all. Take the rules with this
 * pattern away, for this connection or for all (NULL); returns how many there were.
 */
extern void opd_policy_add_mask(const char *workspace_id, const char *column_pattern,
								const char *connection_id, const char *type_pattern);
extern uint64 opd_policy_remove_masks(const char *workspace_id, const char *column_pattern, const char *connection_id);

/* Set the limits of a workspace; a negative number is none. */
extern void opd_policy_limit(const char *workspace_id, int previews_per_day, int rows_per_day);

/*
 * May a preview with so many rows leave now? NULL, or egress_denied. Without a
 * workspace the limits of every workspace count.
 */
extern OpdError *opd_policy_refusal(const char *workspace_id, int n_rows);

/* Public keys that previews may be sealed to. */
extern void opd_policy_trust(const char *label, const char *kid, const Jsonb *jwk);
extern bool opd_policy_distrust(const char *label);
extern bool opd_policy_trusts(const char *kid);

#endif							/* OPD_POLICY_H */
