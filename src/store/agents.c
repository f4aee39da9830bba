/*-------------------------------------------------------------------------
 *
 * agents.c
 *	  Which cluster this agent database belongs to.
 *
 * The table has no key: the first look of a worker may come between CREATE
 * EXTENSION and the data of a dump that is being restored, which must not fail
 * for that. Two rows of one cluster mean the same as one.
 *
 * src/store/agents.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/sql.h"
#include "store/agents.h"

static char *
own_system_identifier(void)
{
	return psprintf(UINT64_FORMAT, GetSystemIdentifier());
}

OpdAgentFacts
opd_agents_look(bool begin)
{
	static OpdStatement any = {
		.sql = "SELECT 1 FROM opdata.agent LIMIT 1"
	};
	/* of all processes that look at once one makes the row */
	static OpdStatement alone = {
		.sql = "LOCK TABLE opdata.agent IN SHARE ROW EXCLUSIVE MODE"
	};
	static OpdStatement note = {
		.sql = "INSERT INTO opdata.agent (system_identifier, timeline) SELECT $1, $2"
		" WHERE NOT EXISTS (SELECT FROM opdata.agent)",
		.n_args = 2,
		.arg_types = {TEXTOID, INT4OID}
	};
	/* the name of a WAL file begins with the timeline, in hexadecimal */
	static OpdStatement now = {
		.sql = "SELECT pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)"
	};
	static OpdStatement look = {
		.sql = "SELECT id::text, timeline::text FROM opdata.agent WHERE system_identifier = $1"
		" ORDER BY noted_at, id LIMIT 1",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	static OpdStatement others = {
		.sql = "SELECT 1 FROM opdata.agent WHERE system_identifier <> $1 LIMIT 1",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	OpdAgentFacts facts = {.system_identifier = own_system_identifier()};
	Datum		values[2] = {CStringGetTextDatum(facts.system_identifier)};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	if (!RecoveryInProgress() && opd_sql_run(&now, NULL, NULL) == 1)
		facts.timeline = (int) strtol(opd_sql_text(0, 1), NULL, 16);
	values[1] = Int32GetDatum(facts.timeline);
	if (begin && opd_sql_run(&any, NULL, NULL) == 0)
	{
		(void) opd_sql_run(&alone, NULL, NULL);
		(void) opd_sql_run(&note, values, NULL);
	}
	if (opd_sql_run(&look, values, NULL) == 1)
	{
		facts.agent_id = opd_sql_text(0, 1);
		facts.noted_timeline = atoi(opd_sql_text(0, 2));
	}
	facts.copy = opd_sql_run(&others, values, NULL) > 0;
	opd_sql_end(&scope);
	return facts;
}

void
opd_agents_resume(void)
{
	static OpdStatement forget = {
		.sql = "DELETE FROM opdata.agent WHERE system_identifier <> $1",
		.n_args = 1,
		.arg_types = {TEXTOID}
	};
	static OpdStatement renew = {
		.sql = "UPDATE opdata.agent SET timeline = $2",
		.n_args = 2,
		.arg_types = {TEXTOID, INT4OID}
	};
	OpdAgentFacts facts = opd_agents_look(false);
	Datum		values[2] = {CStringGetTextDatum(facts.system_identifier), Int32GetDatum(facts.timeline)};
	OpdSqlScope scope;

	opd_sql_begin(&scope);
	(void) opd_sql_run(&forget, values, NULL);
	(void) opd_sql_run(&renew, values, NULL);
	opd_sql_end(&scope);
	(void) opd_agents_look(true);
}
