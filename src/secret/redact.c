/*-------------------------------------------------------------------------
 *
 * redact.c
 *	  Keeps credentials that stand in a SQL statement out of log and statistics.
 *
 * src/secret/redact.c
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE				/* strcasestr() */
#endif
#include "base/opdata.h"

#include <ctype.h>

#include "access/xact.h"
#include "commands/prepare.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/analyze.h"
#include "parser/scansup.h"
#include "pgstat.h"
#include "tcop/tcopprot.h"
#include "utils/backend_status.h"
#include "utils/elog.h"
#include "utils/memutils.h"

#include "secret/redact.h"

/* What takes the place of the statement. */
static const char hidden_statement[] = "<statement with credentials, hidden by opdata>";

/* Functions that take a credential as an argument, be it by mistake: a private key. */
static const char *const credential_functions[] = {
	"opdata_store_creds",
	"opdata_test",
	"opdata_trust_recipient",
};

static emit_log_hook_type next_emit_log_hook;
static post_parse_analyze_hook_type next_post_parse_analyze_hook;

/* Longest blank between EXECUTE and the name behind it that is looked through. */
#define BLANK_MAX_BYTES 1024

/* Start of the statement that opd_redact_statement() was called in, or 0. */
static TimestampTz marked_statement;

static bool
is_name_char(char c)
{
	return isalnum((unsigned char) c) || c == '_' || c == '$' || IS_HIGHBIT_SET(c);
}

/*
 * Does the text name one of the functions? Something may stand before the
 * name, so that a function of the user's own can ask for the same by its name:
 * my_opdata_test.
 */
static bool
names_credential_function(const char *sql)
{
	for (size_t i = 0; i < lengthof(credential_functions); i++)
	{
		size_t		length = strlen(credential_functions[i]);

		for (const char *p = sql; (p = strcasestr(p, credential_functions[i])) != NULL; p += length)
		{
			if (!is_name_char(p[length]))
				return true;
		}
	}
	return false;
}

/*
 * Skip blanks, among them nested comments. NULL when they go on for longer
 * than anybody writes: looking further from each EXECUTE in a text would take
 * time in the square of its length, and cannot be interrupted.
 */
static const char *
skip_space_and_comments(const char *p)
{
	const char *limit = p + BLANK_MAX_BYTES;
	int			depth = 0;

	for (; *p != '\0'; p++)
	{
		if (p >= limit)
			return NULL;
		if (p[0] == '/' && p[1] == '*')
		{
			depth++;
			p++;
		}
		else if (depth > 0)
		{
			if (p[0] == '*' && p[1] == '/')
			{
				depth--;
				p++;
			}
		}
		else if (p[0] == '-' && p[1] == '-')
		{
			while (p[1] != '\0' && p[1] != '\n' && p[1] != '\r' && p < limit)
				p++;
		}
		else if (!isspace((unsigned char) *p))
			return p;
	}
	return p;
}

/*
 * Read an identifier as the scanner would: quoted, or folded to lower case and
 * cut. False when there is none. Works in a fixed buffer, since it also runs
 * while an error is reported.
 */
static bool
read_identifier(const char *p, char name[NAMEDATALEN])
{
	bool		quoted = (*p == '"');
	int			n = 0;

	if (quoted)
		p++;
	for (; *p != '\0' && n < NAMEDATALEN; p++)
	{
		if (quoted && *p == '"' && *++p != '"')
			break;
		if (!quoted && !is_name_char(*p))
			break;
		if (n == NAMEDATALEN - 1)
		{
			/* too long: cut before the character that does not fit */
			n = pg_mbcliplen(name, n, NAMEDATALEN - 1);
			break;
		}
		name[n++] = quoted ? *p : pg_tolower((unsigned char) *p);
	}
	name[n] = '\0';
	return n > 0;
}

/*
 * Does the text run a prepared statement that takes a credential? A name that
 * is not read here (far behind a comment, or written U&"...") counts as one.
 */
static bool
executes_credential_function(const char *sql)
{
	const char *p = sql;

	while ((p = strcasestr(p, "execute")) != NULL)
	{
		char		name[NAMEDATALEN];
		PreparedStatement *prepared;
		const char *start;

		p += strlen("execute");
		start = skip_space_and_comments(p);
		if (start == NULL || pg_strncasecmp(start, "u&\"", 3) == 0)
			return true;
		if (!read_identifier(start, name))
			continue;
		prepared = FetchPreparedStatement(name, false);
		if (prepared != NULL &&
			names_credential_function(prepared->plansource->query_string))
			return true;
	}
	return false;
}

static bool
running_statement_is_secret(void)
{
	const char *sql = debug_query_string;

	if (marked_statement != 0 &&
		marked_statement == GetCurrentStatementStartTimestamp())
		return true;
	return sql != NULL &&
		(names_credential_function(sql) || executes_credential_function(sql));
}

/*
 * May the message of a foreign error with this SQLSTATE be shown? Only where
 * it speaks of the server's state, never of the statement's text.
 */
static bool
class_quotes_no_statement(int sqlerrcode)
{
	/* names functions and tables that are there, and no literal */
	if (sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		return true;
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_INVALID_TRANSACTION_STATE:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_PROGRAM_LIMIT_EXCEEDED:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return false;
	}
}

/*
 * Replacement texts live where elog.c will pfree them. What they replace is
 * left to the reset of that context.
 */
static void
replace_text(ErrorData *edata, char **field, const char *text)
{
	*field = MemoryContextStrdup(edata->assoc_context, text);
}

/*
 * Keep the figure of a duration line, which is what log_min_duration_statement
 * is for; nothing else of a LOG message is kept.
 */
static void
hide_log_message(ErrorData *edata)
{
	char		text[128];
	double		duration_ms;

	if (edata->message != NULL &&
		sscanf(edata->message, "duration: %lf ms", &duration_ms) == 1)
		snprintf(text, sizeof(text), "duration: %.3f ms  %s", duration_ms, hidden_statement);
	else
		snprintf(text, sizeof(text), "%s", hidden_statement);
	replace_text(edata, &edata->message, text);
}

static void
hide_error_message(ErrorData *edata)
{
	char		text[128];

	snprintf(text, sizeof(text), "statement with credentials failed with SQLSTATE %s",
			 unpack_sql_state(edata->sqlerrcode));
	replace_text(edata, &edata->message, text);
	replace_text(edata, &edata->hint,
				 "The original message was hidden because it may quote the credentials.");
}

static void
redact(ErrorData *edata)
{
	bool		ours = edata->domain != NULL && strcmp(edata->domain, TEXTDOMAIN) == 0;

	/* these quote the statement, its parameters or its SQL functions */
	edata->hide_stmt = true;
	edata->context = NULL;
	edata->internalquery = NULL;
	edata->internalpos = 0;
	edata->detail_log = NULL;

	/* a client quotes the line of its statement that this points at */
	edata->cursorpos = 0;

	/* our own texts never quote input */
	if (ours)
		return;

	edata->detail = NULL;
	if (edata->elevel < ERROR)
		hide_log_message(edata);
	else if (!class_quotes_no_statement(edata->sqlerrcode))
		hide_error_message(edata);
}

/*
 * The statement that runs here is harmless, yet a line may quote another one:
 * that of another backend (deadlock reports, and the postmaster's "Failed
 * process was running"), or that of a portal which ends now, by COMMIT or by
 * the next statement, and is reported by auto_explain. Errors of this
 * statement quote no other, even if they name a function.
 */
static void
redact_quoted(ErrorData *edata)
{
	if (edata->elevel != LOG && edata->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED)
		return;
	if (edata->elevel == LOG && edata->message != NULL &&
		names_credential_function(edata->message))
	{
		hide_log_message(edata);
		edata->detail = NULL;
		edata->context = NULL;
	}
	if (edata->detail != NULL && names_credential_function(edata->detail))
		replace_text(edata, &edata->detail, hidden_statement);
	if (edata->detail_log != NULL && names_credential_function(edata->detail_log))
		replace_text(edata, &edata->detail_log, hidden_statement);
}

static void
hide_activity(void)
{
	pgstat_report_activity(STATE_RUNNING, hidden_statement);
}

static void
redact_log(ErrorData *edata)
{
	if (running_statement_is_secret())
	{
		redact(edata);
		hide_activity();
	}
	else
		redact_quoted(edata);

	if (next_emit_log_hook != NULL)
		next_emit_log_hook(edata);
}

static void
redact_analyzed(ParseState *pstate, Query *query, JumbleState *jstate)
{
	static const char *judged_text;
	static TimestampTz judged_at;

	if (next_post_parse_analyze_hook != NULL)
		next_post_parse_analyze_hook(pstate, query, jstate);

	/*
	 * A statement that runs many others (a DO block, a function) comes here as
	 * often, with the same text: look through it once. The log filter always
	 * looks, so that nothing but pg_stat_activity hangs on this.
	 */
	if (debug_query_string == judged_text &&
		GetCurrentStatementStartTimestamp() == judged_at)
		return;
	judged_text = debug_query_string;
	judged_at = GetCurrentStatementStartTimestamp();
	if (running_statement_is_secret())
		hide_activity();
}

void
opd_redact_statement(void)
{
	marked_statement = GetCurrentStatementStartTimestamp();
	hide_activity();
}

void
opd_redact_install(void)
{
	next_emit_log_hook = emit_log_hook;
	emit_log_hook = redact_log;
	next_post_parse_analyze_hook = post_parse_analyze_hook;
	post_parse_analyze_hook = redact_analyzed;
}
