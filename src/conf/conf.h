/*-------------------------------------------------------------------------
 *
 * conf.h
 *	  Settings.
 *
 * Only the api and worker rooms read them; the rooms below get values as
 * arguments, so that none of them depends on where a value comes from.
 *
 * src/conf/conf.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_CONF_H
#define OPD_CONF_H

#include "secret/masterkey.h"
#include "wire/hostpolicy.h"

/* Define the settings; called once, from _PG_init(). */
extern void opd_conf_define(void);

/*
 * Where master keys come from; in the current memory context. Not to be held for long:
 * a link in place of the file, which is followed here, may lead elsewhere later.
 */
extern OpdKeySource opd_conf_keys(void);

/* Are plaintext credentials refused? And previews that would leave in plaintext? */
extern bool opd_conf_require_sealed(void);
extern bool opd_conf_require_sealed_preview(void);

/* Which hosts a connection may reach. Valid until the next reload. */
extern OpdHostPolicy opd_conf_host_policy(void);

/* opdata.temporal_auth */
typedef enum OpdTemporalAuth
{
	OPD_AUTH_NONE,
	OPD_AUTH_TOKEN,				/* the agent's OAuth token */
	OPD_AUTH_API_KEY
} OpdTemporalAuth;

/*
 * What the background workers run by. The strings are in the current memory
 * context, so that a worker can compare them with what a reload brings; "" is
 * what is not set.
 */
typedef struct OpdWorkerConf
{
	bool		enabled;
	char	   *database;
	char	   *role;			/* NULL: the bootstrap superuser */
	char	   *org_id;			/* "": idle */
	char	   *temporal_address;	/* "": no polling */
	char	   *temporal_namespace;
	bool		temporal_tls;
	char	   *temporal_tls_ca;	/* files */
	char	   *temporal_tls_cert;	/* or of the environment */
	char	   *temporal_tls_key;
	char	   *temporal_tls_server_name;
	OpdTemporalAuth temporal_auth;
	char	   *temporal_api_key_file;
	char	   *auth_token_url;
	char	   *auth_client_id;
	char	   *auth_client_secret_file;
	char	   *auth_scope;
	char	   *auth_audience;
	char	   *convex_url;
	char	   *proxy;			/* http://[user@]host:port */
	char	   *proxy_password_file;
} OpdWorkerConf;

extern OpdWorkerConf *opd_conf_worker(void);
extern bool opd_conf_worker_equal(const OpdWorkerConf *a, const OpdWorkerConf *b);

/* Worker processes of each kind, and the name of their database. */
extern int	opd_conf_interactive_workers(void);
extern int	opd_conf_bulk_workers(void);
extern const char *opd_conf_database(void);
extern bool opd_conf_is_worker_role(const char *role);

/* Whether workers may run at all; and how long finished jobs are kept, in s. */
extern bool opd_conf_enabled(void);
extern const char *opd_conf_org_id(void);
extern const char *opd_conf_temporal_address(void);
extern int	opd_conf_job_retention_s(void);

/* A setting that had a malformed value when the server started; NULL: none. */
extern const char *opd_conf_malformed(void);

/* Does the agent need a token? */
extern bool opd_conf_wants_token(void);

/* Where the control plane's HTTP API is; "": it is told nothing. */
extern const char *opd_conf_convex_url(void);

#endif							/* OPD_CONF_H */
