// sources: agent/spawner/wire.c agent/spawner/destination.c agent/spawner/environment.c agent/spawner/endpoint.c
// START_SHIM as far as it is read and checked: what would mount and start a process is not here.
#include "driver.h"

#include "../../../agent/spawner/shim_request.c"

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
    return check_start(&start, &shim, &reply) != OUTCOME_DONE;
}
