// SHA-256 (FIPS 180-4). Only for hashing public bytes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sha256 {
    uint32_t state[8];
    uint64_t length; // bytes so far
    bool x86; // by the processor's SHA extensions
    uint8_t block[64];
};

void sha256_begin(struct sha256 *hash);
void sha256_update(struct sha256 *hash, const void *data, size_t length);
void sha256_end(struct sha256 *hash, uint8_t digest[32]);
