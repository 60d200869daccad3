/* Where the secret may be: locked pages of a process that leaves no core and cannot be looked into. */
#ifndef IRONCLAW_UNSEALER_SECRET_H
#define IRONCLAW_UNSEALER_SECRET_H

#include <stdbool.h>
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

/* Where the secret goes: pipes or sockets, never a file, so that it does not reach a disk. */
struct sinks {
    int fds[SINKS_MAX];
    unsigned count;
};

/* Makes fds 3 to 3 + count - 1 the sinks, and closes everything above. True when that is what they can be. */
bool take_inherited(unsigned count, struct sinks *ret);

/* A pipe or a socket. */
bool is_end(int fd);

/* Writes the bytes to every sink, as fast as it is read, for ten seconds at most. 0, or -1 with errno. */
int write_sinks(const uint8_t *bytes, size_t length, const struct sinks *sinks);

#endif
