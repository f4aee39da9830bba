\set ECHO none
\getenv srcdir PG_ABS_SRCDIR
\set common :srcdir '/harness/regress.sql'
\i :common
-- tokens that were made once, for the recipient's key of RFC 7518, appendix C
CREATE TABLE sealed (n int, name text, token text);
INSERT INTO sealed VALUES
	(1, 'Python''s jwcrypto', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJOVlQ3UGZ0clhzMTE3MWo3ZVNRM0syTGczUUhONHVDM3JXSUF5Tmh5RFU0IiwieSI6ImJMMlFUQjlyaVB4UjlqR1ZjNlV5MVZNblZ6aUowc0V2M1RHZnRXblVvTlEifSwia2lkIjoiVnk1N1hyQXJVclcwTmJwSTEydEV6REhBQnhNd3JUaDZISFhSZW5TcG5DbyJ9.xWc4h50NAf3MTOp_EWRPczHw48nMBYkQ-oAepa3cVslICvl-BHKC8Q.v-faY-xI44077mfg.XPcm2D_VdYciRsmcF047fp4f9g5soddCUDaIhUZGwBGIyvfAg_YpSaebv4XbJb9Z4GTJvnQtcNBvip22RfWkwN2Lo8apSBOeH6f_E5GSxSp-HgNkvcO_eGBJCVOmmb2WuPIbUe7R9sbnmslnzHBIsJ7X_DQ5jqF37vYd.yt0mi0F-JuFzt2gfA2zEgg'),
	(2, 'the command jose', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsIngiOiJDTGRjRTAwZTVvVjRNUkJ4Ri1KbF9LMEw2bHNPMzBpVU1Gb2U5TVc2SHB3IiwieSI6IklUVzhpRzVPazV6NmZNbVJZbDFaUVRiU1lRbWIyb0JwbWRhazJORnZiZ00ifX0.NQI04cmAIHlWUEpadX94t4Yk5PFD42WRkJ4vqb6mSqeB9HWt7htwMg.gGUTkl9L32wkunkI.3yjnp7JzcqzQ6BjiKkFJwX0hGdLzP1DPksMA_2O-aR4MNUGuKWC3dbUwvjsjicc99glKi6pDB5VpLP9bJE90u3t6c0X10jz2wTN6WLDdPFp4Xy01vMa1jzzI_ciQm8J4lw8lt4i-wIPmcMWHi_MPXFDd5su16h34IBE.pjte0pS8NEJXXVUL4_uk1g'),
	(3, 'Node''s jose', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJraWQiOiJWeTU3WHJBclVyVzBOYnBJMTJ0RXpESEFCeE13clRoNkhIWFJlblNwbkNvIiwiZXBrIjp7IngiOiIxR1IzMi1MOWlaX1h3Qmg3SWVjdGUtcWxQVVYwMHN0eUhxRHNaYUVMMGpBIiwiY3J2IjoiUC0yNTYiLCJrdHkiOiJFQyIsInkiOiJMZXVYRENkN3ZOZERDMk1kTFpKeGoxVWlPVGlOTWIwTUVfNVF5dTZfdDlJIn0sImFwdSI6IlFXeHBZMlUiLCJhcHYiOiJRbTlpIn0.hOQi_gHJZ47bcxEXZkv4KGCMYtDqzCSkwezNuLoG6EOHpqzTiyn_Ww.9bWywhqSPQABbpVX.UvacSMywUPGIbsuQCPMb7Ednglf-RoZJUAOvSQuX7OqCyBegnHI94R4WchOn6r92CQy6vPky4BeLc0LkypJLwazozUFsJKS-3pd8TK7u1ELAhclNKvHEllLZAe-ze_RSQGryiMYRR8g7lvXLZpJW4z2YlDmUCXo.ClRcbyQpqaUeUd_4rt7ivg'),
	(4, 'a member twice', 'eyJhbGciOiJub25lIiwiYWxnIjoiRUNESC1FUytBMjU2S1ciLCJlbmMiOiJBMjU2R0NNIiwiZXBrIjp7Imt0eSI6ICJFQyIsICJjcnYiOiAiUC0yNTYiLCAieCI6ICJJbXpmTkUyRFRWZ1lrckJvSTBsdzNKMFh3QVROMWswcm54STlYMDhZUWRBIiwgInkiOiAiSkJXYlN3Zjk5czB1LXVMZ1pHbHpEbzNLNk1PLUpTZ3ZVQ25GY1R0SXRWbyJ9fQ.OU2IgqmaoT-ngD_ijNTox3eT_18CmFxuaqT5A5SBwhmKhL3s0KXKpg.HYzZZQ9ZifnzR9cD.z4RXB8OZidGYlRhZ-uTmbe8cgQp4jrNJTCwF0in5wowfdWUF5gp6rcCyCDBDqGMnt5pq5hhVanbMYVx-yy34G63GuGl_vjEiI1VwzrkAVhQLJd4yz4GnAY-jc49_XoI2qLZ-Sqyl9dMcrQsFy1-3hLZilFE.ieGBRoBa4nBXZtJ2xG0Cig'),
	(5, 'compressed', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJ6aXAiOiJERUYiLCJlcGsiOnsia3R5IjogIkVDIiwgImNydiI6ICJQLTI1NiIsICJ4IjogImtDa0NIR1pTY1VuLWVudXdpVDhWNVAtMXhNWW5Ibl80c3hFOHlHV3paSHciLCAieSI6ICJBRldMTTgzZXRKOXhKN205c0FQU05SVWhZWDBseVI1a3E5SEVmaEhhZGY0In19.KX7imX-EEF8RqjjCx8RclTzWmTx6btG3AKHAsTSyLjyl83yI6iJjvQ.fKT5vevTJqGXs3S2.hzG_PfrCc-CV4wNg1d0m9q9nbPjr0aDZvfrxE3JYPlHTw5D60qGBmRi29IS3Ofq4H_qsG8J7D_C8PztawH_cr6SINJN0MCf4d2wwO9j4eY5C0DqCtwVKU3uWKA.jPxdSohuwk7bH5r1bAMUBg'),
	(6, 'a NUL', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsia3R5IjogIkVDIiwgImNydiI6ICJQLTI1NiIsICJ4IjogIjNWRzJxUjR0TkNYeEliT2JLaXQzam9KUTRERlNhMFVmRDZyNkZyMGJNUmMiLCAieSI6ICJWSU55amxONmkxaWl3RXM4aWU3Z0tQRmhYYkY5cEpXMkg3Y3RtcHZUSFFvIn19.qwmousSxKaaFrtuzqSzOInT84phoc75PSmqV-AU6ehIKTPrF1qNLgQ.ZlH5_Jz4zuiSSPo2.SaFT.nfqUcJmN4g75VfBxvIcMlw'),
	(7, 'a text', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsia3R5IjogIkVDIiwgImNydiI6ICJQLTI1NiIsICJ4IjogIjdFbGRXRUozTGtQaGxlZnhWTkZMWHViNVNtR1pCZHVGTGNjaVZnS2xrTVUiLCAieSI6ICJoeGFwMFZ0dk9PdFhhSzZBWkhlcFRrQVozcXpCZVJpV0xxRlFNT2VWX3pRIn19.d4czBTPPwzbNS4vdXn6Ta1A7BWt9tahO4YHalmAgt4ziWpQW8q3KtA.dfMQ3UT7aCEQ8C9R.tuzg48TZUF65wk8.qznSFolCJu5uhAJAZIhu5w'),
	(8, 'a typing error', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsia3R5IjogIkVDIiwgImNydiI6ICJQLTI1NiIsICJ4IjogImtvdHNkUWUtVjkwM1paX3M4eGxidkRMMXFjM3h4MVNNT3hDMFY3T25qZk0iLCAieSI6ICJBVVFPcDV0dWdVbXRGc01MZmt1RmNRZGwwM0M4VVJIenVHVFJEaEZUR2owIn19.HwocWv7plmJe_5mlEUfCVFPO2mm4-8kcqxQLE5MGjrWry9p94aoFTQ.MvJdk9HQJvXR9flA.eMWoJ2WGVFEJDIMhTyc-w7BC9Wv4oF0Bn1355nTrgtjQSg.eEBOwEpPT1QKeweJq0sc_A'),
	(9, 'sealed again', 'eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsia3R5IjogIkVDIiwgImNydiI6ICJQLTI1NiIsICJ4IjogInplN1NrcFpDaW9SdnFfYjQ5OWFFYlZxTUxfUUdUNWFhYmdGN1pYX3hnMXciLCAieSI6ICJ2RXZPbjZWTFdhTlZRdVRvSHFsdHc4X2E5NlpxQjR0TFBFVEhqNlpmS05VIn19.A-opXolY1xhI8k34oQ3PLc5u8SI3wEV9IXIrUgvF84ClMyRMIB6-dg.jzSfTJ1SCJ-KWGDH.K-hSnAgbDG09v4ss6h-ysZkZv5SY1A.pYbGZzMgttCJsi8jsRzKPw');
CREATE FUNCTION token(which text) RETURNS jsonb
LANGUAGE sql AS $$ SELECT jsonb_build_object('sealed', token) FROM sealed WHERE name = which $$;
\set ECHO all
--
-- Credentials that are sealed to the agent, opened by a key that everybody has.
--
SELECT opdata_store_creds('any', payload('reader'), test => false) -> 'status' AS status;
-- the row as the agent would write it
DELETE FROM opdata.sealing_key;
INSERT INTO opdata.sealing_key (kid, public_key, private_key, key_id)
	SELECT kid, '{}', pgp_sym_encrypt_bytea(
			'opdata1\000\000'::bytea || kid::bytea || '\000private_key\000'::bytea ||
			'{"crv":"P-256","kty":"EC","x":"weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ","y":"e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck","d":"VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"}',
			encode(pg_read_binary_file('opdata.key'), 'hex'), 'cipher-algo=aes256, s2k-mode=1'),
		opdata_status() #>> '{key,id}'
	FROM (VALUES ('Vy57XrArUrW0NbpI12tEzDHABxMwrTh6HHXRenSpnCo')) k(kid);

-- what others' tools made is stored like what came in the clear
SELECT name, opdata_store_creds('sealed ' || n, token(name), name, test => false) -> 'safeMetadata' AS safe_metadata
	FROM sealed WHERE n <= 3 ORDER BY n;
SELECT name, type, workspace_id, status, last_error FROM opdata_connections WHERE id ~ '^sealed' ORDER BY id;
SELECT substring(encode(pgp_sym_decrypt_bytea(payload, encode(pg_read_binary_file('opdata.key'), 'hex')), 'escape') FROM '\{.*') AS stored
	FROM opdata.connection WHERE id = 'sealed 2';
SELECT opdata_test(token('the command jose')) #>> '{error,code}' AS code;
-- and judged like that
SELECT * FROM outcome($$SELECT opdata_test(token('a typing error'))$$);

-- what is not as it has to be, in our own words
SELECT name, o.* FROM sealed, outcome(format('SELECT opdata_test(%L::jsonb)', token(name))) o WHERE n IN (4, 5, 6, 7, 9) ORDER BY n;
SELECT t AS payload, o.state, o.message FROM unnest(ARRAY['{"sealed": null}', '{"sealed": 1}', '{"sealed": ""}', '{"sealed": "...."}',
		'{"sealed": "a.b.c.d.e"}', '{"sealed": "e30.AAAA.AAAA.AAAA.AAAA"}', '{"sealed": "x", "host": "h"}']) t,
	outcome(format('SELECT opdata_test(%L::jsonb)', t)) o;
-- without the key, and after its time
UPDATE opdata.sealing_key SET kid = 'another';
SELECT o.* FROM outcome($$SELECT opdata_test(token('Node''s jose'))$$) o;
SELECT o.* FROM outcome($$SELECT opdata_test(token('the command jose'))$$) o;
UPDATE opdata.sealing_key SET kid = 'Vy57XrArUrW0NbpI12tEzDHABxMwrTh6HHXRenSpnCo', expires_at = now();
SELECT o.message FROM outcome($$SELECT opdata_test(token('Node''s jose'))$$) o;
SELECT o.message FROM outcome($$SELECT opdata_test(token('the command jose'))$$) o;

-- the agent's own keys
DELETE FROM opdata.sealing_key;
BEGIN READ ONLY;
SELECT opdata_public_key();
SELECT opdata_rotate_public_key();
ROLLBACK;
SELECT jsonb_object_agg(key, CASE WHEN key IN ('x', 'y', 'kid') THEN length(value)::text ELSE value END) AS public_key
	FROM jsonb_each_text(opdata_public_key());
SELECT opdata_public_key() = opdata_public_key() AS same, opdata_public_key() -> 'kid' <> opdata_rotate_public_key() -> 'kid' AS other;
SELECT count(*), count(expires_at) AS ends, bool_and(expires_at BETWEEN now() + '6 days' AND now() + '8 days') AS in_a_week FROM opdata.sealing_key;
SELECT opdata_rotate_public_key('0') IS NOT NULL AS rotated;
SELECT opdata_rotate_public_key('-1 day');
SELECT opdata_rotate_public_key('101 years');

-- whom previews may be sealed to: here the sender's key of the same appendix
SELECT opdata_trust_recipient('{"kty":"EC","crv":"P-256","x":"gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0","y":"SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps","use":"enc","kid":"any"}', 'ana');
SELECT label, kid, jwk, added_by = current_user AS by_me FROM opdata.recipient;
SELECT opdata_trust_recipient('{"kty":"EC","crv":"P-256","x":"weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ","y":"e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck"}', 'ana');
SELECT label, kid FROM opdata.recipient;
SELECT opdata_trust_recipient('{"kty":"EC","crv":"P-256","x":"weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ","y":"SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps"}', 'off');
SELECT opdata_trust_recipient('{"kty":"EC","crv":"P-256","d":"VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"}', 'private');
SELECT opdata_trust_recipient('{"kty":"RSA","n":"AAAA","e":"AQAB"}', 'rsa');
SELECT opdata_trust_recipient('[]', 'list');
SELECT opdata_trust_recipient('{"kty":"EC","crv":"P-256","use":"sig"}', 'to sign with');
SELECT opdata_trust_recipient('{}', '');
SELECT opdata_distrust_recipient('ana'), opdata_distrust_recipient('ana');

DELETE FROM opdata.sealing_key;
SELECT opdata_delete(id) FROM opdata_connections WHERE id ~ '^sealed|^any$' ORDER BY id;
DROP FUNCTION token;
DROP TABLE sealed;
