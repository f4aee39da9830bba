/*-------------------------------------------------------------------------
 *
 * keyring.c
 *	  Has this process the master keys that it needs?
 *
 * Only with opdata.key_command, which is run on the loop and never inside of a
 * transaction. As long as the current key is missing no task is asked for.
 *
 * src/worker/keyring.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "utils/memutils.h"

#include "base/guarded.h"
#include "secret/keycache.h"
#include "store/keys.h"
#include "wire/keycommand.h"
#include "worker/agent.h"
#include "worker/state.h"

#define AGAIN_MS	5000		/* after a failure */

typedef struct OpdKeyring
{
	MemoryContext context;		/* of the question under way; NULL: none */
	OpdKeyAsk  *ask;
	double		not_before_ms;
	uint64		n_exchanges;	/* of the master key, that were noticed */
	char	   *asked;			/* id that was asked for last; NULL: the current key, or all were */
	char	   *shown;			/* problem that is in the log already; NULL: none */
} OpdKeyring;

typedef struct Search
{
	const char *after;
	char	   *missing;
} Search;

static void
find_missing(void *arg)
{
	Search	   *search = arg;

	search->missing = opd_keys_first_missing(opd_keycache_has, search->after);
}

static void
note_end(OpdAgent *agent, const char *problem)
{
	OpdKeyring *keyring = agent->keyring;

	if (problem != NULL)
	{
		keyring->not_before_ms = opd_now_ms() + AGAIN_MS;
		opd_state_note_error("KEY_COMMAND", psprintf("the command of opdata.key_command gives no key: %s", problem));
		if (keyring->shown == NULL || strcmp(keyring->shown, problem) != 0)
			ereport(LOG,
					(errmsg("opdata worker \"%s\": the command of opdata.key_command gives no key: %s",
							agent->name, problem)));
	}
	if (keyring->shown != NULL)
		pfree(keyring->shown);
	keyring->shown = problem != NULL ? MemoryContextStrdup(agent->context, problem) : NULL;
}

double
opd_keyring_advance(OpdAgent *agent)
{
	OpdKeyring *keyring = agent->keyring;
	OpdKeySource keys = agent->keys;
	Search		search = {0};
	ErrorData  *error;
	MemoryContext old;

	if (keyring == NULL)
		keyring = agent->keyring = MemoryContextAllocZero(agent->context, sizeof(OpdKeyring));
	if (keyring->context != NULL)
	{
		if (!keyring->ask->done)
			return INFINITY;
		note_end(agent, keyring->ask->problem);
		MemoryContextDelete(keyring->context);
		keyring->context = NULL;
	}
	if (opd_state_key_exchanges() != keyring->n_exchanges)
	{
		keyring->n_exchanges = opd_state_key_exchanges();
		keyring->not_before_ms = 0;
		opd_keycache_ask_again();
	}
	agent->lacks_key = keys.command[0] != '\0' && !opd_keycache_has(NULL);
	if (keys.command[0] == '\0')
		return INFINITY;
	if (opd_now_ms() < keyring->not_before_ms)
		return keyring->not_before_ms;
	if (!agent->lacks_key)
	{
		/* others than the current one are looked for now and then, each in its turn */
		search.after = keyring->asked;
		error = opd_guarded_transaction(find_missing, &search, false);
		if (keyring->asked != NULL)
			pfree(keyring->asked);
		keyring->asked = NULL;
		if (error != NULL || search.missing == NULL)
		{
			keyring->not_before_ms = opd_now_ms() + AGAIN_MS;
			return keyring->not_before_ms;
		}
		keyring->asked = MemoryContextStrdup(agent->context, search.missing);
	}
	keyring->context = AllocSetContextCreate(agent->context, "opdata key command", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(keyring->context);
	keyring->ask = opd_keycommand_start(agent->loop, keys.command, search.missing);
	MemoryContextSwitchTo(old);
	return INFINITY;
}
