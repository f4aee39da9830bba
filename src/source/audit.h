/*-------------------------------------------------------------------------
 *
 * audit.h
 *	  What can the role do on the source besides reading?
 *
 * The role of the source is the real fence: a read-only transaction still
 * lets through what a superuser's functions do. Each finding is a warning with
 * the statement that mends it.
 *
 * src/source/audit.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_AUDIT_H
#define OPD_AUDIT_H

#include "base/json.h"
#include "wire/pgconn.h"

typedef struct OpdAudit OpdAudit;

/* Make an empty audit in the current memory context. */
extern OpdAudit *opd_audit_new(void);

/*
 * Add the audit's queries to a batch, inside a read-only transaction whose
 * search_path is pg_catalog, pg_temp. The audit is filled when the batch is done.
 */
extern void opd_audit_add_queries(OpdAudit *audit, OpdPgConn *conn);

/* Add a warning of another kind. */
extern void opd_audit_warn(OpdAudit *audit, const char *code, const char *message);

/* Did nothing speak against the role being read-only? */
extern bool opd_audit_read_only(const OpdAudit *audit);

/* The role could not be audited: it counts as not read-only. */
extern void opd_audit_failed(OpdAudit *audit, const OpdError *error);

/* [{"code","message","statement"}] */
extern Jsonb *opd_audit_warnings(const OpdAudit *audit);

#endif							/* OPD_AUDIT_H */
