/*-------------------------------------------------------------------------
 *
 * worker.h
 *	  The background worker processes.
 *
 * src/worker/worker.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_WORKER_H
#define OPD_WORKER_H

/* Register the processes that the settings ask for; from _PG_init(). */
extern void opd_worker_register(void);

#endif							/* OPD_WORKER_H */
