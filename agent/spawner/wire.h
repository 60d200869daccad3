// Bounds-checked reading and writing of one protocol message, big-endian. The first error sticks: read everything, then
// ask `reader_ended` once.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reader {
    const uint8_t *bytes;
    size_t length;
    size_t offset;
    bool failed;
};

struct writer {
    uint8_t *bytes;
    size_t capacity;
    size_t length;
    bool failed;
};

const uint8_t *read_bytes(struct reader *reader, size_t length); // NULL when there are not so many
uint8_t read_u8(struct reader *reader);
uint16_t read_u16(struct reader *reader);
uint32_t read_u32(struct reader *reader);
uint64_t read_u64(struct reader *reader);
// A sized16 byte string as a NUL-terminated copy. One with a NUL inside, or that does not fit, fails.
void read_text(struct reader *reader, char *text, size_t capacity);
// Everything was there and nothing is left over.
bool reader_ended(const struct reader *reader);

void write_bytes(struct writer *writer, const void *bytes, size_t length);
void write_u8(struct writer *writer, uint8_t value);
void write_u16(struct writer *writer, uint16_t value);
void write_u32(struct writer *writer, uint32_t value);
void write_u64(struct writer *writer, uint64_t value);
void write_sized16(struct writer *writer, const void *bytes, size_t length);
