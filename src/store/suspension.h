/*-------------------------------------------------------------------------
 *
 * suspension.h
 *	  Was the agent told to stop?
 *
 * src/store/suspension.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_SUSPENSION_H
#define OPD_SUSPENSION_H

#include "utils/timestamp.h"

/* Since when it is suspended, as of now and not of the transaction's snapshot; 0: it is not. */
extern TimestampTz opd_suspension_since(void);

/* Suspend it, which does nothing when it is; and end that. False when nothing changed. */
extern bool opd_suspension_begin(void);
extern bool opd_suspension_end(void);

#endif							/* OPD_SUSPENSION_H */
