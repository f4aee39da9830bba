/*-------------------------------------------------------------------------
 *
 * mask.h
 *	  Columns whose values a preview does not show.
 *
 * A rule names columns by a pattern. Their values are replaced in the result,
 * which is only worth something if they cannot be had in another way. Therefore
 * a statement under rules may show a masked column under its own name and group by
 * it, and do nothing else with it: no expression, no condition, no other name, no
 * row or union that would carry it along. Values that come from the source's own
 * views and functions under other names are not known here.
 *
 * src/guard/mask.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_MASK_H
#define OPD_MASK_H

#include "nodes/parsenodes.h"

#include "base/error.h"

#define OPD_MASKED_VALUE "***"

/*
 * Patterns: * and % stand for any characters, ? and _ for one, case does not
 * matter.
 */
typedef struct OpdMaskRule
{
	char	   *column_pattern;
	char	   *type_pattern;	/* of the type's name; NULL: any type */
} OpdMaskRule;

typedef struct OpdMask
{
	int			n_rules;
	OpdMaskRule *rules;
} OpdMask;

/*
 * Is a column of this name and type masked? Without a type (NULL) only rules for
 * any type count.
 */
extern bool opd_mask_covers(const OpdMask *mask, const char *column, const char *type);

/* Do both have the same rules, in the same order? */
extern bool opd_mask_equal(const OpdMask *a, const OpdMask *b);

/*
 * What a query does with a masked column that it may not do; NULL: nothing. The
 * tree is of a statement that the guard has let through.
 */
extern OpdError *opd_mask_judge(const OpdMask *mask, SelectStmt *query);

#endif							/* OPD_MASK_H */
