/*-------------------------------------------------------------------------
 *
 * signin.c
 *	  The token of the agent: who gets it, when, and who may go on without.
 *
 * Of all worker processes one asks (tokencell.h); all use what it got, until
 * they are told of another one. With a token endpoint configured no process
 * polls without a token, whatever carries the polls.
 *
 * src/worker/signin.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>
#include <openssl/crypto.h>

#include "common/hashfn.h"
#include "utils/memutils.h"

#include "base/limits.h"
#include "base/text.h"
#include "control/oauth.h"
#include "secret/certfiles.h"
#include "worker/agent.h"
#include "worker/state.h"
#include "worker/tokencell.h"

#define COPY_LOOK_MS	1000

typedef struct OpdSignin
{
	uint32		settings;		/* hash of what a token depends on */
	MemoryContext call_context;	/* of the call under way; NULL: none */
	OpdOauthCall *call;
	double		call_until_ms;	/* name resolution has no end of its own */
	uint64		generation;		/* of the token in use; 0: none */
	uint64		refused;		/* the last one that was refused */
	char	   *token;
} OpdSignin;

bool
opd_signin_has_token(const OpdAgent *agent)
{
	return agent->signin == NULL || agent->signin->generation != 0;
}

bool
opd_signin_ready(const OpdAgent *agent)
{
	const OpdSignin *signin = agent->signin;

	return signin == NULL || (signin->generation != 0 && signin->generation != signin->refused);
}

void
opd_signin_renew(OpdAgent *agent)
{
	if (agent->signin != NULL && agent->signin->generation != 0)
		opd_tokencell_renew(agent->signin->generation);
}

const char *
opd_signin_bearer(const OpdAgent *agent)
{
	return agent->signin != NULL ? agent->signin->token : NULL;
}

bool
opd_signin_refused(OpdAgent *agent)
{
	OpdSignin  *signin = agent->signin;

	if (signin == NULL || signin->generation == 0 || !opd_tokencell_refuse(signin->generation))
		return false;
	signin->refused = signin->generation;
	return true;
}

void
opd_signin_accepted(OpdAgent *agent)
{
	OpdSignin  *signin = agent->signin;

	if (signin != NULL && signin->refused != 0 && signin->generation != signin->refused)
	{
		opd_tokencell_accept(signin->generation);
		signin->refused = 0;
	}
}

/* Use another token, or none. */
static void
adopt(OpdAgent *agent, uint64 generation)
{
	OpdSignin  *signin = agent->signin;
	MemoryContext old = MemoryContextSwitchTo(agent->context);
	char	   *token = generation != 0 ? opd_tokencell_copy(generation) : NULL;

	MemoryContextSwitchTo(old);
	if (signin->token != NULL)
	{
		OPENSSL_cleanse(signin->token, strlen(signin->token));
		pfree(signin->token);
	}
	signin->token = token;
	signin->generation = token != NULL ? generation : 0;
	if (agent->conf->temporal_auth == OPD_AUTH_TOKEN)
		opd_client_set_bearer(agent->client, token);
}

/* ------------------------------------------------------- asking for one */

static void
fail(OpdSignin *signin, const OpdOauthFailure *failure)
{
	opd_state_note_error("TOKEN", failure->message);
	if (!opd_tokencell_fail(signin->settings, failure))
		return;
	ereport(failure->refused ? WARNING : LOG,
			(errmsg("the opdata agent gets no token: %s", failure->message),
			 errhint("Without a token the agent does not poll; it goes on trying, and opdata_status() tells when it succeeds.")));
}

static void
fail_here(OpdSignin *signin, const char *code, bool refused, char *message)
{
	OpdOauthFailure failure = {.message = message, .refused = refused};

	strlcpy(failure.code, code, sizeof(failure.code));
	fail(signin, &failure);
}

static void
end_call(OpdSignin *signin)
{
	MemoryContextDelete(signin->call_context);
	signin->call_context = NULL;
	signin->call = NULL;
}

static void
begin_call(OpdAgent *agent)
{
	OpdSignin  *signin = agent->signin;
	const OpdWorkerConf *conf = agent->conf;
	OpdHostPolicy policy = opd_conf_host_policy();
	OpdOauthRequest request = {
		.token_url = conf->auth_token_url,
		.client_id = conf->auth_client_id,
		.scope = conf->auth_scope,
		.audience = conf->auth_audience,
		.route = &agent->web,
		.policy = &policy
	};
	MemoryContext old;
	char	   *problem;
	char	   *secret;

	if (conf->auth_token_url[0] == '\0' || conf->auth_client_id[0] == '\0' || conf->auth_client_secret_file[0] == '\0')
	{
		fail_here(signin, "not_configured", true,
				  "opdata.auth_token_url, opdata.auth_client_id and opdata.auth_client_secret_file are needed for a token");
		return;
	}
	signin->call_context = AllocSetContextCreate(agent->context, "opdata token", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(signin->call_context);

	/* read anew each time, so that a new secret needs no reload */
	secret = opd_secretfile_read(conf->auth_client_secret_file, OPD_TOKEN_MAX_BYTES, &problem);
	if (secret == NULL)
	{
		fail_here(signin, "secret_file", false,
				  psprintf("the file that opdata.auth_client_secret_file names %s", problem));
		MemoryContextSwitchTo(old);
		end_call(signin);
		return;
	}
	request.client_secret = secret;
	policy.allowed_hosts = pstrdup(policy.allowed_hosts);	/* outlives a reload */
	signin->call = opd_oauth_start(agent->loop, agent->http, &request);
	signin->call_until_ms = opd_now_ms() + 1.5 * OPD_CONTROL_TIMEOUT_MS;
	OPENSSL_cleanse(secret, strlen(secret));
	MemoryContextSwitchTo(old);
}

static void
take_answer(OpdAgent *agent)
{
	OpdSignin  *signin = agent->signin;
	MemoryContext old = MemoryContextSwitchTo(signin->call_context);
	OpdOauthFailure failure = {0};
	OpdOauthToken *token = opd_oauth_take(signin->call, &failure);

	if (token == NULL)
		fail(signin, &failure);
	else if (token->org_unclear)
		fail_here(signin, opd_error_name(OPD_TENANT_MISMATCH), true,
				  "the token's claims cannot be read, or its org_id is no string");
	else if (token->org_id != NULL && strcmp(token->org_id, agent->conf->org_id) != 0)
		fail_here(signin, opd_error_name(OPD_TENANT_MISMATCH), true,
				  psprintf("the token is for organisation \"%s\", which is not opdata.org_id",
						   opd_text_clean(token->org_id, strlen(token->org_id), OPD_CLAIM_MAX_CHARS, NULL)));
	else if (opd_tokencell_put(signin->settings, token))
		ereport(LOG,
				(errmsg("the opdata agent has a token again")));
	if (token != NULL)
		OPENSSL_cleanse(token->token, strlen(token->token));
	MemoryContextSwitchTo(old);
	end_call(signin);
}

double
opd_signin_advance(OpdAgent *agent)
{
	OpdSignin  *signin = agent->signin;
	OpdTokenView view;

	if (signin == NULL)
		return INFINITY;
	if (signin->call != NULL && opd_oauth_answered(signin->call))
		take_answer(agent);
	else if (signin->call != NULL && opd_now_ms() > signin->call_until_ms)
	{
		end_call(signin);
		fail_here(signin, "unreachable", false, "the name of the token endpoint was not resolved in time");
	}
	/* one who leaves, a copy, and who was told to stop, ask no more */
	if (agent->stopping || agent->is_copy || agent->suspended)
	{
		opd_tokencell_give_up();
		return agent->stopping ? INFINITY : opd_now_ms() + COPY_LOOK_MS;
	}
	if (agent->client->bearer_refused && agent->conf->temporal_auth == OPD_AUTH_TOKEN)
		(void) opd_signin_refused(agent);
	agent->client->bearer_refused = false;

	view = opd_tokencell_look(signin->settings);
	if (view.generation != signin->generation)
		adopt(agent, view.generation);
	if (view.fetch && signin->call == NULL)
		begin_call(agent);
	return signin->call != NULL ? Min(view.look_at_ms, signin->call_until_ms + 1) : view.look_at_ms;
}

void
opd_signin_start(OpdAgent *agent)
{
	const OpdWorkerConf *conf = agent->conf;
	char	   *settings;

	if (conf->auth_token_url[0] == '\0' && conf->temporal_auth != OPD_AUTH_TOKEN)
		return;
	agent->signin = palloc0(sizeof(OpdSignin));
	settings = psprintf("%s\n%s\n%s\n%s\n%s\n%s", conf->auth_token_url, conf->auth_client_id,
						conf->auth_client_secret_file, conf->auth_scope, conf->auth_audience, conf->org_id);
	agent->signin->settings = hash_bytes((const unsigned char *) settings, strlen(settings));
}
