/*-------------------------------------------------------------------------
 *
 * base64url.h
 *	  Base64url without padding (RFC 7515, section 2).
 *
 * src/secret/base64url.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_BASE64URL_H
#define OPD_BASE64URL_H

/*
 * Bytes of a text, in palloc'd memory with a NUL behind; NULL when it is none. Bits
 * that stand for nothing must be zero, so that a value has one form only.
 */
extern uint8 *opd_base64url_decode(const char *text, size_t *n_bytes);

/* The same for a value of so many bytes; NULL for a NULL too. */
extern uint8 *opd_base64url_decode_exactly(const char *text, size_t n_bytes);

/* The text, palloc'd. */
extern char *opd_base64url_encode(const uint8 *bytes, size_t n);

#endif							/* OPD_BASE64URL_H */
