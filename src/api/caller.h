/*-------------------------------------------------------------------------
 *
 * caller.h
 *	  What every SQL function asks first: may this be done, by this role, now?
 *
 * The caller is the role that is in effect when the function is entered.
 *
 * src/api/caller.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CALLER_H
#define OPD_CALLER_H

#include "store/access.h"
#include "store/connections.h"
#include "wire/loop.h"

/*
 * Raise 42501 (workspace_denied) unless the caller may do this in the workspace;
 * NULL: in any.
 */
extern void opd_caller_require(const char *workspace_id, OpdLevel level);

/* Raise 42501 unless the caller is a superuser. */
extern void opd_caller_require_superuser(const char *function);

/* Raise 25006 where nothing can be stored. */
extern void opd_caller_require_writing(void);

/*
 * Find a connection that the caller may do this with. Raises 42704
 * (connection_not_found), also for one whose workspace the caller may not even
 * read, and 42501 (workspace_denied). The id is not repeated: it may be a
 * connection string that was taken for one.
 */
extern OpdConnection *opd_caller_connection(const char *id, OpdLevel level);

/* Raise 55000 (suspended) while the agent is suspended. */
extern void opd_caller_require_not_suspended(void);

/*
 * Turn the loop until *done. Raises 55000 (suspended) when the agent is suspended
 * meanwhile; whoever catches errors stops the job.
 */
extern void opd_caller_run(OpdLoop *loop, const bool *done);

/*
 * Where master keys come from. If that is a command, the current key, those that
 * rows need and the one with this id (NULL: none) are in the cache now, as far as
 * the command gives them.
 */
extern OpdKeySource opd_caller_keys(const char *needed_id);

#endif							/* OPD_CALLER_H */
