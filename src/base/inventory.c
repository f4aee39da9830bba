/*-------------------------------------------------------------------------
 *
 * inventory.c
 *	  Every field of every JSON message that leaves for the control plane.
 *
 * src/base/inventory.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "base/inventory.h"
#include "base/json.h"

/* What a test tells, as a result of its own or within that of storing. */
#define TEST_FIELDS(message, prefix) \
	{message, prefix "ok", "whether the source let us in and could be looked at"}, \
	{message, prefix "latencyMs", "how long the test took"}, \
	{message, prefix "server", "product of the source's server"}, \
	{message, prefix "serverVersion", "its version"}, \
	{message, prefix "tls", "null without TLS"}, \
	{message, prefix "tls.version", "version of TLS"}, \
	{message, prefix "tls.cipher", "cipher of the connection"}, \
	{message, prefix "readOnly", "whether the role can only read"}, \
	{message, prefix "warnings", "what the role may do besides; rows of these"}, \
	{message, prefix "warnings[].code", "kind of warning"}, \
	{message, prefix "warnings[].message", "the warning, with names of roles, schemas and tables, and the statement that mends it"}, \
	{message, prefix "error", "null when the test went well"}, \
	{message, prefix "error.code", "error code"}, \
	{message, prefix "error.message", "our own words and the SQLSTATE"}, \
	{message, prefix "error.hint", "what to do next"}

/* What of credentials may be shown. */
#define SAFE_METADATA(message, prefix) \
	{message, prefix "safeMetadata", "what of the credentials is no secret"}, \
	{message, prefix "safeMetadata.host", "host of the source"}, \
	{message, prefix "safeMetadata.port", "port"}, \
	{message, prefix "safeMetadata.database", "database"}, \
	{message, prefix "safeMetadata.schema", "schema"}, \
	{message, prefix "safeMetadata.sslMode", "demands on TLS"}, \
	{message, prefix "safeMetadata.mode", "fields or dsn"}

#define CONVEX_FIELDS(message) \
	{message, "orgId", "organisation, as set in opdata.org_id"}, \
	{message, "agentId", "id of this agent, a random UUID"}, \
	{message, "idempotencyKey", "a random UUID, the same for each try of one call"}

static const OpdInventoryEntry entries[] = {
	TEST_FIELDS("testCredentials result", ""),

	{"storeCreds result", "connectionId", "id of the connection, as the control plane chose it"},
	{"storeCreds result", "name", "its display name"},
	{"storeCreds result", "type", "postgres or cockroachdb"},
	{"storeCreds result", "workspaceId", "workspace"},
	{"storeCreds result", "status", "connected, pending or error"},
	SAFE_METADATA("storeCreds result", ""),
	{"storeCreds result", "test", "how the test of the credentials went"},
	TEST_FIELDS("storeCreds result", "test."),

	{"previewQuery result", "columns", "columns of the preview"},
	{"previewQuery result", "columns[].name", "name of a column"},
	{"previewQuery result", "columns[].type", "its type"},
	{"previewQuery result", "rows", "the rows themselves, at most 100, masked by the customer's rules: the only rows that ever leave"},
	{"previewQuery result", "rows[][]", "a cell of them, or *** where it is masked"},
	{"previewQuery result", "rowCount", "number of rows"},
	{"previewQuery result", "truncated", "whether there was more"},
	{"previewQuery result", "truncatedBy", "by which limits"},
	{"previewQuery result", "truncatedBy[]", "rows, bytes or cells"},
	{"previewQuery result", "durationMs", "how long it took"},
	{"previewQuery result", "sealed", "instead of all that: the same as a JWE that only its recipient can read"},

	{"deleteConnection result", "deleted", "whether there was such a connection"},

	{"failure details", "code", "error code"},
	{"failure details", "sqlstate", "SQLSTATE"},
	{"failure details", "detail", "our own words, never the source's"},
	{"failure details", "hint", "what to do next, at times with a statement to run on the source"},

	{"heartbeat details", "phase", "what the job does now"},
	{"heartbeat details", "elapsedMs", "since when"},

	{"status answer", "workflowType", "type of the workflow that was asked about"},
	{"status answer", "state", "whether it runs"},
	{"status answer", "step", "the step that it is at"},
	{"status answer", "phase", "what the step does now"},
	{"status answer", "startedAtMs", "when the workflow began"},
	{"status answer", "agent", "version of opdata"},

	CONVEX_FIELDS("connections:setStatus arguments"),
	{"connections:setStatus arguments", "workspaceId", "workspace"},
	{"connections:setStatus arguments", "connectionId", "id of the connection"},
	{"connections:setStatus arguments", "type", "postgres or cockroachdb"},
	{"connections:setStatus arguments", "status", "connected, pending, error or deleted"},
	{"connections:setStatus arguments", "errorCode", "error code of the last test"},
	{"connections:setStatus arguments", "lastTestedAt", "when it was tested, in ms"},
	SAFE_METADATA("connections:setStatus arguments", ""),

	CONVEX_FIELDS("agents:heartbeat arguments"),
	{"agents:heartbeat arguments", "version", "version of opdata"},
	{"agents:heartbeat arguments", "healthy", "as in opdata_status()"},
	{"agents:heartbeat arguments", "reasons", "as in opdata_status()"},
	{"agents:heartbeat arguments", "reasons[]", "one of the words that the README lists"},
	{"agents:heartbeat arguments", "sentAt", "now, in ms"},
	{"agents:heartbeat arguments", "egress", "the end of the log of what left"},
	{"agents:heartbeat arguments", "egress.rows", "number of rows in it"},
	{"agents:heartbeat arguments", "egress.head", "hash of the last one"},

	{"token request form", "grant_type", "client_credentials"},
	{"token request form", "client_id", "as set in opdata.auth_client_id"},
	{"token request form", "client_secret", "the agent's own secret, to the token endpoint alone"},
	{"token request form", "scope", "as set in opdata.auth_scope"},
	{"token request form", "audience", "as set in opdata.auth_audience"},

	{"HTTP headers", "authorization", "the agent's token or API key, to the server that it is for alone"},
	{"HTTP headers", "client-name, client-version, convex-client, user-agent", "opdata and its version"},
	{"HTTP headers", "grpc-timeout, te, content-type, accept, accept-encoding, content-length, host", "what the protocol needs"},
	{"HTTP headers", "temporal-namespace", "as set in opdata.temporal_namespace"},
	{"HTTP headers", "proxy-authorization", "user and password of the proxy, to the proxy alone"},
};

const OpdInventoryEntry *
opd_inventory_entries(int *n)
{
	*n = lengthof(entries);
	return entries;
}

static bool
is_listed(const char *message, const char *field)
{
	for (int i = 0; i < (int) lengthof(entries); i++)
	{
		if (strcmp(entries[i].message, message) == 0 && strcmp(entries[i].field, field) == 0)
			return true;
	}
	return false;
}

/* Without an error code of ours as its detail: for the log alone, the field's name does not leave either. */
static void
throw_unlisted(const char *message, const char *field)
{
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("the field \"%s\" of %s is in no inventory, and does not leave", field, message)));
}

/* Walk through one container; "path" is what leads to it, "known" the last field that was found. */
static void
check(const char *message, StringInfo path, StringInfo known, JsonbContainer *container)
{
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			length = path->len;

	check_stack_depth();
	(void) JsonbIteratorNext(&it, &v, true);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			path->len = length;
			if (length > 0)
				appendStringInfoChar(path, '.');
			appendBinaryStringInfo(path, v.val.string.val, v.val.string.len);
			continue;
		}
		if (token == WJB_ELEM)
		{
			path->len = length;
			appendStringInfoString(path, "[]");
		}
		else if (token != WJB_VALUE)
			continue;
		path->data[path->len] = '\0';
		/* elements are rows or objects of listed fields, or listed themselves */
		if ((token == WJB_VALUE || v.type != jbvBinary) && strcmp(path->data, known->data) != 0)
		{
			if (!is_listed(message, path->data))
				throw_unlisted(message, path->data);
			/* the next cell of many thousands is asked for the same */
			resetStringInfo(known);
			appendStringInfoString(known, path->data);
		}
		if (v.type == jbvBinary)
			check(message, path, known, v.val.binary.data);
	}
	path->len = length;
	path->data[length] = '\0';
}

void
opd_inventory_check(const char *message, const Jsonb *object)
{
	StringInfoData path;
	StringInfoData known;

	initStringInfo(&path);
	initStringInfo(&known);
	check(message, &path, &known, unconstify(JsonbContainer *, &object->root));
}
