// Where a shim's private root and its writable area stand while root fills them.
#pragma once

#include "spawner.h"

// "<run directory>/<id>", "<run directory>/<id>.rw" and "<run directory>/<id>.dev". The buffer holds MAX_PATH bytes.
void shim_root_path(const struct spawner *spawner, unsigned id, char *path);
void writable_area_path(const struct spawner *spawner, unsigned id, char *path);
void node_area_path(const struct spawner *spawner, unsigned id, char *path);
// Nothing of them is left, and their memory is free.
void unmount_shim_root(const struct spawner *spawner, unsigned id);
