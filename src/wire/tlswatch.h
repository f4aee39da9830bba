/*-------------------------------------------------------------------------
 *
 * tlswatch.h
 *	  Why a TLS handshake failed, told by OpenSSL's state instead of a text.
 *
 * libpq reports a failed handshake as a localised sentence. The facts behind
 * it are taken from the SSL object that libpq works with: the result of
 * certificate verification, whether the handshake ended, and the alert that
 * the server sent.
 *
 * src/wire/tlswatch.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_TLSWATCH_H
#define OPD_TLSWATCH_H

#include <openssl/ssl.h>

/* Zero it before use; lives as long as its connection. */
typedef struct OpdTlsWatch
{
	SSL		   *ssl;			/* with a reference of our own, or NULL */
	int			verify_error;	/* X509_V_ERR_..., or X509_V_OK */
	char		issuer[256];	/* of the certificate that failed */
	int			alert;			/* TLS alert description that came in, or -1 */
} OpdTlsWatch;

/*
 * To be called right before and right after each step of libpq that may begin
 * or carry on the TLS handshake. Never throw.
 */
extern void opd_tlswatch_before_step(OpdTlsWatch *watch);
extern void opd_tlswatch_after_step(OpdTlsWatch *watch);

/* Let go; safe to call when never attached. */
extern void opd_tlswatch_detach(OpdTlsWatch *watch);

/* Has OpenSSL decrypted bytes that libpq has not read yet? */
extern bool opd_tlswatch_pending(const OpdTlsWatch *watch);

/*
 * Decrypted bytes that libpq has not read yet, of the next record; 0 when there
 * are none. They stay to be read.
 */
extern size_t opd_tlswatch_peek(const OpdTlsWatch *watch, char *bytes, size_t size);

/* Did the handshake itself come to its end? */
extern bool opd_tlswatch_handshake_done(const OpdTlsWatch *watch);

/* Is the alert one that is about our client certificate (or its absence)? */
extern bool opd_tlswatch_alert_is_about_certificate(const OpdTlsWatch *watch);

#endif							/* OPD_TLSWATCH_H */
