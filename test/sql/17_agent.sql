-- Settings of the way to the control plane are checked when they are set;
-- which cluster the agent belongs to, and what waits for the control plane.

\set VERBOSITY default
-- what is no URL, has a password in it, or would send a secret in the clear
ALTER SYSTEM SET opdata.proxy = 'socks5://proxy.example:1080';
ALTER SYSTEM SET opdata.proxy = 'proxy.example';
ALTER SYSTEM SET opdata.proxy = 'http://agent:secret@proxy.example:3128';
ALTER SYSTEM SET opdata.proxy = 'http://proxy.example:3128/path';
ALTER SYSTEM SET opdata.auth_token_url = 'issuer.example/token';
ALTER SYSTEM SET opdata.auth_token_url = 'http://issuer.example/token';
ALTER SYSTEM SET opdata.auth_token_url = 'http://127.evil.example/token';
ALTER SYSTEM SET opdata.auth_token_url = 'https://user@issuer.example/token';
ALTER SYSTEM SET opdata.convex_url = 'ftp://deployment.example';
ALTER SYSTEM SET opdata.temporal_auth = 'password';
-- what is right
ALTER SYSTEM SET opdata.proxy = 'agent@proxy.example:3128';
ALTER SYSTEM SET opdata.proxy = 'http://[fd00::1]:3128/';
ALTER SYSTEM SET opdata.auth_token_url = 'http://127.0.0.1:8080/token';
ALTER SYSTEM SET opdata.convex_url = 'https://deployment.example/';
ALTER SYSTEM RESET ALL;

-- settings that name files are for superusers to see
CREATE ROLE looks_at_settings;
SET ROLE looks_at_settings;
SELECT name FROM pg_settings WHERE name ~ '^opdata\.' AND name ~ '_(file|ca|cert|key)$';
RESET ROLE;
DROP ROLE looks_at_settings;

-- this cluster, until a worker notes it or the table of another one comes by a dump
SELECT opdata_status() -> 'agent' -> 'systemIdentifier' = to_jsonb(system_identifier::text) AS own,
	opdata_status() #> '{agent,copy}' AS copy, opdata_status() #> '{agent,timeline}' AS timeline
	FROM pg_control_system();
INSERT INTO opdata.agent (system_identifier, timeline) VALUES ('4711', 3);
SELECT opdata_status() #> '{agent,copy}' AS copy, opdata_status() #> '{agent,id}' AS id;
SELECT w ->> 'code' AS warning, w ->> 'message' AS message FROM jsonb_array_elements(opdata_status() -> 'warnings') w
	WHERE w ->> 'code' ~ 'copy';
-- functions work all the same
SELECT opdata_delete('nothing');
BEGIN READ ONLY;
SELECT opdata_resume();
ROLLBACK;
SELECT opdata_resume();
SELECT opdata_status() #> '{agent,copy}' AS copy, count(*), count(DISTINCT id) AS ids
	FROM opdata.agent, pg_control_system() c WHERE agent.system_identifier = c.system_identifier::text GROUP BY 1;
-- an earlier timeline is only a warning
UPDATE opdata.agent SET timeline = 0;
SELECT opdata_resume();
UPDATE opdata.agent SET timeline = -1;
SELECT w ->> 'code' AS warning FROM jsonb_array_elements(opdata_status() -> 'warnings') w WHERE w ->> 'code' ~ 'timeline';
SELECT opdata_resume();
SELECT w ->> 'code' AS warning FROM jsonb_array_elements(opdata_status() -> 'warnings') w WHERE w ->> 'code' ~ 'timeline';

-- without an HTTP API nothing is written down for it
SELECT count(*) FROM opdata.outbox;
