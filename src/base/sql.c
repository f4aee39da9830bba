/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  The one door to SQL inside the agent database.
 *
 * src/base/sql.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/sql.h"

/* Owner of opdata.connection, as whom all SQL of the library runs. */
static Oid
table_owner(void)
{
	Oid			schema = get_namespace_oid(OPD_SCHEMA, true);
	Oid			relation = InvalidOid;
	HeapTuple	tuple;
	Oid			owner;

	if (OidIsValid(schema))
		relation = get_relname_relid("connection", schema);
	if (!OidIsValid(relation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension opdata does not exist in this database"),
				 errdetail_internal("internal"),
				 errhint("Run CREATE EXTENSION opdata CASCADE;")));

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relation);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

void
opd_sql_begin(OpdSqlScope *scope)
{
	Oid			owner = table_owner();

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");

	GetUserIdAndSecContext(&scope->user, &scope->security_context);
	SetUserIdAndSecContext(owner,
						   scope->security_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
opd_sql_end(OpdSqlScope *scope)
{
	AtEOXact_GUC(false, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->security_context);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

static void
prepare(OpdStatement *statement)
{
	SPIPlanPtr	plan;

	if (statement->plan != NULL)
		return;
	plan = SPI_prepare(statement->sql, statement->n_args, statement->arg_types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed");
	statement->plan = plan;
}

uint64
opd_sql_run(OpdStatement *statement, Datum *values, const char *nulls)
{
	int			rc;

	prepare(statement);

	/*
	 * Not read-only: a command must see what the command before it in the same
	 * transaction did, so a new snapshot is taken each time.
	 */
	rc = SPI_execute_plan(statement->plan, values, nulls,
						  !opd_sql_may_write(), 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

uint64
opd_sql_run_latest(OpdStatement *statement, Datum *values, const char *nulls)
{
	int			rc;

	prepare(statement);
	rc = SPI_execute_snapshot(statement->plan, values, nulls,
							  GetLatestSnapshot(), InvalidSnapshot,
							  false, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(rc));
	return SPI_processed;
}

char *
opd_sql_text(int row, int column)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[row],
									 SPI_tuptable->tupdesc, column);
	size_t		size;

	if (value == NULL)
		return NULL;
	size = strlen(value) + 1;
	return memcpy(SPI_palloc(size), value, size);
}

Datum
opd_sql_datum(int row, int column, bool *isnull)
{
	TupleDesc	tupdesc = SPI_tuptable->tupdesc;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], tupdesc, column, isnull);
	Form_pg_attribute att = TupleDescAttr(tupdesc, column - 1);

	if (*isnull)
		return (Datum) 0;
	return SPI_datumTransfer(value, att->attbyval, att->attlen);
}

/* The value of a type that is passed by value; 0 for a null. */
static Datum
fixed_value(int row, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, &isnull);

	return isnull ? (Datum) 0 : value;
}

int64
opd_sql_int8(int row, int column)
{
	return DatumGetInt64(fixed_value(row, column));
}

int32
opd_sql_int4(int row, int column)
{
	return DatumGetInt32(fixed_value(row, column));
}

bool
opd_sql_bool(int row, int column)
{
	return DatumGetBool(fixed_value(row, column));
}

Datum
opd_sql_parameter(const char *text, char *null)
{
	*null = text != NULL ? ' ' : 'n';
	return text != NULL ? CStringGetTextDatum(text) : (Datum) 0;
}

void
opd_sql_utility(const char *sql)
{
	int			rc = SPI_execute(sql, false, 0);

	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(rc));
}

Oid
opd_sql_extension_function(const char *extension, const char *function,
						   int n_args, const Oid *arg_types)
{
	static OpdStatement find = {
		.sql = "SELECT p.oid" OPD_SQL_MEMBERS("pg_proc", "p")
		" WHERE p.proname = $1 AND p.proargtypes = $2 AND e.extname = $3",
		.n_args = 3,
		.arg_types = {NAMEOID, OIDVECTOROID, NAMEOID}
	};
	NameData	function_name;
	NameData	extension_name;
	Datum		values[3];
	bool		isnull;

	namestrcpy(&function_name, function);
	namestrcpy(&extension_name, extension);
	values[0] = NameGetDatum(&function_name);
	values[1] = PointerGetDatum(buildoidvector(arg_types, n_args));
	values[2] = NameGetDatum(&extension_name);

	if (opd_sql_run(&find, values, NULL) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of extension %s does not exist", function, extension),
				 errdetail_internal("internal"),
				 errhint("Run CREATE EXTENSION %s;", extension)));
	return DatumGetObjectId(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &isnull));
}

bool
opd_sql_may_write(void)
{
	return !XactReadOnly && !RecoveryInProgress();
}
