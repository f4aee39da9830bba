/*-------------------------------------------------------------------------
 *
 * command.c
 *	  A shell command on the event loop, whose standard output is a secret.
 *
 * It is a process group of its own, so that it can be killed whole. When its
 * output has ended it is looked after until it has ended itself.
 *
 * src/wire/command.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <openssl/crypto.h>

#include "utils/memutils.h"

#include "wire/command.h"

#define LOOK_MS	10				/* has it ended? */

struct OpdCommand
{
	pid_t		pid;			/* 0: has ended */
	int			fd;				/* its output; -1: has ended */
	OpdWatch   *watch;
	OpdTimer   *timer;			/* the deadline, or the next look */
	double		deadline_ms;
	size_t		cap;
	OpdCommandResult result;
	OpdCommandDone done;
	void	   *arg;
	MemoryContextCallback on_reset;
};

/* Without waiting: a process that was killed may take a moment to go. */
static bool
reap(OpdCommand *command, int *status)
{
	pid_t		pid = waitpid(command->pid, status, WNOHANG);

	if (pid == 0)
		return false;
	command->pid = 0;
	return true;
}

static void
close_output(OpdCommand *command)
{
	if (command->fd < 0)
		return;
	opd_watch_stop(command->watch);
	close(command->fd);
	command->fd = -1;
}

static void
kill_it(OpdCommand *command)
{
	int			status;

	close_output(command);
	if (command->pid == 0)
		return;
	(void) kill(-command->pid, SIGKILL);
	/* killed, so this takes no time worth a look */
	while (waitpid(command->pid, &status, 0) < 0 && errno == EINTR)
		;
	command->pid = 0;
}

static void
free_command(void *arg)
{
	OpdCommand *command = arg;

	kill_it(command);
	opd_watch_free(command->watch);
	opd_timer_free(command->timer);
	OPENSSL_cleanse(command->result.output, command->cap);
}

static void
finish(OpdCommand *command, const char *problem)
{
	kill_it(command);
	opd_timer_stop(command->timer);
	command->result.problem = problem;
	command->done(command->arg, &command->result);
}

/* The output has ended: has the command? */
static void
look_at_end(OpdCommand *command)
{
	int			status;

	if (!reap(command, &status))
		opd_timer_set(command->timer, Min(opd_now_ms() + LOOK_MS, command->deadline_ms));
	else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		finish(command, NULL);
	else
		finish(command, WIFEXITED(status) ? psprintf("it ended with exit code %d", WEXITSTATUS(status)) :
			   "it was ended by a signal");
}

static void
on_timer(void *arg)
{
	OpdCommand *command = arg;

	if (opd_now_ms() >= command->deadline_ms)
		finish(command, "it took too long");
	else
		look_at_end(command);
}

static void
on_output(void *arg, int events)
{
	OpdCommand *command = arg;
	OpdCommandResult *result = &command->result;
	ssize_t		got = read(command->fd, result->output + result->len, command->cap - result->len);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got < 0)
	{
		finish(command, "its output could not be read");
		return;
	}
	result->len += got;
	if (got > 0 && result->len == command->cap)
		finish(command, "it printed more than a key");
	else if (got == 0)
	{
		close_output(command);
		look_at_end(command);
	}
}

/* 0, or an errno. */
static int
spawn(OpdCommand *command, const char *text, char *const *environment, int output)
{
	char	   *arguments[] = {"sh", "-c", unconstify(char *, text), NULL};
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t	none;
	sigset_t	all;
	int			failed;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
	posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setsigdefault(&attributes, &all);
	posix_spawnattr_setpgroup(&attributes, 0);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	failed = posix_spawn(&command->pid, "/bin/sh", &actions, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	if (failed != 0)
		command->pid = 0;
	return failed;
}

OpdCommand *
opd_command_start(OpdLoop *loop, const char *text, char *const *environment,
				  size_t cap, double deadline_ms, OpdCommandDone done, void *arg)
{
	OpdCommand *command = palloc0(sizeof(OpdCommand));
	int			ends[2];
	int			failed;

	command->fd = -1;
	command->deadline_ms = deadline_ms;
	command->cap = cap + 1;		/* one byte to tell too much by */
	command->result.output = palloc0(command->cap);
	command->done = done;
	command->arg = arg;
	command->watch = opd_watch_new(loop, on_output, command);
	command->timer = opd_timer_new(loop, on_timer, command);
	command->on_reset.func = free_command;
	command->on_reset.arg = command;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &command->on_reset);

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
		ereport(ERROR,
				(errcode_for_socket_access(),
				 errmsg("could not make a pipe: %m"),
				 errdetail_internal("secret_unavailable")));
	command->fd = ends[0];
	/* the command itself may wait for the pipe */
	(void) fcntl(ends[1], F_SETFL, 0);
	failed = spawn(command, text, environment, ends[1]);
	close(ends[1]);
	if (failed != 0)
	{
		close(command->fd);
		command->fd = -1;
		errno = failed;
		ereport(ERROR,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not run the key command: %m"),
				 errdetail_internal("secret_unavailable")));
	}
	opd_watch_set(command->watch, command->fd, OPD_READABLE);
	opd_timer_set(command->timer, deadline_ms);
	return command;
}
