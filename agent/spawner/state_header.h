// Block 0 of the state disk: "The state volume on its disk" in agent/SPAWNER.md.
#pragma once

#include <stdint.h>

#define STATE_BLOCK 4096
#define VOLUME_ID_SIZE 16

struct state_header {
    uint8_t id[VOLUME_ID_SIZE];
    uint64_t disk_bytes;
};

enum header_state { HEADER_GOOD, HEADER_BLANK, HEADER_DAMAGED };

enum header_state parse_state_header(const uint8_t block[STATE_BLOCK], struct state_header *header);
void encode_state_header(const struct state_header *header, uint8_t block[STATE_BLOCK]);
