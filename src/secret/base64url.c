/*-------------------------------------------------------------------------
 *
 * base64url.c
 *	  Bytes as text of letters that no URL and no token gives a meaning to.
 *
 * src/secret/base64url.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "secret/base64url.h"

static int
digit(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' :
		c >= 'a' && c <= 'z' ? c - 'a' + 26 :
		c >= '0' && c <= '9' ? c - '0' + 52 :
		c == '-' ? 62 : c == '_' ? 63 : -1;
}

uint8 *
opd_base64url_decode(const char *text, size_t *n_bytes)
{
	size_t		len = strlen(text);
	uint8	   *bytes;
	uint32		bits = 0;
	int			n_bits = 0;

	*n_bytes = 0;
	if (len % 4 == 1)
		return NULL;
	bytes = palloc(len / 4 * 3 + 3);
	for (size_t i = 0; i < len; i++)
	{
		int			d = digit(text[i]);

		if (d < 0)
			return NULL;
		bits = (bits << 6 | d) & 0xFFFF;
		n_bits += 6;
		if (n_bits >= 8)
		{
			n_bits -= 8;
			bytes[(*n_bytes)++] = (uint8) (bits >> n_bits);
		}
	}
	if ((bits & ((1 << n_bits) - 1)) != 0)
		return NULL;
	bytes[*n_bytes] = '\0';
	return bytes;
}

uint8 *
opd_base64url_decode_exactly(const char *text, size_t n_bytes)
{
	size_t		n;
	uint8	   *bytes = text != NULL ? opd_base64url_decode(text, &n) : NULL;

	return bytes != NULL && n == n_bytes ? bytes : NULL;
}

char *
opd_base64url_encode(const uint8 *bytes, size_t n)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	char	   *text = palloc(n / 3 * 4 + 5);
	char	   *p = text;

	for (size_t i = 0; i < n; i += 3)
	{
		uint32		bits = (uint32) bytes[i] << 16 |
			(i + 1 < n ? (uint32) bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
		int			n_digits = n - i >= 3 ? 4 : (int) (n - i) + 1;

		for (int d = 0; d < n_digits; d++)
			*p++ = digits[bits >> (18 - 6 * d) & 63];
	}
	*p = '\0';
	return text;
}
