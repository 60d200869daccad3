// sources: agent/spawner/state_header.c agent/spawner/sha256.c agent/spawner/sha256_x86.c agent/spawner/wire.c
#include "driver.h"

#include "../../../agent/spawner/sha256.h"
#include "../../../agent/spawner/state_header.h"

#include <stdlib.h>
#include <string.h>

// The checksum is put right first, and a header that is taken has one encoding.
int fuzz_one(const uint8_t *bytes, size_t length) {
    uint8_t block[STATE_BLOCK], again[STATE_BLOCK];
    struct state_header header;
    struct sha256 hash;
    if (length < STATE_BLOCK) return 1;
    memcpy(block, bytes, STATE_BLOCK);
    if (block[0] != 0) {
        sha256_begin(&hash);
        sha256_update(&hash, block, STATE_BLOCK - 32);
        sha256_end(&hash, block + STATE_BLOCK - 32);
    }
    enum header_state state = parse_state_header(block, &header);
    if (state != HEADER_GOOD) return state != HEADER_BLANK;
    encode_state_header(&header, again);
    if (memcmp(block, again, STATE_BLOCK) != 0) abort();
    return 0;
}
