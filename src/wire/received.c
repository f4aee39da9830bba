/*-------------------------------------------------------------------------
 *
 * received.c
 *	  Cap on what a source may make libpq buffer.
 *
 * libpq collects a message until it is whole, however long it is, and tells
 * nobody how much it holds. The kernel does: it counts what the socket
 * received. If more arrived since the last whole result than any honest answer
 * to our statements takes, the source is not to be trusted with our memory.
 *
 * A file of its own, since the kernel's definition of struct tcp_info clashes
 * with the older one of the C library.
 *
 * src/wire/received.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <netinet/in.h>
#include <linux/tcp.h>
#include <sys/socket.h>

#include "base/limits.h"
#include "wire/pgconn_private.h"

/*
 * libpq goes on reading for as long as the kernel has something, which with a
 * fast peer and a large receive buffer is for ever. A small one makes it come
 * up for air.
 */
void
opd_received_limit(OpdPgConn *conn)
{
	int			size = OPD_SOURCE_RECEIVE_BUFFER_BYTES;

	if (!conn->is_socket)
		(void) setsockopt(PQsocket(conn->pg), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
}

/* Zero for a Unix socket, whose peer is on our own machine. */
static uint64
bytes_received(const OpdPgConn *conn)
{
	struct tcp_info info = {0};
	socklen_t	length = sizeof(info);

	if (conn->is_socket ||
		getsockopt(PQsocket(conn->pg), IPPROTO_TCP, TCP_INFO, &info, &length) != 0)
		return 0;
	return info.tcpi_bytes_received;
}

bool
opd_received_too_much(OpdPgConn *conn)
{
	return bytes_received(conn) > conn->message_start + OPD_SOURCE_MESSAGE_MAX_BYTES;
}

void
opd_received_mark(OpdPgConn *conn)
{
	conn->message_start = bytes_received(conn);
}
