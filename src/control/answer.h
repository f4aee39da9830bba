/*-------------------------------------------------------------------------
 *
 * answer.h
 *	  JSON that an HTTP server of the control plane has answered with.
 *
 * src/control/answer.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_ANSWER_H
#define OPD_ANSWER_H

#include "utils/jsonb.h"

/*
 * A string member, fit to be shown; of an array its first string. NULL when
 * there is none, or no object.
 */
extern char *opd_answer_text(const Jsonb *object, const char *name, int max_chars);

#endif							/* OPD_ANSWER_H */
