/*-------------------------------------------------------------------------
 *
 * ddl.h
 *	  Commands of other sessions that the workers must make way for.
 *
 * src/worker/ddl.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_DDL_H
#define OPD_DDL_H

/* Install the hook; called once, from _PG_init(). */
extern void opd_ddl_install(void);

/* Let all workers look around when the current transaction has committed. */
extern void opd_ddl_poke_at_commit(void);

/* When the transaction commits: rows are encrypted under another master key. */
extern void opd_ddl_exchange_at_commit(void);

/* The same for opdata_suspend(): the token is forgotten besides. */
extern void opd_ddl_suspend_at_commit(void);

#endif							/* OPD_DDL_H */
