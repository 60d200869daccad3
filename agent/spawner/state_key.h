// The state volume's key on its way from a pipe into the kernel.
#pragma once

#include "request.h"

// The kernel's own name of the key, for dm-crypt's table: its size, its type and its description.
#define STATE_KEY_NAME ":96:logon:ironclaw:state"

bool is_pipe_to_read(int fd);
// Reads the key and gives it to the kernel. Afterwards it is nowhere in this process. Fails with a message for status 1.
enum outcome take_state_key(const struct spawner *spawner, int pipe_fd, int32_t *key, struct reply *reply);
// The kernel forgets it, whatever has not copied it yet.
void drop_state_key(int32_t key);
