/*-------------------------------------------------------------------------
 *
 * previewsql.c
 *	  The statement that a preview runs.
 *
 * A huge cell must not cross the network only to be cut here: libpq holds a
 * whole row, so that a cell of 1 GB would take 2 GB of the agent's memory.
 *
 * src/job/previewsql.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/limits.h"
#include "job/previewsql.h"


typedef enum CutKind
{
	CUT_ALL,					/* masked */
	CUT_NOT,					/* never longer than a cell may be */
	CUT_TEXT,					/* a string: only its beginning is read */
	CUT_CAST,					/* its cast to text prints it */
	CUT_BYTEA,
	CUT_PRINTED					/* anything else: printed, then cut */
} CutKind;

/* Longest value that a type modifier of these types allows, in characters. */
static bool
modifier_bounds_length(int32 modifier)
{
	return modifier >= (int32) VARHDRSZ &&
		modifier - (int32) VARHDRSZ <= OPD_CELL_MAX_CHARS;
}

static CutKind
cut_kind(Oid type, int32 modifier)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case CASHOID:
		case CHAROID:
		case NAMEOID:
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case UUIDOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case MACADDR8OID:
		case VOIDOID:
			return CUT_NOT;
		case BPCHAROID:
			return modifier_bounds_length(modifier) ? CUT_NOT : CUT_PRINTED;
		case VARCHAROID:
			return modifier_bounds_length(modifier) ? CUT_NOT : CUT_TEXT;
		case TEXTOID:
			return CUT_TEXT;
		case NUMERICOID:
			/* with a precision, at most 1000 digits */
			return modifier >= (int32) VARHDRSZ ? CUT_NOT : CUT_CAST;
		case JSONOID:
		case JSONBOID:
			return CUT_CAST;
		case BYTEAOID:
			return CUT_BYTEA;
		default:
			return CUT_PRINTED;
	}
}

/*
 * One character more than is shown, to know that there was more. Functions are
 * named with their schema: the search path may be the user's.
 *
 * Printing goes through format('%s'), which calls the type's output function;
 * a cast to text would print booleans, char(n) and inet differently. format()
 * prints null as an empty string, so null is told apart first, and in a way
 * that does not take a row of nulls for null.
 */
static void
append_column(StringInfo sql, int i, CutKind kind)
{
	if (i > 0)
		appendStringInfoString(sql, ", ");
	switch (kind)
	{
		case CUT_ALL:
			appendStringInfoString(sql, "NULL::pg_catalog.text");
			break;
		case CUT_NOT:
			appendStringInfo(sql, "c%d", i);
			break;
		case CUT_TEXT:
			appendStringInfo(sql, "pg_catalog.left(c%d, %d)", i, OPD_CELL_MAX_CHARS + 1);
			break;
		case CUT_CAST:
			appendStringInfo(sql, "pg_catalog.left(c%d::pg_catalog.text, %d)", i, OPD_CELL_MAX_CHARS + 1);
			break;
		case CUT_BYTEA:
			/* \x and two digits a byte: half as many bytes are more than enough */
			appendStringInfo(sql, "pg_catalog.substring(c%d, 1, %d)", i, OPD_CELL_MAX_CHARS / 2);
			break;
		case CUT_PRINTED:
			appendStringInfo(sql,
							 "CASE WHEN c%d IS NOT DISTINCT FROM NULL THEN NULL"
							 " ELSE pg_catalog.left(pg_catalog.format('%%s', c%d), %d) END",
							 i, i, OPD_CELL_MAX_CHARS + 1);
			break;
	}
}

char *
opd_previewsql_wrap(const char *statement, const PGresult *description, const bool *masked)
{
	int			n_columns = PQnfields(description);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "select ");
	for (int i = 0; i < n_columns; i++)
		append_column(&sql, i, masked[i] ? CUT_ALL : cut_kind(PQftype(description, i), PQfmod(description, i)));

	/*
	 * The newline ends a comment at the end of the statement. Columns get
	 * names of our own outside, since the statement's may repeat.
	 */
	appendStringInfo(&sql,
					 " from (select * from (%s\n) as preview_query limit %d) as preview",
					 statement, OPD_PREVIEW_MAX_ROWS);
	for (int i = 0; i < n_columns; i++)
		appendStringInfo(&sql, "%sc%d", i == 0 ? "(" : ", ", i);
	if (n_columns > 0)
		appendStringInfoChar(&sql, ')');
	return sql.data;
}

bool
opd_previewsql_may_print_bytea(const PGresult *description)
{
	for (int i = 0; i < PQnfields(description); i++)
	{
		CutKind		kind = cut_kind(PQftype(description, i), PQfmod(description, i));

		if (kind == CUT_BYTEA || kind == CUT_PRINTED)
			return true;
	}
	return false;
}

/*
 * Object ids below this are fixed by hand and the same in every PostgreSQL
 * (and in CockroachDB), see catalog/unused_oids and access/transam.h.
 */
static bool
is_builtin(Oid type)
{
	return type < FirstGenbkiObjectId &&
		opd_previewsql_builtin_type_name(type, -1) != NULL;
}

char *
opd_previewsql_builtin_type_name(Oid type, int32 modifier)
{
	return format_type_extended(type, modifier,
								FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_INVALID_AS_NULL);
}

char *
opd_previewsql_type_names(const PGresult *description)
{
	int			n_columns = PQnfields(description);
	bool		all_builtin = true;
	StringInfoData sql;

	initStringInfo(&sql);
	for (int i = 0; i < n_columns; i++)
	{
		Oid			type = PQftype(description, i);

		all_builtin &= is_builtin(type);
		appendStringInfo(&sql, "%spg_catalog.format_type(%u, %d)",
						 i == 0 ? "select " : ", ", type, PQfmod(description, i));
	}
	return all_builtin ? NULL : sql.data;
}
