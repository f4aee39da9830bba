/*-------------------------------------------------------------------------
 *
 * session.h
 *	  A read-only session on a source, under one deadline.
 *
 * Opening resolves the host, holds every address against the host rules,
 * connects to the first that answers, and makes sure that the source checked
 * the credential where that matters. The deadline covers everything from the
 * opening to the last answer: when it passes, what runs on the source is
 * cancelled there.
 *
 * src/source/session.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_SESSION_H
#define OPD_SESSION_H

#include "source/credential.h"
#include "wire/hostpolicy.h"
#include "wire/loop.h"
#include "wire/pgconn.h"

typedef struct OpdSession OpdSession;

/* error is NULL when the session is open. */
typedef void (*OpdSessionCallback) (void *arg, OpdError *error);

/*
 * Begin to open a session. The credential and the policy must stay as they are
 * until it is open. The callback comes from the loop. Resetting the current
 * memory context closes the session. "probe_everywhere" spends a second
 * sign-in on learning whether a client certificate was looked at, also where
 * that is no error, so that a test can warn. Errors: any of the connection's;
 * host_not_allowed; credential_not_checked; timeout when the deadline passes.
 */
extern OpdSession *opd_session_open(OpdLoop *loop, const OpdCredential *credential,
									const OpdHostPolicy *policy, double deadline_ms,
									bool probe_everywhere,
									OpdSessionCallback opened, void *arg);

/*
 * Add the commands that begin a read-only transaction with its limits to the
 * batch of the connection. "search_path" is quoted already, or NULL.
 */
extern void opd_session_add_begin(OpdSession *session, const char *search_path);

/*
 * Run the batch of the session's connection (see pgconn.h). When the deadline
 * passes, the error is query_timeout, and the query was cancelled on the
 * source.
 */
extern void opd_session_run(OpdSession *session, OpdSessionCallback done, void *arg);

/* Close; cancels what runs. May be called from a callback, and twice. */
extern void opd_session_close(OpdSession *session);

/* The connection, to add commands to and to ask for facts. */
extern OpdPgConn *opd_session_conn(const OpdSession *session);

/*
 * Did the server let us in without looking at the credential? (On the agent's
 * own host that is an error instead.)
 */
extern bool opd_session_credential_unchecked(const OpdSession *session);

/* "PostgreSQL" or "CockroachDB", and its version as the server prints it. */
extern const char *opd_session_product(const OpdSession *session);
extern const char *opd_session_product_version(const OpdSession *session);

#endif							/* OPD_SESSION_H */
