/*-------------------------------------------------------------------------
 *
 * keys.h
 *	  Master keys and the rows that are encrypted under them.
 *
 * src/store/keys.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_KEYS_H
#define OPD_KEYS_H

#include "secret/masterkey.h"
#include "utils/jsonb.h"

/*
 * Get the key to encrypt with, between opd_sql_begin() and opd_sql_end(), and
 * make it on first use. Raises 55000 (secret_unavailable) when there is none, or
 * a row needs one that is not there. Wipe it after use.
 */
extern void opd_keys_for_writing(const OpdKeySource *source, OpdMasterKey *key);

/* JSON array with the ids of the keys that rows need. */
extern Jsonb *opd_keys_needed(void);

/*
 * The first id that rows need and "is_there" does not know, behind "after" in the
 * order of bytes if that is not NULL; NULL when there is none. In the current
 * memory context.
 */
extern char *opd_keys_first_missing(bool (*is_there) (const char *id), const char *after);

/*
 * Let nobody write what is encrypted until the end of the transaction: the lock
 * conflicts with that of every writer, and with itself. Who reads is not held up.
 */
extern void opd_keys_lock_out_writers(void);

/*
 * Let nobody exchange the key until the end of the transaction: the lock that a
 * writer takes anyway. opd_keys_for_writing() takes it; who asks a command for the
 * key, or takes another lock on what is encrypted, takes it before.
 */
extern void opd_keys_lock_out_exchange(const OpdKeySource *source);

/*
 * This transaction exchanges the key, until it ends: opd_keys_for_writing() raises
 * 25001 meanwhile, since which key rows need is only known at the end. Raises nothing.
 */
extern void opd_keys_note_exchange(bool begun);

/*
 * Encrypt every row under another key, with that lock, in the transaction that is
 * open. Returns how many rows there were.
 */
extern int64 opd_keys_reencrypt(const OpdKeySource *source, const OpdMasterKey *new_key);

#endif							/* OPD_KEYS_H */
