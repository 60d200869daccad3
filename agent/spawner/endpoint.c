#include "endpoint.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

static bool parse_port(const char *text, in_port_t *port) {
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || digits > 5 || text[digits] != '\0' || text[0] == '0') return false;
    unsigned long value = strtoul(text, NULL, 10);
    *port = htons((in_port_t)value);
    return value <= 65535;
}

// What a policy and a report show must be what is connected to: an address has one spelling.
static bool is_canonical(int family, const void *address, const char *text) {
    char again[INET6_ADDRSTRLEN];
    return inet_ntop(family, address, again, sizeof again) != NULL && strcmp(again, text) == 0;
}

static bool parse_v4(const char *host, const char *port, struct endpoint *endpoint) {
    struct sockaddr_in *address = &endpoint->address.v4;
    address->sin_family = AF_INET;
    endpoint->length = sizeof *address;
    return inet_pton(AF_INET, host, &address->sin_addr) == 1 && is_canonical(AF_INET, &address->sin_addr, host) &&
           parse_port(port, &address->sin_port);
}

static bool parse_v6(const char *host, const char *port, struct endpoint *endpoint) {
    struct sockaddr_in6 *address = &endpoint->address.v6;
    address->sin6_family = AF_INET6;
    endpoint->length = sizeof *address;
    // An IPv4 address inside an IPv6 one would be a second spelling.
    return inet_pton(AF_INET6, host, &address->sin6_addr) == 1 && !IN6_IS_ADDR_V4MAPPED(&address->sin6_addr) &&
           is_canonical(AF_INET6, &address->sin6_addr, host) && parse_port(port, &address->sin6_port);
}

static bool parse_path(const char *text, struct endpoint *endpoint) {
    struct sockaddr_un *address = &endpoint->address.path;
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, text, strlen(text) + 1);
    endpoint->length = sizeof *address;
    return true;
}

bool parse_endpoint(const char *text, struct endpoint *endpoint) {
    char copy[MAX_ENDPOINT + 1];
    size_t length = strlen(text);
    memset(endpoint, 0, sizeof *endpoint);
    if (length > MAX_ENDPOINT) return false;
    memcpy(copy, text, length + 1);
    if (copy[0] == '/') return parse_path(copy, endpoint);
    char *colon = strrchr(copy, ':');
    if (colon == NULL) return false;
    *colon = '\0';
    if (copy[0] != '[') return parse_v4(copy, colon + 1, endpoint);
    if (colon[-1] != ']') return false;
    colon[-1] = '\0';
    return parse_v6(copy + 1, colon + 1, endpoint);
}

in_port_t endpoint_port(const struct endpoint *endpoint) {
    switch (endpoint->address.any.sa_family) {
    case AF_INET: return ntohs(endpoint->address.v4.sin_port);
    case AF_INET6: return ntohs(endpoint->address.v6.sin6_port);
    default: return 0;
    }
}
