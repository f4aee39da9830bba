/*-------------------------------------------------------------------------
 *
 * keycache.h
 *	  Master keys that a command has given to this process.
 *
 * They lie in memory that is locked, belongs to no core dump, and is empty in a
 * child. Nothing else keeps a key for longer than one use. A reload of the
 * configuration forgets them.
 *
 * src/secret/keycache.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_KEYCACHE_H
#define OPD_KEYCACHE_H

#include "secret/masterkey.h"

/*
 * Keep a key; "current" if it was given without having been asked for by id. False
 * when no memory can be locked (RLIMIT_MEMLOCK; a page is taken).
 */
extern bool opd_keycache_put(const OpdMasterKey *key, bool current);

/* A copy of the key with this id, or of the current one (NULL); false when there is none. */
extern bool opd_keycache_find(const char *id, OpdMasterKey *key);

/* Is the key with this id, or the current one (NULL), there? */
extern bool opd_keycache_has(const char *id);

/* Which key is the current one is not known any more; all are there by their ids. */
extern void opd_keycache_ask_again(void);

/* Wipe all of them. */
extern void opd_keycache_forget(void);

/* This process ends what it does with the keys it has: reloads count no more. */
extern void opd_keycache_hold(void);

#endif							/* OPD_KEYCACHE_H */
