/*-------------------------------------------------------------------------
 *
 * guard.c
 *	  May this statement be run on a source? The first of three fences.
 *
 * src/guard/guard.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "base/guarded.h"
#include "base/limits.h"
#include "guard/guard.h"
#include "guard/lexer.h"

static OpdError *
not_allowed(const char *what)
{
	OpdError   *error = opd_error_new(OPD_STATEMENT_NOT_ALLOWED, "%s", what);

	return opd_error_hint(error, "Give one SELECT or WITH statement that only reads.");
}

static OpdError *
several_statements(void)
{
	OpdError   *error = opd_error_new(OPD_MULTIPLE_STATEMENTS, "the text holds more than one statement");

	return opd_error_hint(error, "Give one statement; a semicolon may only end it.");
}

/*
 * What a query may not hold, at any depth. Sets *arg to the reason. Raw parse
 * trees have no statement nodes but these below a SELECT.
 */
static bool
find_forbidden(Node *node, void *arg)
{
	const char **reason = arg;

	if (node == NULL)
		return false;
	check_stack_depth();

	switch (nodeTag(node))
	{
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
#ifdef OPD_HAVE_MERGE
		case T_MergeStmt:
#endif
			*reason = "the statement changes data inside a WITH clause";
			return true;

		case T_SelectStmt:
			if (((SelectStmt *) node)->intoClause != NULL)
				*reason = "SELECT INTO creates a table";
			else if (((SelectStmt *) node)->lockingClause != NIL)
				*reason = "the statement locks rows (FOR UPDATE, FOR SHARE)";
			if (*reason != NULL)
				return true;
			break;

		case T_ParamRef:
			*reason = "the statement has a parameter, and there is no value for it";
			return true;

		default:
			break;
	}
	return raw_expression_tree_walker(node, find_forbidden, arg);
}

typedef struct Parse
{
	const char *sql;
	List	   *tree;
	const char *reason;
} Parse;

static void
parse_and_walk(void *arg)
{
	Parse	   *parse = arg;

	parse->tree = raw_parser(parse->sql, RAW_PARSE_DEFAULT);
	if (list_length(parse->tree) == 1)
	{
		RawStmt    *raw = linitial_node(RawStmt, parse->tree);

		if (IsA(raw->stmt, SelectStmt))
			(void) find_forbidden(raw->stmt, &parse->reason);
		else
			parse->reason = "only SELECT and WITH statements that read are allowed";
	}
}

/* The bare statement, without what stands behind its semicolon. */
static char *
bare_statement(const char *sql, const RawStmt *raw)
{
	if (raw->stmt_len == 0)
		return pstrdup(sql + raw->stmt_location);
	return pnstrdup(sql + raw->stmt_location, raw->stmt_len);
}

static OpdError *
syntax_error(const ErrorData *edata)
{
	OpdError   *error = opd_error_new(OPD_SYNTAX_ERROR, "the statement could not be parsed");

	error->source_message = pstrdup(edata->message);
	if (edata->cursorpos > 0)
		opd_error_detail(error, "The parser stopped at character %d.", edata->cursorpos);
	if (ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		return opd_error_hint(error, "Nest the statement less deeply.");
	return opd_error_hint(error, "Correct the statement; it is read by PostgreSQL's own grammar.");
}

/*
 * Our grammar, or already our scanner, does not know the statement. Is it for
 * the source to judge?
 */
static OpdGuardVerdict
judge_unknown(const char *sql, const ErrorData *edata)
{
	OpdGuardVerdict verdict = {0};
	OpdShape	shape = opd_lexer_shape(sql);

	if (!shape.unterminated && shape.has_more)
		verdict.error = several_statements();
	else if (shape.unterminated || !shape.begins_like_query)
		verdict.error = syntax_error(edata);
	else
	{
		verdict.statement = pnstrdup(sql, shape.length);
		verdict.unknown_to_us = syntax_error(edata);
	}
	return verdict;
}

static OpdGuardVerdict
judge(const char *sql, const OpdMask *mask)
{
	OpdGuardVerdict verdict = {0};
	Parse		parse = {.sql = sql};
	ErrorData  *edata = opd_guarded_call(parse_and_walk, &parse);

	if (edata != NULL && ERRCODE_TO_CATEGORY(edata->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
		ReThrowError(edata);
	if (edata != NULL && edata->sqlerrcode == ERRCODE_SYNTAX_ERROR)
	{
		verdict = judge_unknown(sql, edata);
		if (verdict.error == NULL && mask != NULL && mask->n_rules > 0)
			verdict.error = not_allowed("mask rules apply, and the grammar of this server does not know the statement");
		return verdict;
	}
	if (edata != NULL)
		verdict.error = syntax_error(edata);
	else if (parse.tree == NIL)
		verdict.error = not_allowed("the text holds no statement");
	else if (list_length(parse.tree) > 1)
		verdict.error = several_statements();
	else if (parse.reason != NULL)
		verdict.error = not_allowed(parse.reason);
	else
	{
		RawStmt    *raw = linitial_node(RawStmt, parse.tree);

		if (mask != NULL)
			verdict.error = opd_mask_judge(mask, castNode(SelectStmt, raw->stmt));
		if (verdict.error == NULL)
			verdict.statement = bare_statement(sql, raw);
	}
	return verdict;
}

OpdGuardVerdict
opd_guard_judge(const char *sql, const OpdMask *mask)
{
	OpdGuardVerdict verdict = {0};
	int			guc_level;

	if (strlen(sql) > OPD_SQL_MAX_BYTES)
		verdict.error = not_allowed(psprintf("the statement is longer than %d bytes",
											 OPD_SQL_MAX_BYTES));
	else if (opd_lexer_longest_operator(sql) > OPD_OPERATOR_MAX_BYTES)
		verdict.error = not_allowed(psprintf("the statement has more than %d operator characters in a row",
											 OPD_OPERATOR_MAX_BYTES));
	if (verdict.error != NULL)
		return verdict;

	/*
	 * Read strings as the source will: the session there has standard
	 * conforming strings too. Otherwise '\' could hide a semicolon from us.
	 */
	guc_level = NewGUCNestLevel();
	(void) set_config_option("standard_conforming_strings", "on",
							 PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	verdict = judge(sql, mask);
	AtEOXact_GUC(false, guc_level);
	return verdict;
}
