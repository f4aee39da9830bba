/*-------------------------------------------------------------------------
 *
 * sql.h
 *	  The one door to SQL inside the agent database.
 *
 * Everything that the library reads or writes in its own tables goes through
 * here: as the owner of the tables, with search_path pinned so that nobody can
 * slip in an operator or a function, and with parameters only.
 *
 * src/base/sql.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_SQL_H
#define OPD_SQL_H

#include "executor/spi.h"

#define OPD_SQL_MAX_ARGS 16

/*
 * A statement that is planned once for each process and kept. Declare it
 * static, with "plan" zero.
 */
typedef struct OpdStatement
{
	const char *sql;			/* names schema-qualified, parameters $1 .. */
	int			n_args;
	Oid			arg_types[OPD_SQL_MAX_ARGS];
	SPIPlanPtr	plan;			/* set on first use */
} OpdStatement;

/* What opd_sql_begin() changed. */
typedef struct OpdSqlScope
{
	Oid			user;
	int			security_context;
	int			guc_level;
} OpdSqlScope;

/*
 * Connect to SPI as the owner of the extension's tables. Whatever is allocated
 * until opd_sql_end() is freed by it; copy results out with SPI_palloc() or
 * opd_sql_text(). An error in between is undone by the transaction's abort.
 * Raises 55000 when the extension does not exist in this database.
 */
extern void opd_sql_begin(OpdSqlScope *scope);
extern void opd_sql_end(OpdSqlScope *scope);

/*
 * Run a statement; "nulls" is SPI's array of ' ' and 'n', or NULL. Returns the
 * number of rows, which are in SPI_tuptable. Raises whatever SQL raises.
 */
extern uint64 opd_sql_run(OpdStatement *statement, Datum *values, const char *nulls);

/*
 * The same for a query that must see what is committed by now, whatever the
 * isolation level of the calling transaction. Not on a standby.
 */
extern uint64 opd_sql_run_latest(OpdStatement *statement, Datum *values, const char *nulls);

/*
 * Column (from 1) of a row of the last result as text, allocated in the memory
 * context that was current at opd_sql_begin(); NULL for a null.
 */
extern char *opd_sql_text(int row, int column);

/* The same of the types bigint, integer and boolean; 0 and false for a null. */
extern int64 opd_sql_int8(int row, int column);
extern int32 opd_sql_int4(int row, int column);
extern bool opd_sql_bool(int row, int column);

/* The same as a Datum, copied there; *isnull set. */
extern Datum opd_sql_datum(int row, int column, bool *isnull);

/* A text, or null, as a parameter; sets its place in SPI's array. */
extern Datum opd_sql_parameter(const char *text, char *null);

/*
 * Run a utility statement, which takes no parameters: every name in it must be
 * quoted, and nothing in it may be a secret.
 */
extern void opd_sql_utility(const char *sql);

/*
 * The rows "alias" of a catalog that belong to extension e, as a FROM clause.
 */
#define OPD_SQL_MEMBERS(catalog, alias) \
	" FROM pg_catalog." catalog " " alias \
	" JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog." catalog "'::pg_catalog.regclass" \
	"  AND d.objid = " alias ".oid AND d.deptype = 'e'" \
	"  AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass" \
	" JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid"

/*
 * Object id of a function that belongs to an extension. Raises 42883 with a
 * hint when the extension is gone.
 */
extern Oid	opd_sql_extension_function(const char *extension, const char *function,
									   int n_args, const Oid *arg_types);

/* May this process write to its database now? False on a standby. */
extern bool opd_sql_may_write(void);

#endif							/* OPD_SQL_H */
