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

#include "store/jobs.h"

/*
 * Write down how a task has ended, now or, if somebody's lock is in the way, later;
 * what was claimed meanwhile by another worker is left to that. Raises nothing but out
 * of memory.
 */
extern void opd_ending_record(const OpdJobKey *key, const OpdJobRecord *record, bool claimed);

/* Write down what a lock has kept from it so far. Returns when to be called next. */
extern double opd_ending_catch_up(void);

#endif							/* OPD_ENDING_H */
