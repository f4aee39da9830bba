/*-------------------------------------------------------------------------
 *
 * text.h
 *	  Text from a peer, made fit to be shown.
 *
 * src/base/text.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_TEXT_H
#define OPD_TEXT_H

/*
 * Copy UTF-8 text of "length" bytes into the current memory context, cut to
 * max_chars characters (*cut tells; may be NULL). Dropped: control characters
 * other than tab and newline (they drive terminals), and the bidirectional
 * controls of Unicode (they make a text read differently from what it is). A
 * byte sequence that is no UTF-8, which a SQL_ASCII source can send, becomes
 * U+FFFD.
 */
extern char *opd_text_clean(const char *text, size_t length, int max_chars, bool *cut);

#endif							/* OPD_TEXT_H */
