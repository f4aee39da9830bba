/*-------------------------------------------------------------------------
 *
 * previewrows.h
 *	  Rows of a preview as JSON, within its size limits.
 *
 * src/job/previewrows.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PREVIEWROWS_H
#define OPD_PREVIEWROWS_H

#include <libpq-fe.h>

#include "utils/jsonb.h"

typedef struct OpdPreviewRows OpdPreviewRows;

/*
 * Begin, with the description of the user's statement; names[i] is the name of
 * the type of column i, and masked[i] whether its values are not shown. In the
 * current memory context, where "masked" must stay.
 */
extern OpdPreviewRows *opd_previewrows_new(const PGresult *description, char **type_names, const bool *masked);

/*
 * Add the rows of a result (of the wrapped statement). False when the size
 * limit is reached: that row is left out, and no more are wanted.
 */
extern bool opd_previewrows_add(OpdPreviewRows *rows, const PGresult *result);

/* Rows and bytes of the result; exact once it is finished. */
extern int	opd_previewrows_count(const OpdPreviewRows *rows);
extern int64 opd_previewrows_bytes(const OpdPreviewRows *rows);

/* The whole result. */
extern Jsonb *opd_previewrows_finish(OpdPreviewRows *rows, double duration_ms);

#endif							/* OPD_PREVIEWROWS_H */
