/*
 * fake-cockroach.c
 *	  Makes a PostgreSQL server look like CockroachDB to who signs in.
 *
 * Compiled by a test and preloaded into the server that plays the source. Two
 * settings:
 *
 *		crdb_version	reported to each client at its start, as CockroachDB
 *						does; the compiler is given it as CRDB_VERSION
 *		cluster			what a client's startup options said by --cluster=NAME;
 *						PostgreSQL alone would refuse that option
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

static char *crdb_version;
static char *cluster;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	DefineCustomStringVariable("crdb_version", "Version that is reported.", NULL,
							   &crdb_version, CRDB_VERSION, PGC_INTERNAL, GUC_REPORT,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("cluster", "Cluster that the client asked for.", NULL,
							   &cluster, "", PGC_BACKEND, 0,
							   NULL, NULL, NULL);
}
