#include "state_header.h"
#include "sha256.h"
#include "wire.h"

#include <string.h>

static const char MAGIC[8] = "IRONSTAT";
#define VERSION 1
#define CHECKSUM_AT (STATE_BLOCK - 32)

void encode_state_header(const struct state_header *header, uint8_t block[STATE_BLOCK]) {
    struct writer writer = {.bytes = block, .capacity = CHECKSUM_AT};
    struct sha256 hash;
    memset(block, 0, STATE_BLOCK);
    write_bytes(&writer, MAGIC, sizeof MAGIC);
    write_u32(&writer, VERSION);
    write_bytes(&writer, header->id, VOLUME_ID_SIZE);
    write_u64(&writer, header->disk_bytes);
    sha256_begin(&hash);
    sha256_update(&hash, block, CHECKSUM_AT);
    sha256_end(&hash, block + CHECKSUM_AT);
}

enum header_state parse_state_header(const uint8_t block[STATE_BLOCK], struct state_header *header) {
    static const uint8_t blank[STATE_BLOCK];
    uint8_t again[STATE_BLOCK];
    if (memcmp(block, blank, STATE_BLOCK) == 0) return HEADER_BLANK;
    struct reader reader = {.bytes = block, .length = STATE_BLOCK};
    read_bytes(&reader, sizeof MAGIC + 4);
    memcpy(header->id, read_bytes(&reader, VOLUME_ID_SIZE), VOLUME_ID_SIZE);
    header->disk_bytes = read_u64(&reader);
    // Magic, version, padding and checksum at once: there is one encoding of a header.
    encode_state_header(header, again);
    return memcmp(block, again, STATE_BLOCK) == 0 ? HEADER_GOOD : HEADER_DAMAGED;
}
