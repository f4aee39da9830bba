/*-------------------------------------------------------------------------
 *
 * signin.h
 *	  What a server asks for during sign-in, looked at before libpq obeys.
 *
 * Some requests would keep libpq busy where no deadline and no signal reaches
 * it: a SCRAM exchange with thousands of millions of iterations; GSSAPI, which
 * talks to other servers on its own; passwords asked for so often that the
 * answers fill the socket. They are refused, and so is everything that is not
 * exactly as the protocol has it, since libpq reads on wherever it stopped.
 *
 * src/wire/signin.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_SIGNIN_H
#define OPD_SIGNIN_H

#include "base/error.h"

typedef struct OpdSignIn
{
	bool		sasl_begun;		/* then nothing but SASL may follow */
	bool		password_asked; /* then no second request may follow */
	OpdError   *error;			/* why it was refused */
} OpdSignIn;

typedef enum OpdSignInVerdict
{
	OPD_SIGNIN_FINE,			/* let libpq have it */
	OPD_SIGNIN_INCOMPLETE,		/* a message is not whole yet */
	OPD_SIGNIN_REFUSED			/* error is set */
} OpdSignInVerdict;

/*
 * Look at bytes that libpq has not read yet, beginning with a message
 * (https://www.postgresql.org/docs/current/protocol-message-formats.html,
 * "Authentication..."). The same bytes may be looked at again while they are
 * incomplete: only what is fine is remembered. The error is in the current
 * memory context.
 */
extern OpdSignInVerdict opd_signin_look(OpdSignIn *signin, const char *bytes, size_t length);

#endif							/* OPD_SIGNIN_H */
