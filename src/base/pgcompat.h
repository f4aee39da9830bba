/*-------------------------------------------------------------------------
 *
 * pgcompat.h
 *	  Differences between PostgreSQL 14 and 18. The only file that looks at
 *	  PG_VERSION_NUM.
 *
 * src/base/pgcompat.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PGCOMPAT_H
#define OPD_PGCOMPAT_H

#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 140000
#error "opdata needs PostgreSQL 14 or later"
#endif

/*
 * CreateWaitEventSet() takes a resource owner since 17. We release the set
 * with its memory context, so there is none to give.
 */
static inline WaitEventSet *
opd_create_wait_event_set(MemoryContext context, int n_events)
{
#if PG_VERSION_NUM >= 170000
	MemoryContext old = MemoryContextSwitchTo(context);
	WaitEventSet *set = CreateWaitEventSet(NULL, n_events);

	MemoryContextSwitchTo(old);
	return set;
#else
	return CreateWaitEventSet(context, n_events);
#endif
}

/* GUC names that start with our prefix but are not ours give a warning. */
static inline void
opd_mark_guc_prefix(const char *prefix)
{
#if PG_VERSION_NUM >= 150000
	MarkGUCPrefixReserved(prefix);
#else
	EmitWarningsOnPlaceholders(prefix);
#endif
}

/* Before a declaration; the name and the place changed in 18. */
#if PG_VERSION_NUM >= 180000
#define opd_noreturn pg_noreturn
#else
#define opd_noreturn pg_attribute_noreturn()
#endif

/* MERGE came with 15. */
#if PG_VERSION_NUM >= 150000
#define OPD_HAVE_MERGE 1
#endif

/* A random number from 0 to 1; the generator changed in 15. */
#if PG_VERSION_NUM >= 150000
#include "common/pg_prng.h"
#define opd_random_fraction() pg_prng_double(&pg_global_prng_state)
#else
#define opd_random_fraction() (random() / (double) MAX_RANDOM_VALUE)
#endif

/* Shared memory is asked for in a hook since 15. */
#if PG_VERSION_NUM >= 150000
#define OPD_HAVE_SHMEM_REQUEST_HOOK 1
#endif

/* Number of this process in the array of PGPROCs. */
#if PG_VERSION_NUM >= 170000
#define opd_my_proc_number() MyProcNumber
#else
#define opd_my_proc_number() (MyProc->pgprocno)
#endif

/* pg_database_ownercheck() went in 16. */
#if PG_VERSION_NUM >= 160000
#define opd_owns_database(database, role) object_ownercheck(DatabaseRelationId, database, role)
#else
#define opd_owns_database(database, role) pg_database_ownercheck(database, role)
#endif

#endif							/* OPD_PGCOMPAT_H */
