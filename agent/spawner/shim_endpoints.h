// The listening ends of a shim's endpoints: paths in its private root, ports on its own loopback.
#pragma once

#include "shim_request.h"

// Makes the sockets among the endpoints in the private root, which is not sealed yet. listeners[i] of every other one becomes -1.
enum outcome listen_on_paths(const struct spawner *spawner, const struct start *start, const char *root, int *listeners,
                             struct reply *reply);
// How many endpoints need the shim's loopback.
int count_ports(const struct start *start);
// In the shim's process, with its network namespace and still with its privileges: loopback up, listeners made and sent.
int offer_ports(const struct start *start, int sync_fd);
