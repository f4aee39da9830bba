/*-------------------------------------------------------------------------
 *
 * api_inventory.c
 *	  opdata_inventory(): every field that leaves for the control plane.
 *
 * src/api/api_inventory.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"

#include "base/inventory.h"
#include "temporal/fields.h"

PG_FUNCTION_INFO_V1(opdata_inventory);

extern PGDLLEXPORT Datum opdata_inventory(PG_FUNCTION_ARGS);

static void
put(ReturnSetInfo *result, const char *message, const char *field, const char *meaning)
{
	Datum		values[] = {
		CStringGetTextDatum(message), CStringGetTextDatum(field),
		meaning ? CStringGetTextDatum(meaning) : (Datum) 0
	};
	bool		nulls[] = {false, false, meaning == NULL};

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * opdata_inventory() -> setof (message, field, meaning)
 *
 * JSON messages first, then the requests to Temporal that carry them. Of all that is
 * in this table nothing is specific to a database: no right but EXECUTE is needed.
 */
Datum
opdata_inventory(PG_FUNCTION_ARGS)
{
	const OpdInventoryEntry *entries;
	const OpdField *fields;
	int			n;

	InitMaterializedSRF(fcinfo, 0);
	entries = opd_inventory_entries(&n);
	for (int i = 0; i < n; i++)
		put((ReturnSetInfo *) fcinfo->resultinfo, entries[i].message, entries[i].field, entries[i].meaning);
	fields = opd_fields_list(&n);
	for (int i = 0; i < n; i++)
		put((ReturnSetInfo *) fcinfo->resultinfo, fields[i].message, fields[i].field, fields[i].meaning);
	return (Datum) 0;
}
