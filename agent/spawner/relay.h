// The relays: one process for each shim with endpoints, kept running while the shim runs.
#pragma once

#include "spawner.h"

// Takes the listeners over, and returns when the relay has said that it is confined. 0, or -1 with a message in the log and errno.
int start_relay(struct spawner *spawner, unsigned id);
// For good: SIGKILL, no other one, and the listeners are closed.
void stop_relay(struct relay *relay);
// Whether it was a relay. One that still has a shim is started again later.
bool note_relay_end(struct spawner *spawner, const struct ending *ending);
// Milliseconds until a relay is to be started, -1 for none; and starts those whose time has come.
int relay_patience(const struct spawner *spawner);
void start_due_relays(struct spawner *spawner);
