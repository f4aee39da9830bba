/*-------------------------------------------------------------------------
 *
 * guarded.h
 *	  Call something that may raise, and get the error as a value.
 *
 * The only place with a PG_TRY. What is called must be free of side effects
 * on transactions, locks and catalogs, since nothing is rolled back: parsing a
 * text or decrypting a value are model cases.
 *
 * src/base/guarded.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_GUARDED_H
#define OPD_GUARDED_H

#include "utils/elog.h"

/*
 * Call function(arg). Returns NULL, or the error that it raised, copied into
 * the current memory context. A cancel or a termination is raised on.
 */
extern ErrorData *opd_guarded_call(void (*function) (void *arg), void *arg);

#endif							/* OPD_GUARDED_H */
