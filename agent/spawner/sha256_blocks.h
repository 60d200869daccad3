// The two ways to the same compression function (FIPS 180-4, section 6.2.2), each over `count` blocks of 64 bytes.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

extern const uint32_t SHA256_K[64]; // FIPS 180-4, section 4.2.2

void sha256_blocks(uint32_t state[8], const uint8_t *blocks, size_t count);

// Whether this processor has what sha256_blocks_x86 consists of; on one that has not, calling it is an illegal instruction.
bool sha256_x86_usable(void);
void sha256_blocks_x86(uint32_t state[8], const uint8_t *blocks, size_t count);
