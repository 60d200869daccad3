// What START_SHIM asks for, read and checked as far as it can be without touching the machine.
#pragma once

#include "endpoint.h"
#include "request.h"

#define MAX_ENVIRONMENT 32
#define MAX_DIRECTORIES 8
#define MAX_NODES 8
#define MAX_VARIABLE 1024

struct start {
    uint8_t id;
    uint8_t profile[DIGEST_SIZE];
    uint8_t variable_count;
    uint8_t directory_count;
    uint8_t node_count;
    uint8_t endpoint_count;
    char variables[MAX_ENVIRONMENT][MAX_VARIABLE + 1];
    char directories[MAX_DIRECTORIES][MAX_PATH + 1];
    char nodes[MAX_NODES][MAX_PATH + 1];
    char listen[MAX_ENDPOINTS][MAX_ENDPOINT + 1];
    char to[MAX_ENDPOINTS][MAX_ENDPOINT + 1];
    char *environment[MAX_ENVIRONMENT + 1];
};

// False for a breach.
bool read_start(struct reader *body, struct start *start);
// Environment, directories, node names and endpoints.
enum outcome check_start(const struct start *start, const struct shim *shim, struct reply *reply);
// `path` lies in one of the directories that the shim may write to: nothing of ours may stand there.
bool in_writable_directory(const struct start *start, const char *path);

struct usb_id {
    unsigned vendor;
    unsigned product;
};

// "usb:vvvv:pppp"
bool parse_usb_id(const char *node, struct usb_id *id);
