/*-------------------------------------------------------------------------
 *
 * masterkey.h
 *	  The master key: 32 random bytes in a file outside the tables.
 *
 * A key is known by its id, the first 16 hexadecimal digits of a one-way
 * function of the key. The id stands beside every encrypted row, so that a
 * wrong key is told from the right one before any row is touched: the id is
 * the key check value.
 *
 * The key is read from the file each time it is used (a 32-byte read beside a
 * network connection) and wiped afterwards; nothing caches it. Errors do not
 * name the file: any role that may call a function gets them, while the
 * setting is for superusers.
 *
 * src/secret/masterkey.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_MASTERKEY_H
#define OPD_MASTERKEY_H

#define OPD_KEY_BYTES 32
#define OPD_KEY_ID_CHARS 16

typedef struct OpdMasterKey
{
	uint8		bytes[OPD_KEY_BYTES];
	char		id[OPD_KEY_ID_CHARS + 1];
} OpdMasterKey;

typedef enum OpdKeyState
{
	OPD_KEY_PRESENT,			/* key filled */
	OPD_KEY_MISSING,			/* no such file */
	OPD_KEY_UNUSABLE			/* *problem says why */
} OpdKeyState;

/*
 * Look at the key file without raising. On OPD_KEY_PRESENT the key is filled
 * and must be wiped by opd_masterkey_wipe(); on OPD_KEY_UNUSABLE *problem is a
 * sentence in the current memory context. The file must be regular, hold
 * exactly 32 bytes and be readable by nobody else: owned by the server's user
 * with mode 0600 or less, or owned by root with 0640 or less (PostgreSQL's own
 * rule for ssl_key_file).
 */
extern OpdKeyState opd_masterkey_look(const char *path, OpdMasterKey *key, char **problem);

/*
 * Read the key. "needed_id" is the id of the key that existing rows need, or
 * NULL. Raises 55000 (secret_unavailable), naming the needed id, when the key
 * is missing, unusable or another one. Wipe it after use.
 */
extern void opd_masterkey_read(const char *path, const char *needed_id, OpdMasterKey *key);

/*
 * Make a key file with fresh random bytes, unless one has appeared meanwhile;
 * an existing file is never overwritten. Raises 58030 or the errno's code when
 * the file cannot be written. The caller holds the lock that keeps two
 * sessions from finding "no rows" at once.
 */
extern void opd_masterkey_create(const char *path);

extern void opd_masterkey_wipe(OpdMasterKey *key);

#endif							/* OPD_MASTERKEY_H */
