/*-------------------------------------------------------------------------
 *
 * keycommand.h
 *	  Ask the key command for a master key.
 *
 * src/wire/keycommand.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_KEYCOMMAND_H
#define OPD_KEYCOMMAND_H

#include "wire/loop.h"

typedef struct OpdKeyAsk
{
	bool		done;			/* the loop may stop turning */
	char	   *problem;		/* a sentence without a period; NULL: the key is in the cache */
} OpdKeyAsk;

/*
 * Run the command for the key with this id, or for the current one (NULL), and put
 * what it prints into the cache: 32 bytes, or these as 64 hexadecimal digits or in
 * base64, with a newline or without. A key with another id than the one asked for
 * is a problem. In the current memory context, whose reset ends it.
 */
extern OpdKeyAsk *opd_keycommand_start(OpdLoop *loop, const char *command, const char *wanted_id);

#endif							/* OPD_KEYCOMMAND_H */
