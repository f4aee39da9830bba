/*-------------------------------------------------------------------------
 *
 * pgconn.h
 *	  One libpq connection as a state machine on an event loop.
 *
 * A connection is opened to one address, then runs batches: a few commands
 * sent together in libpq's pipeline mode and answered in order, one network
 * round trip for all of them. A batch stops at its first error. Everything is
 * sent by the extended protocol, so that a command is one statement.
 *
 * Nothing here waits: every call returns at once, and the outcome arrives by a
 * callback from the loop. Callbacks run in the memory context that was current
 * when the connection was made; they may close the connection, but that
 * context must not be reset from within one.
 *
 * src/wire/pgconn.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_PGCONN_H
#define OPD_PGCONN_H

#include <libpq-fe.h>

#include "base/error.h"
#include "wire/loop.h"
#include "wire/netaddr.h"

typedef struct OpdPgConn OpdPgConn;

/* Where and how to connect. Strings are copied by libpq. */
typedef struct OpdPgTarget
{
	const char *host;			/* name for TLS, or the socket directory */
	bool		is_socket;		/* then "address" is not used */
	OpdNetAddr	address;
	int			port;
	const char *database;
	const char *username;
	const char *password;		/* or NULL */
	const char *sslmode;		/* libpq's word */
	const char *sslrootcert;	/* file names, or NULL: none is used */
	const char *sslcert;
	const char *sslkey;
	const char *options;		/* startup options, or NULL */
	const char *application_name;
} OpdPgTarget;

/* error is NULL when the connection is open. */
typedef void (*OpdPgOpenCallback) (void *arg, OpdError *error);

/*
 * One result, or one row of a streamed query. The result is freed when the
 * callback returns. Returning false ends the batch there: no more is read, the
 * batch counts as done, and the connection is good for closing only.
 */
typedef bool (*OpdPgResultCallback) (void *arg, const PGresult *result);

/* The batch is over: error is NULL, or what the first failing command gave. */
typedef void (*OpdPgDoneCallback) (void *arg, OpdError *error);

/*
 * Begin to connect, to one address and with one attempt. Takes nothing from
 * the environment, from a service or password file, or from the home
 * directory. Resetting the current memory context closes the connection; if a
 * command runs then, the source is told to cancel it.
 */
extern OpdPgConn *opd_pgconn_open(OpdLoop *loop, const OpdPgTarget *target,
								  OpdPgOpenCallback opened, void *arg);

/*
 * Add a command to the batch; params are text or NULL, n_params may be 0,
 * on_result may be NULL.
 */
extern void opd_pgconn_add(OpdPgConn *conn, const char *sql,
						   int n_params, const char *const *params,
						   OpdPgResultCallback on_result, void *arg);

/* The same, with rows arriving one at a time as they come. */
extern void opd_pgconn_add_streamed(OpdPgConn *conn, const char *sql,
									OpdPgResultCallback on_row, void *arg);

/* Parse and describe a statement (unnamed); the callback gets the description. */
extern void opd_pgconn_add_describe(OpdPgConn *conn, const char *sql,
									OpdPgResultCallback on_description, void *arg);

/* Send the batch. One batch at a time. */
extern void opd_pgconn_run(OpdPgConn *conn, OpdPgDoneCallback done, void *arg);

/*
 * Ask the source to cancel what it runs for us. The batch then ends with an
 * error from the source, if it still answers.
 */
extern void opd_pgconn_cancel(OpdPgConn *conn);

/*
 * Close, cancelling a running command. No callback is called afterwards. May
 * be called from a callback, and more than once.
 */
extern void opd_pgconn_close(OpdPgConn *conn);

/* Facts about an open connection, or one whose opening failed. */
extern bool opd_pgconn_used_password(const OpdPgConn *conn);
extern const char *opd_pgconn_parameter(const OpdPgConn *conn, const char *name);
extern bool opd_pgconn_tls_in_use(const OpdPgConn *conn);
extern const char *opd_pgconn_tls_version(const OpdPgConn *conn);
extern const char *opd_pgconn_tls_cipher(const OpdPgConn *conn);

/*
 * Opening failed with 28000 before any credential was asked for, on a
 * connection without TLS: perhaps the server takes TLS connections only.
 */
extern bool opd_pgconn_refused_before_credentials(const OpdPgConn *conn);

/* Opening failed only because the server asked for a password and none was given. */
extern bool opd_pgconn_needs_password(const OpdPgConn *conn);

#endif							/* OPD_PGCONN_H */
