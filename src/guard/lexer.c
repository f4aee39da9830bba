/*-------------------------------------------------------------------------
 *
 * lexer.c
 *	  The shape of a SQL text, seen without a grammar.
 *
 * src/guard/lexer.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <ctype.h>

#include "guard/lexer.h"

static bool
is_name_start(char c)
{
	return isalpha((unsigned char) c) || c == '_' || IS_HIGHBIT_SET(c);
}

static bool
is_name_char(char c)
{
	return is_name_start(c) || isdigit((unsigned char) c) || c == '$';
}

/* Behind the quote that ends what begins at p; the end of text if none does. */
static const char *
skip_quoted(const char *p, char quote, bool backslash_escapes)
{
	for (p++; *p != '\0'; p++)
	{
		if (backslash_escapes && p[0] == '\\' && p[1] != '\0')
			p++;
		else if (*p == quote)
		{
			if (p[1] != quote)
				return p + 1;
			p++;
		}
	}
	return p;
}

/* Comments nest in SQL. */
static const char *
skip_block_comment(const char *p)
{
	int			depth = 0;

	while (*p != '\0')
	{
		if (p[0] == '/' && p[1] == '*')
		{
			depth++;
			p += 2;
		}
		else if (p[0] == '*' && p[1] == '/')
		{
			p += 2;
			if (--depth == 0)
				return p;
		}
		else
			p++;
	}
	return p;
}

/* $tag$ ... $tag$; NULL when no dollar quote begins at p. */
static const char *
skip_dollar_quoted(const char *p)
{
	const char *tag_end = p + 1;
	size_t		tag_length;

	if (*tag_end != '$' && !is_name_start(*tag_end))
		return NULL;
	while (*tag_end != '$' && is_name_char(*tag_end))
		tag_end++;
	if (*tag_end != '$')
		return NULL;
	tag_length = tag_end + 1 - p;

	for (const char *q = tag_end + 1; (q = strchr(q, '$')) != NULL; q++)
	{
		if (strncmp(q, p, tag_length) == 0)
			return q + tag_length;
	}
	return p + strlen(p);
}

/* Skip space and comments; *unterminated is set when one has no end. */
static const char *
skip_blank(const char *p, bool *unterminated)
{
	for (;;)
	{
		if (isspace((unsigned char) *p))
			p++;
		else if (p[0] == '-' && p[1] == '-')
			p += strcspn(p, "\r\n");
		else if (p[0] == '/' && p[1] == '*')
		{
			const char *end = skip_block_comment(p);

			*unterminated |= *end == '\0' && (end - p < 4 || end[-1] != '/' || end[-2] != '*');
			p = end;
		}
		else
			return p;
	}
}

/* Behind the token at p, which is none of blank, comment and end. */
static const char *
skip_token(const char *p, bool *unterminated)
{
	const char *end;

	if (*p == '\'' || *p == '"')
	{
		end = skip_quoted(p, *p, false);
		*unterminated |= *end == '\0' && (end - p < 2 || end[-1] != *p);
		return end;
	}
	if ((*p == 'e' || *p == 'E') && p[1] == '\'')
	{
		end = skip_quoted(p + 1, '\'', true);
		*unterminated |= *end == '\0' && (end - p < 3 || end[-1] != '\'');
		return end;
	}
	if (*p == '$' && (end = skip_dollar_quoted(p)) != NULL)
	{
		*unterminated |= *end == '\0' && end[-1] != '$';
		return end;
	}
	if (is_name_char(*p))
	{
		while (is_name_char(*p))
			p++;
		return p;
	}
	return p + 1;
}

static bool
begins_like_query(const char *token)
{
	static const char *const keywords[] = {"select", "with", "values", "table"};

	for (size_t i = 0; i < lengthof(keywords); i++)
	{
		size_t		length = strlen(keywords[i]);

		if (pg_strncasecmp(token, keywords[i], length) == 0 && !is_name_char(token[length]))
			return true;
	}
	return *token == '(';
}

OpdShape
opd_lexer_shape(const char *sql)
{
	OpdShape	shape = {0};
	const char *p = skip_blank(sql, &shape.unterminated);

	shape.begins_like_query = begins_like_query(p);
	while (*p != '\0' && *p != ';')
		p = skip_blank(skip_token(p, &shape.unterminated), &shape.unterminated);
	shape.length = p - sql;
	while (*p == ';')
		p = skip_blank(p + 1, &shape.unterminated);
	shape.has_more = *p != '\0';
	return shape;
}

size_t
opd_lexer_longest_operator(const char *sql)
{
	static const char operator_chars[] = "~!@#^&|`?+-*/%<>=";
	size_t		longest = 0;

	while (*sql != '\0')
	{
		size_t		length = strspn(sql, operator_chars);

		longest = Max(longest, length);
		sql += length;
		sql += strcspn(sql, operator_chars);
	}
	return longest;
}
