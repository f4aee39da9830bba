/*-------------------------------------------------------------------------
 *
 * worker.c
 *	  A background worker process: when it works, and when it leaves.
 *
 * The postmaster starts the processes once recovery is over, so that a standby
 * has none until it is promoted, and starts each again a second after it ended
 * with exit code 1, which is how they always end.
 *
 *		wait without a database connection, for as long as there is nothing to do
 *		-> connect -> is there an extension?
 *		-> work until something changes -> finish or give back -> exit
 *
 * A process that finds its reason to work gone (disabled, DROP EXTENSION, other
 * settings) exits: its successor waits without a connection, which nobody's
 * DROP DATABASE has to wait for.
 *
 * src/worker/worker.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include <math.h>
#include <signal.h>

#include "access/xact.h"
#include "commands/extension.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"

#include "base/guarded.h"
#include "base/limits.h"
#include "secret/keycache.h"
#include "store/agents.h"
#include "store/sealing.h"
#include "store/suspension.h"
#include "task/ending.h"
#include "worker/agent.h"
#include "worker/health.h"
#include "worker/route.h"
#include "worker/state.h"
#include "worker/tokencell.h"
#include "worker/worker.h"

#define RESTART_S			1
#define LOOK_MS				5000	/* how often to look at what may have changed */
#define LOOK_AGAIN_MS		200		/* the same when that met a lock */
#define IDLE_LOOK_MS		60000	/* the same for one without a connection */
#define ABSENT_LOOK_MS		300000	/* try a database that was not there again */
#define DRAIN_MS			5000	/* running jobs may end, when there is time */
#define GOODBYE_MS			200		/* for the server's answer to our goodbye */
#define HANG_UP_MS			100		/* for the server to see that our polls are closed */
#define GIVE_BACK_MS		500		/* to tell the server what is given back */
#define RECORD_MS			500		/* to record what a lock has held up */
#define PRUNE_MS			600000
#define CONNECT_PAUSE_MAX_MS 60000

extern PGDLLEXPORT void opdata_worker_main(Datum number);

/*
 * SIGTERM: the loop ends in its own way. Inside a transaction, which may wait
 * for a lock, PostgreSQL's way is the faster one.
 */
static void
on_sigterm(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	SetLatch(MyLatch);
	errno = save_errno;
	if (IsTransactionOrTransactionBlock())
		die(postgres_signal_arg);
}

/*
 * SIGINT: lock_timeout comes this way, and pg_cancel_backend(). Outside of a
 * transaction there is nothing to cancel.
 */
static void
on_sigint(SIGNAL_ARGS)
{
	if (IsTransactionOrTransactionBlock())
		StatementCancelHandler(postgres_signal_arg);
}

/* ----------------------------------------------------------- before work */

/* Why this process should not connect to the database now. */
static OpdWorkerState
reason_to_wait(void)
{
	OpdWorkerState absent = opd_state_absent();

	if (!opd_conf_enabled())
		return OPD_WORKER_DISABLED;
	if (opd_conf_malformed() != NULL)
		return OPD_WORKER_MISCONFIGURED;
	if (opd_conf_org_id()[0] == '\0' || opd_conf_temporal_address()[0] == '\0')
		return OPD_WORKER_NOT_CONFIGURED;
	if (opd_state_paused_until() > GetCurrentTimestamp())
		return OPD_WORKER_NO_DATABASE;
	return absent;
}

static void
sleep_a_while(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ShutdownRequestPending)
		proc_exit(1);
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/* Wait, holding no database connection, until there is a reason to have one. */
static void
wait_for_work(void)
{
	OpdWorkerState reason;
	TimestampTz waiting_since = GetCurrentTimestamp();
	long		ms;
	char	   *problem;

	while ((reason = reason_to_wait()) != OPD_WORKER_STOPPED)
	{
		opd_state_set(reason);
		if (reason == OPD_WORKER_MISCONFIGURED)
		{
			problem = psprintf("%s was malformed when the server started; its log has a warning", opd_conf_malformed());
			opd_state_note_error("SETTINGS", problem);
			pfree(problem);
		}
		ms = IDLE_LOOK_MS;
		if (opd_state_paused_until() > GetCurrentTimestamp())
			ms = 200;
		else if (reason == opd_state_absent() &&
				 TimestampDifferenceExceeds(waiting_since, GetCurrentTimestamp(), ABSENT_LOOK_MS))
			break;
		sleep_a_while(ms);
	}
}

/*
 * Connect to the agent database. What keeps us from it (no such database or
 * role, too many connections) is FATAL and ends the process: its successors
 * wait longer and longer, or until a database or role was changed.
 */
static void
connect_to_database(OpdWorkerConf *conf)
{
	int			failed = opd_state_begin_connect();

	if (failed > 0)
	{
		uint64		generation = opd_state_generation();
		double		until_ms = opd_now_ms() + Min(1000 * pow(2, Min(failed, 10)), CONNECT_PAUSE_MAX_MS);

		opd_state_set(OPD_WORKER_NO_DATABASE);
		while (opd_now_ms() < until_ms && opd_state_generation() == generation)
			sleep_a_while((long) Max(1, until_ms - opd_now_ms()));
		wait_for_work();		/* a poke may have come with a reason to wait */
	}
	BackgroundWorkerInitializeConnection(conf->database, conf->role, 0);
	opd_state_end_connect();
}

static void
find_extension(void *arg)
{
	bool	   *found = arg;

	*found = OidIsValid(get_extension_oid("opdata", true));
}

/*
 * Run in a transaction; false when it met somebody's lock, and is to be tried again
 * later. What else it raises goes to the log.
 */
static bool
in_own_transaction(void (*function) (void *arg), void *arg)
{
	ErrorData  *error;

	error = opd_guarded_transaction(function, arg, false);
	if (error == NULL)
		return true;
	if (opd_guarded_met_lock(error))
		return false;
	ereport(LOG,
			(errmsg("opdata worker \"%s\": %s", opd_state_name(), error->message)));
	return true;
}

/* One that cannot be looked for, since somebody has locked the catalog, exists. */
static bool
extension_exists(void)
{
	bool		found = true;

	(void) in_own_transaction(find_extension, &found);
	return found;
}

static void
note_cluster(OpdAgent *agent)
{
	OpdAgentFacts facts = opd_agents_look(true);

	agent->is_copy = facts.copy;
	/* another one after a dump was restored beside what we noted */
	if (!facts.copy && facts.agent_id != NULL &&
		(agent->agent_id == NULL || strcmp(agent->agent_id, facts.agent_id) != 0))
		agent->agent_id = MemoryContextStrdup(agent->context, facts.agent_id);
}

/*
 * Whose database is this, and was the agent told to stop? Until that is known, and
 * as long as it is a copy or suspended, no task is asked for.
 */
static void
look_at_cluster(void *arg)
{
	OpdAgent   *agent = arg;

	/* first, and then no more: what follows may fail, or wait for somebody's lock */
	agent->suspended = opd_suspension_since() != 0;
	if (!agent->suspended)
		note_cluster(agent);
}

/* Returns when to do it again. */
static double
look_around(OpdAgent *agent)
{
	bool		was_copy = agent->is_copy;
	bool		was_suspended = agent->suspended;
	bool		looked = in_own_transaction(look_at_cluster, agent);

	if (agent->is_copy && !was_copy)
		ereport(LOG,
				(errmsg("opdata worker \"%s\" asks for no tasks, since this database is a copy of one in another cluster", agent->name),
				 errhint("If this is the agent that should work from now on, run: SELECT opdata_resume();")));
	if (agent->suspended && !was_suspended)
		ereport(LOG,
				(errmsg("opdata worker \"%s\" asks for no tasks, since the agent is suspended", agent->name),
				 errhint("When it may work again, run: SELECT opdata_resume();")));
	opd_route_look(agent);
	opd_health_tell();
	return opd_now_ms() + (looked ? LOOK_MS : LOOK_AGAIN_MS);
}

typedef struct Burial
{
	const char *worker;
	TimestampTz before;			/* when jobs began that are not ours */
} Burial;

static void
bury_jobs(void *arg)
{
	Burial	   *burial = arg;

	opd_jobs_bury(burial->worker, burial->before, "failed", opd_error_name(OPD_INTERNAL));
}

static void
suspend_jobs(void *arg)
{
	opd_jobs_bury(arg, DT_NOEND, "canceled", opd_error_name(OPD_SUSPENDED));
}

static void
prune_jobs(void *arg)
{
	*(uint64 *) arg = opd_jobs_prune(opd_conf_job_retention_s());
	(void) opd_sealing_prune();
}

/* -------------------------------------------------------------- at work */

/* With the name that its certificate must have; route.c tells where it is. */
static char *
temporal_url(const OpdWorkerConf *conf)
{
	if (!conf->temporal_tls)
		return psprintf("http://%s", conf->temporal_address);
	if (conf->temporal_tls_server_name[0] == '\0')
		return psprintf("https://%s", conf->temporal_address);
	return psprintf("https://%s%s", conf->temporal_tls_server_name, strrchr(conf->temporal_address, ':'));
}

static OpdAgent *
make_agent(OpdWorkerConf *conf)
{
	OpdAgent   *agent = palloc0(sizeof(OpdAgent));

	agent->context = CurrentMemoryContext;
	agent->name = opd_state_name();
	agent->bulk = opd_state_is_bulk();
	agent->conf = conf;
	agent->keys = opd_conf_keys();
	agent->queue = psprintf("tenant-%s", conf->org_id);
	agent->bulk_queue = psprintf("tenant-%s-bulk", conf->org_id);
	agent->loop = opd_loop_new();
	agent->http = opd_http_new(agent->loop);
	agent->client = opd_client_new(agent->loop, agent->http, temporal_url(conf), conf->temporal_namespace);
	dlist_init(&agent->runs);
	dlist_init(&agent->activities);
	opd_route_start(agent);
	opd_signin_start(agent);
	opd_courier_start(agent);
	opd_polls_start(agent);
	return agent;
}

/* Let every part go on, and find out when to do it again at the latest. */
static void
advance(OpdAgent *agent)
{
	double		next;

	next = opd_workflowtask_advance(agent);
	next = Min(next, opd_activitytask_advance(agent));
	next = Min(next, opd_keyring_advance(agent));
	next = Min(next, opd_signin_advance(agent));
	next = Min(next, opd_courier_advance(agent));
	next = Min(next, opd_ending_catch_up());
	/* last, since what ended makes room */
	next = Min(next, opd_polls_advance(agent));
	opd_state_note_load(agent->n_running, agent->n_polls);
	agent->advance_at_ms = next;
}

bool
opd_agent_context_in(MemoryContext context, MemoryContext ancestor)
{
	while (context != NULL && context != ancestor)
		context = MemoryContextGetParent(context);
	return context != NULL;
}

bool
opd_agent_guard(void (*function) (void *arg), void *arg)
{
	ErrorData  *error = opd_guarded_call(function, arg);

	if (error == NULL)
		return true;
	if (IsTransactionState())
		AbortCurrentTransaction();
	ereport(LOG,
			(errcode(error->sqlerrcode),
			 errmsg("opdata worker \"%s\": %s", opd_state_name(), error->message)));
	/* that message may quote something: it stays in the log */
	opd_state_note_error("INTERNAL", psprintf("an error of the agent (SQLSTATE %s), see the server's log",
											  unpack_sql_state(error->sqlerrcode)));
	return false;
}

typedef struct Turn
{
	OpdLoop    *loop;
	long		ms;
} Turn;

static void
turn_loop(void *arg)
{
	Turn	   *turn = arg;

	opd_loop_turn(turn->loop, turn->ms);
}

/*
 * Wait and let the callbacks run. An error in one of them breaks the task that
 * it worked for; one that belongs to none ends the process, which starts anew.
 */
static void
turn(OpdAgent *agent, double until_ms)
{
	double		ms = until_ms - opd_now_ms();
	Turn		turn = {agent->loop, ms <= 0 ? 0 : (long) ceil(Min(ms, LOOK_MS))};
	MemoryContext owner;

	if (opd_agent_guard(turn_loop, &turn))
		return;
	owner = opd_loop_recover(agent->loop);
	if (!opd_workflowtask_break(agent, owner) && !opd_activitytask_break(agent, owner))
		proc_exit(1);
}

/* Is there still something to do for this process, with these settings? */
static bool
should_go_on(OpdAgent *agent)
{
	bool		by_command = agent->keys.command[0] != '\0';
	OpdKeySource keys;

	if (ShutdownRequestPending || reason_to_wait() != OPD_WORKER_STOPPED)
		return false;
	if (!ConfigReloadPending)
		return true;
	ConfigReloadPending = false;
	/* a command is to be asked anew, which the next process does before it polls */
	if (by_command)
		opd_keycache_hold();
	ProcessConfigFile(PGC_SIGHUP);
	keys = opd_conf_keys();
	return !by_command && reason_to_wait() == OPD_WORKER_STOPPED &&
		strcmp(keys.command, agent->keys.command) == 0 && strcmp(keys.file, agent->keys.file) == 0 &&
		opd_conf_worker_equal(agent->conf, opd_conf_worker());
}

/* One turn of the loop at most until then, and whatever follows from it. */
static void
go_on(OpdAgent *agent, MemoryContext scratch, double until_ms)
{
	MemoryContextSwitchTo(scratch);
	MemoryContextReset(scratch);
	turn(agent, Min(agent->advance_at_ms, until_ms));
	opd_state_note_alive();
	if (opd_state_generation() == agent->generation)
		advance(agent);
	else
		/* the caller looks first at what has changed: perhaps nothing more may leave */
		agent->advance_at_ms = 0;
}

/*
 * The agent was told to stop: nothing more leaves, be it an answer. The exit that
 * follows cancels what runs at the sources; what was asked for is asked for again
 * when the agent is resumed.
 */
static void
stop_at_once(OpdAgent *agent)
{
	opd_state_set(OPD_WORKER_SUSPENDED);
	opd_polls_stop(agent);
	/* else the others would wait for the answer to what this process asked for */
	opd_tokencell_give_up();
	opd_tokencell_forget();
	(void) in_own_transaction(suspend_jobs, unconstify(char *, agent->name));
	opd_health_tell();
}

static void
look_whether_suspended(void *arg)
{
	bool		found = false;

	find_extension(&found);
	*(bool *) arg = found && opd_suspension_since() != 0;
}

/* The same for who leaves. False: it was told to stop, and has done so. */
static bool
go_on_leaving(OpdAgent *agent, MemoryContext scratch, double until_ms)
{
	uint64		generation = opd_state_generation();
	bool		suspended = false;

	/* as long as it cannot be looked at, nothing goes on */
	if (generation != agent->generation && in_own_transaction(look_whether_suspended, &suspended))
		agent->generation = generation;
	if (suspended && !agent->suspended)
	{
		agent->suspended = true;
		stop_at_once(agent);
		return false;
	}
	go_on(agent, scratch, until_ms);
	return true;
}

/* Finish what is under way as far as there is time, give back the rest. */
static void
leave(OpdAgent *agent, MemoryContext scratch)
{
	static bool known;
	double		until_ms = opd_now_ms() + GOODBYE_MS;
	double		hung_up_ms;

	agent->stopping = true;
	/* who is disabled has no connection to tell it by */
	opd_state_set(opd_conf_enabled() ? OPD_WORKER_STOPPING : OPD_WORKER_DISABLED);
	opd_health_tell();
	opd_state_set(OPD_WORKER_STOPPING);
	if (agent->n_polls > 0)
		opd_polls_say_goodbye(agent, &known);
	while (agent->n_polls > 0 && !known && opd_now_ms() < until_ms)
	{
		if (!go_on_leaving(agent, scratch, until_ms))
			return;
	}
	opd_polls_stop(agent);
	agent->advance_at_ms = 0;

	hung_up_ms = opd_now_ms() + HANG_UP_MS;
	until_ms = opd_now_ms() + DRAIN_MS;
	while (agent->n_running > 0 && opd_now_ms() < until_ms && !ShutdownRequestPending &&
		   opd_state_paused_until() < GetCurrentTimestamp())
	{
		if (!go_on_leaving(agent, scratch, until_ms))
			return;
	}

	/* what is given back is given out at once, and must not meet a poll of ours */
	while (agent->n_running > 0 && opd_now_ms() < hung_up_ms)
	{
		if (!go_on_leaving(agent, scratch, hung_up_ms))
			return;
	}

	until_ms = opd_now_ms() + GIVE_BACK_MS;
	while (opd_now_ms() < until_ms)
	{
		bool		waits = opd_workflowtask_give_back(agent);

		waits |= opd_activitytask_give_back(agent);
		if (!waits)
			break;
		if (!go_on_leaving(agent, scratch, until_ms))
			return;
	}
}

static void
work(OpdWorkerConf *conf)
{
	OpdAgent   *agent = make_agent(conf);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "opdata turn", ALLOCSET_DEFAULT_SIZES);
	Burial		burial = {agent->name, GetCurrentTimestamp()};
	bool		buried;
	bool		began_suspended;
	double		look_at_ms;
	double		prune_at_ms = opd_now_ms();

	agent->generation = opd_state_generation();
	opd_state_set(OPD_WORKER_CONNECTING);
	look_at_ms = look_around(agent);
	began_suspended = agent->suspended;
	buried = in_own_transaction(bury_jobs, &burial);
	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		go_on(agent, scratch, look_at_ms);
		if (!should_go_on(agent))
			break;

		if (opd_state_generation() != agent->generation || opd_now_ms() >= look_at_ms)
		{
			agent->generation = opd_state_generation();
			if (!extension_exists())
			{
				opd_state_set_absent(OPD_WORKER_NO_EXTENSION, agent->generation);
				break;
			}
			look_at_ms = look_around(agent);
			if (agent->suspended && !began_suspended)
			{
				stop_at_once(agent);
				return;
			}
			began_suspended = agent->suspended;
			buried = buried || in_own_transaction(bury_jobs, &burial);
		}
		if (opd_now_ms() >= prune_at_ms)
		{
			uint64		n_pruned = 0;
			bool		pruned = in_own_transaction(prune_jobs, &n_pruned);

			prune_at_ms = opd_now_ms() + (n_pruned > 0 || !pruned ? LOOK_MS : PRUNE_MS);
		}
	}
	leave(agent, scratch);
}

/*
 * Nobody's lock holds us up for long: the whole process stands still, and what meets
 * one is tried again. What the owner of the database or the role has set for
 * sessions is not for us.
 */
static void
override_settings(void)
{
	static const struct
	{
		const char *name;
		const char *value;
	}			settings[] = {
		{"lock_timeout", CppAsString2(OPD_LOCK_TIMEOUT_MS) "ms"},
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
	};

	for (int i = 0; i < (int) lengthof(settings); i++)
		SetConfigOption(settings[i].name, settings[i].value, PGC_USERSET, PGC_S_OVERRIDE);
}

void
opdata_worker_main(Datum number)
{
	OpdWorkerConf *conf;
	MemoryContext context;
	uint64		generation;

	pqsignal(SIGTERM, on_sigterm);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGINT, on_sigint);
	BackgroundWorkerUnblockSignals();
	/* PostgreSQL lets a SIGHUP go by until the handler is there: look once */
	ProcessConfigFile(PGC_SIGHUP);

	context = AllocSetContextCreate(TopMemoryContext, "opdata worker", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	if (!opd_state_attach(DatumGetInt32(number)))
		proc_exit(1);
	wait_for_work();
	opd_state_set(OPD_WORKER_STARTING);
	conf = opd_conf_worker();
	connect_to_database(conf);

	override_settings();
	MemoryContextSwitchTo(context);
	generation = opd_state_generation();
	if (extension_exists())
	{
		work(conf);
		opd_ending_give_up(opd_now_ms() + RECORD_MS);
	}
	else
		opd_state_set_absent(OPD_WORKER_NO_EXTENSION, generation);
	opd_state_set_connected(false);
	proc_exit(1);
}

void
opd_worker_register(void)
{
	int			n_interactive = opd_conf_interactive_workers();
	int			n_workers = n_interactive + opd_conf_bulk_workers();

	opd_state_request(n_interactive, opd_conf_bulk_workers());
	if (IsBinaryUpgrade)
		return;					/* pg_upgrade wants the cluster for itself */
	for (int i = 0; i < n_workers; i++)
	{
		BackgroundWorker worker = {0};

		worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
		worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
		worker.bgw_restart_time = RESTART_S;
		strlcpy(worker.bgw_library_name, "opdata", sizeof(worker.bgw_library_name));
		strlcpy(worker.bgw_function_name, "opdata_worker_main", sizeof(worker.bgw_function_name));
		strlcpy(worker.bgw_type, "opdata worker", sizeof(worker.bgw_type));
		snprintf(worker.bgw_name, sizeof(worker.bgw_name), "opdata worker: %s %d",
				 i < n_interactive ? "interactive" : "bulk",
				 i < n_interactive ? i + 1 : i - n_interactive + 1);
		worker.bgw_main_arg = Int32GetDatum(i);
		RegisterBackgroundWorker(&worker);
	}
}
