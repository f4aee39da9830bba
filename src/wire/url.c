/*-------------------------------------------------------------------------
 *
 * url.c
 *	  Parts of a URL, as libcurl reads them.
 *
 * src/wire/url.c
 *-------------------------------------------------------------------------
 */
#include "base/opdata.h"

#include "wire/url.h"

char *
opd_url_part(const char *url, CURLUPart part, unsigned int flags)
{
	CURLU	   *handle = curl_url();
	char	   *text = NULL;
	char	   *copy = NULL;

	if (handle != NULL && curl_url_set(handle, CURLUPART_URL, url, 0) == CURLUE_OK &&
		curl_url_get(handle, part, &text, flags) == CURLUE_OK)
		copy = pstrdup(text);
	curl_free(text);
	curl_url_cleanup(handle);
	return copy;
}
