/*-------------------------------------------------------------------------
 *
 * pem.c
 *	  Checks of certificates and keys before libpq or libcurl sees them.
 *
 * src/secret/pem.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <time.h>
#include <unistd.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "utils/timestamp.h"

#include "secret/pem.h"

/* An encrypted key has no passphrase here: say so instead of asking for one. */
static int
no_passphrase(char *buf, int size, int rwflag, void *asked)
{
	*(bool *) asked = true;
	return -1;
}

static X509 *
read_certificate(BIO *bio)
{
	return PEM_read_bio_X509(bio, NULL, no_passphrase, &(bool) {false});
}

const char *
opd_pem_certificate_problem(const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	X509	   *certificate;
	int			n = 0;

	if (bio == NULL)
		return "cannot be read";
	while ((certificate = read_certificate(bio)) != NULL)
	{
		X509_free(certificate);
		n++;
	}
	BIO_free(bio);
	ERR_clear_error();
	return n > 0 ? NULL : "is not a PEM certificate";
}

char *
opd_pem_key_problem(const char *pem, const char *certificate_pem, const char *certificate_name)
{
	BIO		   *key_bio = BIO_new_mem_buf(pem, -1);
	BIO		   *certificate_bio = BIO_new_mem_buf(certificate_pem, -1);
	EVP_PKEY   *key = NULL;
	X509	   *certificate = NULL;
	bool		encrypted = false;
	bool		foreign = false;
	const char *problem = NULL;

	if (key_bio != NULL && certificate_bio != NULL)
	{
		key = PEM_read_bio_PrivateKey(key_bio, NULL, no_passphrase, &encrypted);
		certificate = read_certificate(certificate_bio);
	}
	if (encrypted)
		problem = "is encrypted; give the key without a passphrase";
	else if (key == NULL)
		problem = "is not a PEM private key";
	else if (certificate != NULL && X509_check_private_key(certificate, key) != 1)
		foreign = true;

	X509_free(certificate);
	EVP_PKEY_free(key);
	BIO_free(certificate_bio);
	BIO_free(key_bio);
	ERR_clear_error();
	if (foreign)
		return psprintf("does not belong to %s", certificate_name);
	return problem != NULL ? pstrdup(problem) : NULL;
}

TimestampTz
opd_pem_not_after(const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, -1);
	X509	   *certificate = bio != NULL ? read_certificate(bio) : NULL;
	TimestampTz not_after = DT_NOEND;
	struct tm	tm;

	if (certificate != NULL && ASN1_TIME_to_tm(X509_get0_notAfter(certificate), &tm) == 1)
		not_after = time_t_to_timestamptz((pg_time_t) timegm(&tm));
	X509_free(certificate);
	BIO_free(bio);
	ERR_clear_error();
	return not_after;
}

const char *
opd_pem_system_bundle(void)
{
	static const char *const usual[] = {
		"/etc/ssl/certs/ca-certificates.crt",	/* Debian, Ubuntu, Arch */
		"/etc/pki/tls/certs/ca-bundle.crt", /* Fedora, RHEL */
		"/etc/ssl/ca-bundle.pem",	/* SUSE */
		"/etc/ssl/cert.pem",	/* Alpine */
	};
	const char *configured = getenv(X509_get_default_cert_file_env());

	/* what the administrator gave OpenSSL comes first, as with any program */
	if (configured != NULL && access(configured, R_OK) == 0)
		return configured;
	for (size_t i = 0; i < lengthof(usual); i++)
	{
		if (access(usual[i], R_OK) == 0)
			return usual[i];
	}
	return NULL;
}
