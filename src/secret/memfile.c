/*-------------------------------------------------------------------------
 *
 * memfile.c
 *	  A secret as a file name, without a file.
 *
 * src/secret/memfile.c
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE				/* memfd_create() */
#endif
#include "base/opdata.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage/fd.h"
#include "utils/memutils.h"

#include "secret/memfile.h"

typedef struct MemFile
{
	int			fd;
	MemoryContextCallback callback;
} MemFile;

static void
close_memfile(void *arg)
{
	close(((MemFile *) arg)->fd);
	ReleaseExternalFD();
}

char *
opd_memfile_new(const char *label, const char *content)
{
	size_t		length = strlen(content);
	MemFile    *file = palloc(sizeof(MemFile));

	if (!AcquireExternalFD())
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open a memory file: %m")));
	file->fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (file->fd < 0)
	{
		ReleaseExternalFD();
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not create a memory file: %m")));
	}
	file->callback.func = close_memfile;
	file->callback.arg = file;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &file->callback);

	/* libpq refuses a key file that others could read; memfd's mode is 0777 */
	if (fchmod(file->fd, S_IRUSR | S_IWUSR) != 0 ||
		write(file->fd, content, length) != (ssize_t) length ||
		fcntl(file->fd, F_ADD_SEALS,
			  F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not fill a memory file: %m")));

	return psprintf("/proc/self/fd/%d", file->fd);
}
