/*-------------------------------------------------------------------------
 *
 * tokencell.h
 *	  The agent's token, shared by its worker processes.
 *
 * One process asks for a token, all use it. It lies in shared memory only.
 *
 * src/worker/tokencell.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_TOKENCELL_H
#define OPD_TOKENCELL_H

#include "storage/lwlock.h"

#include "control/oauth.h"

/* Shared memory that it takes, and where that is; called by state.c at the start. */
extern Size opd_tokencell_size(void);
extern void opd_tokencell_init(void *place, LWLock *lock, bool first);

/* What a process should do about the token. */
typedef struct OpdTokenView
{
	uint64		generation;		/* of the token; 0: there is none that can be used */
	bool		fetch;			/* this process is to ask for one, and has been noted */
	double		look_at_ms;		/* look again then at the latest */
} OpdTokenView;

/*
 * Look at the token that was got with these settings (a hash of them: a token
 * of others is as none). A process that is told to fetch must end that with
 * one of the calls below; should it die, others take over after a while.
 */
extern OpdTokenView opd_tokencell_look(uint32 settings);

/* Copy of a token, in the current memory context; NULL when it is gone. */
extern char *opd_tokencell_copy(uint64 generation);

/* This token was refused: get one other. False when it was such a one already. */
extern bool opd_tokencell_refuse(uint64 generation);

/* Get another one soon, for somebody whose refusal says nothing about the next. */
extern void opd_tokencell_renew(uint64 generation);

/* The token that was refused before was taken, after all or by others. */
extern void opd_tokencell_accept(uint64 generation);

/*
 * What came of it; each wakes the other workers. True when that is news: a
 * failure other than the last one, or a token after a failure.
 */
extern bool opd_tokencell_put(uint32 settings, const OpdOauthToken *token);
extern bool opd_tokencell_fail(uint32 settings, const OpdOauthFailure *failure);

/* Wipe the token. */
extern void opd_tokencell_forget(void);

/* This process will not finish what it was told to fetch. */
extern void opd_tokencell_give_up(void);

/*
 * State of the token, for opdata_status(): NULL when none was ever asked for.
 */
extern Jsonb *opd_tokencell_facts(void);

#endif							/* OPD_TOKENCELL_H */
