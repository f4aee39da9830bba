/*-------------------------------------------------------------------------
 *
 * tlswatch.c
 *	  Why a TLS handshake failed, told by OpenSSL's state instead of a text.
 *
 * OpenSSL calls back from inside libpq: nothing here may throw or allocate in
 * PostgreSQL's memory.
 *
 * src/wire/tlswatch.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <openssl/err.h>
#include <openssl/x509.h>

#include "wire/tlswatch.h"

/*
 * The watch whose SSL object libpq is about to make. One step of libpq makes
 * the object and begins the handshake; when the source is quick the same step
 * gets to the end of it, and frees the object if it failed. So we must be
 * there from the start, not after the step.
 */
static OpdTlsWatch *expecting;

static int	watch_slot(void);

static void
on_info(const SSL *ssl, int where, int value)
{
	OpdTlsWatch *watch = SSL_get_ex_data(ssl, watch_slot());

	if (watch != NULL && (where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT &&
		(value & 0xff) != SSL_AD_CLOSE_NOTIFY)
		watch->alert = value & 0xff;
}

/* OpenSSL has made an SSL object: CRYPTO_EX_new, see CRYPTO_get_ex_new_index(3). */
static void
on_new(void *parent, void *ptr, CRYPTO_EX_DATA *data, int slot, long argl, void *argp)
{
	SSL		   *ssl = parent;

	if (expecting == NULL || SSL_up_ref(ssl) != 1)
		return;
	expecting->ssl = ssl;
	expecting->alert = -1;
	expecting->verify_error = X509_V_OK;
	CRYPTO_set_ex_data(data, slot, expecting);
	SSL_set_info_callback(ssl, on_info);
	expecting = NULL;
}

/* Slot of an SSL object that leads back to its OpdTlsWatch. */
static int
watch_slot(void)
{
	static int	slot = -1;

	if (slot < 0)
		slot = SSL_get_ex_new_index(0, NULL, on_new, NULL, NULL);
	return slot;
}

void
opd_tlswatch_before_step(OpdTlsWatch *watch)
{
	(void) watch_slot();
	expecting = watch->ssl == NULL ? watch : NULL;
}

/* The verdict on the server's certificate stays with the SSL object. */
static void
note_verdict(OpdTlsWatch *watch)
{
	STACK_OF(X509) *chain = SSL_get0_verified_chain(watch->ssl);
	int			n = chain != NULL ? sk_X509_num(chain) : 0;

	watch->verify_error = SSL_get_verify_result(watch->ssl);
	if (watch->verify_error != X509_V_OK && n > 0)
		X509_NAME_oneline(X509_get_issuer_name(sk_X509_value(chain, n - 1)),
						  watch->issuer, sizeof(watch->issuer));
}

void
opd_tlswatch_after_step(OpdTlsWatch *watch)
{
	expecting = NULL;
	if (watch->ssl != NULL && SSL_get_verify_mode(watch->ssl) != SSL_VERIFY_NONE)
		note_verdict(watch);
}

void
opd_tlswatch_detach(OpdTlsWatch *watch)
{
	if (watch->ssl == NULL)
		return;
	SSL_set_info_callback(watch->ssl, NULL);
	SSL_set_ex_data(watch->ssl, watch_slot(), NULL);
	SSL_free(watch->ssl);
	watch->ssl = NULL;
	ERR_clear_error();
}

bool
opd_tlswatch_pending(const OpdTlsWatch *watch)
{
	return watch->ssl != NULL && SSL_pending(watch->ssl) > 0;
}

size_t
opd_tlswatch_peek(const OpdTlsWatch *watch, char *bytes, size_t size)
{
	int			n = SSL_peek(watch->ssl, bytes, size);

	ERR_clear_error();
	return n > 0 ? n : 0;
}

bool
opd_tlswatch_handshake_done(const OpdTlsWatch *watch)
{
	return watch->ssl != NULL && SSL_is_init_finished(watch->ssl);
}

bool
opd_tlswatch_alert_is_about_certificate(const OpdTlsWatch *watch)
{
	if (watch->ssl == NULL)
		return false;
	switch (watch->alert)
	{
		case SSL_AD_BAD_CERTIFICATE:
		case SSL_AD_UNSUPPORTED_CERTIFICATE:
		case SSL_AD_CERTIFICATE_REVOKED:
		case SSL_AD_CERTIFICATE_EXPIRED:
		case SSL_AD_CERTIFICATE_UNKNOWN:
		case SSL_AD_UNKNOWN_CA:
		case SSL_AD_ACCESS_DENIED:
		case SSL_AD_DECRYPT_ERROR:
		case TLS13_AD_CERTIFICATE_REQUIRED:
			return true;
		default:
			return false;
	}
}
