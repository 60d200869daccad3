// Where a shim's private root and its writable area stand while root fills them.
#pragma once

#include "spawner.h"

// "<run directory>/<id>" and "<run directory>/<id>.rw". The buffer holds MAX_PATH bytes.
void shim_root_path(const struct spawner *spawner, unsigned id, char *path);
void writable_area_path(const struct spawner *spawner, unsigned id, char *path);
