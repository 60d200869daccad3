// Hashing bytes, and hashing them on their way into a file.
#pragma once

#include "sha256.h"
#include "spawner.h"

// Up to `length` bytes of `from` starting at `offset`, to the end of the file when `length` is UINT64_MAX; written to
// `to` unless that is -1; hashed unless `digest` is NULL. `limit` caps what is read. 0, or -1 with errno (EFBIG over the limit, ENODATA too short,
// ECANCELED when the agent went away: the caller's answer is then of no interest).
int copy_hashing(const struct spawner *spawner, int from, uint64_t offset, uint64_t length, uint64_t limit, int to,
                 uint8_t digest[DIGEST_SIZE], uint64_t *size);

// Adds at most `length` bytes of the file from `offset` on to the hash. How many, fewer at its end only, or -1 with errno.
ssize_t hash_more(const struct spawner *spawner, int fd, uint64_t offset, size_t length, struct sha256 *hash);
