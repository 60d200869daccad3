// An empty file system on the open, unwritten volume.
#pragma once

#include "spawner.h"

#define STATE_VOLUME_BYTES (64ull << 20)

// Writes every sector: zeros, and the template's blocks (vm-images/README.md). Returns when they are on the disk. 0, or -1 with errno.
int write_state_template(const struct spawner *spawner, int volume_fd);
