/*-------------------------------------------------------------------------
 *
 * previewjob.h
 *	  Preview of a query: a bounded look at a source's rows.
 *
 * src/job/previewjob.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PREVIEWJOB_H
#define OPD_PREVIEWJOB_H

#include "guard/mask.h"
#include "source/credential.h"
#include "wire/hostpolicy.h"
#include "wire/loop.h"

typedef struct OpdPreviewJob
{
	bool		done;			/* the loop may stop turning */
	bool		ran;			/* the source was told to run the statement: what comes of it may depend on rows */
	OpdError   *error;			/* why there is no result, or NULL */
	Jsonb	   *result;
	int			n_rows;
	int64		n_bytes;
	int			n_masked;		/* columns */
} OpdPreviewJob;

/*
 * Begin to preview. Runs on the loop until "done". The job lives in the
 * current memory context, whose reset ends it and cancels the query on the
 * source; credential, policy and mask must stay until then.
 */
extern OpdPreviewJob *opd_previewjob_start(OpdLoop *loop, const OpdCredential *credential,
										   const OpdHostPolicy *policy, const OpdMask *mask,
										   const char *query);

#endif							/* OPD_PREVIEWJOB_H */
