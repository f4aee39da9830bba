/*-------------------------------------------------------------------------
 *
 * keycommand.c
 *	  Ask the key command for a master key.
 *
 * src/wire/keycommand.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <ctype.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>

#include "utils/builtins.h"

#include "base/limits.h"
#include "secret/keycache.h"
#include "wire/command.h"
#include "wire/keycommand.h"

typedef struct KeyAsk
{
	OpdKeyAsk	public;			/* first: the caller's view */
	char	   *wanted_id;		/* NULL: the current one */
} KeyAsk;

#define HEX_DIGITS "0123456789abcdefABCDEF"

/* The key in what was printed, behind which is a NUL; false when it is none. */
static bool
read_key(const uint8 *text, size_t len, uint8 key[OPD_KEY_BYTES])
{
	uint8		decoded[OPD_KEY_BYTES + 1];
	bool		ok;

	/* a byte of the key may look like a newline; one more is none of it */
	if (len == OPD_KEY_BYTES || (len == OPD_KEY_BYTES + 1 && text[OPD_KEY_BYTES] == '\n'))
	{
		memcpy(key, text, OPD_KEY_BYTES);
		return true;
	}
	while (len > 0 && isspace(text[len - 1]))
		len--;
	if (len == 2 * OPD_KEY_BYTES)
	{
		/* checked before, since hex_decode() raises */
		if (strspn((const char *) text, HEX_DIGITS) < len)
			return false;
		(void) hex_decode((const char *) text, len, (char *) key);
		return true;
	}
	/* 32 bytes in base64: 43 characters and a pad */
	ok = len == 44 && text[43] == '=' && text[42] != '=' && EVP_DecodeBlock(decoded, text, (int) len) == OPD_KEY_BYTES + 1;
	if (ok)
		memcpy(key, decoded, OPD_KEY_BYTES);
	OPENSSL_cleanse(decoded, sizeof(decoded));
	return ok;
}

static void
on_done(void *arg, const OpdCommandResult *result)
{
	KeyAsk	   *ask = arg;
	uint8		bytes[OPD_KEY_BYTES];
	OpdMasterKey key;

	ask->public.done = true;
	if (result->problem != NULL)
		ask->public.problem = pstrdup(result->problem);
	else if (!read_key(result->output, result->len, bytes))
		ask->public.problem = pstrdup("it printed no key, which is 32 bytes, or these in hexadecimal or base64");
	else
	{
		opd_masterkey_set(&key, bytes);
		OPENSSL_cleanse(bytes, sizeof(bytes));
		if (ask->wanted_id == NULL || strcmp(ask->wanted_id, key.id) == 0)
		{
			if (!opd_keycache_put(&key, ask->wanted_id == NULL))
				ask->public.problem = pstrdup("no memory can be locked for it, for which the server's limit must be raised (ulimit -l)");
		}
		else
			ask->public.problem = psprintf("it printed key %s instead of %s", key.id, ask->wanted_id);
		opd_masterkey_wipe(&key);
	}
}

OpdKeyAsk *
opd_keycommand_start(OpdLoop *loop, const char *command, const char *wanted_id)
{
	KeyAsk	   *ask = palloc0(sizeof(KeyAsk));
	const char *home = getenv("HOME");
	char	   *environment[] = {
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"LANG=C",
		psprintf("HOME=%s", home != NULL ? home : "/"),
		psprintf("OPDATA_KEY_ID=%s", wanted_id != NULL ? wanted_id : ""),
		NULL
	};

	ask->wanted_id = wanted_id != NULL ? pstrdup(wanted_id) : NULL;
	(void) opd_command_start(loop, command, environment, OPD_KEY_OUTPUT_MAX_BYTES,
							 opd_now_ms() + OPD_KEY_COMMAND_TIMEOUT_MS, on_done, ask);
	return &ask->public;
}
