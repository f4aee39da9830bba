/*-------------------------------------------------------------------------
 *
 * masterkey.c
 *	  The master key, and the file that it lies in.
 *
 * src/secret/masterkey.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/builtins.h"

#include "secret/keycache.h"
#include "secret/masterkey.h"

/*
 * The label keeps the id apart from anything else that may ever be derived
 * from the same key.
 */
static const char key_id_label[] = "opdata master key id v1";

static void
derive_id(OpdMasterKey *key)
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned int mac_len;

	if (HMAC(EVP_sha256(), key->bytes, OPD_KEY_BYTES,
			 (const unsigned char *) key_id_label, sizeof(key_id_label) - 1,
			 mac, &mac_len) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not compute the id of the master key")));
	key->id[hex_encode((const char *) mac, OPD_KEY_ID_CHARS / 2, key->id)] = '\0';
}

/* Why may this file not hold a key? NULL when it may. */
static char *
file_problem(const struct stat *st)
{
	if (!S_ISREG(st->st_mode))
		return pstrdup("It is not a regular file.");
	if (st->st_uid != geteuid() && st->st_uid != 0)
		return pstrdup("It must be owned by the database user or by root.");
	if ((st->st_uid == geteuid() && (st->st_mode & (S_IRWXG | S_IRWXO)) != 0) ||
		(st->st_uid == 0 && (st->st_mode & (S_IWGRP | S_IXGRP | S_IRWXO)) != 0))
		return psprintf("It has mode %04o; it must be 0600 or less, or 0640 or less if owned by root.",
						(unsigned int) (st->st_mode & 07777));
	if (st->st_size != OPD_KEY_BYTES)
		return psprintf("It holds %lld bytes instead of %d.",
						(long long) st->st_size, OPD_KEY_BYTES);
	return NULL;
}

static OpdKeyState
look_into(const char *path, OpdMasterKey *key, char **problem)
{
	struct stat st;
	ssize_t		got;
	int			fd;

	*problem = NULL;

	/* O_NONBLOCK: a named pipe would make open() wait for a writer */
	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		if (errno == ENOENT)
			return OPD_KEY_MISSING;
		*problem = psprintf("It could not be opened: %m.");
		return OPD_KEY_UNUSABLE;
	}

	if (fstat(fd, &st) != 0)
		*problem = psprintf("It could not be examined: %m.");
	else
		*problem = file_problem(&st);

	if (*problem == NULL)
	{
		got = read(fd, key->bytes, OPD_KEY_BYTES);
		if (got < 0)
			*problem = psprintf("It could not be read: %m.");
		else if (got != OPD_KEY_BYTES)
			*problem = psprintf("It holds %zd bytes instead of %d.", got, OPD_KEY_BYTES);
	}
	CloseTransientFile(fd);

	if (*problem != NULL)
	{
		opd_masterkey_wipe(key);
		return OPD_KEY_UNUSABLE;
	}
	derive_id(key);
	return OPD_KEY_PRESENT;
}

void
opd_masterkey_set(OpdMasterKey *key, const uint8 bytes[OPD_KEY_BYTES])
{
	memcpy(key->bytes, bytes, OPD_KEY_BYTES);
	derive_id(key);
}

static bool
is_key(OpdKeyState state, const OpdMasterKey *key, const char *id)
{
	return state == OPD_KEY_PRESENT && (id == NULL || strcmp(key->id, id) == 0);
}

OpdKeyState
opd_masterkey_look(const OpdKeySource *source, const char *wanted_id, OpdMasterKey *key, char **problem)
{
	OpdKeyState state;
	char	   *others[2];
	char	   *ignored;

	*problem = NULL;
	if (source->command[0] != '\0')
		return opd_keycache_find(wanted_id, key) ? OPD_KEY_PRESENT : OPD_KEY_MISSING;

	state = look_into(source->file, key, problem);
	if (wanted_id == NULL || is_key(state, key, wanted_id))
		return state;
	others[0] = psprintf("%s.next", source->file);
	others[1] = psprintf("%s.%s", source->file, wanted_id);
	for (int i = 0; i < (int) lengthof(others); i++)
	{
		opd_masterkey_wipe(key);
		if (is_key(look_into(others[i], key, &ignored), key, wanted_id))
			return OPD_KEY_PRESENT;
	}
	/* what there is instead */
	opd_masterkey_wipe(key);
	return look_into(source->file, key, problem);
}

/* Raise 55000 for a command that has not given the key. */
static void
throw_not_given(const char *needed_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the key command has not given the master key"),
			 needed_id ?
			 errdetail_internal("secret_unavailable Key %s is needed.", needed_id) :
			 errdetail_internal("secret_unavailable"),
			 errhint("Run the command that opdata.key_command names as the database user, with the id in OPDATA_KEY_ID, and see that it prints the key.")));
}

void
opd_masterkey_read(const OpdKeySource *source, const char *needed_id, OpdMasterKey *key)
{
	char	   *problem;
	OpdKeyState state = opd_masterkey_look(source, needed_id, key, &problem);

	if (is_key(state, key, needed_id))
		return;
	if (source->command[0] != '\0')
	{
		opd_masterkey_wipe(key);
		throw_not_given(needed_id);
	}

	if (state == OPD_KEY_PRESENT)
	{
		char		found_id[OPD_KEY_ID_CHARS + 1];

		strlcpy(found_id, key->id, sizeof(found_id));
		opd_masterkey_wipe(key);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the master key file holds another key than the stored credentials need"),
				 errdetail_internal("secret_unavailable Key %s is needed, the file holds key %s.",
									needed_id, found_id),
				 errhint("Put the file with key %s back, or name it in opdata.key_file and reload.",
						 needed_id)));
	}

	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 state == OPD_KEY_MISSING ?
			 errmsg("the master key file does not exist") :
			 errmsg("the master key file cannot be used"),
			 needed_id ?
			 errdetail_internal("secret_unavailable Key %s is needed.%s%s", needed_id,
								problem ? " " : "", problem ? problem : "") :
			 errdetail_internal("secret_unavailable%s%s",
								problem ? " " : "", problem ? problem : ""),
			 state == OPD_KEY_MISSING ?
			 errhint("Restore the file that opdata.key_file names; it is not made anew while encrypted rows exist.") :
			 errhint("The file that opdata.key_file names must hold the %d bytes of the key, be owned by the database user and have mode 0600.",
					 OPD_KEY_BYTES)));
}

/*
 * Write a file that only we can read, and make it durable. Returns NULL, or
 * what failed, with errno set.
 */
static const char *
write_private_file(const char *path, const void *bytes, size_t length)
{
	const char *failed = NULL;
	int			save_errno = 0;
	int			fd;

	fd = OpenTransientFilePerm(path, O_WRONLY | O_CREAT | O_EXCL | PG_BINARY,
							   S_IRUSR | S_IWUSR);
	if (fd < 0)
		return "create";

	errno = 0;
	if (write(fd, bytes, length) != (ssize_t) length)
	{
		/* a short write without errno means that the disk is full */
		if (errno == 0)
			errno = ENOSPC;
		failed = "write";
	}
	else if (pg_fsync(fd) != 0)
		failed = "fsync";
	save_errno = errno;
	if (CloseTransientFile(fd) != 0 && failed == NULL)
		return "close";
	errno = save_errno;
	return failed;
}

/*
 * Make a new name in a directory durable. Not by fsync_fname(), which may
 * PANIC, nor by files of PostgreSQL's, since a transaction may just have
 * committed. Some file systems cannot do it for a directory, which is no fault.
 */
static bool
sync_directory_of(const char *path)
{
	char		directory[MAXPGPATH];
	int			fd;
	int			save_errno;
	bool		ok;

	strlcpy(directory, path, sizeof(directory));
	get_parent_directory(directory);
	fd = open(directory, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ok = pg_fsync(fd) == 0 || errno == EBADF || errno == EINVAL;
	save_errno = errno;
	close(fd);
	errno = save_errno;
	return ok;
}

#define SYNC_FAILED "sync the directory of"

/* Raise what could not be done to a file, with errno set. */
static void
throw_file_failed(const char *failed, const char *file, const char *hint)
{
	ereport(ERROR,
			(errcode_for_file_access(),
			 errmsg("could not %s the %s: %m", failed, file),
			 errdetail_internal("secret_unavailable"),
			 errhint("%s", hint)));
}

/*
 * The key is written to a temporary file and linked to its name: link() fails
 * when the name exists, so that of two creators one wins and a reader never
 * sees half a key.
 */
void
opd_masterkey_create(const char *path)
{
	OpdMasterKey key;
	char		temp_path[MAXPGPATH];
	const char *failed;
	int			save_errno;

	if (!pg_strong_random(key.bytes, OPD_KEY_BYTES))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random master key")));

	/* a file of that name is what an earlier process of our pid left behind */
	snprintf(temp_path, sizeof(temp_path), "%s.%d.tmp", path, MyProcPid);
	(void) unlink(temp_path);
	failed = write_private_file(temp_path, key.bytes, OPD_KEY_BYTES);
	opd_masterkey_wipe(&key);
	if (failed == NULL && link(temp_path, path) != 0 && errno != EEXIST)
		failed = "link";
	save_errno = errno;
	(void) unlink(temp_path);
	errno = save_errno;

	/* the name must survive a crash before any row depends on the key */
	if (failed == NULL && !sync_directory_of(path))
		failed = SYNC_FAILED;

	if (failed != NULL)
		throw_file_failed(failed, "master key file",
						  "Make the directory of opdata.key_file writable for the database user and see that there is room, or name another file and reload.");
}

/* ---------------------------------------------------------- the exchange */

#define KEEP_HINT "Make the directory of opdata.key_file writable for the database user and see that there is room."

/*
 * Put a key beside FILE, in place of what has that name: whole and durable, or not
 * at all. Returns NULL, or what failed, with errno set.
 */
static const char *
put_beside(const char *path, const char *name, const OpdMasterKey *key)
{
	/* one at a time, so that what a crash leaves behind is gone with the next one */
	char	   *temp_path = psprintf("%s.next.tmp", path);
	const char *made = temp_path;
	const char *failed;
	int			save_errno;

	(void) unlink(temp_path);
	failed = write_private_file(temp_path, key->bytes, OPD_KEY_BYTES);
	if (failed == NULL && rename(temp_path, name) != 0)
		failed = "rename";
	if (failed == NULL)
	{
		made = name;
		if (!sync_directory_of(path))
			failed = SYNC_FAILED;
	}
	if (failed != NULL)
	{
		save_errno = errno;
		(void) unlink(made);
		errno = save_errno;
	}
	return failed;
}

/*
 * Keep a key as FILE.ID. That is a copy, since who is not the owner of a file (it may
 * be root's) may make no link to it. Returns as above.
 */
static const char *
keep(const char *path, const OpdMasterKey *key)
{
	char	   *kept = psprintf("%s.%s", path, key->id);
	OpdMasterKey there;
	char	   *ignored;
	bool		is_there = is_key(look_into(kept, &there, &ignored), &there, key->id);

	opd_masterkey_wipe(&there);
	if (!is_there)
		return put_beside(path, kept, key);
	/* who made it may have been killed before this */
	return sync_directory_of(path) ? NULL : SYNC_FAILED;
}

void
opd_masterkey_stage(const char *path, const OpdMasterKey *old_key, const OpdMasterKey *new_key)
{
	char	   *next = psprintf("%s.next", path);
	OpdMasterKey other;
	char	   *problem;
	/* what lies there after a crash may be the key of another database's rows */
	OpdKeyState state = look_into(next, &other, &problem);
	const char *failed;

	if (state == OPD_KEY_UNUSABLE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the file with \".next\" behind the name of the master key file cannot be used"),
				 errdetail_internal("secret_unavailable %s", problem),
				 errhint("Rows of another database may need the key in it: give it to the database user, with mode 0600, or remove it if it is not needed.")));

	failed = keep(path, old_key);
	if (failed == NULL && state == OPD_KEY_PRESENT)
		failed = keep(path, &other);
	opd_masterkey_wipe(&other);
	if (failed != NULL)
		throw_file_failed(failed, "copy of the master key file", KEEP_HINT);
	failed = put_beside(path, next, new_key);
	if (failed != NULL)
		throw_file_failed(failed, "new master key file", KEEP_HINT);
}

bool
opd_masterkey_is_staged(const char *path, const char *id)
{
	OpdMasterKey key;
	char	   *ignored;
	bool		staged = is_key(look_into(psprintf("%s.next", path), &key, &ignored), &key, id);

	opd_masterkey_wipe(&key);
	return staged;
}

const char *
opd_masterkey_exchange(const char *path, const char *id)
{
	char		next[MAXPGPATH];
	char		kept[MAXPGPATH];

	snprintf(next, sizeof(next), "%s.next", path);
	snprintf(kept, sizeof(kept), "%s.%s", path, id);
	/* somebody may have removed it since */
	if (access(kept, F_OK) != 0)
		return "find the copy of";
	if (rename(next, path) != 0)
		return "rename";
	if (!sync_directory_of(path))
		return SYNC_FAILED;
	return NULL;
}

void
opd_masterkey_finish_exchange(const char *path)
{
	OpdMasterKey key;
	char	   *ignored;
	const char *failed;

	/* otherwise whoever reads it next tells what is wrong */
	if (look_into(path, &key, &ignored) != OPD_KEY_PRESENT)
		return;
	failed = keep(path, &key);
	opd_masterkey_wipe(&key);
	if (failed == NULL)
		failed = opd_masterkey_exchange(path, key.id);
	if (failed != NULL)
		throw_file_failed(failed, "master key file", KEEP_HINT);
}

void
opd_masterkey_unstage(const char *path)
{
	char		next[MAXPGPATH];

	snprintf(next, sizeof(next), "%s.next", path);
	(void) unlink(next);
}

void
opd_masterkey_wipe(OpdMasterKey *key)
{
	OPENSSL_cleanse(key->bytes, OPD_KEY_BYTES);
}
