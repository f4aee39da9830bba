/*-------------------------------------------------------------------------
 *
 * suspension.c
 *	  Was the agent told to stop?
 *
 * src/store/suspension.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "base/sql.h"
#include "store/suspension.h"

TimestampTz
opd_suspension_since(void)
{
	static OpdStatement find = {
		.sql = "SELECT since FROM opdata.suspension"
	};
	OpdSqlScope scope;
	TimestampTz since = 0;

	opd_sql_begin(&scope);
	if (opd_sql_run_latest(&find, NULL, NULL) > 0)
		since = opd_sql_int8(0, 1);
	opd_sql_end(&scope);
	return since;
}

bool
opd_suspension_begin(void)
{
	static OpdStatement insert = {
		.sql = "INSERT INTO opdata.suspension (suspended_by) VALUES ($1) ON CONFLICT DO NOTHING",
		.n_args = 1,
		.arg_types = {NAMEOID}
	};
	NameData	name;
	Datum		values[] = {NameGetDatum(&name)};
	OpdSqlScope scope;
	bool		changed;

	namestrcpy(&name, GetUserNameFromId(GetUserId(), false));
	opd_sql_begin(&scope);
	changed = opd_sql_run(&insert, values, NULL) > 0;
	opd_sql_end(&scope);
	return changed;
}

bool
opd_suspension_end(void)
{
	static OpdStatement delete = {
		.sql = "DELETE FROM opdata.suspension"
	};
	OpdSqlScope scope;
	bool		changed;

	opd_sql_begin(&scope);
	changed = opd_sql_run(&delete, NULL, NULL) > 0;
	opd_sql_end(&scope);
	return changed;
}
