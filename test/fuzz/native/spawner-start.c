// sources: agent/spawner/wire.c agent/spawner/destination.c agent/spawner/environment.c
// flags: -Wl,--unresolved-symbols=ignore-all
// START_SHIM as far as it is read and checked: what would mount and start a process is never called.
#include "driver.h"

#include "../../../agent/spawner/shim_start.c"

enum outcome fail(struct reply *reply, const char *format, ...) {
    (void)reply;
    (void)format;
    return OUTCOME_FAILED;
}

int fuzz_one(const uint8_t *bytes, size_t length) {
    static struct start start;
    static struct shim shim;
    static struct reply reply;
    struct reader body = {.bytes = bytes, .length = length};
    memset(&start, 0, sizeof start);
    shim.writable_count = 1;
    shim.writable[0] = "/var/x";
    if (!read_start(&body, &start)) return 1;
    if (check_environment(&start, &reply) != OUTCOME_DONE) return 1;
    return check_directories(&start, &shim, &reply) != OUTCOME_DONE;
}
