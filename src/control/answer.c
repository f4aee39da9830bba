/*-------------------------------------------------------------------------
 *
 * answer.c
 *	  JSON that an HTTP server of the control plane has answered with.
 *
 * src/control/answer.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "base/guarded.h"
#include "base/json.h"
#include "base/text.h"
#include "control/answer.h"

/* A text, parsed under guard. */
typedef struct Parse
{
	char	   *text;
	Jsonb	   *json;
} Parse;

static void
parse(void *arg)
{
	Parse	   *p = arg;

	pg_verifymbstr(p->text, strlen(p->text), false);
	p->json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(p->text)));
}

Jsonb *
opd_answer_object(const void *data, size_t len)
{
	Parse		p = {pnstrdup(data, len), NULL};

	/* a NUL inside is no JSON */
	if (strlen(p.text) != len || opd_guarded_call(parse, &p) != NULL)
		return NULL;
	return opd_json_is_object(p.json) ? p.json : NULL;
}

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
