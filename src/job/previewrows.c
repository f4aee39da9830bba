/*-------------------------------------------------------------------------
 *
 * previewrows.c
 *	  Rows of a preview as JSON, within its size limits.
 *
 * src/job/previewrows.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "guard/mask.h"
#include "job/previewrows.h"

/* Integers that a JSON reader with double-precision numbers keeps exact. */
#define MAX_SAFE_INTEGER INT64CONST(9007199254740992)

/*
 * What the result holds beside columns and rows: member names, counts, flags
 * and punctuation, with some to spare.
 */
#define FRAME_BYTES 256

struct OpdPreviewRows
{
	int			n_columns;
	Oid		   *types;
	const bool *masked;
	Jsonb	   *columns;
	OpdJson		rows;			/* array being built */
	int			n_rows;
	int64		n_bytes;		/* of the result as jsonb prints it */
	bool		cells_cut;
	bool		bytes_full;
	StringInfoData printed;		/* scratch, to measure */
};

static int
printed_length(OpdPreviewRows *rows, Jsonb *value)
{
	resetStringInfo(&rows->printed);
	(void) JsonbToCString(&rows->printed, &value->root, VARSIZE(value));
	return rows->printed.len;
}

OpdPreviewRows *
opd_previewrows_new(const PGresult *description, char **type_names, const bool *masked)
{
	OpdPreviewRows *rows = palloc0(sizeof(OpdPreviewRows));
	OpdJson		columns;

	rows->n_columns = PQnfields(description);
	rows->masked = masked;
	rows->types = palloc(sizeof(Oid) * rows->n_columns);
	initStringInfo(&rows->printed);

	opd_json_begin_array(&columns);
	for (int i = 0; i < rows->n_columns; i++)
	{
		const char *name = PQfname(description, i);
		OpdJson		column;

		rows->types[i] = PQftype(description, i);
		opd_json_begin_object(&column);
		opd_json_add_string(&column, "name",
							opd_text_clean(name, strlen(name), OPD_CELL_MAX_CHARS, NULL));
		opd_json_add_string(&column, "type", type_names[i]);
		opd_json_push_value(&columns, opd_json_end_object(&column));
	}
	rows->columns = opd_json_end_array(&columns);
	rows->n_bytes = FRAME_BYTES + printed_length(rows, rows->columns);
	opd_json_begin_array(&rows->rows);
	return rows;
}

/*
 * A finite number as PostgreSQL prints it: -1.5e+300. Not more than that, since
 * a number such as 0e999999999 is small to a double and not to a numeric.
 */
static bool
is_number(const char *text)
{
	static const char digits[] = "0123456789";
	const char *p = text + (*text == '-');
	size_t		n = strspn(p, digits);

	if (n == 0 || n > 400)
		return false;
	p += n;
	if (*p == '.')
	{
		n = strspn(++p, digits);
		if (n == 0 || n > 400)
			return false;
		p += n;
	}
	if (*p == 'e')
	{
		p++;
		p += (*p == '+' || *p == '-');
		n = strspn(p, digits);
		if (n == 0 || n > 3)
			return false;
		p += n;
	}
	return *p == '\0' && isfinite(strtod(text, NULL));
}

static bool
is_safe_integer(const char *text)
{
	char	   *end;
	int64		value;

	errno = 0;
	value = strtoll(text, &end, 10);
	return errno == 0 && *end == '\0' && end != text &&
		value >= -MAX_SAFE_INTEGER && value <= MAX_SAFE_INTEGER;
}

static int
push_text(OpdPreviewRows *rows, OpdJson *row, const char *value, int length)
{
	bool		cut;
	char	   *clean = opd_text_clean(value, length, OPD_CELL_MAX_CHARS, &cut);

	rows->cells_cut |= cut;
	opd_json_push_string(row, clean);
	return strlen(clean);
}

/*
 * Returns the least number of bytes that the cell takes. A source that is not what it says could send any text for any type, so that
 * a number is only taken for one if it looks like it.
 */
static int
push_cell(OpdPreviewRows *rows, OpdJson *row, Oid type, const char *value, int length)
{
	switch (type)
	{
		case BOOLOID:
			if (strcmp(value, "t") == 0 || strcmp(value, "f") == 0)
			{
				opd_json_push_bool(row, value[0] == 't');
				return 1;
			}
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
			if (is_safe_integer(value))
			{
				opd_json_push_number(row, value);
				return 1;
			}
			break;
		case FLOAT4OID:
		case FLOAT8OID:
			if (is_number(value))
			{
				opd_json_push_number(row, value);
				return 1;
			}
			break;
		default:
			break;
	}
	return push_text(rows, row, value, length);
}

/*
 * NULL when the row cannot fit any more, found out as early as that is sure: a
 * row of 1600 long cells would take its size several times over.
 */
static Jsonb *
row_to_json(OpdPreviewRows *rows, const PGresult *result, int r)
{
	int64		room = OPD_PREVIEW_MAX_BYTES - rows->n_bytes;
	OpdJson		row;

	opd_json_begin_array(&row);
	for (int i = 0; i < rows->n_columns; i++)
	{
		if (rows->masked[i])
		{
			opd_json_push_string(&row, OPD_MASKED_VALUE);
			room -= strlen(OPD_MASKED_VALUE);
		}
		else if (PQgetisnull(result, r, i))
			opd_json_push_value(&row, NULL);
		else
			room -= push_cell(rows, &row, rows->types[i],
							  PQgetvalue(result, r, i), PQgetlength(result, r, i));
		if (room < 0)
			return NULL;
	}
	return opd_json_end_array(&row);
}

/* Add one row; false when it does not fit. */
static bool
add_row(OpdPreviewRows *rows, const PGresult *result, int r)
{
	bool		cells_cut_before = rows->cells_cut;
	Jsonb	   *row = row_to_json(rows, result, r);
	int			length = row != NULL ? printed_length(rows, row) + 2 : 0;	/* ", " */

	if (row == NULL || rows->n_bytes + length > OPD_PREVIEW_MAX_BYTES)
	{
		rows->cells_cut = cells_cut_before;
		rows->bytes_full = true;
		return false;
	}
	rows->n_bytes += length;
	rows->n_rows++;
	opd_json_push_value(&rows->rows, row);	/* refers to row, so keep it */
	return true;
}

bool
opd_previewrows_add(OpdPreviewRows *rows, const PGresult *result)
{
	Assert(PQntuples(result) == 0 || PQnfields(result) == rows->n_columns);

	for (int r = 0; r < PQntuples(result); r++)
	{
		/* a source that is not what it says may send more than we asked for */
		if (rows->n_rows == OPD_PREVIEW_MAX_ROWS || !add_row(rows, result, r))
			return false;
	}
	return true;
}

int
opd_previewrows_count(const OpdPreviewRows *rows)
{
	return rows->n_rows;
}

int64
opd_previewrows_bytes(const OpdPreviewRows *rows)
{
	return rows->n_bytes;
}

Jsonb *
opd_previewrows_finish(OpdPreviewRows *rows, double duration_ms)
{
	bool		rows_full = rows->n_rows == OPD_PREVIEW_MAX_ROWS;
	OpdJson		by;
	OpdJson		json;
	Jsonb	   *result;

	opd_json_begin_array(&by);
	if (rows_full)
		opd_json_push_string(&by, "rows");
	if (rows->bytes_full)
		opd_json_push_string(&by, "bytes");
	if (rows->cells_cut)
		opd_json_push_string(&by, "cells");

	opd_json_begin_object(&json);
	opd_json_add_value(&json, "columns", rows->columns);
	opd_json_add_value(&json, "rows", opd_json_end_array(&rows->rows));
	opd_json_add_int(&json, "rowCount", rows->n_rows);
	opd_json_add_bool(&json, "truncated", rows_full || rows->bytes_full);
	opd_json_add_value(&json, "truncatedBy", opd_json_end_array(&by));
	opd_json_add_ms(&json, "durationMs", duration_ms);
	result = opd_json_end_object(&json);
	rows->n_bytes = printed_length(rows, result);
	return result;
}
