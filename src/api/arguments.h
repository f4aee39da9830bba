/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  Arguments of the SQL functions, checked.
 *
 * src/api/arguments.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ARGUMENTS_H
#define OPD_ARGUMENTS_H

#include "fmgr.h"

/* Raise 22004 for an argument that is null. */
extern void opd_argument_require(bool is_null, const char *what);

/*
 * An id of a connection or workspace: 1 to 128 characters. Raises 22023,
 * without repeating a value that may be a credential.
 */
extern char *opd_argument_id(const char *what, text *value);

/* The same of a workspace, of which "*" is none. */
extern char *opd_argument_workspace(text *value);

/*
 * A connection id where a payload may have been meant: an uncast literal takes
 * the text form of an overloaded function. Raises 22023 with the cast as hint.
 */
extern char *opd_argument_id_not_payload(text *value);

/* Display name, or NULL for a null. Raises 22023 when it is too long. */
extern char *opd_argument_name(text *value);

#endif							/* OPD_ARGUMENTS_H */
