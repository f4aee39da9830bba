/*-------------------------------------------------------------------------
 *
 * memfile.h
 *	  A secret as a file name, without a file.
 *
 * libpq takes certificates and keys as file names only. A sealed memfd,
 * reached through /proc/self/fd, gives it one without the bytes ever touching
 * a disk. Linux only.
 *
 * src/secret/memfile.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_MEMFILE_H
#define OPD_MEMFILE_H

/*
 * Make a memory file with the text, mode 0600, closed on exec. Returns its
 * name, in the current memory context; the file lives until that context is
 * reset. Raises the errno's code.
 */
extern char *opd_memfile_new(const char *label, const char *content);

#endif							/* OPD_MEMFILE_H */
