/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  Arguments of the SQL functions, checked.
 *
 * src/api/arguments.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"

#include "api/arguments.h"
#include "base/limits.h"

static bool
length_is_right(const char *value, int max_chars)
{
	int			n = pg_mbstrlen(value);

	return n >= 1 && n <= max_chars;
}

void
opd_argument_require(bool is_null, const char *what)
{
	if (is_null)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what),
				 errdetail_internal("unsupported")));
}

char *
opd_argument_id(const char *what, text *value)
{
	char	   *id = text_to_cstring(value);

	if (!length_is_right(id, OPD_ID_MAX_CHARS))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must have 1 to %d characters", what, OPD_ID_MAX_CHARS),
				 errdetail_internal("invalid_credentials")));
	return id;
}

char *
opd_argument_workspace(text *value)
{
	char	   *id = opd_argument_id("workspace_id", value);

	if (strcmp(id, "*") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"*\" is no workspace, but stands for all of them"),
				 errdetail_internal("invalid_credentials")));
	return id;
}

char *
opd_argument_id_not_payload(text *value)
{
	char	   *id = text_to_cstring(value);
	const char *first = id + strspn(id, " \t\r\n");

	if (*first == '{' || !length_is_right(id, OPD_ID_MAX_CHARS))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("this is no connection id, which has 1 to %d characters and does not begin with a brace",
						OPD_ID_MAX_CHARS),
				 errdetail_internal("invalid_credentials"),
				 errhint("To test credentials that are not stored, cast the payload: opdata_test('...'::jsonb)")));
	return id;
}

char *
opd_argument_name(text *value)
{
	char	   *name;

	if (value == NULL)
		return NULL;
	name = text_to_cstring(value);
	if (!length_is_right(name, OPD_NAME_MAX_CHARS))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name must have 1 to %d characters", OPD_NAME_MAX_CHARS),
				 errdetail_internal("invalid_credentials")));
	return name;
}
