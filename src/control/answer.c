/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  JSON that an HTTP server of the control plane has answered with.
 *
 * src/control/answer.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "base/json.h"
#include "base/text.h"
#include "control/answer.h"

char *
opd_answer_text(const Jsonb *object, const char *name, int max_chars)
{
	JsonbValue	v;

	if (object == NULL || !opd_json_find(object, name, &v))
		return NULL;
	if (v.type == jbvBinary && JsonContainerIsArray(v.val.binary.data) &&
		JsonContainerSize(v.val.binary.data) > 0)
		v = *getIthJsonbValueFromContainer(v.val.binary.data, 0);
	if (v.type != jbvString)
		return NULL;
	return opd_text_clean(v.val.string.val, v.val.string.len, max_chars, NULL);
}
