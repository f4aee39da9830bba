/*-------------------------------------------------------------------------
 *
 * guarded.c
 *	  Call something that may raise, and get the error as a value.
 *
 * src/base/guarded.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "utils/memutils.h"

#include "base/guarded.h"

ErrorData *
opd_guarded_call(void (*function) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		function(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			PG_RE_THROW();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}
