/*-------------------------------------------------------------------------
 *
 * keycache.c
 *	  Master keys that a command has given to this process.
 *
 * src/secret/keycache.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <sys/mman.h>
#include <unistd.h>
#include <openssl/crypto.h>

#include "utils/timestamp.h"

#include "secret/keycache.h"

/* the current key, one that takes its place, and some of older rows */
#define MAX_KEYS 32

typedef struct Cache
{
	TimestampTz reloaded_at;	/* configuration that the keys came by */
	int			n_keys;
	int			current;		/* index; -1: none */
	int			oldest;			/* index that is replaced when all are taken */
	OpdMasterKey keys[MAX_KEYS];
} Cache;

static Cache *cache;
static bool held;				/* reloads count no more */

static bool
make_cache(void)
{
	size_t		size = TYPEALIGN(sysconf(_SC_PAGESIZE), sizeof(Cache));
	void	   *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return false;
	if (mlock(memory, size) != 0 || madvise(memory, size, MADV_DONTDUMP) != 0 ||
		madvise(memory, size, MADV_WIPEONFORK) != 0)
	{
		(void) munmap(memory, size);
		return false;
	}
	cache = memory;
	cache->current = -1;
	cache->reloaded_at = PgReloadTime;
	return true;
}

/* A reload ends what was there before. */
static bool
is_there(void)
{
	if (cache == NULL)
		return false;
	if (!held && cache->reloaded_at != PgReloadTime)
		opd_keycache_forget();
	return true;
}

bool
opd_keycache_put(const OpdMasterKey *key, bool current)
{
	int			i;

	if (!is_there() && !make_cache())
		return false;
	for (i = 0; i < cache->n_keys; i++)
	{
		if (strcmp(cache->keys[i].id, key->id) == 0)
			break;
	}
	if (i == cache->n_keys)
	{
		if (cache->n_keys < MAX_KEYS)
			cache->n_keys++;
		else
		{
			if (cache->oldest == cache->current)
				cache->oldest = (cache->oldest + 1) % MAX_KEYS;
			i = cache->oldest;
			cache->oldest = (cache->oldest + 1) % MAX_KEYS;
		}
		cache->keys[i] = *key;
	}
	if (current)
		cache->current = i;
	return true;
}

bool
opd_keycache_find(const char *id, OpdMasterKey *key)
{
	if (!is_there())
		return false;
	for (int i = 0; i < cache->n_keys; i++)
	{
		if (id == NULL ? i == cache->current : strcmp(cache->keys[i].id, id) == 0)
		{
			*key = cache->keys[i];
			return true;
		}
	}
	return false;
}

bool
opd_keycache_has(const char *id)
{
	OpdMasterKey key;
	bool		found = opd_keycache_find(id, &key);

	opd_masterkey_wipe(&key);
	return found;
}

void
opd_keycache_ask_again(void)
{
	if (cache != NULL)
		cache->current = -1;
}

void
opd_keycache_hold(void)
{
	held = true;
}

void
opd_keycache_forget(void)
{
	if (cache == NULL)
		return;
	OPENSSL_cleanse(cache, sizeof(Cache));
	cache->current = -1;
	cache->reloaded_at = PgReloadTime;
}
