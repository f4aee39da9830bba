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

/* Slot of an SSL object that leads back to its OpdTlsWatch. */
static int
watch_slot(void)
{
	static int	slot = -1;

	if (slot < 0)
		slot = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
	return slot;
}

static void
on_info(const SSL *ssl, int where, int value)
{
	OpdTlsWatch *watch = SSL_get_ex_data(ssl, watch_slot());

	if (watch != NULL && (where & SSL_CB_READ_ALERT) == SSL_CB_READ_ALERT &&
		(value & 0xff) != SSL_AD_CLOSE_NOTIFY)
		watch->alert = value & 0xff;
}

/* Same verdict as libpq's own callback, which keeps OpenSSL's; we only note. */
static int
on_verify(int ok, X509_STORE_CTX *store)
{
	SSL		   *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
	OpdTlsWatch *watch = ssl ? SSL_get_ex_data(ssl, watch_slot()) : NULL;
	X509	   *certificate = X509_STORE_CTX_get_current_cert(store);

	if (!ok && watch != NULL)
	{
		watch->verify_error = X509_STORE_CTX_get_error(store);
		if (certificate != NULL)
			X509_NAME_oneline(X509_get_issuer_name(certificate),
							  watch->issuer, sizeof(watch->issuer));
	}
	return ok;
}

void
opd_tlswatch_attach(OpdTlsWatch *watch, PGconn *conn)
{
	SSL		   *ssl;

	if (watch->ssl != NULL)
		return;
	ssl = PQsslStruct(conn, "OpenSSL");
	if (ssl == NULL || SSL_up_ref(ssl) != 1)
		return;
	watch->ssl = ssl;
	watch->alert = -1;
	watch->verify_error = X509_V_OK;
	SSL_set_ex_data(ssl, watch_slot(), watch);
	SSL_set_info_callback(ssl, on_info);
	SSL_set_verify(ssl, SSL_get_verify_mode(ssl), on_verify);
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
