/*-------------------------------------------------------------------------
 *
 * masterkey.h
 *	  The master key: 32 random bytes outside the tables, in a file or from a command.
 *
 * A key is known by its id, the first 16 hexadecimal digits of a one-way
 * function of the key. The id stands beside every encrypted row, so that a
 * wrong key is told from the right one before any row is touched: the id is
 * the key check value.
 *
 * A key in a file is read each time it is used (a 32-byte read beside a network
 * connection) and wiped afterwards. While the key is exchanged for another, that
 * lies in FILE.next; a key that was exchanged lies in FILE.ID, for who still reads
 * with an older snapshot, and for older backups. A key that a command gives lies in
 * keycache.h; the command was run before, where it may be waited for.
 *
 * Errors do not name the file: any role that may call a function gets them,
 * while the setting is for superusers.
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

/* Where keys come from. */
typedef struct OpdKeySource
{
	const char *file;			/* absolute path */
	const char *command;		/* "": the file counts */
} OpdKeySource;

typedef enum OpdKeyState
{
	OPD_KEY_PRESENT,			/* key filled */
	OPD_KEY_MISSING,			/* no such file; not in the cache */
	OPD_KEY_UNUSABLE			/* *problem says why */
} OpdKeyState;

/*
 * Look for the key with this id, or for the current one (NULL), without
 * raising. On OPD_KEY_PRESENT the key is filled, which is the current one if
 * there is no key with the id, and must be wiped by opd_masterkey_wipe(); on
 * OPD_KEY_UNUSABLE *problem is a
 * sentence in the current memory context. The file must be regular, hold
 * exactly 32 bytes and be readable by nobody else: owned by the server's user
 * with mode 0600 or less, or owned by root with 0640 or less (PostgreSQL's own
 * rule for ssl_key_file).
 */
extern OpdKeyState opd_masterkey_look(const OpdKeySource *source, const char *wanted_id,
									  OpdMasterKey *key, char **problem);

/*
 * Read the key. "needed_id" is the id of the key that existing rows need, or
 * NULL. Raises 55000 (secret_unavailable), naming the needed id, when the key
 * is missing, unusable or another one. Wipe it after use.
 */
extern void opd_masterkey_read(const OpdKeySource *source, const char *needed_id, OpdMasterKey *key);

/*
 * Make a key file with fresh random bytes, unless one has appeared meanwhile;
 * an existing file is never overwritten. Raises 58030 or the errno's code when
 * the file cannot be written. The caller holds the lock that keeps two
 * sessions from finding "no rows" at once.
 */
extern void opd_masterkey_create(const char *path);

extern void opd_masterkey_wipe(OpdMasterKey *key);

/*
 * Make a key of its bytes: fills the id. Raises XX000 if OpenSSL cannot.
 */
extern void opd_masterkey_set(OpdMasterKey *key, const uint8 bytes[OPD_KEY_BYTES]);

/*
 * Write the new key to FILE.next, for an exchange, and keep as FILE.ID the old one,
 * which FILE has, and one that lies in FILE.next. Raises the errno's code, or 55000 for
 * a FILE.next that cannot be read (secret_unavailable); no key is lost then. This
 * and what follows is for who holds the lock that keeps two from doing it at once.
 */
extern void opd_masterkey_stage(const char *path, const OpdMasterKey *old_key, const OpdMasterKey *new_key);

/* Is the key with this id in FILE.next? */
extern bool opd_masterkey_is_staged(const char *path, const char *id);

/*
 * The exchange: FILE.next becomes FILE, whose key, of this id, was kept. After a
 * crash at any point both keys are there, each whole, and it can be done again.
 * Returns NULL, or what failed, with errno set. Raises nothing and allocates
 * nothing: it is called when a transaction has just committed.
 */
extern const char *opd_masterkey_exchange(const char *path, const char *id);

/*
 * The same for who comes later, perhaps on a standby that took over, where FILE was
 * not kept. Raises the errno's code (secret_unavailable).
 */
extern void opd_masterkey_finish_exchange(const char *path);

/* FILE.next is not needed by who has staged it. Raises and allocates nothing. */
extern void opd_masterkey_unstage(const char *path);

#endif							/* OPD_MASTERKEY_H */
