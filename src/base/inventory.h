/*-------------------------------------------------------------------------
 *
 * inventory.h
 *	  Every field of every JSON message that leaves for the control plane.
 *
 * What is not in the inventory does not leave: whoever makes a message asks
 * opd_inventory_check() last. A customer reads the same table by opdata_inventory().
 *
 * src/base/inventory.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_INVENTORY_H
#define OPD_INVENTORY_H

#include "utils/jsonb.h"

typedef struct OpdInventoryEntry
{
	const char *message;		/* "previewQuery result" */
	const char *field;			/* "columns[].name" */
	const char *meaning;		/* for people */
} OpdInventoryEntry;

/* All of them, ordered by message. */
extern const OpdInventoryEntry *opd_inventory_entries(int *n);

/*
 * Raises XX000 (internal) when the object has a field that the inventory does not
 * have for this message. The field is named, its value is not.
 */
extern void opd_inventory_check(const char *message, const Jsonb *object);

#endif							/* OPD_INVENTORY_H */
