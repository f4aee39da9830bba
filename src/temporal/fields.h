/*-------------------------------------------------------------------------
 *
 * fields.h
 *	  Every field of every request to Temporal, for the inventory of what leaves.
 *
 * src/temporal/fields.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_FIELDS_H
#define OPD_FIELDS_H

typedef struct OpdField
{
	const char *message;		/* "RespondWorkflowTaskCompletedRequest" */
	const char *field;			/* "commands" */
	const char *meaning;		/* NULL: nobody has said */
} OpdField;

/*
 * All fields of the messages of our own temporal.proto that requests are made of, in
 * the current memory context: what is not there cannot be sent.
 */
extern OpdField *opd_fields_list(int *n);

#endif							/* OPD_FIELDS_H */
