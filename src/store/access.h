/*-------------------------------------------------------------------------
 *
 * access.h
 *	  What roles may do in workspaces.
 *
 * A role needs two things: a row here, and the privilege to call the function or
 * read the view, which opd_access_grant() gives as well. Superusers and who has
 * the privileges of the tables' owner may do everything.
 *
 * src/store/access.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ACCESS_H
#define OPD_ACCESS_H

/* In the order of what they may do; each may do what those before it may. */
typedef enum OpdLevel
{
	OPD_READER = 1,				/* list, status */
	OPD_DEVELOPER,				/* store, test, preview, delete */
	OPD_ADMIN					/* mask, limit, grant */
} OpdLevel;

/* All workspaces, and what belongs to none. */
#define OPD_ALL_WORKSPACES "*"

/* "reader", ... and back; 0 for any other name. */
extern const char *opd_access_level_name(OpdLevel level);
extern OpdLevel opd_access_level_of(const char *name);

/* May the current role do this in the workspace, or in any of them (NULL)? */
extern bool opd_access_has(const char *workspace_id, OpdLevel level);

/* Number of connections in the workspaces that the current role may read. */
extern int64 opd_access_count_connections(void);

/*
 * Let a role act in a workspace, instead of what it might there before; and take
 * it back, whatever it is (0) or only this level, false when there was nothing. The
 * role must exist for the first. Privileges on functions and views follow.
 */
extern void opd_access_grant(const char *role, const char *workspace_id, OpdLevel level);
extern bool opd_access_revoke(const char *role, const char *workspace_id, OpdLevel level);

#endif							/* OPD_ACCESS_H */
