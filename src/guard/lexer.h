/*-------------------------------------------------------------------------
 *
 * lexer.h
 *	  The shape of a SQL text, seen without a grammar.
 *
 * For statements that our own grammar does not know: enough to tell how the
 * text begins and whether a semicolon stands in its middle. It knows strings,
 * quoted names, dollar quotes and comments, and takes everything else as it
 * comes, so that it also reads SQL that is newer than this server's scanner.
 * It decides which error a user sees and where the statement ends, never
 * whether a statement is safe: that is for the source's parser and for the
 * read-only transaction.
 *
 * src/guard/lexer.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_LEXER_H
#define OPD_LEXER_H

typedef struct OpdShape
{
	bool		begins_like_query;	/* SELECT, WITH, VALUES, TABLE or "(" */
	bool		has_more;		/* something follows the first semicolon */
	bool		unterminated;	/* a string or comment has no end */
	size_t		length;			/* of the statement, up to that semicolon */
} OpdShape;

/* Look at a text; linear in its length, never throws. */
extern OpdShape opd_lexer_shape(const char *sql);

/*
 * Longest run of operator characters. PostgreSQL's scanner takes time in the
 * square of it, and cannot be interrupted meanwhile.
 */
extern size_t opd_lexer_longest_operator(const char *sql);

#endif							/* OPD_LEXER_H */
