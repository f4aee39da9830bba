/*-------------------------------------------------------------------------
 *
 * text.c
 *	  Text from a peer, made fit to be shown.
 *
 * src/base/text.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "base/text.h"

static const char replacement_character[] = "\xEF\xBF\xBD"; /* U+FFFD */

/*
 * C0, DEL and C1 controls but tab and newline; and the characters with the
 * property Bidi_Control (Unicode Standard Annex 9, section 2).
 */
static bool
is_unwanted(pg_wchar c)
{
	if (c < 0x20)
		return c != '\t' && c != '\n';
	return (c >= 0x7f && c <= 0x9f) ||
		c == 0x061c ||
		c == 0x200e || c == 0x200f ||
		(c >= 0x202a && c <= 0x202e) ||
		(c >= 0x2066 && c <= 0x2069);
}

/* Bytes of the next character, or 0 when they are no UTF-8. */
static int
character_length(const char *p, const char *end)
{
	int			length = pg_utf_mblen((const unsigned char *) p);

	if (p + length > end || !pg_utf8_islegal((const unsigned char *) p, length))
		return 0;
	return length;
}

char *
opd_text_clean(const char *text, size_t length, int max_chars, bool *cut)
{
	const char *p = text;
	const char *end = text + length;
	StringInfoData clean;
	int			n_chars = 0;

	initStringInfo(&clean);
	while (p < end && n_chars < max_chars)
	{
		int			char_length = character_length(p, end);

		n_chars++;
		if (char_length == 0)
		{
			appendStringInfoString(&clean, replacement_character);
			p++;
			continue;
		}
		if (!is_unwanted(utf8_to_unicode((const unsigned char *) p)))
			appendBinaryStringInfo(&clean, p, char_length);
		p += char_length;
	}
	if (cut != NULL)
		*cut = p < end;
	return clean.data;
}
