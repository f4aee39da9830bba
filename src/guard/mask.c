/*-------------------------------------------------------------------------
 *
 * mask.c
 *	  Columns whose values a preview does not show.
 *
 * src/guard/mask.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/value.h"

#include "guard/mask.h"

/* -------------------------------------------------------------- patterns */

/*
 * The next character without its case, for the scripts that have one and that a
 * source folds: one with a single-byte encoding folds all of its letters, and
 * CockroachDB those of Unicode. A byte that is no UTF-8 is a character.
 */
static unsigned int
next_char(const char **text)
{
	const unsigned char *p = (const unsigned char *) *text;
	int			length = *p < 0xC2 ? 1 : *p < 0xE0 ? 2 : *p < 0xF0 ? 3 : 4;
	unsigned int c = *p;

	if (length > 1)
		c &= 0x7F >> length;
	for (int i = 1; i < length; i++)
	{
		if ((p[i] & 0xC0) != 0x80)
		{
			length = 1;
			c = *p;
			break;
		}
		c = c << 6 | (p[i] & 0x3F);
	}
	*text += length;

	if (length == 1)
		return c >= 'A' && c <= 'Z' ? c + 32 : c;
	if ((c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3A9) || (c >= 0x410 && c <= 0x42F))
		return c + 32;			/* Latin-1, Greek, Cyrillic */
	if (c >= 0x400 && c <= 0x40F)
		return c + 80;
	if (c == 0x130 || c == 0x212A)
		return c == 0x130 ? 'i' : 'k';	/* dotted I, Kelvin */
	if (c == 0x178 || c == 0x212B)
		return c == 0x178 ? 0xFF : 0xE5;	/* Y with dots, Angstrom */
	if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E))
		return c + (c & 1);		/* the rest of Latin, in pairs */
	if ((c >= 0x100 && c <= 0x177) || (c >= 0x1E00 && c <= 0x1EFF) || (c >= 0x200 && c <= 0x233) ||
		(c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF) || (c >= 0x4D0 && c <= 0x52F))
		return c | 1;
	return c;
}

/* Iterative, with one place to come back to: no pattern makes it slow. */
static bool
matches(const char *pattern, const char *text)
{
	const char *after_star = NULL;
	const char *again = NULL;

	while (*text != '\0')
	{
		const char *rest = pattern;
		const char *next = text;

		if (*pattern == '*' || *pattern == '%')
		{
			after_star = ++pattern;
			again = text;
		}
		else if (*pattern == '?' || *pattern == '_')
		{
			pattern++;
			(void) next_char(&text);
		}
		else if (*pattern != '\0' && next_char(&rest) == next_char(&next))
		{
			pattern = rest;
			text = next;
		}
		else if (after_star != NULL)
		{
			pattern = after_star;
			(void) next_char(&again);
			text = again;
		}
		else
			return false;
	}
	while (*pattern == '*' || *pattern == '%')
		pattern++;
	return *pattern == '\0';
}

/* Names of types that people write otherwise than the source prints them. */
static const char *const type_names[][2] = {
	{"smallint", "int2"}, {"integer", "int4"}, {"integer", "int"}, {"bigint", "int8"},
	{"real", "float4"}, {"double precision", "float8"}, {"numeric", "decimal"}, {"boolean", "bool"},
	{"character varying", "varchar"}, {"character", "char"}, {"character", "bpchar"}, {"bit varying", "varbit"},
	{"timestamp without time zone", "timestamp"}, {"timestamp with time zone", "timestamptz"},
	{"time without time zone", "time"}, {"time with time zone", "timetz"}
};

/* "numeric(10,2)[]" -> "numeric[]" */
static char *
without_modifier(const char *type)
{
	const char *begin = strchr(type, '(');
	const char *end = begin != NULL ? strchr(begin, ')') : NULL;

	return end != NULL ? psprintf("%.*s%s", (int) (begin - type), type, end + 1) : pstrdup(type);
}

/* Does the pattern match a type, as the source prints it, by any of its names? */
static bool
matches_type(const char *pattern, const char *type)
{
	char	   *bare = without_modifier(type);
	const char *dot = strrchr(bare, '.');

	if (matches(pattern, type) || matches(pattern, bare) || (dot != NULL && matches(pattern, dot + 1)))
		return true;
	for (int i = 0; i < (int) lengthof(type_names); i++)
	{
		size_t		length = strlen(type_names[i][0]);

		if (strncmp(bare, type_names[i][0], length) == 0 &&
			(bare[length] == '\0' || bare[length] == '[') &&
			matches(pattern, psprintf("%s%s", type_names[i][1], bare + length)))
			return true;
	}
	return false;
}

bool
opd_mask_covers(const OpdMask *mask, const char *column, const char *type)
{
	for (int i = 0; i < mask->n_rules; i++)
	{
		const OpdMaskRule *rule = &mask->rules[i];

		if (matches(rule->column_pattern, column) &&
			(rule->type_pattern == NULL || (type != NULL && matches_type(rule->type_pattern, type))))
			return true;
	}
	return false;
}

static bool
pattern_equal(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool
opd_mask_equal(const OpdMask *a, const OpdMask *b)
{
	if (a->n_rules != b->n_rules)
		return false;
	for (int i = 0; i < a->n_rules; i++)
	{
		if (!pattern_equal(a->rules[i].column_pattern, b->rules[i].column_pattern) ||
			!pattern_equal(a->rules[i].type_pattern, b->rules[i].type_pattern))
			return false;
	}
	return true;
}

/* Shortest name that our scanner may have cut, by whole characters. */
#define CUT_NAME_BYTES	(NAMEDATALEN - 4)

static bool
is_ascii(const char *text)
{
	for (; *text != '\0'; text++)
	{
		if (IS_HIGHBIT_SET(*text))
			return false;
	}
	return true;
}

/*
 * May the source take a name in a statement for a masked one, whatever its type
 * turns out to be? Not of names that it gives itself: of a long name in a statement
 * we may not know the end, and there are several ways to write other letters than
 * those of ASCII (CockroachDB makes them one).
 */
static bool
may_be_masked(const OpdMask *mask, const char *column)
{
	for (int i = 0; i < mask->n_rules; i++)
	{
		const char *pattern = mask->rules[i].column_pattern;

		if (matches(pattern, column) || (!is_ascii(column) && !is_ascii(pattern)))
			return true;
	}
	return strlen(column) >= CUT_NAME_BYTES;
}

/* ------------------------------------------------------------- statements */

typedef struct Judge
{
	const OpdMask *mask;
	List	   *row_names;		/* of what a FROM clause has: a reference to one is a whole row; sorted */
	bool		any_other_letters;	/* one of them has letters beyond ASCII */
	OpdError   *error;
} Judge;

/* Functions that read tables which their arguments name, or run a statement. */
static const char *const reading_functions[] = {
	"query_to_xml*", "table_to_xml*", "schema_to_xml*", "database_to_xml*", "cursor_to_xml*",
	"dblink*", "crosstab*", "connectby", "xpath_table", "ts_stat", "ts_rewrite", "pgr_*", "pg_get_wal*",
	"pg_read_*", "pg_stat_get_*activity*", "pg_stat_statements*", "pg_cursor", "pg_prepared_statement",
	"pg_logical_slot_*", "get_raw_page", "heap_page_item*", "bt_page_*", "brin_page_*", "gist_page_*", "lo_get"
};

/*
 * Functions that take a whole row: row.f is f(row). Not count(), which tells
 * nothing of it, nor those of the source's own.
 */
static const char *const row_functions[] = {
	"to_json*", "row_to_json*", "json*_agg*", "json*_build_*", "array_agg", "any_value", "min", "max",
	"concat", "quote_literal", "quote_nullable", "record_*", "hash_record*", "pg_column_size", "hstore*", "st_as*"
};

/* Relations that hold values of other tables' columns, or texts of statements. */
static const char *const telling_relations[] = {
	"pg_stats*", "pg_statistic", "pg_statistic_ext_data", "pg_stat_activity", "pg_stat_statements*",
	"pg_cursors", "pg_prepared_statements", "pg_toast*", "pg_largeobject", "table_statistics"
};

/* Schema of CockroachDB with both. */
#define TELLING_SCHEMA	"crdb_internal"

static bool
is_one_of(const char *name, const char *const *patterns, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (matches(patterns[i], name))
			return true;
	}
	return false;
}

static bool refuse(Judge *judge, const char *fmt,...) pg_attribute_printf(2, 3);

/* Always true, which ends a walk. */
static bool
refuse(Judge *judge, const char *fmt,...)
{
	char		what[256];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	judge->error = opd_error_hint(opd_error_new(OPD_STATEMENT_NOT_ALLOWED, "mask rules apply, and %s", what),
								  "Show a masked column under its own name, and use it for nothing else; leave it out; or ask an admin of the workspace for opdata_unmask().");
	return true;
}

static bool judge_select(Judge *judge, SelectStmt *select, bool named);
static bool judge_expression(Node *node, void *arg);

/* Last name of a reference; NULL for one that ends with a star. */
static const char *
last_name(const List *fields)
{
	Node	   *last = llast(fields);

	return IsA(last, String) ? strVal(last) : NULL;
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

/* There may be many thousands of names, and of references. */
static bool
is_row_name(const Judge *judge, const char *name)
{
	int			low = 0;
	int			high = list_length(judge->row_names);

	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		int			order = strcmp(name, list_nth(judge->row_names, middle));

		if (order == 0)
			return true;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

/*
 * A reference to a column. "shown": it stands by itself in a list of columns that
 * keep their names.
 */
static bool
judge_column(Judge *judge, const ColumnRef *column, bool shown)
{
	const char *name = last_name(column->fields);

	if (shown && name == NULL)
		return false;
	if (name == NULL)
		return refuse(judge, "the statement uses a whole row (*) in an expression, a set operation or a subquery");
	if (list_length(column->fields) > 1 && is_one_of(name, row_functions, lengthof(row_functions)))
		return refuse(judge, "\"%s\" may be the function of a whole row", name);
	if (!shown && may_be_masked(judge->mask, name))
		return refuse(judge, "the statement uses the masked column \"%s\" other than by showing it", name);
	if (list_length(column->fields) == 1 &&
		(is_row_name(judge, name) || (judge->any_other_letters && !is_ascii(name))))
		return refuse(judge, "the statement uses \"%s\" as a whole row", name);
	return false;
}

/* The columns that a query gives. */
static bool
judge_targets(Judge *judge, List *targets, bool named)
{
	ListCell   *cell;

	foreach(cell, targets)
	{
		ResTarget  *target = lfirst_node(ResTarget, cell);
		const ColumnRef *column = (ColumnRef *) target->val;
		const char *name;
		bool		shown;

		if (!IsA(target->val, ColumnRef))
		{
			if (judge_expression(target->val, judge))
				return true;
			continue;
		}
		name = last_name(column->fields);
		shown = named && (target->name == NULL || (name != NULL && strcmp(target->name, name) == 0));
		if (judge_column(judge, column, shown))
			return true;
	}
	return false;
}

static bool
has_column_names(const Alias *alias)
{
	return alias != NULL && alias->colnames != NIL;
}

/* One item of a FROM clause. */
static bool
judge_from(Judge *judge, Node *item)
{
	ListCell   *cell;

	if (item == NULL)
		return false;
	check_stack_depth();
	switch (nodeTag(item))
	{
		case T_RangeVar:
			{
				RangeVar   *table = (RangeVar *) item;

				if (has_column_names(table->alias))
					return refuse(judge, "the statement gives other names to the columns of \"%s\"", table->relname);
				if (is_one_of(table->relname, telling_relations, lengthof(telling_relations)) ||
					(table->schemaname != NULL && matches(TELLING_SCHEMA, table->schemaname)))
					return refuse(judge, "\"%s\" may hold values of masked columns", table->relname);
				return false;
			}
		case T_RangeSubselect:
			{
				RangeSubselect *subselect = (RangeSubselect *) item;

				if (has_column_names(subselect->alias))
					/* those of VALUES have no names of their own */
					return castNode(SelectStmt, subselect->subquery)->valuesLists == NIL ?
						refuse(judge, "the statement gives other names to the columns of a subquery") :
						judge_select(judge, (SelectStmt *) subselect->subquery, false);
				return judge_select(judge, castNode(SelectStmt, subselect->subquery), true);
			}
		case T_JoinExpr:
			{
				JoinExpr   *join = (JoinExpr *) item;

				if (has_column_names(join->alias))
					return refuse(judge, "the statement gives other names to the columns of a join");
				if (join->isNatural)
					return refuse(judge, "a natural join may compare a masked column");
				foreach(cell, join->usingClause)
				{
					if (may_be_masked(judge->mask, strVal(lfirst(cell))))
						return refuse(judge, "the statement joins by the masked column \"%s\"", strVal(lfirst(cell)));
				}
				return judge_from(judge, join->larg) || judge_from(judge, join->rarg) ||
					judge_expression(join->quals, judge);
			}
		case T_RangeFunction:
			foreach(cell, ((RangeFunction *) item)->functions)
			{
				if (judge_expression(linitial(lfirst_node(List, cell)), judge))
					return true;
			}
			return false;
		case T_RangeTableSample:
			{
				RangeTableSample *sample = (RangeTableSample *) item;

				return judge_from(judge, sample->relation) ||
					judge_expression((Node *) sample->args, judge) ||
					judge_expression(sample->repeatable, judge);
			}
		case T_RangeTableFunc:
			return raw_expression_tree_walker(item, judge_expression, judge);
		default:
			return refuse(judge, "the statement reads from what this version does not know");
	}
}

/* GROUP BY: by a column itself, or by any other expression. */
static bool
judge_groups(Judge *judge, List *groups)
{
	ListCell   *cell;

	foreach(cell, groups)
	{
		if (IsA(lfirst(cell), ColumnRef) && last_name(((ColumnRef *) lfirst(cell))->fields) != NULL)
			continue;
		if (judge_expression(lfirst(cell), judge))
			return true;
	}
	return false;
}

/*
 * ORDER BY and DISTINCT ON: what a number stands for is a column too. That of a
 * set operation is none that is masked.
 */
static bool
judge_places(Judge *judge, List *places, List *targets)
{
	ListCell   *cell;
	ListCell   *target;

	foreach(cell, places)
	{
		Node	   *node = lfirst(cell);

		if (node != NULL && IsA(node, SortBy))
			node = ((SortBy *) node)->node;
		if (node == NULL || !IsA(node, A_Const) || !IsA(&((A_Const *) node)->val, Integer))
			continue;
		foreach(target, targets)
		{
			Node	   *value = lfirst_node(ResTarget, target)->val;
			const char *name = IsA(value, ColumnRef) ? last_name(((ColumnRef *) value)->fields) : "";

			if (name == NULL)
				return refuse(judge, "a number in ORDER BY or DISTINCT ON may stand for a masked column");
			if (foreach_current_index(target) + 1 == intVal(&((A_Const *) node)->val) &&
				may_be_masked(judge->mask, name))
				return refuse(judge, "the statement uses the masked column \"%s\" other than by showing it", name);
		}
	}
	return judge_expression((Node *) places, judge);
}

static bool
judge_with(Judge *judge, WithClause *with)
{
	ListCell   *cell;

	if (with == NULL)
		return false;
	foreach(cell, with->ctes)
	{
		CommonTableExpr *cte = lfirst_node(CommonTableExpr, cell);

		if (cte->aliascolnames != NIL)
			return refuse(judge, "the statement gives other names to the columns of \"%s\"", cte->ctename);
		if (cte->search_clause != NULL || cte->cycle_clause != NULL)
			return refuse(judge, "the statement has a SEARCH or CYCLE clause");
		if (!IsA(cte->ctequery, SelectStmt))
			return refuse(judge, "\"%s\" is no SELECT", cte->ctename);
		if (judge_select(judge, (SelectStmt *) cte->ctequery, true))
			return true;
	}
	return false;
}

/* A query; "named": its columns are known by their names outside of it. */
static bool
judge_select(Judge *judge, SelectStmt *select, bool named)
{
	ListCell   *cell;

	if (select == NULL)
		return false;
	check_stack_depth();
	if (judge_with(judge, select->withClause))
		return true;
	/* columns of a set operation are matched by their places */
	if (select->op != SETOP_NONE &&
		(judge_select(judge, select->larg, false) || judge_select(judge, select->rarg, false)))
		return true;
	foreach(cell, select->fromClause)
	{
		if (judge_from(judge, lfirst(cell)))
			return true;
	}
	return judge_targets(judge, select->targetList, named) ||
		judge_groups(judge, select->groupClause) ||
		judge_expression((Node *) select->valuesLists, judge) ||
		judge_places(judge, select->distinctClause, select->targetList) ||
		judge_expression(select->whereClause, judge) ||
		judge_expression(select->havingClause, judge) ||
		judge_expression((Node *) select->windowClause, judge) ||
		judge_places(judge, select->sortClause, select->targetList) ||
		judge_expression(select->limitOffset, judge) ||
		judge_expression(select->limitCount, judge);
}

/* Any expression: nothing masked may stand in it, at any depth. */
static bool
judge_expression(Node *node, void *arg)
{
	Judge	   *judge = arg;
	ListCell   *cell;

	if (node == NULL)
		return false;
	check_stack_depth();
	switch (nodeTag(node))
	{
		case T_ColumnRef:
			return judge_column(judge, (ColumnRef *) node, false);
		case T_SelectStmt:
			return judge_select(judge, (SelectStmt *) node, false);
		case T_SubLink:
			{
				SubLink    *link = (SubLink *) node;
				SelectStmt *select = castNode(SelectStmt, link->subselect);

				/* EXISTS (SELECT * ...) shows none of it, but an expression there can tell */
				if (link->subLinkType == EXISTS_SUBLINK)
					return judge_select(judge, select, true);
				return judge_expression(link->testexpr, judge) || judge_select(judge, select, false);
			}
		case T_A_Expr:
			/* @1 is the absolute value of 1, and was the first column to CockroachDB */
			if (((A_Expr *) node)->lexpr == NULL && ((A_Expr *) node)->kind == AEXPR_OP &&
				strcmp(strVal(llast(((A_Expr *) node)->name)), "@") == 0)
				return refuse(judge, "\"@\" may mean a column");
			break;
		case T_FuncCall:
			if (list_length(((FuncCall *) node)->funcname) > 1 &&
				matches(TELLING_SCHEMA, strVal(linitial(((FuncCall *) node)->funcname))))
				return refuse(judge, "functions of \"%s\" may read masked columns", TELLING_SCHEMA);
			if (is_one_of(strVal(llast(((FuncCall *) node)->funcname)), reading_functions, lengthof(reading_functions)))
				return refuse(judge, "the function \"%s\" may read masked columns",
							  strVal(llast(((FuncCall *) node)->funcname)));
			/* f(row) is row.f */
			if (may_be_masked(judge->mask, strVal(llast(((FuncCall *) node)->funcname))) &&
				list_length(((FuncCall *) node)->args) == 1)
				return refuse(judge, "\"%s\" is written like a function",
							  strVal(llast(((FuncCall *) node)->funcname)));
			break;
		case T_A_Indirection:
			foreach(cell, ((A_Indirection *) node)->indirection)
			{
				Node	   *step = lfirst(cell);

				if (IsA(step, A_Star))
					return refuse(judge, "the statement takes a row apart");
				if (IsA(step, String) && may_be_masked(judge->mask, strVal(step)))
					return refuse(judge, "the statement takes the masked column \"%s\" out of a row", strVal(step));
			}
			break;
		default:
			break;
	}
	return raw_expression_tree_walker(node, judge_expression, arg);
}

/* Names by which a whole row could be meant. */
static bool
collect_row_names(Node *node, void *arg)
{
	Judge	   *judge = arg;
	const Alias *alias = NULL;

	if (node == NULL)
		return false;
	check_stack_depth();
	if (IsA(node, RangeVar))
	{
		alias = ((RangeVar *) node)->alias;
		if (alias == NULL)
			judge->row_names = lappend(judge->row_names, ((RangeVar *) node)->relname);
	}
	else if (IsA(node, RangeSubselect))
		alias = ((RangeSubselect *) node)->alias;
	else if (IsA(node, JoinExpr))
		alias = ((JoinExpr *) node)->alias;
	if (alias != NULL)
		judge->row_names = lappend(judge->row_names, alias->aliasname);
	return raw_expression_tree_walker(node, collect_row_names, arg);
}

OpdError *
opd_mask_judge(const OpdMask *mask, SelectStmt *query)
{
	Judge		judge = {.mask = mask};
	ListCell   *cell;

	if (mask->n_rules == 0)
		return NULL;
	(void) collect_row_names((Node *) query, &judge);
	list_sort(judge.row_names, compare_names);
	foreach(cell, judge.row_names)
		judge.any_other_letters |= !is_ascii(lfirst(cell));
	(void) judge_select(&judge, query, true);
	return judge.error;
}
