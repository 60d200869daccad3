// Digests of executables, kept: hashing the largest of them takes seconds on an emulated processor.
#pragma once

#include "spawner.h"

#include <sys/stat.h>

// The digest of the open file that `status` describes, known or computed. 0, or -1 with errno.
int measure_executable(const struct spawner *spawner, int fd, const struct stat *status, uint8_t digest[DIGEST_SIZE]);

// A child with the lowest priority hashes the workloads' programs, so that their first connection need not wait for it.
// Whether it runs, ends early or never started makes no difference to any answer.
void start_measuring_ahead(struct spawner *spawner);
// To be called when `ahead_fd` is readable.
void take_measured_ahead(struct spawner *spawner);
