/*-------------------------------------------------------------------------
 *
 * limits.h
 *	  Every number that is a promise or a cap, once, with its unit.
 *
 * The values under "promise" stand in the documented interface: they may not
 * change. The others bound what a peer can make us hold.
 *
 * src/base/limits.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_LIMITS_H
#define OPD_LIMITS_H

/* promise: identifiers */
#define OPD_ID_MAX_CHARS		128 /* connection and workspace ids */

/* promise: preview */
#define OPD_PREVIEW_MAX_ROWS	100
#define OPD_PREVIEW_TIMEOUT_MS	10000	/* all of it, connecting included */
#define OPD_PREVIEW_MAX_BYTES	(1024 * 1024)	/* whole result as JSON text */
#define OPD_CELL_MAX_CHARS		1024

/* columns of one result in PostgreSQL, access/htup_details.h */
#define OPD_PREVIEW_MAX_COLUMNS	1664

/* test of a connection, from name resolution to the last audit query */
#define OPD_TEST_TIMEOUT_MS		10000

/*
 * How long a cancelled query may take to confirm that it ended, after its
 * deadline; and how long a process that is told to exit spends on telling its
 * sources to stop.
 */
#define OPD_CANCEL_GRACE_MS		1000
#define OPD_EXIT_CANCEL_MS		500

/* cancel requests of one process that have not been answered */
#define OPD_CANCELS_MAX			8

/* statements: 1 MB of SQL takes 50 to 70 MB to parse */
#define OPD_SQL_MAX_BYTES		(256 * 1024)

/* operator characters in a row, on which the scanner takes quadratic time */
#define OPD_OPERATOR_MAX_BYTES	1024

/* credentials */
#define OPD_PAYLOAD_MAX_BYTES	(256 * 1024)	/* whole payload, as jsonb */
#define OPD_PAYLOAD_VALUE_MAX_BYTES (64 * 1024) /* one value, a PEM bundle */
#define OPD_NAME_MAX_CHARS		256 /* display name of a connection */

/* what opdata.key_command may take, and print: a key in hexadecimal and a newline or so */
#define OPD_KEY_COMMAND_TIMEOUT_MS 10000
#define OPD_KEY_OUTPUT_MAX_BYTES 128

/* sealed credentials and previews: the token, its header, a recipient's key */
#define OPD_SEALED_MAX_BYTES	(512 * 1024)
#define OPD_JWE_HEADER_MAX_BYTES (8 * 1024)
#define OPD_JWK_MAX_BYTES		(16 * 1024)

/* addresses of one host name that are tried */
#define OPD_ADDRESSES_MAX		16

/*
 * What a source may send before the next whole row or result is complete. Our
 * own statements cut cells at the source, so that the widest honest row (1600
 * columns of 1025 four-byte characters) stays below.
 */
#define OPD_SOURCE_MESSAGE_MAX_BYTES (8 * 1024 * 1024)

/* what a source sends is handed to libpq in portions of this size */
#define OPD_RELAY_PORTION_BYTES	(32 * 1024)

/* sign-in: a message, which libpq caps too; iterations, a second of work or so */
#define OPD_SIGNIN_MAX_BYTES	2000
#define OPD_SCRAM_MAX_ITERATIONS 1000000

/* files with certificates: a bundle of all public CAs takes 220 kB */
#define OPD_PEM_FILE_MAX_BYTES	(1024 * 1024)

/* workers */
#define OPD_WORKERS_MAX			32	/* of each kind */
#define OPD_WORKER_SLOTS		16	/* promise: jobs at once in an interactive worker */
#define OPD_QUEUE_POLLERS		5	/* promise: of each queue, in all workers */

#define OPD_ACTIVITY_TIMEOUT_MS	60000	/* one attempt */
#define OPD_LOCK_TIMEOUT_MS		10	/* of a worker's transactions, for which the others of its process stand still */

/*
 * How long a task goes on trying, beside its time at the source, when somebody's
 * lock is in its way: an activity, anything else
 */
#define OPD_ACTIVITY_PATIENCE_MS 45000
#define OPD_PATIENCE_MS			10000
#define OPD_CONF_NAME_MAX_CHARS 500 /* organisation, namespace */

/* HTTP */
#define OPD_HTTP_MAX_CONNECTIONS 256	/* of one process, idle ones included */
#define OPD_HTTP_CONNECT_TIMEOUT_MS 10000
#define OPD_HTTP_KEPT_CONNECTIONS 32	/* for another call */
#define OPD_HTTP_KEEPALIVE_S	15	/* silence, before the first and between others; three are sent */
#define OPD_HTTP_REUSE_S		180 /* age of a connection; Temporal's server ends them at 300, +-10 % */
#define OPD_HTTP_BODIES_MAX_BYTES (64 * 1024 * 1024)	/* of all answers under way */

/* HTTP API of the control plane, tokens */
#define OPD_CONTROL_TIMEOUT_MS	10000
#define OPD_CONTROL_ANSWER_MAX_BYTES (256 * 1024)
#define OPD_OUTBOX_MAX_CALLS	10000	/* that wait */
#define OPD_TOKEN_MAX_BYTES		(12 * 1024)	/* servers take 16 kB of headers or so */
#define OPD_CLAIM_MAX_CHARS		200

/* gRPC: what the server takes in one message, and what we take */
#define OPD_GRPC_SEND_MAX_BYTES (4 * 1024 * 1024)
#define OPD_GRPC_RECEIVE_MAX_BYTES (32 * 1024 * 1024)
#define OPD_GRPC_MESSAGE_MAX_BYTES 256 /* text of a status that is kept */

/* protobuf: memory that one decoded answer may take */
#define OPD_DECODED_MAX_BYTES	(128 * 1024 * 1024)

/* Temporal: deadlines of calls, in ms; a long poll ends at the server after 60 s */
#define OPD_POLL_DEADLINE_MS	70000
#define OPD_RPC_DEADLINE_MS		10000

/* history of one run: the server itself ends a run at 51,200 events or 50 MiB */
#define OPD_HISTORY_MAX_EVENTS	60000
#define OPD_HISTORY_MAX_BYTES	(56 * 1024 * 1024)

/* ids of workflows, runs and activities that are kept */
#define OPD_TEMPORAL_ID_MAX_CHARS 1000

/* a result or failure as Temporal keeps it; its own limit is 2 MiB a payload */
#define OPD_RESULT_MAX_BYTES	(1536 * 1024)
#define OPD_FAILURE_TEXT_MAX_BYTES 2048

/* findings of the role audit that are listed; the rest is counted */
#define OPD_AUDIT_MAX_FINDINGS	50

#endif							/* OPD_LIMITS_H */
