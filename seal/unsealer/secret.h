/* Where the secret may be: locked pages of a process that leaves no core and cannot be looked into. */
#ifndef IRONCLAW_UNSEALER_SECRET_H
#define IRONCLAW_UNSEALER_SECRET_H

#include <stddef.h>
#include <stdint.h>

#include "request.h"

struct secret {
    uint8_t key[32]; /* what the TPM sealed */
    uint8_t padded[PADDED_MAX];
};

/* Forbids core dumps and ptrace, locks memory where allowed. 0 or -1 with errno. */
int harden_process(void);

/* Locked pages, not in core dumps, empty in a child. NULL with errno. */
struct secret *open_secret(void);
void close_secret(struct secret *secret);

#define FIRST_SINK 3

/* Closes everything above fds 3 to 3 + count - 1. True when those are pipes or sockets. */
int check_ends(unsigned count);

/* Writes the bytes to every sink, as fast as it is read, for ten seconds at most. 0, or -1 with errno. */
int write_sinks(const uint8_t *bytes, size_t length, unsigned count);

#endif
