/*-------------------------------------------------------------------------
 *
 * relay.c
 *	  What a peer sends, handed to libpq in portions.
 *
 * src/wire/relay.c
 *-------------------------------------------------------------------------
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE				/* dup3() */
#endif
#include "base/opdata.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "wire/relay.h"

struct OpdRelay
{
	OpdRelayCallback arrived;
	void	   *arg;
	int			network;		/* socket to the peer */
	int			near;			/* our end of the pair */
	OpdWatch   *network_watch;
	int			watched;		/* events that it is set for */
	bool		more;			/* libpq needs more to go on */
	bool		ended;			/* the peer sends no more */
	bool		broken;			/* the peer takes no more */
	uint64		received;

	/* on its way to the peer */
	char		unsent[OPD_RELAY_PORTION_BYTES];
	size_t		unsent_from;
	size_t		unsent_to;
};

/* Nothing left in the pair that libpq has not read? */
static bool
portion_taken(const OpdRelay *relay)
{
	int			queued = 0;

	return ioctl(relay->near, SIOCOUTQ, &queued) == 0 && queued == 0;
}

/* Network to libpq. */
static bool
move_portion(OpdRelay *relay)
{
	char		portion[OPD_RELAY_PORTION_BYTES];
	ssize_t		n = recv(relay->network, portion, sizeof(portion), MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
		return false;

	/* a portion always fits: an empty pair takes more than its size */
	if (n > 0 && send(relay->near, portion, n, MSG_DONTWAIT | MSG_NOSIGNAL) == n)
	{
		relay->received += n;
		return true;
	}

	/* the end, an error, or a pair that is full: libpq learns of it as the end */
	relay->ended = true;
	(void) shutdown(relay->near, SHUT_WR);
	return true;
}

/* libpq to network, as much as goes at once. */
static void
send_written(OpdRelay *relay)
{
	while (!relay->broken)
	{
		ssize_t		n;

		if (relay->unsent_from == relay->unsent_to)
		{
			n = recv(relay->near, relay->unsent, sizeof(relay->unsent), MSG_DONTWAIT);
			if (n <= 0)
				return;
			relay->unsent_from = 0;
			relay->unsent_to = n;
		}
		n = send(relay->network, relay->unsent + relay->unsent_from,
				 relay->unsent_to - relay->unsent_from, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0)
			relay->unsent_from += n;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return;
		else if (errno != EINTR)
		{
			/* reading tells libpq */
			relay->broken = true;
			relay->unsent_from = relay->unsent_to = 0;
		}
	}
}

static bool
wants_portion(const OpdRelay *relay)
{
	return !relay->ended && (relay->more || portion_taken(relay));
}

static void
watch(OpdRelay *relay)
{
	int			events = 0;

	if (wants_portion(relay))
		events |= OPD_READABLE;
	if (relay->unsent_from < relay->unsent_to)
		events |= OPD_WRITABLE;
	if (events == relay->watched)
		return;
	relay->watched = events;
	if (events != 0)
		opd_watch_set(relay->network_watch, relay->network, events);
	else
		opd_watch_stop(relay->network_watch);
}

static void
on_network(void *arg, int events)
{
	OpdRelay   *relay = arg;

	if (events & OPD_WRITABLE)
		send_written(relay);
	if ((events & OPD_READABLE) && wants_portion(relay) && move_portion(relay))
		relay->arrived(relay->arg);
	else
		watch(relay);
}

OpdRelay *
opd_relay_new(OpdLoop *loop, int fd, OpdRelayCallback arrived, void *arg)
{
	OpdRelay   *relay = palloc0(sizeof(OpdRelay));
	int			pair[2];
	int			network;

	relay->arrived = arrived;
	relay->arg = arg;
	relay->network_watch = opd_watch_new(loop, on_network, relay);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) != 0)
	{
		opd_watch_free(relay->network_watch);
		return NULL;
	}
	network = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (network < 0 || dup3(pair[0], fd, O_CLOEXEC) < 0)
	{
		if (network >= 0)
			close(network);
		close(pair[0]);
		close(pair[1]);
		opd_watch_free(relay->network_watch);
		return NULL;
	}
	close(pair[0]);
	relay->network = network;
	relay->near = pair[1];
	return relay;
}

void
opd_relay_turn(OpdRelay *relay, bool more)
{
	relay->more = more;
	send_written(relay);
	watch(relay);
}

void
opd_relay_close(OpdRelay *relay)
{
	send_written(relay);
	opd_watch_free(relay->network_watch);
	close(relay->near);
	close(relay->network);
}

bool
opd_relay_ended(const OpdRelay *relay)
{
	return relay->ended;
}

uint64
opd_relay_received(const OpdRelay *relay)
{
	return relay->received;
}
