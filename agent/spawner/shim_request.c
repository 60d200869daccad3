#include "shim_request.h"
#include "destination.h"
#include "environment.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static bool read_count(struct reader *body, uint8_t *count, unsigned most) {
    *count = read_u8(body);
    return !body->failed && *count <= most;
}

bool read_start(struct reader *body, struct start *start) {
    start->id = read_u8(body);
    const uint8_t *profile = read_bytes(body, DIGEST_SIZE);
    if (profile == NULL) return false;
    memcpy(start->profile, profile, DIGEST_SIZE);
    if (!read_count(body, &start->variable_count, MAX_ENVIRONMENT)) return false;
    for (unsigned i = 0; i < start->variable_count; i++) {
        read_text(body, start->variables[i], sizeof start->variables[i]);
        start->environment[i] = start->variables[i];
    }
    if (!read_count(body, &start->directory_count, MAX_DIRECTORIES)) return false;
    for (unsigned i = 0; i < start->directory_count; i++) read_text(body, start->directories[i], sizeof start->directories[i]);
    if (!read_count(body, &start->node_count, MAX_NODES)) return false;
    for (unsigned i = 0; i < start->node_count; i++) read_text(body, start->nodes[i], sizeof start->nodes[i]);
    if (!read_count(body, &start->endpoint_count, MAX_ENDPOINTS)) return false;
    for (unsigned i = 0; i < start->endpoint_count; i++) {
        read_text(body, start->listen[i], sizeof start->listen[i]);
        read_text(body, start->to[i], sizeof start->to[i]);
    }
    return reader_ended(body);
}

static enum outcome check_environment(const struct start *start, struct reply *reply) {
    for (unsigned i = 0; i < start->variable_count; i++) {
        const char *entry = start->variables[i];
        size_t name = strcspn(entry, "=");
        if (!environment_is_sound(entry)) return fail(reply, "environment variable %u: not allowed", i);
        for (unsigned j = 0; j < i; j++) {
            if (strncmp(start->variables[j], entry, name + 1) == 0) return fail(reply, "environment variable %u: given twice", i);
        }
    }
    return OUTCOME_DONE;
}

static bool lies_below(const char *path, const char *directory) {
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}

bool in_writable_directory(const struct start *start, const char *path) {
    for (unsigned i = 0; i < start->directory_count; i++) {
        if (lies_below(path, start->directories[i])) return true;
    }
    return false;
}

static enum outcome check_directories(const struct start *start, const struct shim *shim, struct reply *reply) {
    for (unsigned i = 0; i < start->directory_count; i++) {
        if (!destination_is_sound(start->directories[i])) return fail(reply, "directory %u: not a normalised absolute path", i);
        if (in_writable_directory(start, start->directories[i])) return fail(reply, "directory %u: inside another", i);
    }
    for (size_t i = 0; i < shim->writable_count; i++) {
        if (!in_writable_directory(start, shim->writable[i])) return fail(reply, "%s: in no writable directory", shim->writable[i]);
    }
    return OUTCOME_DONE;
}

static bool parse_hex(const char *text, unsigned *value) {
    if (strspn(text, "0123456789abcdef") < 4) return false;
    return sscanf(text, "%4x", value) == 1;
}

bool parse_usb_id(const char *node, struct usb_id *id) {
    return strlen(node) == 13 && strncmp(node, "usb:", 4) == 0 && node[8] == ':' && parse_hex(node + 4, &id->vendor) &&
           parse_hex(node + 9, &id->product);
}

static enum outcome check_nodes(const struct start *start, struct reply *reply) {
    for (unsigned i = 0; i < start->node_count; i++) {
        const char *node = start->nodes[i];
        struct usb_id id;
        bool is_path = strncmp(node, "/dev/", 5) == 0 && destination_is_sound(node);
        if (!is_path && !parse_usb_id(node, &id)) return fail(reply, "node %u: neither a path below /dev nor usb:vvvv:pppp", i);
        if (is_path && in_writable_directory(start, node)) return fail(reply, "node %u: in a writable directory", i);
    }
    return OUTCOME_DONE;
}

static bool may_listen(const struct endpoint *endpoint) {
    static const struct in6_addr loopback = IN6ADDR_LOOPBACK_INIT;
    switch (endpoint->address.any.sa_family) {
    case AF_INET: return endpoint->address.v4.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
    case AF_INET6: return memcmp(&endpoint->address.v6.sin6_addr, &loopback, sizeof loopback) == 0;
    default: return true;
    }
}

static bool may_lead_to(const struct endpoint *endpoint) {
    switch (endpoint->address.any.sa_family) {
    case AF_INET: return endpoint->address.v4.sin_addr.s_addr != htonl(INADDR_ANY); // would be this machine
    case AF_INET6: return !IN6_IS_ADDR_UNSPECIFIED(&endpoint->address.v6.sin6_addr);
    default: return true;
    }
}

static bool parse_end(const char *text, struct endpoint *endpoint) {
    return parse_endpoint(text, endpoint) && (text[0] != '/' || destination_is_sound(text));
}

static enum outcome check_endpoints(const struct start *start, struct reply *reply) {
    for (unsigned i = 0; i < start->endpoint_count; i++) {
        struct endpoint listen, to;
        if (!parse_end(start->listen[i], &listen) || !may_listen(&listen)) return fail(reply, "endpoint %u: cannot be listened on", i);
        if (!parse_end(start->to[i], &to) || !may_lead_to(&to)) return fail(reply, "endpoint %u: not a literal address or path", i);
        if (in_writable_directory(start, start->listen[i])) return fail(reply, "endpoint %u: in a writable directory", i);
    }
    return OUTCOME_DONE;
}

enum outcome check_start(const struct start *start, const struct shim *shim, struct reply *reply) {
    enum outcome outcome = check_environment(start, reply);
    if (outcome == OUTCOME_DONE) outcome = check_directories(start, shim, reply);
    if (outcome == OUTCOME_DONE) outcome = check_nodes(start, reply);
    return outcome == OUTCOME_DONE ? check_endpoints(start, reply) : outcome;
}
