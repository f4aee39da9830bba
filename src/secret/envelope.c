/*-------------------------------------------------------------------------
 *
 * envelope.c
 *	  Encryption of one value of one row, by pgcrypto.
 *
 * src/secret/envelope.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <openssl/crypto.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "base/guarded.h"
#include "base/sql.h"
#include "secret/envelope.h"

/* First bytes of the plaintext; a later format takes another. */
static const char envelope_magic[] = "opdata1";

/*
 * The password is 256 random bits, which no stretching makes better: salted
 * S2K (mode 1) with SHA-256 is enough and 20 times as fast as the default.
 */
static const char encrypt_options[] =
"cipher-algo=aes256, s2k-mode=1, s2k-digest-algo=sha256, compress-algo=0";

/* The key as the password that pgcrypto wants: 64 hexadecimal digits. */
static text *
password_of_key(const OpdMasterKey *key)
{
	text	   *password = palloc(VARHDRSZ + 2 * OPD_KEY_BYTES);

	(void) hex_encode((const char *) key->bytes, OPD_KEY_BYTES, VARDATA(password));
	SET_VARSIZE(password, VARHDRSZ + 2 * OPD_KEY_BYTES);
	return password;
}

/*
 * Identity in front of the payload. Each part ends with a NUL, which no text
 * value can hold, so that no two identities look alike.
 */
static void
append_identity(StringInfo buf, const OpdEnvelopeIdentity *identity)
{
	appendBinaryStringInfo(buf, envelope_magic, sizeof(envelope_magic));
	appendBinaryStringInfo(buf, identity->workspace_id, strlen(identity->workspace_id) + 1);
	appendBinaryStringInfo(buf, identity->id, strlen(identity->id) + 1);
	appendBinaryStringInfo(buf, identity->column, strlen(identity->column) + 1);
}

static void
wipe_varlena(struct varlena *value)
{
	OPENSSL_cleanse(VARDATA(value), VARSIZE(value) - VARHDRSZ);
}

bytea *
opd_envelope_close(const OpdMasterKey *key, const OpdEnvelopeIdentity *identity,
				   const char *plaintext)
{
	Oid			arg_types[] = {BYTEAOID, TEXTOID, TEXTOID};
	Oid			function;
	StringInfoData buf;
	text	   *password;
	Datum		sealed;

	function = opd_sql_extension_function("pgcrypto", "pgp_sym_encrypt_bytea",
										  lengthof(arg_types), arg_types);

	/* sized at once: growing would leave copies of the plaintext behind */
	initStringInfo(&buf);
	enlargeStringInfo(&buf, strlen(plaintext) + 1024);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	append_identity(&buf, identity);
	appendBinaryStringInfo(&buf, plaintext, strlen(plaintext));
	SET_VARSIZE(buf.data, buf.len);
	password = password_of_key(key);

	sealed = OidFunctionCall3(function,
							  PointerGetDatum(buf.data),
							  PointerGetDatum(password),
							  CStringGetTextDatum(encrypt_options));
	wipe_varlena((struct varlena *) buf.data);
	wipe_varlena((struct varlena *) password);
	return DatumGetByteaPP(sealed);
}

typedef struct Decryption
{
	FmgrInfo	function;
	bytea	   *ciphertext;
	text	   *password;
	bytea	   *opened;
} Decryption;

static void
decrypt(void *arg)
{
	Decryption *d = arg;

	d->opened = DatumGetByteaPP(FunctionCall2(&d->function,
											  PointerGetDatum(d->ciphertext),
											  PointerGetDatum(d->password)));
}

/* The key was checked before, so it is the value that is not what it was. */
static void
throw_corrupt(const OpdEnvelopeIdentity *identity, const char *why)
{
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("stored %s of \"%s\" cannot be decrypted", identity->column, identity->id),
			 errdetail_internal("internal %s", why),
			 strcmp(identity->column, "private_key") == 0 ?
			 errhint("Make another key pair with opdata_rotate_public_key('0'), and seal to that.") :
			 errhint("Store the credentials of this connection again with opdata_store_creds().")));
}

char *
opd_envelope_open(OpdMasterKey *key, const OpdEnvelopeIdentity *identity,
				  bytea *ciphertext)
{
	Oid			arg_types[] = {BYTEAOID, TEXTOID};
	Decryption	d = {.ciphertext = ciphertext};
	ErrorData  *error;
	StringInfoData expected;
	char	   *plaintext = NULL;
	int			length;

	fmgr_info(opd_sql_extension_function("pgcrypto", "pgp_sym_decrypt_bytea",
										 lengthof(arg_types), arg_types),
			  &d.function);
	d.password = password_of_key(key);
	error = opd_guarded_call(decrypt, &d);
	wipe_varlena((struct varlena *) d.password);
	if (error != NULL)
		opd_masterkey_wipe(key);
	if (error != NULL && error->sqlerrcode != ERRCODE_EXTERNAL_ROUTINE_INVOCATION_EXCEPTION)
		ReThrowError(error);
	if (error != NULL)
		throw_corrupt(identity, "The stored value was altered.");

	initStringInfo(&expected);
	append_identity(&expected, identity);
	length = VARSIZE_ANY_EXHDR(d.opened);
	if (length >= expected.len &&
		memcmp(VARDATA_ANY(d.opened), expected.data, expected.len) == 0)
		plaintext = pnstrdup(VARDATA_ANY(d.opened) + expected.len, length - expected.len);
	OPENSSL_cleanse(VARDATA_ANY(d.opened), length);

	if (plaintext == NULL)
	{
		opd_masterkey_wipe(key);
		throw_corrupt(identity, "The stored value belongs to another connection or workspace.");
	}
	return plaintext;
}

void
opd_envelope_wipe(char *plaintext)
{
	if (plaintext != NULL)
		OPENSSL_cleanse(plaintext, strlen(plaintext));
}
