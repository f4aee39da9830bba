/*-------------------------------------------------------------------------
 *
 * jobs.h
 *	  Rows of opdata.job: what was done, as metadata.
 *
 * src/store/jobs.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_JOBS_H
#define OPD_JOBS_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

typedef struct OpdJobRecord
{
	const char *kind;			/* store, test, preview, delete */
	const char *connection_id;	/* or NULL */
	const char *workspace_id;	/* or NULL */
	Oid			requested_by;	/* role in effect when the job was asked for */
	TimestampTz started_at;
	int64		n_rows;			/* -1: none to tell */
	int64		n_bytes;
	const char *error_code;		/* NULL: succeeded */
	bool		canceled;
	bool		late;			/* what another attempt has written since is left alone */
} OpdJobRecord;

/* What the control plane knows a job by. */
typedef struct OpdJobKey
{
	const char *workflow_id;
	const char *run_id;
	const char *activity_id;
	int			attempt;
	const char *worker;			/* name of the process that runs it */
} OpdJobKey;

/*
 * Begin a record: kind, ids, the current role and the time. The strings must
 * stay.
 */
extern OpdJobRecord opd_jobs_begin(const char *kind, const char *connection_id,
								   const char *workspace_id);

/*
 * Write the record of a job that has ended, in the current transaction. Does
 * nothing where nothing can be written: in a read-only transaction and on a
 * standby.
 */
extern void opd_jobs_write(const OpdJobRecord *record);

/*
 * Write down that a job of the control plane runs, and lock its row until the
 * end of the transaction. Returns NULL, or the result that an earlier attempt
 * recorded, in which case nothing is to be done any more.
 */
extern Jsonb *opd_jobs_claim(const OpdJobKey *key, const OpdJobRecord *record);

/*
 * Write its end. "result" is recorded for later attempts; NULL for a job
 * without an effect, and one that failed.
 */
extern void opd_jobs_finish(const OpdJobKey *key, const OpdJobRecord *record, const Jsonb *result);

/* Jobs that a worker of this name began before then, and left running, have ended so. */
extern void opd_jobs_bury(const char *worker, TimestampTz before, const char *state, const char *error_code);

/* Delete some jobs that ended longer ago than this; returns how many. */
extern uint64 opd_jobs_prune(int retention_s);

#endif							/* OPD_JOBS_H */
