/*-------------------------------------------------------------------------
 *
 * state.h
 *	  What the worker processes tell each other and opdata_status().
 *
 * A fixed-size piece of shared memory: numbers, times and texts, never a
 * pointer or a descriptor, which mean something in one process only. One slot
 * for each worker process that the settings ask for, in the order of their
 * start: the interactive ones first. Everything here takes the lock by itself
 * and raises nothing.
 *
 * src/worker/state.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_STATE_H
#define OPD_STATE_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

typedef enum OpdWorkerState
{
	OPD_WORKER_STOPPED,			/* no process */
	OPD_WORKER_STARTING,
	OPD_WORKER_DISABLED,		/* opdata.enabled is off */
	OPD_WORKER_NOT_CONFIGURED,	/* no organisation or no address */
	OPD_WORKER_NO_DATABASE,		/* it cannot be connected to, or is being dropped */
	OPD_WORKER_NO_EXTENSION,
	OPD_WORKER_CONNECTING,		/* no answer from Temporal yet */
	OPD_WORKER_POLLING,
	OPD_WORKER_UNREACHABLE,		/* Temporal does not answer; tried again and again */
	OPD_WORKER_REFUSED,			/* Temporal does not want us; tried again slowly */
	OPD_WORKER_MISCONFIGURED,	/* a file that a setting names cannot be used */
	OPD_WORKER_NO_TOKEN,		/* the issuer gives none, or one of somebody else */
	OPD_WORKER_SUSPENDED,		/* opdata_suspend() was called */
	OPD_WORKER_COPY,			/* the database is a copy; waits for opdata_resume() */
	OPD_WORKER_STOPPING
} OpdWorkerState;

/* Ask for the memory; called once, from _PG_init(). */
extern void opd_state_request(int n_interactive, int n_bulk);

/* ------------------------------------------------------- own slot */

/*
 * Take slot "number" for this process, until it exits. False when another
 * process has it.
 */
extern bool opd_state_attach(int number);

/* "interactive 1", "bulk 1"; which of the two it is. */
extern const char *opd_state_name(void);
extern bool opd_state_is_bulk(void);

extern void opd_state_set(OpdWorkerState state);
extern void opd_state_note_poll(const char *server_version);
extern void opd_state_note_error(const char *code, const char *message);
extern void opd_state_note_load(int n_running, int n_polls);
extern void opd_state_note_unknown_type(const char *workflow_type);
extern void opd_state_note_alive(void); /* at each turn */
extern void opd_state_note_certificate(TimestampTz not_after);	/* of the client; 0: none */

/* How often in a row the database could not be connected to from this slot. */
extern int	opd_state_begin_connect(void);	/* counts this try as failed */
extern void opd_state_end_connect(void);	/* it was not */

/* --------------------------------------------- wishes of all sessions */

/*
 * Something changed that workers should look at: databases, extensions. Wakes
 * every worker; each looks again at what kept it from working.
 */
extern void opd_state_poke(void);
extern uint64 opd_state_generation(void);

/* Rows are encrypted under another master key; how often that was so. */
extern void opd_state_note_key_exchange(void);
extern uint64 opd_state_key_exchanges(void);

/* Wake every worker, for something that it looks at in any case. */
extern void opd_state_wake(void);

/*
 * The database of the workers has no extension, or there is no such database;
 * "generation" is that of the time before it was looked at: if it has grown
 * since, what was seen is old.
 */
extern void opd_state_set_absent(OpdWorkerState why, uint64 generation);
extern OpdWorkerState opd_state_absent(void);	/* OPD_WORKER_STOPPED: no reason */

/*
 * No worker connects to the database until then; who set it ends it, unless
 * somebody has prolonged it since.
 */
extern void opd_state_pause_until(TimestampTz until);
extern void opd_state_end_pause(TimestampTz until);
extern TimestampTz opd_state_paused_until(void);

/* Number of workers that hold a database connection now. */
extern int	opd_state_connected(void);
extern void opd_state_set_connected(bool connected);

/* ------------------------------------------------- one of all workers */

/* Is this process the one that delivers calls? It is from now on if none was. */
extern bool opd_state_is_courier(void);

/* How often a message was put into the outbox; and once more, which wakes the courier. */
extern uint64 opd_state_outbox(void);
extern void opd_state_note_outbox(void);

/* How the delivery goes, for opdata_status(); NULL: well. */
extern void opd_state_note_delivery(const char *problem);

/*
 * A notification about the health of the agent: true when this one is to be
 * sent by this process, since the last one said something else.
 */
extern bool opd_state_claim_notice(uint32 health);

/* --------------------------------------------------- for opdata_status() */

/* Number of workers that are in this state, and have been for so long. */
extern int	opd_state_count_since(OpdWorkerState state, int ms);

/* Number of worker processes that gave no sign of life for so long. */
extern int	opd_state_count_stuck(int ms);

/* Number of polling workers with polls open, or with nothing else to do, that had no good answer for so long. */
extern int	opd_state_count_stale(int ms);

/* When the client certificate ends that is in use; 0: none. */
extern TimestampTz opd_state_certificate(void);

/* {"at","message"} of the last delivery that failed, or NULL when it went well. */
extern Jsonb *opd_state_delivery_error(void);

/* Number of workers that are in this state. */
extern int	opd_state_count(OpdWorkerState state);

/* Array with an object for each worker, in the current memory context. */
extern Jsonb *opd_state_workers(void);

#endif							/* OPD_STATE_H */
