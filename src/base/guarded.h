/*-------------------------------------------------------------------------
 *
 * guarded.h
 *	  Call something that may raise, and get the error as a value.
 *
 * The only place with a PG_TRY.
 *
 * src/base/guarded.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_GUARDED_H
#define OPD_GUARDED_H

#include "utils/elog.h"

/*
 * Call function(arg). It must be free of side effects on transactions, locks
 * and catalogs, since nothing is rolled back: parsing a text or decrypting a
 * value are model cases. Returns NULL, or the error that it raised, copied into
 * the current memory context. A cancel or a termination is raised on.
 */
extern ErrorData *opd_guarded_call(void (*function) (void *arg), void *arg);

/*
 * Run function(arg) in a transaction of its own, with a snapshot, and commit.
 * Only where no transaction is open: in a background worker. Without
 * wait_for_disk the commit may be lost in a crash of the server. The function
 * runs in the current memory context and keeps its results there. Returns
 * NULL, or the error after which the transaction was rolled back.
 */
extern ErrorData *opd_guarded_transaction(void (*function) (void *arg), void *arg,
										  bool wait_for_disk);

/*
 * Was it nothing but a lock of somebody else that such a transaction met, so that
 * it should be tried again? The first of many is logged.
 */
extern bool opd_guarded_met_lock(const ErrorData *error);

/*
 * Run function(arg), which looks at the catalogs: in the transaction that is
 * open, or in a worker, where none is, in one of its own. False when that had
 * to be rolled back.
 */
extern bool opd_guarded_catalog(void (*function) (void *arg), void *arg);

#endif							/* OPD_GUARDED_H */
