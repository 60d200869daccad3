#include "wire.h"

#include <string.h>

const uint8_t *read_bytes(struct reader *reader, size_t length) {
    if (reader->failed || length > reader->length - reader->offset) {
        reader->failed = true;
        return NULL;
    }
    const uint8_t *start = reader->bytes + reader->offset;
    reader->offset += length;
    return start;
}

static uint64_t read_number(struct reader *reader, size_t size) {
    const uint8_t *bytes = read_bytes(reader, size);
    uint64_t value = 0;
    for (size_t i = 0; bytes != NULL && i < size; i++) value = value << 8 | bytes[i];
    return value;
}

uint8_t read_u8(struct reader *reader) { return (uint8_t)read_number(reader, 1); }
uint16_t read_u16(struct reader *reader) { return (uint16_t)read_number(reader, 2); }
uint32_t read_u32(struct reader *reader) { return (uint32_t)read_number(reader, 4); }
uint64_t read_u64(struct reader *reader) { return read_number(reader, 8); }

void read_text(struct reader *reader, char *text, size_t capacity) {
    size_t length = read_u16(reader);
    const uint8_t *bytes = read_bytes(reader, length);
    text[0] = '\0';
    if (bytes == NULL) return;
    if (length >= capacity || memchr(bytes, 0, length) != NULL) {
        reader->failed = true;
        return;
    }
    memcpy(text, bytes, length);
    text[length] = '\0';
}

bool reader_ended(const struct reader *reader) { return !reader->failed && reader->offset == reader->length; }

void write_bytes(struct writer *writer, const void *bytes, size_t length) {
    if (writer->failed || length > writer->capacity - writer->length) {
        writer->failed = true;
        return;
    }
    memcpy(writer->bytes + writer->length, bytes, length);
    writer->length += length;
}

static void write_number(struct writer *writer, uint64_t value, size_t size) {
    uint8_t bytes[8];
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)(value >> (8 * (size - 1 - i)));
    write_bytes(writer, bytes, size);
}

void write_u8(struct writer *writer, uint8_t value) { write_number(writer, value, 1); }
void write_u16(struct writer *writer, uint16_t value) { write_number(writer, value, 2); }
void write_u32(struct writer *writer, uint32_t value) { write_number(writer, value, 4); }
void write_u64(struct writer *writer, uint64_t value) { write_number(writer, value, 8); }

void write_sized16(struct writer *writer, const void *bytes, size_t length) {
    if (length > UINT16_MAX) writer->failed = true;
    write_u16(writer, (uint16_t)length);
    write_bytes(writer, bytes, length);
}
