/*-------------------------------------------------------------------------
 *
 * tokencell.c
 *	  The agent's token, shared by its worker processes.
 *
 * src/worker/tokencell.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>
#include <openssl/crypto.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/timestamp.h"

#include "base/json.h"
#include "base/limits.h"
#include "temporal/client.h"
#include "worker/state.h"
#include "worker/tokencell.h"
#include "wire/loop.h"

/* A process that asks for so long is dead, or as good as that. */
#define FETCH_MAX_MS	(2.0 * OPD_CONTROL_TIMEOUT_MS)
/* A token is replaced so long before it ends, or after half of its life. */
#define REFRESH_S		30
#define REFRESH_SHARE	0.1
#define MIN_PAUSE_MS	1000
/* Pauses after a failure grow up to this; when the issuer refuses us it is this at once. */
#define MAX_PAUSE_MS	60000
/* One that was refused right after it replaced another is not replaced again before. */
#define REPLACE_PAUSE_MS 60000

typedef struct Cell
{
	uint32		settings;		/* that the token was got with */
	uint64		generation;		/* of the token, 0: none yet */
	bool		forgotten;		/* it was wiped */
	bool		replacement;	/* of one that was refused, and not taken so far */
	bool		wanted;			/* another one, since this was refused */
	pid_t		fetcher;		/* 0: nobody asks */
	double		fetch_began_ms;
	double		refresh_at_ms;
	double		ends_at_ms;
	uint32		tried;			/* settings that the last answer came to */
	double		tried_at_ms;	/* when */
	double		not_before_ms;	/* pause after it, with these settings */
	double		pause_ms;		/* the next one, 0: no failure before */
	bool		asked;			/* for a token, ever */
	bool		failing;		/* the last answer was none */
	OpdOauthFailure failure;	/* without its message, */
	char		failure_message[256];	/* which is here */
	TimestampTz failed_at;
	TimestampTz got_at;
	TimestampTz ends_at;
	char		issuer[OPD_CLAIM_MAX_CHARS * 4 + 1];
	char		audience[OPD_CLAIM_MAX_CHARS * 4 + 1];
	char		client_id[OPD_CLAIM_MAX_CHARS * 4 + 1];
	char		org_id[OPD_CLAIM_MAX_CHARS * 4 + 1];
	char		token[OPD_TOKEN_MAX_BYTES + 1];
} Cell;

static Cell *cell;
static LWLock *lock;

Size
opd_tokencell_size(void)
{
	return sizeof(Cell);
}

void
opd_tokencell_init(void *place, LWLock *its_lock, bool first)
{
	cell = place;
	lock = its_lock;
	if (first)
		memset(cell, 0, sizeof(Cell));
}

static bool
is_usable(uint32 settings, double now)
{
	return cell->generation != 0 && !cell->forgotten && cell->settings == settings && now < cell->ends_at_ms;
}

OpdTokenView
opd_tokencell_look(uint32 settings)
{
	OpdTokenView view = {0};
	double		now = opd_now_ms();
	double		not_before_ms;
	bool		due;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	/* what others have failed with is no reason to wait */
	not_before_ms = cell->tried == settings ? cell->not_before_ms : cell->tried_at_ms + MIN_PAUSE_MS;
	if (is_usable(settings, now))
	{
		view.generation = cell->generation;
		view.look_at_ms = Min(cell->wanted ? now : cell->refresh_at_ms, cell->ends_at_ms);
	}
	due = view.generation == 0 || cell->wanted || now >= cell->refresh_at_ms;
	if (due && now >= not_before_ms &&
		(cell->fetcher == 0 || now > cell->fetch_began_ms + FETCH_MAX_MS))
	{
		cell->fetcher = MyProcPid;
		cell->fetch_began_ms = now;
		cell->asked = true;
		view.fetch = true;
	}
	/* whoever asks wakes the others, unless it dies */
	if (due)
		view.look_at_ms = Max(not_before_ms, now + MIN_PAUSE_MS);
	if (view.generation != 0)
		view.look_at_ms = Min(view.look_at_ms, cell->ends_at_ms);
	LWLockRelease(lock);
	return view;
}

char *
opd_tokencell_copy(uint64 generation)
{
	char	   *token = palloc(sizeof(cell->token));
	bool		there;

	LWLockAcquire(lock, LW_SHARED);
	there = cell->generation == generation && cell->token[0] != '\0';
	if (there)
		strlcpy(token, cell->token, sizeof(cell->token));
	LWLockRelease(lock);
	if (there)
		return token;
	pfree(token);
	return NULL;
}

bool
opd_tokencell_refuse(uint64 generation)
{
	bool		hope = true;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (cell->generation == generation)
	{
		hope = cell->wanted || !cell->replacement || opd_now_ms() >= cell->tried_at_ms + REPLACE_PAUSE_MS;
		cell->wanted = cell->wanted || hope;
	}
	LWLockRelease(lock);
	return hope;
}

void
opd_tokencell_renew(uint64 generation)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (cell->generation == generation)
		cell->refresh_at_ms = 0;
	LWLockRelease(lock);
	opd_state_wake();
}

void
opd_tokencell_accept(uint64 generation)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (cell->generation == generation)
		cell->replacement = false;
	LWLockRelease(lock);
}

static void
copy_claim(char *to, const char *claim, size_t size)
{
	strlcpy(to, claim != NULL ? claim : "", size);
}

bool
opd_tokencell_put(uint32 settings, const OpdOauthToken *token)
{
	bool		was_failing;
	double		life_ms = token->lifetime_s * 1000;
	double		early_ms = Min(Max(REFRESH_S * 1000, life_ms * REFRESH_SHARE), life_ms / 2);
	double		now = opd_now_ms();

	LWLockAcquire(lock, LW_EXCLUSIVE);
	cell->fetcher = 0;
	cell->settings = settings;
	cell->generation++;
	cell->forgotten = false;
	cell->replacement = cell->wanted;
	cell->wanted = false;
	was_failing = cell->failing;
	cell->failing = false;
	cell->ends_at_ms = now + life_ms;
	cell->refresh_at_ms = cell->ends_at_ms - early_ms;
	cell->tried = settings;
	cell->tried_at_ms = now;
	cell->not_before_ms = now + MIN_PAUSE_MS;
	cell->pause_ms = 0;
	cell->got_at = GetCurrentTimestamp();
	cell->ends_at = cell->got_at + (TimestampTz) (life_ms * 1000);
	copy_claim(cell->issuer, token->issuer, sizeof(cell->issuer));
	copy_claim(cell->audience, token->audience, sizeof(cell->audience));
	copy_claim(cell->client_id, token->client_id, sizeof(cell->client_id));
	copy_claim(cell->org_id, token->org_id, sizeof(cell->org_id));
	OPENSSL_cleanse(cell->token, sizeof(cell->token));
	strlcpy(cell->token, token->token, sizeof(cell->token));
	LWLockRelease(lock);
	opd_state_wake();
	return was_failing;
}

bool
opd_tokencell_fail(uint32 settings, const OpdOauthFailure *failure)
{
	int			len = pg_encoding_mbcliplen(PG_UTF8, failure->message, strlen(failure->message),
										sizeof(cell->failure_message) - 1);
	double		now = opd_now_ms();
	double		pause_ms;
	bool		news;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	news = !cell->failing || cell->tried != settings || strcmp(cell->failure.code, failure->code) != 0;
	pause_ms = failure->refused ? MAX_PAUSE_MS :
		Max(cell->tried == settings ? cell->pause_ms : 0, MIN_PAUSE_MS);
	cell->fetcher = 0;
	cell->failing = true;
	cell->failure = *failure;
	cell->failure.message = NULL;
	memcpy(cell->failure_message, failure->message, len);
	cell->failure_message[len] = '\0';
	cell->failed_at = GetCurrentTimestamp();
	/* one who is not wanted any more does not use up what is left of a token */
	if (failure->refused && cell->settings == settings)
	{
		cell->ends_at_ms = 0;
		OPENSSL_cleanse(cell->token, sizeof(cell->token));
	}
	cell->tried = settings;
	cell->tried_at_ms = now;
	cell->not_before_ms = now + opd_client_jitter(pause_ms);
	cell->pause_ms = Min(pause_ms * 2, MAX_PAUSE_MS);
	LWLockRelease(lock);
	opd_state_wake();
	return news;
}

void
opd_tokencell_forget(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	OPENSSL_cleanse(cell->token, sizeof(cell->token));
	/* not the number: who has a copy must see that the next one is another */
	cell->forgotten = true;
	LWLockRelease(lock);
}

void
opd_tokencell_give_up(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (cell->fetcher == MyProcPid)
		cell->fetcher = 0;
	LWLockRelease(lock);
}

/* --------------------------------------------------- for opdata_status() */

Jsonb *
opd_tokencell_facts(void)
{
	Cell	   *copy = palloc(sizeof(Cell));
	Jsonb	   *last_error = NULL;
	double		now = opd_now_ms();
	bool		usable;
	OpdJson		json;

	LWLockAcquire(lock, LW_SHARED);
	memcpy(copy, cell, offsetof(Cell, token));
	LWLockRelease(lock);
	if (!copy->asked)
		return NULL;

	/* a token that was got with other settings is none */
	usable = copy->generation != 0 && !copy->forgotten && now < copy->ends_at_ms && copy->settings == copy->tried;
	if (copy->failed_at != 0)
	{
		opd_json_begin_object(&json);
		opd_json_add_string(&json, "code", copy->failure.code);
		opd_json_add_string(&json, "message", copy->failure_message);
		opd_json_add_time(&json, "at", copy->failed_at);
		last_error = opd_json_end_object(&json);
	}
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "state",
						usable ? (copy->failing ? "failing" : "valid") :
						copy->failing ? (copy->failure.refused ? "refused" : "none") :
						copy->generation != 0 && !copy->forgotten ? "expired" : "none");
	opd_json_add_string(&json, "issuer", copy->issuer[0] ? copy->issuer : NULL);
	opd_json_add_string(&json, "audience", copy->audience[0] ? copy->audience : NULL);
	opd_json_add_string(&json, "clientId", copy->client_id[0] ? copy->client_id : NULL);
	opd_json_add_string(&json, "orgId", copy->org_id[0] ? copy->org_id : NULL);
	opd_json_add_time(&json, "obtainedAt", copy->got_at);
	opd_json_add_time(&json, "expiresAt", copy->ends_at);
	opd_json_add_value(&json, "lastError", last_error);
	return opd_json_end_object(&json);
}
