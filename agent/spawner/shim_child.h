// The shim's own process, from the clone to its execve.
#pragma once

#include "shim_request.h"

struct shim_launch {
    const struct settings *settings;
    const char *root;
    int request_fd;
    int pin_fd;
    // SOCK_SEQPACKET. With endpoints on ports the child writes "N" and their listeners. It writes "U" when its user namespace wants its maps and waits for one packet; it writes a
    // message when something fails, and the socket closes by itself when the execve succeeds.
    int sync_fd;
    const struct start *start;
};

_Noreturn void run_shim(const struct shim_launch *launch);
