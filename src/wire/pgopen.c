/*-------------------------------------------------------------------------
 *
 * pgopen.c
 *	  Connecting: libpq's connect steps on the event loop, and the verdict when
 *	  one fails.
 *
 * The verdict never reads a sentence. It comes from how far the connection got
 * (libpq's connection status), what OpenSSL says of the handshake, and the
 * SQLSTATE that the server sent.
 *
 * src/wire/pgopen.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <sys/socket.h>
#include <unistd.h>

#include "utils/builtins.h"

#include "wire/pgconn_private.h"

extern char **environ;

/* A file name under which no file can be: /dev/null is no directory. */
#define NO_FILE "/dev/null/none"

#define MAX_KEYWORDS 32

typedef struct Keywords
{
	const char *keys[MAX_KEYWORDS + 1];
	const char *values[MAX_KEYWORDS + 1];
	int			n;
} Keywords;

static void
add_keyword(Keywords *k, const char *key, const char *value)
{
	if (value == NULL || value[0] == '\0')
		return;
	Assert(k->n < MAX_KEYWORDS);
	k->keys[k->n] = key;
	k->values[k->n] = value;
	k->n++;
}

/*
 * Everything is said explicitly. What a keyword does not name, libpq would
 * take from the environment (see hide_environment) or from a file in the home
 * directory, so every file has a name, if only of no file.
 */
static void
fill_keywords(Keywords *k, const OpdPgTarget *target,
			  char port[8], char address[OPD_NETADDR_CHARS])
{
	memset(k, 0, sizeof(*k));
	add_keyword(k, "host", target->host);
	if (!target->is_socket)
	{
		opd_netaddr_print(&target->address, address);
		add_keyword(k, "hostaddr", address);
	}
	snprintf(port, 8, "%d", target->port);
	add_keyword(k, "port", port);
	add_keyword(k, "dbname", target->database);
	add_keyword(k, "user", target->username);
	add_keyword(k, "password", target->password);
	add_keyword(k, "passfile", NO_FILE);
	add_keyword(k, "sslmode", target->is_socket ? "disable" : target->sslmode);
	add_keyword(k, "sslrootcert", target->sslrootcert ? target->sslrootcert : NO_FILE);
	add_keyword(k, "sslcert", target->sslcert ? target->sslcert : NO_FILE);
	add_keyword(k, "sslkey", target->sslkey ? target->sslkey : NO_FILE);
	add_keyword(k, "sslcrl", NO_FILE);
	add_keyword(k, "gssencmode", "disable");
	add_keyword(k, "options", target->options);
	add_keyword(k, "application_name", target->application_name);
	add_keyword(k, "client_encoding", "UTF8");
	add_keyword(k, "keepalives", "1");
	add_keyword(k, "keepalives_idle", "30");
}

/*
 * libpq reads a PG... variable for nearly every parameter that is not given,
 * when the connection is made and again when the startup packet is built. It
 * gets an environment without them for as long as it runs; the process keeps
 * its own.
 *
 * Returns the environment to put back, or NULL when memory ran out.
 */
static char **
hide_environment(void)
{
	static char **without_pg;
	static int	capacity;
	char	  **saved = environ;
	int			n = 0;

	for (char **e = environ; *e != NULL; e++)
		n++;
	if (n >= capacity)
	{
		char	  **grown = realloc(without_pg, (n + 1) * sizeof(char *));

		if (grown == NULL)
			return NULL;
		without_pg = grown;
		capacity = n + 1;
	}
	n = 0;
	for (char **e = environ; *e != NULL; e++)
	{
		if (strncmp(*e, "PG", 2) != 0)
			without_pg[n++] = *e;
	}
	without_pg[n] = NULL;
	environ = without_pg;
	return saved;
}

static void
ignore_notice(void *arg, const PGresult *result)
{
	/* libpq would print it to our standard error, which is the server's log */
}

/*
 * The SQLSTATE of a refused login, and the server's words. libpq has no call
 * for it; in the verbosity that we set, a server's error is printed as
 * "<severity>:  <SQLSTATE>: <words>". NULL when it is none.
 */
static const char *
find_server_error(const char *message, char sqlstate[6])
{
	for (const char *p = strstr(message, ":  "); p != NULL; p = strstr(p + 1, ":  "))
	{
		p += 3;
		if (strspn(p, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 &&
			strncmp(p + 5, ": ", 2) == 0)
		{
			memcpy(sqlstate, p, 5);
			sqlstate[5] = '\0';
			return p + 7;
		}
	}
	return NULL;
}

static bool
in_class(const char *sqlstate, const char *class)
{
	return strncmp(sqlstate, class, 2) == 0;
}

/*
 * PgBouncer 1.18, Debian's, gives one SQLSTATE for everything. Its own words tell
 * more: they are in English whatever the language of the source, and known.
 * (https://github.com/pgbouncer/pgbouncer, src/client.c and src/objects.c)
 */
static const char *
pooler_sqlstate(const char *words)
{
	if (strncmp(words, "no such database: ", 18) == 0)
		return "3D000";
	if (strncmp(words, "no such user", 12) == 0 ||
		strncmp(words, "auth failed", 11) == 0 ||
		strstr(words, "authentication failed") != NULL)
		return "28P01";
	return "08P01";
}

static OpdError *
login_refused(const OpdPgConn *conn, const char *sqlstate, const char *words)
{
	const char *user = PQuser(conn->pg);
	const char *database = PQdb(conn->pg);
	OpdError   *error;

	if (strcmp(sqlstate, "08P01") == 0)
		sqlstate = pooler_sqlstate(words);
	if (in_class(sqlstate, "28"))
	{
		error = opd_error_new(OPD_AUTHENTICATION_FAILED,
							  "the source refused the credentials of role \"%s\"", user);
		opd_error_hint(error, "Try the same credentials with psql from the agent's host; check that the role has LOGIN, and that pg_hba.conf of the source lets it in from there, by a password or by the client certificate given.");
	}
	else if (strcmp(sqlstate, "3D000") == 0)
	{
		error = opd_error_new(OPD_DATABASE_NOT_FOUND,
							  "database \"%s\" does not exist on the source", database);
		opd_error_hint(error, "Correct \"database\" in the credentials; psql -l lists the databases of the source.");
	}
	else if (strcmp(sqlstate, "42501") == 0)
	{
		error = opd_error_new(OPD_PERMISSION_DENIED,
							  "role \"%s\" may not connect to database \"%s\"", user, database);
		opd_error_hint(error, "Run on the source: GRANT CONNECT ON DATABASE %s TO %s;",
					   quote_identifier(database), quote_identifier(user));
	}
	else
	{
		error = opd_error_new(OPD_CONNECTION_REFUSED,
							  "the source does not accept this connection (SQLSTATE %s)", sqlstate);
		opd_error_hint(error, "Look at the log of the source, or of the pooler before it; it may be starting, stopping or out of connections.");
	}
	strlcpy(error->sqlstate, sqlstate, sizeof(error->sqlstate));
	return error;
}

static OpdError *
unreachable(const OpdPgConn *conn, const char *what)
{
	OpdError   *error = opd_error_new(OPD_CONNECTION_REFUSED, "%s", what);

	return opd_error_hint(error, "Check the network path from the agent's host to %s port %s, and that the source listens there.",
						  PQhost(conn->pg), PQport(conn->pg));
}

static OpdError *
certificate_untrusted(const OpdPgConn *conn)
{
	OpdError   *error;

	if (opd_tlswatch_handshake_done(&conn->tls))
	{
		error = opd_error_new(OPD_CERTIFICATE_UNTRUSTED,
							  "the server's certificate is not for host \"%s\"", PQhost(conn->pg));
		return opd_error_hint(error, "Connect by a name that the certificate holds, or use sslMode \"verify-ca\" if the name cannot match.");
	}
	error = opd_error_new(OPD_CERTIFICATE_UNTRUSTED,
						  "the server's certificate is not trusted: %s",
						  X509_verify_cert_error_string(conn->tls.verify_error));
	if (conn->tls.verify_error == X509_V_ERR_CERT_HAS_EXPIRED ||
		conn->tls.verify_error == X509_V_ERR_CERT_NOT_YET_VALID)
		return opd_error_hint(error, "Renew the certificate of the source, and check the clocks of both hosts.");
	return opd_error_hint(error, "Give the CA certificate (PEM) that signed it as sslRootCert; its issuer is: %s",
						  conn->tls.issuer[0] != '\0' ? conn->tls.issuer : "not named");
}

static OpdError *
client_certificate_refused(const OpdPgConn *conn)
{
	OpdError   *error = opd_error_new(OPD_AUTHENTICATION_FAILED,
									  "the source refused the client certificate (%s)",
									  SSL_alert_desc_string_long(conn->tls.alert));

	return opd_error_hint(error, "Give a client certificate and key that the source's CA signed, as sslCert and sslKey.");
}

static OpdError *
tls_failed(const OpdPgConn *conn)
{
	OpdError   *error;

	if (conn->tls_refused)
	{
		error = opd_error_new(OPD_TLS_REQUIRED, "the source offers no TLS, but sslMode demands it");
		return opd_error_hint(error, "Switch TLS on at the source (ssl = on), or set sslMode \"disable\" if the link is trusted.");
	}
	if (conn->tls.ssl == NULL)
		return unreachable(conn, "the connection was closed when TLS was asked for");
	if (opd_tlswatch_handshake_done(&conn->tls) || conn->tls.verify_error != X509_V_OK)
		return certificate_untrusted(conn);
	if (opd_tlswatch_alert_is_about_certificate(&conn->tls))
		return client_certificate_refused(conn);
	if (conn->tls.alert >= 0)
	{
		error = opd_error_new(OPD_CONNECTION_REFUSED, "the source refused the TLS handshake (%s)",
							  SSL_alert_desc_string_long(conn->tls.alert));
		return opd_error_hint(error, "Check the TLS versions and ciphers that the source allows.");
	}
	return unreachable(conn, "the connection was closed during the TLS handshake");
}

/* Why did libpq give up? In the current memory context. */
static OpdError *
failure(OpdPgConn *conn)
{
	char		sqlstate[6];
	const char *words = find_server_error(PQerrorMessage(conn->pg), sqlstate);
	OpdError   *error;

	if (words != NULL)
	{
		conn->refused_before_credentials =
			strcmp(sqlstate, "28000") == 0 &&
			conn->tls.ssl == NULL && !conn->is_socket &&
			!PQconnectionUsedPassword(conn->pg);
		return login_refused(conn, sqlstate, words);
	}

	switch (conn->phase)
	{
		case CONNECTION_NEEDED:
		case CONNECTION_STARTED:
		case CONNECTION_MADE:
			return unreachable(conn, "the source did not accept the connection");
		case CONNECTION_SSL_STARTUP:
			return tls_failed(conn);
		default:
			break;
	}

	/* TLS 1.3 servers judge the client certificate after the handshake */
	if (opd_tlswatch_alert_is_about_certificate(&conn->tls))
		return client_certificate_refused(conn);
	if (PQconnectionNeedsPassword(conn->pg))
	{
		error = opd_error_new(OPD_AUTHENTICATION_FAILED,
							  "the source asks for a password, and the credentials hold none");
		return opd_error_hint(error, "Store the credentials again with \"password\".");
	}
	return unreachable(conn, "the connection was closed during sign-in");
}

static void
fail(OpdPgConn *conn, OpdError *error)
{
	opd_watch_stop(conn->watch);
	conn->connecting = false;
	conn->opened(conn->opened_arg, error);
}

/*
 * The server's answer to the TLS request is one byte, which libpq is about to
 * read: "N" means that it has no TLS.
 */
static void
peek_tls_answer(OpdPgConn *conn)
{
	char		answer;

	if (conn->phase == CONNECTION_SSL_STARTUP && conn->tls.ssl == NULL &&
		recv(PQsocket(conn->pg), &answer, 1, MSG_PEEK | MSG_DONTWAIT) == 1)
		conn->tls_refused = (answer == 'N');
}

static void
opened(OpdPgConn *conn)
{
	conn->connecting = false;
	opd_pgconn_mark_received(conn);
	if (PQsetnonblocking(conn->pg, 1) != 0 || PQenterPipelineMode(conn->pg) != 1)
	{
		fail(conn, opd_error_new(OPD_INTERNAL, "could not set up the connection"));
		return;
	}
	opd_watch_set(conn->watch, PQsocket(conn->pg), OPD_READABLE);
	conn->opened(conn->opened_arg, NULL);
}

static void on_arrived(void *arg);

/* The connection to the peer stands: from here on libpq gets it in portions. */
static bool
insert_relay(OpdPgConn *conn)
{
	opd_watch_stop(conn->watch);
	conn->relay = opd_relay_new(conn->loop, PQsocket(conn->pg), on_arrived, conn);
	return conn->relay != NULL;
}

/*
 * Look at what the server asks for before libpq does it. False when libpq may
 * not go on: a message is not whole yet, or the connection failed.
 */
static bool
signin_may_go_on(OpdPgConn *conn)
{
	char		bytes[2 * OPD_RELAY_PORTION_BYTES];
	ssize_t		n;
	OpdSignInVerdict verdict;

	conn->wants_more = false;
	if (conn->phase != CONNECTION_AWAITING_RESPONSE)
		return true;
	if (conn->tls.ssl != NULL)
		n = opd_tlswatch_peek(&conn->tls, bytes, sizeof(bytes));
	else
		n = recv(PQsocket(conn->pg), bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT);

	verdict = opd_signin_look(&conn->signin, bytes, Max(n, 0));
	if (verdict == OPD_SIGNIN_INCOMPLETE && opd_relay_ended(conn->relay))
		return true;			/* it never will be: libpq tells the end */
	if (verdict == OPD_SIGNIN_INCOMPLETE && conn->tls.ssl == NULL)
	{
		/* readable, but not to be read yet: the relay tells when there is more */
		opd_watch_stop(conn->watch);
		conn->wants_more = true;
		return false;
	}
	if (verdict == OPD_SIGNIN_INCOMPLETE)
		fail(conn, unreachable(conn, "the source cut a message of the sign-in in two"));
	else if (verdict == OPD_SIGNIN_REFUSED)
		fail(conn, conn->signin.error);
	return verdict == OPD_SIGNIN_FINE;
}

static void
continue_opening(OpdPgConn *conn)
{
	PostgresPollingStatusType step;
	char	  **saved_environment;

	conn->phase = PQstatus(conn->pg);
	if (conn->phase == CONNECTION_MADE && conn->relay == NULL && !insert_relay(conn))
	{
		fail(conn, opd_error_new(OPD_INTERNAL, "could not open a socket pair: %m"));
		return;
	}
	peek_tls_answer(conn);
	if (!signin_may_go_on(conn))
		return;

	saved_environment = hide_environment();
	if (saved_environment == NULL)
	{
		fail(conn, opd_error_new(OPD_INTERNAL, "out of memory"));
		return;
	}
	opd_tlswatch_before_step(&conn->tls);
	step = PQconnectPoll(conn->pg);
	opd_tlswatch_after_step(&conn->tls);
	environ = saved_environment;

	if (step == PGRES_POLLING_OK)
		opened(conn);
	else if (step == PGRES_POLLING_FAILED)
		fail(conn, failure(conn));
	else if (opd_pgconn_received_too_much(conn))
		fail(conn, unreachable(conn, "the source sent more than a sign-in takes"));
	else
		opd_watch_set(conn->watch, PQsocket(conn->pg),
					  step == PGRES_POLLING_READING ? OPD_READABLE : OPD_WRITABLE);
}

static void
on_socket(void *arg, int events)
{
	OpdPgConn  *conn = arg;
	MemoryContext old = MemoryContextSwitchTo(conn->context);

	if (conn->connecting)
		continue_opening(conn);
	else
		opd_pgbatch_continue(conn, events);
	if (conn->relay != NULL)
		opd_relay_turn(conn->relay, conn->wants_more);
	MemoryContextSwitchTo(old);
}

/* The relay put something into libpq's socket. */
static void
on_arrived(void *arg)
{
	on_socket(arg, OPD_READABLE);
}

/* A call failed on the spot: told from the loop, as any other outcome. */
static void
on_failed_at_once(void *arg)
{
	OpdPgConn  *conn = arg;
	MemoryContext old = MemoryContextSwitchTo(conn->context);

	if (conn->connecting)
		fail(conn, failure(conn));
	else
		opd_pgbatch_lost(conn);
	MemoryContextSwitchTo(old);
}

OpdPgConn *
opd_pgconn_open(OpdLoop *loop, const OpdPgTarget *target,
				OpdPgOpenCallback opened_callback, void *arg)
{
	OpdPgConn  *conn = palloc0(sizeof(OpdPgConn));
	Keywords	keywords;
	char		port[8];
	char		address[OPD_NETADDR_CHARS];
	char	  **saved_environment;

	conn->context = CurrentMemoryContext;
	conn->loop = loop;
	conn->is_socket = target->is_socket;
	conn->opened = opened_callback;
	conn->opened_arg = arg;
	conn->connecting = true;
	dlist_init(&conn->commands);
	opd_pgclose_register(conn);
	conn->watch = opd_watch_new(loop, on_socket, conn);
	conn->failed_at_once = opd_timer_new(loop, on_failed_at_once, conn);

	fill_keywords(&keywords, target, port, address);
	saved_environment = hide_environment();
	if (saved_environment != NULL)
	{
		/* expand_dbname = 0: a database name is never read as more options */
		conn->pg = PQconnectStartParams(keywords.keys, keywords.values, 0);
		environ = saved_environment;
	}
	if (conn->pg == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));

	PQsetNoticeReceiver(conn->pg, ignore_notice, NULL);
	PQsetErrorVerbosity(conn->pg, PQERRORS_VERBOSE);
	conn->phase = CONNECTION_STARTED;
	if (PQstatus(conn->pg) == CONNECTION_BAD)
		opd_timer_set(conn->failed_at_once, opd_now_ms());
	else
		opd_watch_set(conn->watch, PQsocket(conn->pg), OPD_WRITABLE);
	return conn;
}

bool
opd_pgconn_refused_before_credentials(const OpdPgConn *conn)
{
	return conn->refused_before_credentials;
}

bool
opd_pgconn_needs_password(const OpdPgConn *conn)
{
	return conn->pg != NULL && PQconnectionNeedsPassword(conn->pg);
}

bool
opd_pgconn_used_password(const OpdPgConn *conn)
{
	return PQconnectionUsedPassword(conn->pg);
}

const char *
opd_pgconn_parameter(const OpdPgConn *conn, const char *name)
{
	return PQparameterStatus(conn->pg, name);
}

bool
opd_pgconn_tls_in_use(const OpdPgConn *conn)
{
	return PQsslInUse(conn->pg);
}

const char *
opd_pgconn_tls_version(const OpdPgConn *conn)
{
	return PQsslAttribute(conn->pg, "protocol");
}

const char *
opd_pgconn_tls_cipher(const OpdPgConn *conn)
{
	return PQsslAttribute(conn->pg, "cipher");
}
