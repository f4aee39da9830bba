/*-------------------------------------------------------------------------
 *
 * testjob.h
 *	  Test of a credential against its source.
 *
 * src/job/testjob.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_TESTJOB_H
#define OPD_TESTJOB_H

#include "source/credential.h"
#include "wire/hostpolicy.h"
#include "wire/loop.h"

typedef struct OpdTestJob
{
	bool		done;			/* the loop may stop turning */
	OpdError   *error;			/* why the test failed, or NULL */
	Jsonb	   *result;			/* {"ok",...}, also of a failed test */
} OpdTestJob;

/*
 * Begin to test: sign in, then read what the role may do. Runs on the loop
 * until "done"; never raises for a bad source. The job lives in the current
 * memory context, whose reset ends it; credential and policy must stay until
 * then.
 */
extern OpdTestJob *opd_testjob_start(OpdLoop *loop, const OpdCredential *credential,
									 const OpdHostPolicy *policy);

#endif							/* OPD_TESTJOB_H */
