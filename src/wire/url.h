/*-------------------------------------------------------------------------
 *
 * url.h
 *	  Parts of a URL, as libcurl reads them.
 *
 * src/wire/url.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_URL_H
#define OPD_URL_H

#include <curl/curl.h>

/*
 * One part, in the current memory context; NULL when the URL has none or is no
 * URL. "flags" are those of curl_url_get(). Raises only 53200.
 */
extern char *opd_url_part(const char *url, CURLUPart part, unsigned int flags);

#endif							/* OPD_URL_H */
