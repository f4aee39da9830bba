/*-------------------------------------------------------------------------
 *
 * certfiles.c
 *	  Certificates and a key in files that somebody may replace at any time.
 *
 * src/secret/certfiles.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <openssl/crypto.h>

#include "miscadmin.h"
#include "storage/fd.h"
#include "utils/memutils.h"

#include "base/limits.h"
#include "secret/certfiles.h"
#include "secret/pem.h"

#define N_FILES	3				/* ca, cert, key */

typedef struct Files
{
	OpdCertFiles public;		/* first: the caller's view */
	MemoryContext context;
	MemoryContext texts;		/* of the texts in use */
	char	   *paths[N_FILES]; /* NULL: none */
	struct stat seen[N_FILES];	/* when they were read last */
} Files;

static const char *const setting_of[N_FILES] = {"CA", "certificate", "key"};

/* ------------------------------------------------------------- one file */

/*
 * All of a file, NUL-terminated, in the current memory context; NULL and why.
 */
static char *
read_file(const char *path, size_t max_bytes, struct stat *st, char **problem)
{
	char	   *text = NULL;
	ssize_t		got = -1;
	int			fd;

	/* O_NONBLOCK: a named pipe would make open() wait for a writer */
	fd = OpenTransientFile(path, O_RDONLY | O_NONBLOCK | PG_BINARY);
	if (fd < 0)
	{
		*problem = psprintf("cannot be opened: %m");
		return NULL;
	}
	if (fstat(fd, st) != 0)
		*problem = psprintf("cannot be examined: %m");
	else if (!S_ISREG(st->st_mode))
		*problem = pstrdup("is no regular file");
	else if (st->st_size > (off_t) max_bytes)
		*problem = psprintf("is larger than %zu bytes", max_bytes);
	else
	{
		text = palloc(st->st_size + 1);
		got = read(fd, text, st->st_size);
		if (got < 0)
			*problem = psprintf("cannot be read: %m");
	}
	CloseTransientFile(fd);
	if (got < 0)
		return NULL;
	text[got] = '\0';
	return text;
}

/* Relative paths are relative to the data directory. */
static char *
absolute(const char *path)
{
	return is_absolute_path(path) ? pstrdup(path) : psprintf("%s/%s", DataDir, path);
}

char *
opd_secretfile_read(const char *path, size_t max_bytes, char **problem)
{
	struct stat st;
	char	   *text;
	size_t		len;

	*problem = NULL;
	text = read_file(absolute(path), max_bytes, &st, problem);
	if (text == NULL)
		return NULL;
	len = strlen(text);
	while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL)
		text[--len] = '\0';
	for (size_t i = 0; i < len && *problem == NULL; i++)
	{
		if ((unsigned char) text[i] < ' ' || text[i] == 0x7f)
			*problem = pstrdup("holds more than one line, or control characters");
	}
	if (len == 0)
		*problem = pstrdup("is empty");
	if (*problem == NULL)
		return text;
	OPENSSL_cleanse(text, len);
	return NULL;
}

/* ------------------------------------------------------ the three of them */

static bool
is_text(const char *path)
{
	return strncmp(path, "-----BEGIN", 10) == 0;
}

static void
wipe_text(void *arg)
{
	OPENSSL_cleanse(arg, strlen(arg));
}

/* When its memory context goes. */
static void
wipe_at_reset(char *text)
{
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	callback->func = wipe_text;
	callback->arg = text;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, callback);
}

/* Why the texts cannot be used together; NULL when they can. */
static const char *
texts_problem(char *const texts[N_FILES])
{
	const char *problem;

	if (texts[0] != NULL && (problem = opd_pem_certificate_problem(texts[0])) != NULL)
		return psprintf("the CA file %s", problem);
	if ((texts[1] == NULL) != (texts[2] == NULL))
		return texts[1] == NULL ? "there is a key but no certificate" : "there is a certificate but no key";
	if (texts[1] == NULL)
		return NULL;
	if ((problem = opd_pem_certificate_problem(texts[1])) != NULL)
		return psprintf("the certificate file %s", problem);
	if ((problem = opd_pem_key_problem(texts[2], texts[1], "the certificate")) != NULL)
		return psprintf("the key file %s", problem);
	return NULL;
}

static void
set_problem(Files *files, const char *problem)
{
	MemoryContext old = MemoryContextSwitchTo(files->context);

	if (files->public.problem != NULL)
		pfree(unconstify(char *, files->public.problem));
	files->public.problem = problem != NULL ? pstrdup(problem) : NULL;
	MemoryContextSwitchTo(old);
}

static bool
same_text(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

/* Read all of them, and use them if they fit. True when that changed anything. */
static bool
read_files(Files *files)
{
	MemoryContext context = AllocSetContextCreate(files->context, "opdata certificates", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	char	   *texts[N_FILES] = {NULL};
	const char *problem = NULL;
	bool		other = false;

	for (int i = 0; i < N_FILES && problem == NULL; i++)
	{
		char	   *why = NULL;

		if (files->paths[i] == NULL)
			continue;
		texts[i] = is_text(files->paths[i]) ? pstrdup(files->paths[i]) :
			read_file(files->paths[i], OPD_PEM_FILE_MAX_BYTES, &files->seen[i], &why);
		if (texts[i] == NULL)
			problem = psprintf("the %s file %s", setting_of[i], why);
	}
	if (texts[2] != NULL)
		wipe_at_reset(texts[2]);
	if (problem == NULL)
		problem = texts_problem(texts);
	set_problem(files, problem);
	MemoryContextSwitchTo(old);

	other = problem == NULL &&
		(!files->public.usable ||
		 !same_text(texts[0], files->public.ca) ||
		 !same_text(texts[1], files->public.cert) ||
		 !same_text(texts[2], files->public.key));
	if (!other)
	{
		MemoryContextDelete(context);
		return false;
	}
	if (files->texts != NULL)
		MemoryContextDelete(files->texts);
	files->texts = context;
	files->public.ca = texts[0];
	files->public.cert = texts[1];
	files->public.key = texts[2];
	files->public.not_after = texts[1] != NULL ? opd_pem_not_after(texts[1]) : 0;
	files->public.usable = true;
	return true;
}

OpdCertFiles *
opd_certfiles_new(const OpdCertPaths *paths)
{
	const char *given[N_FILES] = {paths->ca, paths->cert, paths->key};
	Files	   *files = palloc0(sizeof(Files));

	files->context = CurrentMemoryContext;
	for (int i = 0; i < N_FILES; i++)
	{
		if (given[i] == NULL || given[i][0] == '\0')
			continue;
		files->paths[i] = is_text(given[i]) ? pstrdup(given[i]) : absolute(given[i]);
	}
	(void) read_files(files);
	return &files->public;
}

bool
opd_certfiles_look(OpdCertFiles *public)
{
	Files	   *files = (Files *) public;
	bool		changed = false;

	for (int i = 0; i < N_FILES; i++)
	{
		struct stat now;

		if (files->paths[i] == NULL || is_text(files->paths[i]))
			continue;
		if (stat(files->paths[i], &now) != 0)
			memset(&now, 0, sizeof(now));
		changed |= now.st_ino != files->seen[i].st_ino ||
			now.st_dev != files->seen[i].st_dev ||
			now.st_size != files->seen[i].st_size ||
			now.st_mtim.tv_sec != files->seen[i].st_mtim.tv_sec ||
			now.st_mtim.tv_nsec != files->seen[i].st_mtim.tv_nsec;
		files->seen[i] = now;
	}
	/* one that does not fit may have been read in the middle of being written */
	if (!changed && public->problem == NULL)
		return false;
	return read_files(files);
}
