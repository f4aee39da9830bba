/*-------------------------------------------------------------------------
 *
 * courier.c
 *	  Tells the control plane's HTTP API what has changed, and that we live.
 *
 * One of the worker processes does it for all, one call after the other: what
 * waits in the outbox, oldest first, and once a minute a sign of life. Jobs do
 * not wait for it, and what cannot be delivered now is tried again later.
 *
 * src/worker/courier.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "base/guarded.h"
#include "base/json.h"
#include "control/convex.h"
#include "store/egress.h"
#include "store/outbox.h"
#include "worker/agent.h"
#include "worker/health.h"
#include "worker/state.h"

#define HEARTBEAT_MS	60000
#define LOOK_MS			5000	/* at the outbox, should nobody have called */
#define PAUSE_MS		1000	/* after a failure, doubling */
#define NOTE_PAUSE_MS	500		/* when somebody has locked the outbox */
#define PAUSE_MAX_MS	60000
#define FAILURES_MAX	10		/* of the function itself; then an old call is given up */

typedef struct OpdCourier
{
	MemoryContext context;		/* of the call under way; NULL: none */
	OpdConvexCall *convex;
	OpdOutboxCall call;			/* that it is about; id 0: a sign of life */
	void		(*note) (void *arg);	/* what is still to be noted about it; NULL: nothing */
	double		not_before_ms;	/* pause after a failure */
	double		pause_ms;
	double		heartbeat_ms;	/* the next sign of life */
	double		look_ms;		/* the next look at the outbox */
	uint64		outbox;			/* count of messages when it was looked at */
	int64		failed;			/* the call that failed last; -1: none, 0: a sign of life */
	bool		told;			/* that it cannot deliver is in the log */
	bool		renewed;		/* one other token was asked for */
} OpdCourier;

/* --------------------------------------------------------------- a call */

/* Arguments of every call, and those of this one. */
static Jsonb *
arguments(OpdAgent *agent, const Jsonb *own, const char *key)
{
	JsonbParseState *state = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	OpdJson		json = {0};

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "orgId", agent->conf->org_id);
	opd_json_add_string(&json, "agentId", agent->agent_id);
	opd_json_add_string(&json, "idempotencyKey", key);
	state = json.state;
	if (own != NULL)
	{
		/* its members, without the braces around them */
		it = JsonbIteratorInit(unconstify(JsonbContainer *, &own->root));
		(void) JsonbIteratorNext(&it, &v, true);
		while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_END_OBJECT)
			(void) pushJsonbValue(&state, token, &v);
	}
	json.state = state;
	return opd_json_end_object(&json);
}

static void
remove_call(void *arg)
{
	opd_outbox_remove(((OpdCourier *) arg)->call.id);
}

/* Note what came of a call. Before it is noted no other one is made. */
static void
note(OpdCourier *courier, void (*function) (void *arg))
{
	ErrorData  *error = opd_guarded_transaction(function, courier, false);

	courier->note = NULL;
	if (error == NULL)
		return;
	if (opd_guarded_met_lock(error))
	{
		courier->note = function;
		courier->not_before_ms = opd_now_ms() + NOTE_PAUSE_MS;
	}
	else
		ereport(LOG,
				(errmsg("opdata could not note what came of a message to the control plane: %s", error->message)));
}

/* opd_convex_start() under opd_guarded_call(). */
typedef struct Start
{
	OpdAgent   *agent;
	const char *function;
	const Jsonb *args;
} Start;

static void
start_guarded(void *arg)
{
	Start	   *s = arg;

	s->agent->courier->convex = opd_convex_start(s->agent->http, &s->agent->web, s->agent->conf->convex_url,
												 opd_signin_bearer(s->agent), s->function, s->args);
}

/* False when the message may not leave, and never will: what another version left in the outbox, say. */
static bool
start(OpdAgent *agent, const char *function, const Jsonb *args)
{
	Start		s = {agent, function, args};
	ErrorData  *error = opd_guarded_call(start_guarded, &s);

	if (error == NULL)
		return true;
	ereport(WARNING,
			(errmsg("opdata gives up a message to the control plane, %s: %s", function, error->message)));
	if (agent->courier->call.id != 0)
		note(agent->courier, remove_call);
	return false;
}

static void
read_head(void *arg)
{
	*(Jsonb **) arg = opd_egress_head();
}

static Jsonb *
signs_of_life(void)
{
	OpdHealth	health = opd_health_now();
	Jsonb	   *reasons = opd_health_reasons(health);
	Jsonb	   *head = NULL;
	OpdJson		json;

	(void) opd_guarded_transaction(read_head, &head, false);

	opd_json_begin_object(&json);
	opd_json_add_string(&json, "version", OPD_VERSION);
	opd_json_add_bool(&json, "healthy", health == 0);
	opd_json_add_value(&json, "reasons", reasons);
	opd_json_add_int(&json, "sentAt", (GetCurrentTimestamp() - SetEpochTimestamp()) / 1000);
	opd_json_add_value(&json, "egress", head);
	return opd_json_end_object(&json);
}

static void
read_first(void *arg)
{
	OpdCourier *courier = arg;

	if (!opd_outbox_first(&courier->call))
		courier->call.id = 0;
}

/* Begin what is due; false when nothing is. In the context of a new call. */
static bool
begin(OpdAgent *agent)
{
	OpdCourier *courier = agent->courier;
	double		now = opd_now_ms();
	ErrorData  *error;

	courier->call.id = 0;
	if (now >= courier->heartbeat_ms)
	{
		courier->heartbeat_ms = now + HEARTBEAT_MS;
		return start(agent, "agents:heartbeat",
					 arguments(agent, signs_of_life(), DatumGetCString(DirectFunctionCall1(uuid_out, gen_random_uuid(NULL)))));
	}
	courier->outbox = opd_state_outbox();
	error = opd_guarded_transaction(read_first, courier, false);
	if (error != NULL && !opd_guarded_met_lock(error))
		ereport(LOG,
				(errmsg("opdata could not look for messages to the control plane: %s", error->message)));
	if (courier->call.id == 0)
	{
		courier->look_ms = now + LOOK_MS;
		return false;
	}
	/* there may be more behind it, and it may have to be made again */
	courier->look_ms = 0;
	return start(agent, courier->call.function, arguments(agent, courier->call.args, courier->call.key));
}

/* --------------------------------------------------------- what came of it */

static void
note_failure(void *arg)
{
	opd_outbox_note_failure(((OpdCourier *) arg)->call.id);
}

static void
take_answer(OpdAgent *agent)
{
	OpdCourier *courier = agent->courier;
	OpdConvexReply reply = opd_convex_take(courier->convex);

	/* a sign of life says nothing about a message that is not taken */
	if (reply.end == OPD_CONVEX_DONE && courier->call.id == 0 && courier->failed > 0)
		return;
	if (reply.end == OPD_CONVEX_DONE)
	{
		courier->failed = -1;
		if (courier->told)
			ereport(LOG,
					(errmsg("opdata reaches the HTTP API of the control plane again")));
		courier->told = false;
		courier->renewed = false;
		courier->pause_ms = 0;
		opd_state_note_delivery(NULL);
		if (courier->call.id != 0)
			note(courier, remove_call);
		return;
	}

	opd_state_note_delivery(reply.message);
	courier->failed = courier->call.id;
	if (!courier->told)
		ereport(LOG,
				(errmsg("opdata cannot tell the HTTP API of the control plane: %s", reply.message),
				 errhint("Jobs go on. What is to be told waits, and is tried again.")));
	courier->told = true;
	if (reply.end == OPD_CONVEX_REFUSED && !courier->renewed)
	{
		courier->renewed = true;
		opd_signin_renew(agent);
	}
	if (reply.end == OPD_CONVEX_FAILED && courier->call.id != 0)
	{
		/*
		 * One that never succeeds must not keep those behind it for ever, and
		 * whoever mends the function has a day for it.
		 */
		if (courier->call.is_old && courier->call.n_failures + 1 >= FAILURES_MAX)
		{
			ereport(WARNING,
					(errmsg("opdata gives up a message to the control plane, %s: %s",
							courier->call.function, reply.message)));
			note(courier, remove_call);
			courier->failed = 0;
		}
		else
			note(courier, note_failure);
	}
	courier->pause_ms = Min(Max(courier->pause_ms * 2, PAUSE_MS), PAUSE_MAX_MS);
	courier->not_before_ms = opd_now_ms() + opd_client_jitter(courier->pause_ms);
}

static void
end_call(OpdCourier *courier)
{
	MemoryContextDelete(courier->context);
	courier->context = NULL;
	courier->convex = NULL;
}

double
opd_courier_advance(OpdAgent *agent)
{
	OpdCourier *courier = agent->courier;
	double		now = opd_now_ms();
	MemoryContext old;
	bool		begun;

	if (courier == NULL)
		return INFINITY;
	if (courier->convex != NULL)
	{
		if (!opd_convex_answered(courier->convex))
			return INFINITY;
		old = MemoryContextSwitchTo(courier->context);
		take_answer(agent);
		MemoryContextSwitchTo(old);
		end_call(courier);
	}
	if (agent->stopping || !opd_state_is_courier())
		return now + LOOK_MS;
	if (agent->suspended || agent->is_copy || agent->agent_id == NULL || agent->route_problem || !opd_signin_has_token(agent))
		return now + PAUSE_MS;
	if (now < courier->not_before_ms)
		return courier->not_before_ms;
	if (courier->note != NULL)
	{
		note(courier, courier->note);
		return 0;
	}
	if (now < courier->heartbeat_ms && now < courier->look_ms && opd_state_outbox() == courier->outbox)
		return Min(courier->heartbeat_ms, courier->look_ms);

	courier->context = AllocSetContextCreate(agent->context, "opdata message", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(courier->context);
	begun = begin(agent);
	MemoryContextSwitchTo(old);
	if (begun)
		return INFINITY;
	end_call(courier);
	return Min(courier->heartbeat_ms, courier->look_ms);
}

void
opd_courier_start(OpdAgent *agent)
{
	if (agent->conf->convex_url[0] != '\0')
	{
		agent->courier = palloc0(sizeof(OpdCourier));
		agent->courier->failed = -1;
	}
}
