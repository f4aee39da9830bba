/*-------------------------------------------------------------------------
 *
 * redact.h
 *	  Keeps credentials that stand in a SQL statement out of log and statistics.
 *
 * A plaintext credential given as an argument is part of the statement text,
 * which PostgreSQL shows in many places: statement and duration lines, the
 * STATEMENT line of an error, bind parameters in DETAIL and CONTEXT,
 * auto_explain, quoted fragments in errors about malformed JSON, and
 * pg_stat_activity. A filter on the log hook and one on parse analysis hide
 * it there. They judge by the statement that is running (and for EXECUTE by
 * the prepared statement's source), never by the message.
 *
 * README.md, "What the log can still show", names what no hook can reach.
 *
 * src/secret/redact.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_REDACT_H
#define OPD_REDACT_H

/* Install the hooks; called once, from _PG_init(). */
extern void opd_redact_install(void);

/*
 * The running statement turned out to carry credentials (it called one of our
 * functions, perhaps through a function of the user's own): hide it from here
 * on. Called first by every function that takes a credential. Never throws.
 */
extern void opd_redact_statement(void);

#endif							/* OPD_REDACT_H */
