/* An unsealer that was started before its request, and waits for the word to ask: see ../FORMATS.md, section 8, `--wait`. */
#ifndef IRONCLAW_UNSEALER_STANDBY_H
#define IRONCLAW_UNSEALER_STANDBY_H

#include "secret.h"

/* The request's packet. 0 with its length, or -1 when it has more than max bytes. */
int receive_input(uint8_t *buffer, size_t max, size_t *ret);

/* Waits for the request, unless it has come: what went wrong before is the answer to it. */
void hear_request(void);

/*
 * Says that all is done but TPM2_Unseal, and waits for the word with as many sinks. The end of the socket is no word: it may be that of
 * a launch that was refused, or of a process that died.
 */
bool receive_word(unsigned sinks, struct sinks *ret);

#endif
