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

#include "wire/hostpolicy.h"

/* Define the settings; called once, from _PG_init(). */
extern void opd_conf_define(void);

/* Path of the master key file, absolute; in the current memory context. */
extern char *opd_conf_key_file(void);

/* Which hosts a connection may reach. Valid until the next reload. */
extern OpdHostPolicy opd_conf_host_policy(void);

#endif							/* OPD_CONF_H */
