/*-------------------------------------------------------------------------
 *
 * previewsql.h
 *	  The statement that a preview runs: the user's, wrapped, with long cells
 *	  cut on the source.
 *
 * src/job/previewsql.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PREVIEWSQL_H
#define OPD_PREVIEWSQL_H

#include <libpq-fe.h>

/*
 * Wrap the bare statement, whose description the source gave. The result names
 * the same columns in the same order, at most OPD_PREVIEW_MAX_ROWS rows of
 * them; no cell is longer than a little over OPD_CELL_MAX_CHARS characters. Of
 * masked columns nothing is fetched: they are null.
 */
extern char *opd_previewsql_wrap(const char *statement, const PGresult *description, const bool *masked);

/*
 * May a column hold bytea, by itself or inside another type? Then the source
 * must be told to print it as hex.
 */
extern bool opd_previewsql_may_print_bytea(const PGresult *description);

/*
 * Query for the names of the column types that this server cannot name
 * itself, or NULL when it knows them all: one row, with a column for each
 * column of the description.
 */
extern char *opd_previewsql_type_names(const PGresult *description);

/* Name of a built-in type, as format_type prints it. */
extern char *opd_previewsql_builtin_type_name(Oid type, int32 modifier);

#endif							/* OPD_PREVIEWSQL_H */
