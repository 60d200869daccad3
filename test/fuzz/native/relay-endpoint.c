// sources:
// One end of a relayed connection. What is accepted has no other spelling: it is written again as it was read.
#include "driver.h"

#include "../../../agent/spawner/endpoint.c"

#include <stdio.h>

static void write_again(const struct endpoint *endpoint, char *text, size_t capacity) {
    char host[INET6_ADDRSTRLEN];
    unsigned port = endpoint_port(endpoint);
    switch (endpoint->address.any.sa_family) {
    case AF_INET:
        inet_ntop(AF_INET, &endpoint->address.v4.sin_addr, host, sizeof host);
        snprintf(text, capacity, "%s:%u", host, port);
        return;
    case AF_INET6:
        inet_ntop(AF_INET6, &endpoint->address.v6.sin6_addr, host, sizeof host);
        snprintf(text, capacity, "[%s]:%u", host, port);
        return;
    default: snprintf(text, capacity, "%s", endpoint->address.path.sun_path);
    }
}

int fuzz_one(const uint8_t *bytes, size_t length) {
    char text[256], again[256];
    struct endpoint endpoint;
    if (length >= sizeof text || memchr(bytes, 0, length) != NULL) return 1;
    memcpy(text, bytes, length);
    text[length] = '\0';
    if (!parse_endpoint(text, &endpoint)) return 1;
    write_again(&endpoint, again, sizeof again);
    if (strcmp(text, again) != 0) abort();
    return 0;
}
