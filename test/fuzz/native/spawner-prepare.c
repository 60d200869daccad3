// sources: agent/spawner/wire.c agent/spawner/destination.c
// PREPARE_SHIM as far as it is read: what would mount and copy is never called, and what it calls is not there.
#include "driver.h"

#include "../../../agent/spawner/shim_root.c"

enum outcome fail(struct reply *reply, const char *format, ...) {
    (void)reply;
    (void)format;
    return OUTCOME_FAILED;
}

int copy_hashing(const struct spawner *spawner, int from, uint64_t offset, uint64_t length, uint64_t limit, int to,
                 uint8_t digest[DIGEST_SIZE], uint64_t *size) {
    (void)spawner, (void)from, (void)offset, (void)length, (void)limit, (void)to, (void)digest, (void)size;
    abort();
}

int fuzz_one(const uint8_t *bytes, size_t length) {
    struct reader body = {.bytes = bytes, .length = length};
    unsigned id = read_u8(&body);
    uint16_t count;
    struct placed_file *entries = read_entries(&body, &count);
    if (entries == NULL || id >= MAX_SHIMS) {
        free(entries);
        return 1;
    }
    int unsound = 0;
    for (uint16_t i = 0; i < count; i++) unsound |= !destination_is_sound(entries[i].destination);
    free(entries);
    return unsound;
}
