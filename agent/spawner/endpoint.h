// One end of a relayed connection, as text and as the kernel wants it. The relay is built with this file too.
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MAX_ENDPOINTS 8
#define MAX_ENDPOINT 107 // characters: a Unix address holds so many and a NUL

struct endpoint {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un path;
    } address;
    socklen_t length;
};

// "192.0.2.7:1500", "[2001:db8::1]:1500" or "/path", each in one spelling only. No names.
bool parse_endpoint(const char *text, struct endpoint *endpoint);
// The port in host order; 0 for a path.
in_port_t endpoint_port(const struct endpoint *endpoint);
