/*-------------------------------------------------------------------------
 *
 * ending.h
 *	  The record of a task that has ended without a result.
 *
 * src/task/ending.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ENDING_H
#define OPD_ENDING_H

#include "store/egress.h"
#include "store/jobs.h"

/*
 * Write down how a task has ended, now or, if somebody's lock is in the way, later;
 * what was claimed meanwhile by another worker is left to that. "egress": a row for the
 * log of what left besides, with an error code, or NULL. Raises nothing but out of
 * memory.
 */
extern void opd_ending_record(const OpdJobKey *key, const OpdJobRecord *record, bool claimed,
							  const OpdEgress *egress);

/* Write down what a lock has kept from it so far. Returns when to be called next. */
extern double opd_ending_catch_up(void);

#endif							/* OPD_ENDING_H */
