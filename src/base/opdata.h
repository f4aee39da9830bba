/*-------------------------------------------------------------------------
 *
 * opdata.h
 *	  First include of every file of the library.
 *
 * Our own message domain is named here, for every ereport(): the log
 * filter (secret/redact.c) tells by it the errors that we raise, whose texts
 * never quote user input, from those that PostgreSQL raises about a user's
 * statement, whose texts may.
 *
 * src/base/opdata.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_OPDATA_H
#define OPD_OPDATA_H

#include "postgres.h"

#undef TEXTDOMAIN
#define TEXTDOMAIN "opdata"

#include "base/pgcompat.h"

/* Version of the library; the SQL side's is in opdata.control. */
#define OPD_VERSION "1.0"

/* Schema of the base tables, whatever schema the functions live in. */
#define OPD_SCHEMA "opdata"

#endif							/* OPD_OPDATA_H */
