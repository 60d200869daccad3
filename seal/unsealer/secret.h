/* Where the PIN may be: one locked page of a process that leaves no core and cannot be looked into. */
#ifndef IRONCLAW_UNSEALER_SECRET_H
#define IRONCLAW_UNSEALER_SECRET_H

#include <stddef.h>
#include <stdint.h>

/* Forbids core dumps and ptrace, closes what was inherited beyond the sinks, locks memory where allowed. 0 or -1 with errno. */
int harden_process(void);

/* A locked page, not in core dumps, empty in a child. NULL with errno. */
uint8_t *open_secret_page(void);
void close_secret_page(uint8_t *page);

/* Closes everything above fds 3 to 3 + count - 1. True when those are pipes or sockets. */
int check_sinks(unsigned count);

/* Writes the length byte and the PIN of the sealed data (u8 length | PIN | zeros) to every sink. 0, or -1 with errno. */
int write_sinks(const uint8_t *data, size_t size, unsigned count);

#endif
