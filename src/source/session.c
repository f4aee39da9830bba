/*-------------------------------------------------------------------------
 *
 * session.c
 *	  A read-only session on a source, under one deadline.
 *
 * Opening is a chain of steps, each of which begins something and names the
 * next as its callback:
 *
 *		resolve -> on_resolved -> try_address -> on_connected
 *		  -> check_credential -> on_certificate_probed -> opened
 *
 * with two ways off it: on_connected goes back to try_address while there are
 * addresses left, and asks whether TLS would have helped (probe_tls) when a
 * server turned us away before it saw a credential.
 *
 * src/source/session.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/limits.h"
#include "base/text.h"
#include "secret/memfile.h"
#include "secret/pem.h"
#include "source/session.h"
#include "wire/resolve.h"

/*
 * How much longer than our own deadline the source's statement_timeout runs:
 * it is the second line, for the case that our cancel request does not arrive.
 */
#define STATEMENT_TIMEOUT_SLACK_MS 1000

struct OpdSession
{
	MemoryContext context;
	MemoryContextCallback on_reset;
	OpdLoop    *loop;
	const OpdCredential *credential;
	const OpdHostPolicy *policy;
	double		deadline_ms;
	double		opening_deadline_ms;	/* earlier by the credential's connect_timeout */
	OpdTimer   *timer;
	bool		timed_out;		/* the deadline passed, a cancel is under way */
	bool		closed;

	OpdResolve *resolve;
	OpdNetAddr *addresses;		/* allowed ones, in the resolver's order */
	int			n_addresses;
	int			next_address;
	OpdPgTarget target;
	OpdPgConn  *conn;
	OpdError   *refused_at_once;	/* before anything was begun */
	OpdPgConn  *probe;			/* second attempt, without the certificate */
	OpdError   *first_error;	/* kept while TLS is probed */
	bool		probe_everywhere;	/* also where an unchecked credential is no error */
	bool		credential_unchecked;

	/* opening, then the batch under way */
	OpdSessionCallback callback;
	void	   *arg;
	bool		opening;
};

static void try_address(OpdSession *session);

/* End the opening or the batch, with or without an error. */
static void
tell(OpdSession *session, OpdError *error)
{
	OpdSessionCallback callback = session->callback;

	opd_timer_stop(session->timer);
	session->callback = NULL;
	session->opening = false;
	if (callback != NULL)
		callback(session->arg, error);
}

static OpdError *
connect_timeout_error(const OpdSession *session)
{
	OpdError   *error;

	if (session->n_addresses == 0)
	{
		error = opd_error_new(OPD_TIMEOUT, "host name \"%s\" was not resolved in time",
							  session->credential->host);
		return opd_error_hint(error, "Check the name service on the agent's host: getent hosts %s",
							  session->credential->host);
	}
	error = opd_error_new(OPD_TIMEOUT, "the source did not answer in time while connecting");

	return opd_error_hint(error, "Check the network path from the agent's host to %s port %d; a firewall that drops packets looks like this.",
						  session->credential->host, session->credential->port);
}

static OpdError *
query_timeout_error(bool confirmed)
{
	OpdError   *error = opd_error_new(OPD_QUERY_TIMEOUT, "the query ran longer than its time limit and was cancelled");

	if (!confirmed)
		opd_error_detail(error, "The source did not confirm the cancellation.");
	return opd_error_hint(error, "Select fewer rows or add a condition that an index serves.");
}

/*
 * Time is up. While opening, either this address or all of it; during a query
 * the source is told to cancel, and gets a moment to confirm; then this comes
 * again and closes.
 */
static void
on_timer(void *arg)
{
	OpdSession *session = arg;
	MemoryContext old = MemoryContextSwitchTo(session->context);

	if (session->refused_at_once != NULL)
		tell(session, session->refused_at_once);
	else if (session->opening)
	{
		if (session->conn != NULL)
			opd_pgconn_close(session->conn);
		if (session->probe != NULL)
			opd_pgconn_close(session->probe);
		if (opd_now_ms() < session->opening_deadline_ms &&
			session->next_address < session->n_addresses)
			try_address(session);
		else
			tell(session, connect_timeout_error(session));
	}
	else if (!session->timed_out)
	{
		session->timed_out = true;
		opd_pgconn_cancel(session->conn);
		opd_timer_set(session->timer, opd_now_ms() + OPD_CANCEL_GRACE_MS);
	}
	else
	{
		opd_pgconn_close(session->conn);
		tell(session, query_timeout_error(false));
	}
	MemoryContextSwitchTo(old);
}

static const char *
memory_file(const char *label, const char *pem)
{
	return pem != NULL ? opd_memfile_new(label, pem) : NULL;
}

/*
 * Files that libpq gets for TLS, and the mode: "require" with a CA verifies as
 * verify-ca does, and a mode that verifies without a CA uses the system's.
 */
static OpdError *
prepare_tls(OpdSession *session)
{
	const OpdCredential *credential = session->credential;
	OpdPgTarget *target = &session->target;

	target->sslmode = credential->ssl_mode;
	if (strcmp(credential->ssl_mode, "disable") == 0)
		return NULL;

	target->sslcert = memory_file("sslcert", credential->ssl_cert);
	target->sslkey = memory_file("sslkey", credential->ssl_key);
	target->sslrootcert = memory_file("sslrootcert", credential->ssl_root_cert);
	if (strcmp(credential->ssl_mode, "require") == 0)
	{
		if (target->sslrootcert != NULL)
			target->sslmode = "verify-ca";
		return NULL;
	}
	if (target->sslrootcert == NULL)
		target->sslrootcert = opd_pem_system_bundle();
	if (target->sslrootcert == NULL)
		return opd_error_hint(opd_error_new(OPD_CERTIFICATE_UNTRUSTED,
											"this host has no trust store to verify the server's certificate with"),
							  "Give the CA certificate (PEM) that signed it as sslRootCert, or install the package ca-certificates.");
	return NULL;
}

static void
opened(OpdSession *session)
{
	/* the time limit of one address is over, the deadline stays */
	tell(session, NULL);
}

static OpdError *
credential_not_checked_error(const OpdSession *session)
{
	OpdError   *error = opd_error_new(OPD_CREDENTIAL_NOT_CHECKED,
									  "the server on the agent's own host lets role \"%s\" in without checking the credential",
									  session->credential->username);

	return opd_error_hint(error, "Replace \"trust\" or \"peer\" for this role in the server's pg_hba.conf by scram-sha-256, set a password, and store it here.");
}

static bool
on_own_host(const OpdSession *session)
{
	return session->target.is_socket || opd_netaddr_is_own(&session->target.address);
}

static void
judge_unchecked(OpdSession *session)
{
	if (on_own_host(session))
	{
		opd_pgconn_close(session->conn);
		tell(session, credential_not_checked_error(session));
		return;
	}
	session->credential_unchecked = true;
	opened(session);
}

/*
 * What the server says to the same sign-in without the certificate. If it is
 * let in all the same, nobody looked at the certificate.
 */
static void
on_certificate_probed(void *arg, OpdError *error)
{
	OpdSession *session = arg;
	bool		refused = error != NULL &&
		(error->code == OPD_AUTHENTICATION_FAILED || opd_pgconn_needs_password(session->probe));

	opd_pgconn_close(session->probe);
	if (refused)
		opened(session);
	else if (error == NULL)
		judge_unchecked(session);
	else
	{
		opd_pgconn_close(session->conn);
		tell(session, error);
	}
}

static void
probe_certificate(OpdSession *session)
{
	OpdPgTarget probe = session->target;

	probe.sslcert = NULL;
	probe.sslkey = NULL;
	session->probe = opd_pgconn_open(session->loop, &probe, on_certificate_probed, session);
}

/*
 * Did the server look at the credential? If it asked for a password, yes. If
 * it asked for none and we have a certificate, only an attempt without it can
 * tell: a server asks every TLS client for its certificate, also where its
 * rules then trust everybody. That attempt is made where the answer matters,
 * on our own host and for a test.
 */
static void
check_credential(OpdSession *session)
{
	OpdPgConn  *conn = session->conn;

	if (opd_pgconn_used_password(conn))
		opened(session);
	else if (session->credential->ssl_cert == NULL || !opd_pgconn_tls_in_use(conn))
		judge_unchecked(session);
	else if (session->probe_everywhere || on_own_host(session))
		probe_certificate(session);
	else
		opened(session);
}

/* What the same server says to a connection with TLS, without a password. */
static void
on_probed(void *arg, OpdError *error)
{
	OpdSession *session = arg;
	bool		tls_helps = error == NULL || opd_pgconn_needs_password(session->conn);

	opd_pgconn_close(session->conn);
	if (tls_helps)
	{
		error = opd_error_new(OPD_TLS_REQUIRED, "the source takes TLS connections only");
		opd_error_hint(error, "Set sslMode to \"require\", or to \"verify-full\" with the CA certificate in sslRootCert.");
		tell(session, error);
	}
	else
		tell(session, session->first_error);
}

static void
probe_tls(OpdSession *session, OpdError *error)
{
	OpdPgTarget probe = session->target;

	session->first_error = error;
	probe.sslmode = "require";
	probe.sslcert = memory_file("sslcert", session->credential->ssl_cert);
	probe.sslkey = memory_file("sslkey", session->credential->ssl_key);
	probe.password = NULL;
	session->conn = opd_pgconn_open(session->loop, &probe, on_probed, session);
}

static void
on_connected(void *arg, OpdError *error)
{
	OpdSession *session = arg;
	bool		ask_tls;

	if (error == NULL)
	{
		opd_timer_set(session->timer, session->opening_deadline_ms);
		check_credential(session);
		return;
	}
	ask_tls = opd_pgconn_refused_before_credentials(session->conn);
	opd_pgconn_close(session->conn);
	if (ask_tls)
		probe_tls(session, error);
	else if (error->code == OPD_CONNECTION_REFUSED &&
			 session->next_address < session->n_addresses)
		try_address(session);
	else
		tell(session, error);
}

/*
 * Connect to the next address. Time is shared out evenly among those that are
 * left, so that one that never answers does not use it all.
 */
static void
try_address(OpdSession *session)
{
	int			left = session->n_addresses - session->next_address;
	double		now = opd_now_ms();

	if (!session->target.is_socket)
		session->target.address = session->addresses[session->next_address];
	session->next_address++;
	opd_timer_set(session->timer, now + (session->opening_deadline_ms - now) / left);
	session->conn = opd_pgconn_open(session->loop, &session->target, on_connected, session);
}

static void
on_resolved(void *arg, const OpdNetAddr *addresses, int n_addresses, OpdError *error)
{
	OpdSession *session = arg;

	if (error != NULL)
	{
		tell(session, error);
		return;
	}
	session->addresses = palloc(n_addresses * sizeof(OpdNetAddr));
	for (int i = 0; i < n_addresses; i++)
	{
		OpdError   *refusal = opd_hostpolicy_refusal(session->policy, session->credential->host,
													 &addresses[i]);

		if (refusal == NULL)
			session->addresses[session->n_addresses++] = addresses[i];
		else if (error == NULL)
			error = refusal;
	}
	if (session->n_addresses > 0)
		try_address(session);
	else
		tell(session, error);
}

/* A refusal that is known at once still comes from the loop. */
static void
refuse_at_once(OpdSession *session, OpdError *error)
{
	session->refused_at_once = error;
	opd_timer_set(session->timer, opd_now_ms());
}

static void
close_at_reset(void *arg)
{
	opd_session_close(arg);
}

OpdSession *
opd_session_open(OpdLoop *loop, const OpdCredential *credential,
				 const OpdHostPolicy *policy, double deadline_ms, bool probe_everywhere,
				 OpdSessionCallback opened_callback, void *arg)
{
	OpdSession *session = palloc0(sizeof(OpdSession));
	OpdPgTarget *target = &session->target;
	OpdError   *error;

	session->context = CurrentMemoryContext;
	session->loop = loop;
	session->credential = credential;
	session->policy = policy;
	session->probe_everywhere = probe_everywhere;
	session->deadline_ms = deadline_ms;
	session->opening_deadline_ms = deadline_ms;
	if (credential->connect_timeout_s > 0)
		session->opening_deadline_ms =
			Min(deadline_ms, opd_now_ms() + 1000.0 * credential->connect_timeout_s);
	session->callback = opened_callback;
	session->arg = arg;
	session->opening = true;
	session->timer = opd_timer_new(loop, on_timer, session);
	session->on_reset.func = close_at_reset;
	session->on_reset.arg = session;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &session->on_reset);

	target->host = credential->host;
	target->port = credential->port;
	target->is_socket = opd_credential_is_socket(credential);
	target->database = credential->database;
	target->username = credential->username;
	target->password = credential->password;
	target->options = credential->options;
	target->application_name = credential->application_name ? credential->application_name : "opdata";

	if (target->is_socket && !policy->allow_local_sockets)
	{
		error = opd_error_new(OPD_HOST_NOT_ALLOWED, "this agent connects to no Unix sockets");
		opd_error_hint(error, "Give the source's host name or address, or let a superuser set opdata.allow_local_sockets = on and reload.");
		refuse_at_once(session, error);
	}
	else if ((error = prepare_tls(session)) != NULL)
		refuse_at_once(session, error);
	else if (target->is_socket)
	{
		session->n_addresses = 1;
		try_address(session);
	}
	else
	{
		opd_timer_set(session->timer, session->opening_deadline_ms);
		session->resolve = opd_resolve_start(loop, credential->host, on_resolved, session);
	}
	return session;
}

static void
add_command(OpdPgConn *conn, const char *sql)
{
	opd_pgconn_add(conn, sql, 0, NULL, NULL, NULL);
}

/*
 * Settings are local to the transaction, so that nothing is left behind in a
 * pooler's server connection. SET is used rather than set_config(), whose
 * look-up alone costs a fresh backend more than all of these.
 */
void
opd_session_add_begin(OpdSession *session, const char *search_path)
{
	OpdPgConn  *conn = session->conn;
	double		left_ms = Max(session->deadline_ms - opd_now_ms(), 1);
	const char *conforming = opd_pgconn_parameter(conn, "standard_conforming_strings");

	add_command(conn, "BEGIN TRANSACTION READ ONLY");
	add_command(conn, psprintf("SET LOCAL statement_timeout = %.0f",
							   left_ms + STATEMENT_TIMEOUT_SLACK_MS));
	add_command(conn, psprintf("SET LOCAL idle_in_transaction_session_timeout = %.0f",
							   left_ms + STATEMENT_TIMEOUT_SLACK_MS));

	/* strings mean what our own parser took them for; servers report this */
	if (conforming == NULL || strcmp(conforming, "on") != 0)
		add_command(conn, "SET LOCAL standard_conforming_strings = on");

	if (search_path != NULL)
		add_command(conn, psprintf("SET LOCAL search_path = %s", search_path));
}

static void
on_batch_done(void *arg, OpdError *error)
{
	OpdSession *session = arg;

	if (session->timed_out)
		error = query_timeout_error(true);
	tell(session, error);
}

void
opd_session_run(OpdSession *session, OpdSessionCallback done, void *arg)
{
	session->callback = done;
	session->arg = arg;
	opd_timer_set(session->timer, session->deadline_ms);
	opd_pgconn_run(session->conn, on_batch_done, session);
}

void
opd_session_close(OpdSession *session)
{
	if (session->closed)
		return;
	session->closed = true;
	session->callback = NULL;
	opd_timer_free(session->timer);
	if (session->resolve != NULL)
		opd_resolve_free(session->resolve);
	if (session->conn != NULL)
		opd_pgconn_close(session->conn);
	if (session->probe != NULL)
		opd_pgconn_close(session->probe);
}

OpdPgConn *
opd_session_conn(const OpdSession *session)
{
	return session->conn;
}

bool
opd_session_credential_unchecked(const OpdSession *session)
{
	return session->credential_unchecked;
}

const char *
opd_session_product(const OpdSession *session)
{
	return opd_pgconn_parameter(session->conn, "crdb_version") != NULL ? "CockroachDB" : "PostgreSQL";
}

const char *
opd_session_product_version(const OpdSession *session)
{
	const char *version = opd_pgconn_parameter(session->conn, "crdb_version");

	if (version == NULL)
		version = opd_pgconn_parameter(session->conn, "server_version");
	return version != NULL ? opd_text_clean(version, strlen(version), 200, NULL) : NULL;
}
