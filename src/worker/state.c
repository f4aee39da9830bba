/*-------------------------------------------------------------------------
 *
 * state.c
 *	  What the worker processes tell each other and opdata_status().
 *
 * src/worker/state.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "worker/state.h"
#include "worker/tokencell.h"

#define TEXT_BYTES	256			/* of a text that is shown */

typedef struct Slot
{
	pid_t		pid;			/* 0: no process */
	int			proc_number;	/* of the process, which has the latch */
	bool		bulk;
	bool		connected;		/* to the database */
	char		name[NAMEDATALEN];
	OpdWorkerState state;
	TimestampTz since;			/* of the state */
	TimestampTz alive_at;		/* last turn of the loop, to a second; 0: none yet */
	int			n_running;
	int			n_polls;
	int			connects_failed;
	TimestampTz last_poll_at;	/* last good answer to a poll; 0: none */
	char		server_version[32];
	TimestampTz last_error_at;	/* 0: none */
	char		last_error_code[32];
	char		last_error[TEXT_BYTES];
	TimestampTz unknown_type_at;	/* 0: none */
	int64		n_unknown_types;
	char		unknown_type[TEXT_BYTES];
} Slot;

typedef struct Shared
{
	uint64		generation;		/* grows with each poke */
	uint64		key_exchanges;	/* grows with each opdata_rotate_key() */
	OpdWorkerState absent;
	TimestampTz paused_until;
	uint32		told_health;	/* in the last notification */
	pid_t		courier;		/* process that delivers calls; 0: none */
	uint64		outbox;			/* messages put there */
	TimestampTz delivery_failed_at; /* 0: the last one went well */
	char		delivery_problem[TEXT_BYTES];
	TimestampTz certificate_ends;	/* 0: none */
	int			n_slots;
	Slot		slots[FLEXIBLE_ARRAY_MEMBER];
} Shared;

static Shared *shared;
static LWLock *lock;
static int	n_interactive;
static int	n_workers;
static Slot *own;				/* this process's slot, in a worker */
static shmem_startup_hook_type next_startup_hook;
#ifdef OPD_HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type next_request_hook;
#endif

static Size
slots_size(void)
{
	return MAXALIGN(add_size(offsetof(Shared, slots), mul_size(n_workers, sizeof(Slot))));
}

static Size
shared_size(void)
{
	return add_size(slots_size(), opd_tokencell_size());
}

static void
ask(void)
{
#ifdef OPD_HAVE_SHMEM_REQUEST_HOOK
	if (next_request_hook)
		next_request_hook();
#endif
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("opdata", 1);
}

static void
startup(void)
{
	bool		found;

	if (next_startup_hook)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("opdata", shared_size(), &found);
	lock = &GetNamedLWLockTranche("opdata")->lock;
	opd_tokencell_init((char *) shared + slots_size(), lock, !found);
	if (!found)
	{
		memset(shared, 0, slots_size());
		shared->n_slots = n_workers;
		for (int i = 0; i < n_workers; i++)
		{
			Slot	   *slot = &shared->slots[i];

			slot->bulk = i >= n_interactive;
			snprintf(slot->name, sizeof(slot->name), "%s %d",
					 slot->bulk ? "bulk" : "interactive",
					 slot->bulk ? i - n_interactive + 1 : i + 1);
			slot->since = GetCurrentTimestamp();
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

void
opd_state_request(int interactive, int bulk)
{
	n_interactive = interactive;
	n_workers = interactive + bulk;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup;
#ifdef OPD_HAVE_SHMEM_REQUEST_HOOK
	next_request_hook = shmem_request_hook;
	shmem_request_hook = ask;
#else
	ask();
#endif
}

/* Not by its pid: a process without a database is in no list. */
static void
wake(Slot *slot)
{
	if (slot->pid != 0)
		SetLatch(&GetPGProcByNumber(slot->proc_number)->procLatch);
}

/* ------------------------------------------------------------- own slot */

static void
detach(int code, Datum arg)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (own != NULL && own->pid == MyProcPid)
	{
		own->pid = 0;
		own->connected = false;
		own->state = OPD_WORKER_STOPPED;
		own->alive_at = 0;
		own->since = GetCurrentTimestamp();
		own->n_running = 0;
		own->n_polls = 0;
	}
	if (shared->courier == MyProcPid)
		shared->courier = 0;
	LWLockRelease(lock);
	opd_tokencell_give_up();
}

bool
opd_state_attach(int number)
{
	Slot	   *slot;
	bool		taken;

	if (number >= shared->n_slots)
		return false;
	slot = &shared->slots[number];
	LWLockAcquire(lock, LW_EXCLUSIVE);
	taken = slot->pid != 0;
	if (!taken)
	{
		slot->pid = MyProcPid;
		slot->proc_number = opd_my_proc_number();
		slot->connected = false;
		slot->state = OPD_WORKER_STARTING;
		slot->since = GetCurrentTimestamp();
		own = slot;
	}
	LWLockRelease(lock);
	if (!taken)
		on_shmem_exit(detach, (Datum) 0);
	return !taken;
}

const char *
opd_state_name(void)
{
	return own->name;
}

bool
opd_state_is_bulk(void)
{
	return own->bulk;
}

void
opd_state_set(OpdWorkerState state)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (own->state != state)
	{
		own->state = state;
		own->since = GetCurrentTimestamp();
	}
	LWLockRelease(lock);
}

void
opd_state_set_connected(bool connected)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->connected = connected;
	LWLockRelease(lock);
}

/* A text of the server or of libcurl, made fit to be shown. */
static void
copy_text(char *to, size_t size, const char *text)
{
	char	   *clean = opd_text_clean(text, strlen(text), size, NULL);
	int			len = pg_encoding_mbcliplen(PG_UTF8, clean, strlen(clean), size - 1);

	memcpy(to, clean, len);
	to[len] = '\0';
	pfree(clean);
}

void
opd_state_note_poll(const char *server_version)
{
	char		version[sizeof(own->server_version)] = "";

	if (server_version != NULL)
		copy_text(version, sizeof(version), server_version);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->last_poll_at = GetCurrentTimestamp();
	if (server_version != NULL)
		strlcpy(own->server_version, version, sizeof(own->server_version));
	LWLockRelease(lock);
}

void
opd_state_note_error(const char *code, const char *message)
{
	char		text[TEXT_BYTES];

	copy_text(text, sizeof(text), message);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->last_error_at = GetCurrentTimestamp();
	strlcpy(own->last_error_code, code, sizeof(own->last_error_code));
	strlcpy(own->last_error, text, sizeof(own->last_error));
	LWLockRelease(lock);
}

void
opd_state_note_load(int n_running, int n_polls)
{
	if (own->n_running == n_running && own->n_polls == n_polls)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->n_running = n_running;
	own->n_polls = n_polls;
	LWLockRelease(lock);
}

void
opd_state_note_unknown_type(const char *workflow_type)
{
	char		text[TEXT_BYTES];

	copy_text(text, sizeof(text), workflow_type);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->unknown_type_at = GetCurrentTimestamp();
	own->n_unknown_types++;
	strlcpy(own->unknown_type, text, sizeof(own->unknown_type));
	LWLockRelease(lock);
}

void
opd_state_note_alive(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (own->alive_at != 0 && now - own->alive_at >= 0 && now - own->alive_at < USECS_PER_SEC)
		return;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->alive_at = now;
	LWLockRelease(lock);
}

void
opd_state_note_certificate(TimestampTz not_after)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->certificate_ends = not_after;
	LWLockRelease(lock);
}

bool
opd_state_is_courier(void)
{
	bool		is;

	if (shared->courier != 0 && shared->courier != MyProcPid)
		return false;
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (shared->courier == 0)
		shared->courier = MyProcPid;
	is = shared->courier == MyProcPid;
	LWLockRelease(lock);
	return is;
}

uint64
opd_state_outbox(void)
{
	uint64		n;

	LWLockAcquire(lock, LW_SHARED);
	n = shared->outbox;
	LWLockRelease(lock);
	return n;
}

void
opd_state_note_outbox(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->outbox++;
	for (int i = 0; i < shared->n_slots; i++)
	{
		if (shared->slots[i].pid == shared->courier)
			wake(&shared->slots[i]);
	}
	LWLockRelease(lock);
}

void
opd_state_note_delivery(const char *problem)
{
	char		text[TEXT_BYTES] = "";

	if (problem != NULL)
		copy_text(text, sizeof(text), problem);
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->delivery_failed_at = problem != NULL ? GetCurrentTimestamp() : 0;
	strlcpy(shared->delivery_problem, text, sizeof(shared->delivery_problem));
	LWLockRelease(lock);
}

bool
opd_state_claim_notice(uint32 health)
{
	bool		other;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	other = shared->told_health != health;
	shared->told_health = health;
	LWLockRelease(lock);
	return other;
}

int
opd_state_begin_connect(void)
{
	int			failed;

	LWLockAcquire(lock, LW_EXCLUSIVE);
	failed = own->connects_failed++;
	LWLockRelease(lock);
	return failed;
}

void
opd_state_end_connect(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	own->connects_failed = 0;
	own->connected = true;
	LWLockRelease(lock);
}

/* --------------------------------------------------- wishes of sessions */

void
opd_state_poke(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->generation++;
	shared->absent = OPD_WORKER_STOPPED;
	for (int i = 0; i < shared->n_slots; i++)
	{
		Slot	   *slot = &shared->slots[i];

		slot->connects_failed = 0;
		wake(slot);
	}
	LWLockRelease(lock);
}

void
opd_state_wake(void)
{
	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->n_slots; i++)
		wake(&shared->slots[i]);
	LWLockRelease(lock);
}

void
opd_state_note_key_exchange(void)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->key_exchanges++;
	LWLockRelease(lock);
}

uint64
opd_state_key_exchanges(void)
{
	uint64		n;

	LWLockAcquire(lock, LW_SHARED);
	n = shared->key_exchanges;
	LWLockRelease(lock);
	return n;
}

uint64
opd_state_generation(void)
{
	uint64		generation;

	LWLockAcquire(lock, LW_SHARED);
	generation = shared->generation;
	LWLockRelease(lock);
	return generation;
}

void
opd_state_set_absent(OpdWorkerState why, uint64 generation)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (shared->generation == generation)
		shared->absent = why;
	LWLockRelease(lock);
}

OpdWorkerState
opd_state_absent(void)
{
	OpdWorkerState absent;

	LWLockAcquire(lock, LW_SHARED);
	absent = shared->absent;
	LWLockRelease(lock);
	return absent;
}

void
opd_state_pause_until(TimestampTz until)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	shared->paused_until = Max(shared->paused_until, until);
	LWLockRelease(lock);
}

void
opd_state_end_pause(TimestampTz until)
{
	LWLockAcquire(lock, LW_EXCLUSIVE);
	if (shared->paused_until == until)
		shared->paused_until = 0;
	LWLockRelease(lock);
}

TimestampTz
opd_state_paused_until(void)
{
	TimestampTz until;

	LWLockAcquire(lock, LW_SHARED);
	until = shared->paused_until;
	LWLockRelease(lock);
	return until;
}

int
opd_state_connected(void)
{
	int			n = 0;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->n_slots; i++)
		n += shared->slots[i].pid != 0 && shared->slots[i].connected;
	LWLockRelease(lock);
	return n;
}

/* --------------------------------------------------- for opdata_status() */

static const char *
state_name(OpdWorkerState state)
{
	switch (state)
	{
		case OPD_WORKER_STOPPED:
			return "stopped";
		case OPD_WORKER_STARTING:
			return "starting";
		case OPD_WORKER_DISABLED:
			return "disabled";
		case OPD_WORKER_NOT_CONFIGURED:
			return "not_configured";
		case OPD_WORKER_NO_DATABASE:
			return "no_database";
		case OPD_WORKER_NO_EXTENSION:
			return "no_extension";
		case OPD_WORKER_CONNECTING:
			return "connecting";
		case OPD_WORKER_POLLING:
			return "polling";
		case OPD_WORKER_UNREACHABLE:
			return "unreachable";
		case OPD_WORKER_REFUSED:
			return "refused";
		case OPD_WORKER_MISCONFIGURED:
			return "misconfigured";
		case OPD_WORKER_NO_TOKEN:
			return "no_token";
		case OPD_WORKER_SUSPENDED:
			return "suspended";
		case OPD_WORKER_COPY:
			return "copy";
		case OPD_WORKER_STOPPING:
			return "stopping";
	}
	return "unknown";
}

static Jsonb *
slot_facts(const Slot *slot)
{
	Jsonb	   *last_error = NULL;
	Jsonb	   *unknown_type = NULL;
	OpdJson		json;

	if (slot->last_error_at != 0)
	{
		opd_json_begin_object(&json);
		opd_json_add_string(&json, "code", slot->last_error_code);
		opd_json_add_string(&json, "message", slot->last_error);
		opd_json_add_time(&json, "at", slot->last_error_at);
		last_error = opd_json_end_object(&json);
	}
	if (slot->unknown_type_at != 0)
	{
		opd_json_begin_object(&json);
		opd_json_add_string(&json, "workflowType", slot->unknown_type);
		opd_json_add_int(&json, "count", slot->n_unknown_types);
		opd_json_add_time(&json, "at", slot->unknown_type_at);
		unknown_type = opd_json_end_object(&json);
	}
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "name", slot->name);
	opd_json_add_string(&json, "kind", slot->bulk ? "bulk" : "interactive");
	if (slot->pid != 0)
		opd_json_add_int(&json, "pid", slot->pid);
	else
		opd_json_add_string(&json, "pid", NULL);
	opd_json_add_string(&json, "state", state_name(slot->state));
	opd_json_add_time(&json, "since", slot->since);
	opd_json_add_int(&json, "running", slot->n_running);
	opd_json_add_int(&json, "polls", slot->n_polls);
	opd_json_add_time(&json, "lastPollAt", slot->last_poll_at);
	opd_json_add_string(&json, "serverVersion", slot->server_version[0] != '\0' ? slot->server_version : NULL);
	opd_json_add_value(&json, "lastError", last_error);
	opd_json_add_value(&json, "unknownType", unknown_type);
	return opd_json_end_object(&json);
}

int
opd_state_count(OpdWorkerState state)
{
	return opd_state_count_since(state, 0);
}

int
opd_state_count_since(OpdWorkerState state, int ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->n_slots; i++)
		n += shared->slots[i].state == state &&
			TimestampDifferenceExceeds(shared->slots[i].since, now, ms);
	LWLockRelease(lock);
	return n;
}

int
opd_state_count_stuck(int ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->n_slots; i++)
		n += shared->slots[i].pid != 0 && shared->slots[i].alive_at != 0 &&
			TimestampDifferenceExceeds(shared->slots[i].alive_at, now, ms);
	LWLockRelease(lock);
	return n;
}

int
opd_state_count_stale(int ms)
{
	TimestampTz now = GetCurrentTimestamp();
	int			n = 0;

	LWLockAcquire(lock, LW_SHARED);
	for (int i = 0; i < shared->n_slots; i++)
		/* one whose hands are full does not ask */
		n += shared->slots[i].state == OPD_WORKER_POLLING &&
			(shared->slots[i].n_polls > 0 || shared->slots[i].n_running == 0) &&
			TimestampDifferenceExceeds(shared->slots[i].last_poll_at, now, ms);
	LWLockRelease(lock);
	return n;
}

TimestampTz
opd_state_certificate(void)
{
	TimestampTz ends;

	LWLockAcquire(lock, LW_SHARED);
	ends = shared->certificate_ends;
	LWLockRelease(lock);
	return ends;
}

Jsonb *
opd_state_delivery_error(void)
{
	char		problem[TEXT_BYTES];
	TimestampTz at;
	OpdJson		json;

	LWLockAcquire(lock, LW_SHARED);
	at = shared->delivery_failed_at;
	strlcpy(problem, shared->delivery_problem, sizeof(problem));
	LWLockRelease(lock);
	if (at == 0)
		return NULL;
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "message", problem);
	opd_json_add_time(&json, "at", at);
	return opd_json_end_object(&json);
}

Jsonb *
opd_state_workers(void)
{
	Shared	   *copy = palloc(slots_size());
	OpdJson		json;

	LWLockAcquire(lock, LW_SHARED);
	memcpy(copy, shared, slots_size());
	LWLockRelease(lock);

	opd_json_begin_array(&json);
	for (int i = 0; i < copy->n_slots; i++)
		opd_json_push_value(&json, slot_facts(&copy->slots[i]));
	return opd_json_end_array(&json);
}
