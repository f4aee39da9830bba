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

/* Write down the first of those that a lock has kept from it. Returns when to be called next. */
extern double opd_ending_catch_up(void);

/* Before the process ends: the others too, but for what a lock still holds up and what is not written by until_ms. */
extern void opd_ending_give_up(double until_ms);

#endif							/* OPD_ENDING_H */
