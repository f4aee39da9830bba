/*-------------------------------------------------------------------------
 *
 * pgconn_private.h
 *	  What the files behind pgconn.h share: pgopen.c (connecting), pgbatch.c
 *	  (commands), pgclose.c (cancelling and closing).
 *
 * src/wire/pgconn_private.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PGCONN_PRIVATE_H
#define OPD_PGCONN_PRIVATE_H

#include "lib/ilist.h"
#include "utils/memutils.h"

#include "base/limits.h"
#include "wire/pgconn.h"
#include "wire/relay.h"
#include "wire/signin.h"
#include "wire/tlswatch.h"

typedef struct OpdPgCommand OpdPgCommand;

struct OpdPgConn
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	dlist_node	node;			/* in the list of open connections */

	OpdLoop    *loop;
	OpdWatch   *watch;
	OpdTimer   *failed_at_once; /* set when a call failed that should begin something */
	PGconn	   *pg;				/* NULL once closed */
	bool		connecting;		/* socket events go to pgopen.c, not pgbatch.c */
	OpdRelay   *relay;			/* between libpq and the network, once connected */
	uint64		message_start;	/* bytes received when the last result was whole */
	bool		is_socket;

	/* connecting */
	OpdTlsWatch tls;
	ConnStatusType phase;		/* before the last step, for the verdict */
	OpdSignIn	signin;
	bool		wants_more;		/* a message of the sign-in is not whole yet */
	bool		tls_refused;	/* server answered "N" to the TLS request */
	bool		refused_before_credentials;
	OpdPgOpenCallback opened;
	void	   *opened_arg;

	/* batch */
	dlist_head	commands;		/* sent and not yet answered */
	bool		in_batch;
	PGresult   *result;			/* being looked at by a callback */
	bool		sent_failed;	/* libpq refused a command */
	OpdError   *batch_error;	/* of the first command that failed */
	OpdPgDoneCallback done;
	void	   *done_arg;
};

/* pgbatch.c: socket is ready, connection open */
extern void opd_pgbatch_continue(OpdPgConn *conn, int events);

/* pgbatch.c: the connection broke while a batch was under way */
extern void opd_pgbatch_lost(OpdPgConn *conn);

/* pgclose.c: put into the list of connections to cancel at exit; take out */
extern void opd_pgclose_register(OpdPgConn *conn);

/* Everything up to here is read and done with. */
static inline void
opd_pgconn_mark_received(OpdPgConn *conn)
{
	if (conn->relay != NULL)
		conn->message_start = opd_relay_received(conn->relay);
}

/* Did the source send more since the last mark than any honest answer takes? */
static inline bool
opd_pgconn_received_too_much(const OpdPgConn *conn)
{
	return conn->relay != NULL &&
		opd_relay_received(conn->relay) - conn->message_start > OPD_SOURCE_MESSAGE_MAX_BYTES;
}

#endif							/* OPD_PGCONN_PRIVATE_H */
