/*-------------------------------------------------------------------------
 *
 * relay.h
 *	  What a peer sends, handed to libpq in portions.
 *
 * libpq reads for as long as the kernel has something, and so does OpenSSL
 * below it. A peer that sends faster than we read could fill our memory with
 * one message, or keep one call busy for ever, and neither a deadline nor a
 * signal would end it. So libpq does not get the network's socket. It gets one
 * end of a socket pair, under the same descriptor; we move the bytes between
 * the two, a portion at a time, and only when libpq has taken the one before.
 *
 * That also tells how much arrived, which caps what a peer can make us hold.
 *
 * src/wire/relay.h
 *-------------------------------------------------------------------------
 */
#ifndef OPD_RELAY_H
#define OPD_RELAY_H

#include "wire/loop.h"

typedef struct OpdRelay OpdRelay;

/* A portion was handed over: the descriptor is readable. Runs from the loop. */
typedef void (*OpdRelayCallback) (void *arg);

/*
 * Take over the connected socket "fd": it becomes our end of a socket pair. No
 * watch may be set on it. Nothing moves before the first opd_relay_turn().
 * Returns NULL, with everything as it was, when descriptors run out. In the
 * current memory context.
 */
extern OpdRelay *opd_relay_new(OpdLoop *loop, int fd, OpdRelayCallback arrived, void *arg);

/*
 * To be called after libpq may have read or written: sends what it wrote, and
 * takes the next portion once the last was read. With "more" the next portion
 * is taken although the last was not read: it holds a part of a message only.
 */
extern void opd_relay_turn(OpdRelay *relay, bool more);

/* Did the peer close, so that nothing follows what libpq can read? */
extern bool opd_relay_ended(const OpdRelay *relay);

/* Bytes that came from the peer so far. */
extern uint64 opd_relay_received(const OpdRelay *relay);

/*
 * Send what can be sent at once, and close the network's socket. To be called
 * after libpq has closed its descriptor.
 */
extern void opd_relay_close(OpdRelay *relay);

#endif							/* OPD_RELAY_H */
