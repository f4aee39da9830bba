/*-------------------------------------------------------------------------
 *
 * egress.h
 *	  The log of what left: rows in a chain of hashes.
 *
 * A row is written in the transaction that decides to send. Whoever appends holds
 * the one row of opdata.egress_head until then, so that there is one order.
 *
 * src/store/egress.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_EGRESS_H
#define OPD_EGRESS_H

#include "base/error.h"
#include "utils/jsonb.h"

/* A preview that leaves, or the failure of one. NULL is what is not known. */
typedef struct OpdEgress
{
	const char *workspace_id;
	const char *connection_id;
	const char *host;
	const char *requested_by;
	const char *workflow_id;
	const char *run_id;
	const char *activity_id;
	const char *query;
	int			n_rows;
	int64		n_bytes;
	int			n_masked;
	const char *sealed_to;		/* thumbprint of the recipient's key */
	const char *error_code;		/* NULL: rows leave */
	bool		told;			/* has left already, by its end alone */
} OpdEgress;

/*
 * Hold the end of the log until the transaction is over: what is decided then, by
 * what has committed before, is decided in the order of the log.
 */
extern void opd_egress_hold(void);

/*
 * Append a row to the log, which is held, unless the limits forbid rows to leave, or
 * the agent is suspended and it was not told before: NULL, or egress_denied or
 * suspended, and nothing was written.
 */
extern OpdError *opd_egress_append(const OpdEgress *entry);

/* {"rows","head"}: how many there are, and the hash of the last (null: none). */
extern Jsonb *opd_egress_head(void);

/*
 * Is the chain whole, and does it have a row with this hash (NULL: any)?
 * {"ok","rows","head","firstBad":{"seq","problem"}|null}
 */
extern Jsonb *opd_egress_verify(const char *expected_head);

#endif							/* OPD_EGRESS_H */
