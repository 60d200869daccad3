// What every child does between fork and exec. Nothing here allocates. Each returns 0, or -1 with errno.
#pragma once

#include "spawner.h"

enum limits { LIMITS_AGENT, LIMITS_WORKLOAD, LIMITS_SHIM, LIMITS_RELAY };

void reset_signals(void);
int limit_resources(enum limits limits);
// When memory runs out it is this process that ends, not the agent, whose end is the machine's. Needs /proc.
int yield_memory(void);
int drop_groups(const struct settings *settings);
// From here on: this uid and gid, no capability in any set, none to gain, no_new_privs, killed with the spawner.
int drop_privileges(uid_t uid);
// Descriptors 0 to count - 1 become the given ones, all others are closed.
int place_fds(const int *wanted, int count);
int open_null(void);
