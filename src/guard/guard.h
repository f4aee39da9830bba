/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  May this statement be run on a source? The first of three fences.
 *
 * The text is parsed by PostgreSQL's own grammar and its tree is walked: it
 * must be one statement that only reads. The other two fences are the source's
 * own parser, which gets the bare statement as one prepared statement, and the
 * read-only transaction that it runs in. A statement that our grammar does not
 * know may still be good for a newer source, so it is let through to those,
 * if it at least begins like a query and is one statement.
 *
 * src/guard/guard.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_GUARD_H
#define OPD_GUARD_H

#include "base/error.h"
#include "guard/mask.h"

typedef struct OpdGuardVerdict
{
	char	   *statement;		/* bare: without the semicolon that ends it */
	OpdError   *error;			/* why it may not run, or NULL */

	/*
	 * What our own grammar said of a statement that it does not know and that
	 * the source must judge; NULL if it does know it.
	 */
	OpdError   *unknown_to_us;
} OpdGuardVerdict;

/*
 * Judge a statement, also by the rules of a mask (NULL: none). Errors: statement_not_allowed, multiple_statements,
 * syntax_error. Everything is in the current memory context. Raises nothing
 * but cancellation and out of memory.
 */
extern OpdGuardVerdict opd_guard_judge(const char *sql, const OpdMask *mask);

#endif							/* OPD_GUARD_H */
