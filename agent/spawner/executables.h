// Digests of executables, kept: hashing the largest of them takes seconds on an emulated processor.
#pragma once

#include "spawner.h"

#include <sys/stat.h>

enum measured { MEASURED, UNFINISHED, UNMEASURED };

// The digest of the open file that `status` describes, known or computed. A request computes a slice of it only: where that is not
// all, `*look` is what the next one goes on with; it is 0 for the first. UNMEASURED: errno says why.
enum measured measure_executable(const struct spawner *spawner, int fd, const struct stat *status, uint32_t *look,
                                 uint8_t digest[DIGEST_SIZE]);

// A child with the lowest priority hashes the workloads' programs, so that their first connection need not wait for it.
// Whether it runs, ends early or never started makes no difference to any answer.
void start_measuring_ahead(struct spawner *spawner);
// To be called when `ahead_fd` is readable.
void take_measured_ahead(struct spawner *spawner);
