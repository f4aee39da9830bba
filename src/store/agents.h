/*-------------------------------------------------------------------------
 *
 * agents.h
 *	  Which cluster this agent database belongs to.
 *
 * A dump carries the table, so that a copy of the database in another cluster
 * finds that it is one. A standby that was promoted is the same cluster on
 * another timeline.
 *
 * src/store/agents.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_AGENTS_H
#define OPD_AGENTS_H

typedef struct OpdAgentFacts
{
	char	   *agent_id;		/* a UUID; NULL: nothing was noted yet, or only of others */
	char	   *system_identifier;	/* of this cluster */
	int			timeline;		/* of this cluster now; 0 on a standby */
	int			noted_timeline; /* when the agent began here, or was last resumed; 0: never */
	bool		copy;			/* it was noted for another cluster */
} OpdAgentFacts;

/*
 * Look, in the current transaction; the strings are in the current memory
 * context. With "begin", what is the first to look notes this cluster.
 */
extern OpdAgentFacts opd_agents_look(bool begin);

/* This cluster is the one that works, on its present timeline. */
extern void opd_agents_resume(void);

#endif							/* OPD_AGENTS_H */
