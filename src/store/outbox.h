/*-------------------------------------------------------------------------
 *
 * outbox.h
 *	  Calls of the control plane's HTTP API that wait to be made.
 *
 * A call is written down in the transaction whose effect it tells, and stays
 * until the control plane has taken it. They are made in order.
 *
 * src/store/outbox.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_OUTBOX_H
#define OPD_OUTBOX_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

typedef struct OpdOutboxCall
{
	int64		id;
	char	   *key;			/* idempotency key, a UUID */
	char	   *function;		/* "module:name" */
	Jsonb	   *args;
	int			n_failures;		/* of the function, as against the way there */
	bool		is_old;			/* it has waited for more than a day */
} OpdOutboxCall;

/* Write down how a connection is now, or that it was deleted. */
extern void opd_outbox_tell_connection(const char *id);
extern void opd_outbox_tell_deleted(const char *id, const char *workspace_id);

/* Did this process write one down since this was asked last? It may not have committed. */
extern bool opd_outbox_was_filled(void);

/* The oldest call, in the current memory context; false when there is none. */
extern bool opd_outbox_first(OpdOutboxCall *call);

/* It was made, or will not be; or its function failed once more. */
extern void opd_outbox_remove(int64 id);
extern void opd_outbox_note_failure(int64 id);

/* How many wait, and since when the oldest does (0: none). */
extern int64 opd_outbox_count(TimestampTz *oldest);

#endif							/* OPD_OUTBOX_H */
