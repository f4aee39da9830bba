/*-------------------------------------------------------------------------
 *
 * health.c
 *	  Does the agent do what it is there for? And who is told.
 *
 * src/worker/health.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "access/xlog.h"
#include "commands/async.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

#include "base/guarded.h"
#include "base/json.h"
#include "conf/conf.h"
#include "worker/health.h"
#include "worker/state.h"

#define CHANNEL			"opdata_health"
#define NOT_TOLD		((OpdHealth) ~0)	/* what the last notification did not say */
/* What passes by itself is not told: a restart, one poll that broke. */
#define LASTS_MS		5000
#define STARTS_MS		30000
/* A turn of the loop comes every five seconds, a poll's answer each minute. */
#define STUCK_MS		60000
#define STALE_MS		180000

static const struct
{
	const char *name;
	OpdWorkerState state;
	int			ms;
}			by_state[] = {
	{"disabled", OPD_WORKER_DISABLED, 0},
	{"no_database", OPD_WORKER_NO_DATABASE, LASTS_MS},
	{"no_extension", OPD_WORKER_NO_EXTENSION, LASTS_MS},
	{"temporal_unreachable", OPD_WORKER_UNREACHABLE, LASTS_MS},
	{"temporal_refused", OPD_WORKER_REFUSED, LASTS_MS},
	{"misconfigured", OPD_WORKER_MISCONFIGURED, 0},
	{"no_token", OPD_WORKER_NO_TOKEN, LASTS_MS},
	{"suspended", OPD_WORKER_SUSPENDED, 0},
	{"copy", OPD_WORKER_COPY, 0},
	{"workers_missing", OPD_WORKER_STOPPED, STARTS_MS},
	{"workers_missing", OPD_WORKER_STARTING, STARTS_MS},
	{"temporal_unreachable", OPD_WORKER_CONNECTING, STARTS_MS},
};

#define STUCK_BIT	(1 << lengthof(by_state))

OpdHealth
opd_health_now(void)
{
	OpdHealth	health = 0;

	if (RecoveryInProgress())
		return 0;
	for (int i = 0; i < (int) lengthof(by_state); i++)
	{
		if (opd_state_count_since(by_state[i].state, by_state[i].ms) > 0)
			health |= 1 << i;
	}
	if (opd_state_count_stuck(STUCK_MS) > 0)
		health |= STUCK_BIT;
	if (opd_state_count_stale(STALE_MS) > 0)
		health |= STUCK_BIT;
	return health;
}

OpdHealth
opd_health_suspended(void)
{
	for (int i = 0; i < (int) lengthof(by_state); i++)
	{
		if (by_state[i].state == OPD_WORKER_SUSPENDED)
			return 1 << i;
	}
	return 0;
}

/* Names of the bits, each once. Returns how many. */
static int
names_of(OpdHealth health, const char *names[lengthof(by_state) + 1])
{
	int			n = 0;

	for (int i = 0; i < (int) lengthof(by_state); i++)
	{
		bool		known = false;

		if ((health & (1 << i)) == 0)
			continue;
		for (int j = 0; j < n; j++)
			known |= strcmp(names[j], by_state[i].name) == 0;
		if (!known)
			names[n++] = by_state[i].name;
	}
	if (health & STUCK_BIT)
		names[n++] = "workers_stuck";
	return n;
}

Jsonb *
opd_health_reasons(OpdHealth health)
{
	const char *names[lengthof(by_state) + 1];
	int			n = names_of(health, names);
	OpdJson		json;

	opd_json_begin_array(&json);
	for (int i = 0; i < n; i++)
		opd_json_push_string(&json, names[i]);
	return opd_json_end_array(&json);
}

char *
opd_health_text(OpdHealth health)
{
	const char *names[lengthof(by_state) + 1];
	int			n = names_of(health, names);
	StringInfoData text;

	initStringInfo(&text);
	for (int i = 0; i < n; i++)
		appendStringInfo(&text, "%s%s", i > 0 ? ", " : "", names[i]);
	return n > 0 ? text.data : pstrdup("healthy");
}

static void
notify(void *arg)
{
	OpdHealth	health = *(OpdHealth *) arg;
	Jsonb	   *reasons = opd_health_reasons(health);
	OpdJson		json;
	Jsonb	   *payload;

	opd_json_begin_object(&json);
	opd_json_add_bool(&json, "healthy", health == 0);
	opd_json_add_value(&json, "reasons", reasons);
	payload = opd_json_end_object(&json);
	Async_Notify(CHANNEL, JsonbToCString(NULL, &payload->root, VARSIZE(payload)));
}

/* Has every worker come to where it should be, be it only just now? */
static bool
all_well(void)
{
	for (int i = 0; i < (int) lengthof(by_state); i++)
	{
		if (opd_state_count(by_state[i].state) > 0)
			return false;
	}
	return opd_state_count(OPD_WORKER_STOPPING) == 0;
}

void
opd_health_tell(void)
{
	static OpdHealth logged = NOT_TOLD; /* what is in the log already, and could not be told */
	OpdHealth	health = opd_health_now();
	ErrorData  *error;

	/* that nothing is known to be wrong yet is no good news */
	if (health == 0 && !all_well())
		return;
	if (!opd_state_claim_notice(health))
		return;
	if (health != logged)
		ereport(LOG,
				(errmsg("the opdata agent is %s%s", health == 0 ? "" : "not healthy: ", opd_health_text(health))));
	error = opd_guarded_transaction(notify, &health, false);
	logged = error == NULL ? NOT_TOLD : health;
	if (error == NULL)
		return;
	if (!opd_guarded_met_lock(error))
		ereport(LOG,
				(errmsg("opdata could not send a notification: %s", error->message)));
	/* to be told at the next look */
	(void) opd_state_claim_notice(NOT_TOLD);
}
