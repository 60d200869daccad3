// How a shim's life ends, by itself or otherwise.
#pragma once

#include "spawner.h"

// Whether it was a shim. Its relay ends with it, and its files are gone.
bool note_shim_end(struct spawner *spawner, const struct ending *ending);
// A shim that is not to be: its id is used up. If its process is there already it is killed.
void give_up_shim(struct spawner *spawner, unsigned id);
// SIGKILL to all shims and relays, without waiting: they hold the log-in, and the agent is gone.
void kill_shims(const struct spawner *spawner);
