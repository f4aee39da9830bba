/*-------------------------------------------------------------------------
 *
 * command.h
 *	  A shell command on the event loop, whose standard output is a secret.
 *
 * src/wire/command.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_COMMAND_H
#define OPD_COMMAND_H

#include "wire/loop.h"

typedef struct OpdCommand OpdCommand;

typedef struct OpdCommandResult
{
	const char *problem;		/* why there is no output: a sentence without a period; or NULL */
	uint8	   *output;			/* wiped when the command is freed */
	size_t		len;
} OpdCommandResult;

typedef void (*OpdCommandDone) (void *arg, const OpdCommandResult *result);

/*
 * Run a command by /bin/sh with this environment ("NAME=value", NULL at the end)
 * and nothing else: no descriptor, no standard input, and what it says on
 * standard error is dropped. It has until deadline_ms; then it is killed, with all
 * the processes that it started. More than "cap" bytes of output are an error.
 * "done" is called from the loop. In the current memory context, whose reset kills
 * the command. Raises 53000-class errors when there are no descriptors.
 */
extern OpdCommand *opd_command_start(OpdLoop *loop, const char *command, char *const *environment,
									 size_t cap, double deadline_ms, OpdCommandDone done, void *arg);

#endif							/* OPD_COMMAND_H */
