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
} OpdJobRecord;

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

#endif							/* OPD_JOBS_H */
