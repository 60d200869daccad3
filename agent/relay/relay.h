// The relay: what a shim connects to on its own loopback, and what leads from there to the endpoints that the policy names.
// agent/SPAWNER.md, Endpoints.
#pragma once

#include "../spawner/endpoint.h"
#include "../spawner/log_format.h"

#include <stddef.h>
#include <stdint.h>

#define FIRST_LISTENER 3
#define MAX_CONNECTIONS 64
#define BUFFER_SIZE 16384
#define CONNECT_PATIENCE_MS 30000
#define HALF_CLOSED_PATIENCE_MS 600000

struct target {
    const char *name;
    struct endpoint endpoint;
    int last_problem; // said once, until it changes
};

// One line to the spawner's log.
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

// confine.c: from here on no file, no process, and sockets of the targets' families only. 0, or -1 with errno.
int confine(const struct target *targets, size_t count);

// forward.c: listener FIRST_LISTENER + i leads to target i. Never comes back.
_Noreturn void forward(struct target *targets, size_t count);
