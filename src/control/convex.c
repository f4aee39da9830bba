/*-------------------------------------------------------------------------
 *
 * convex.c
 *	  A call of a Convex function by its HTTP API.
 *
 * A function that failed is told by the envelope, with HTTP status 200 or 560;
 * anything else that is no 2xx comes from before the function.
 *
 * src/control/convex.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "utils/builtins.h"

#include "base/inventory.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/text.h"
#include "control/answer.h"
#include "control/convex.h"

#define FUNCTION_FAILED		560
#define MESSAGE_MAX_CHARS	120 /* of the function's own words, which may be long */

struct OpdConvexCall
{
	const OpdHttpResult *result;	/* NULL until it has come */
};

static void
on_done(void *arg, const OpdHttpResult *result)
{
	((OpdConvexCall *) arg)->result = result;
}

OpdConvexCall *
opd_convex_start(OpdHttp *http, const OpdHttpRoute *route, const char *url,
				 const char *bearer, const char *function, const Jsonb *args)
{
	OpdConvexCall *call = palloc0(sizeof(OpdConvexCall));
	size_t		url_len = strlen(url);
	const char *headers[] = {
		"content-type: application/json",
		"convex-client: opdata-" OPD_VERSION,
		"expect:",
		bearer ? psprintf("authorization: Bearer %s", bearer) : NULL,
		NULL
	};
	OpdHttpRequest request = {
		.headers = headers,
		.route = route,
		.timeout_ms = OPD_CONTROL_TIMEOUT_MS,
		.cap_bytes = OPD_CONTROL_ANSWER_MAX_BYTES
	};
	OpdJson		json;
	Jsonb	   *body;

	while (url_len > 0 && url[url_len - 1] == '/')
		url_len--;
	request.url = psprintf("%.*s/api/mutation", (int) url_len, url);
	opd_inventory_check(psprintf("%s arguments", function), args);
	opd_json_begin_object(&json);
	opd_json_add_string(&json, "path", function);
	opd_json_add_value(&json, "args", unconstify(Jsonb *, args));
	opd_json_add_string(&json, "format", "json");
	body = opd_json_end_object(&json);
	request.body = JsonbToCString(NULL, &body->root, VARSIZE(body));
	request.body_len = strlen(request.body);
	(void) opd_http_start(http, &request, on_done, call);
	return call;
}

bool
opd_convex_answered(const OpdConvexCall *call)
{
	return call->result != NULL;
}

static OpdConvexReply
reply_of(OpdConvexEnd end, char *message)
{
	OpdConvexReply reply = {end, message};

	return reply;
}

OpdConvexReply
opd_convex_take(const OpdConvexCall *call)
{
	const OpdHttpResult *result = call->result;
	Jsonb	   *json;
	char	   *status;
	char	   *words;

	if (result->proxy_status >= 300)
		return reply_of(OPD_CONVEX_AWAY, psprintf("the proxy refused CONNECT with HTTP status %ld", result->proxy_status));
	if (result->end != OPD_HTTP_WHOLE)
		return reply_of(OPD_CONVEX_AWAY,
						psprintf("it cannot be reached: %s",
								 opd_text_clean(result->problem, strlen(result->problem), MESSAGE_MAX_CHARS, NULL)));

	json = opd_json_parse_object(result->body, result->body_len);
	status = opd_answer_text(json, "status", MESSAGE_MAX_CHARS);
	if (result->status == 200 && status != NULL && strcmp(status, "success") == 0)
		return reply_of(OPD_CONVEX_DONE, NULL);
	if (result->status == FUNCTION_FAILED || (result->status == 200 && status != NULL))
	{
		words = opd_answer_text(json, "errorMessage", MESSAGE_MAX_CHARS);
		return reply_of(OPD_CONVEX_FAILED, psprintf("the function failed: %s", words ? words : "no message"));
	}
	words = opd_answer_text(json, "code", MESSAGE_MAX_CHARS);
	if (words == NULL)
		words = "";
	if (result->status == 401 || result->status == 403)
		return reply_of(OPD_CONVEX_REFUSED, psprintf("it refuses the agent: HTTP status %ld %s", result->status, words));
	if (result->status >= 400 && result->status < 500 && result->status != 408 && result->status != 429 &&
		words[0] != '\0')
		return reply_of(OPD_CONVEX_FAILED, psprintf("the call was not understood: HTTP status %ld %s", result->status, words));
	return reply_of(OPD_CONVEX_AWAY, psprintf("it answers with HTTP status %ld", result->status));
}
