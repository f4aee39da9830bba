/*-------------------------------------------------------------------------
 *
 * opdata.c
 *	  Entry of the library: registration only.
 *
 * src/opdata.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "conf/conf.h"
#include "secret/redact.h"
#include "worker/ddl.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/*
 * The library hides credentials from the log of every backend and runs
 * background workers, so it must be there from the start of the server.
 * CREATE EXTENSION loads it when it creates the first function, and gets this
 * error.
 */
void
_PG_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("opdata must be loaded by shared_preload_libraries"),
				 errhint("Add this line to postgresql.conf and restart the server: shared_preload_libraries = 'opdata'")));

	opd_conf_define();
	opd_redact_install();
	opd_ddl_install();
	opd_worker_register();
}
