// One request while it is served, and its handlers. A handler reads the whole body first: `reader_ended` decides between
// a breach and everything else.
#pragma once

#include "spawner.h"
#include "wire.h"

struct request {
    struct reader body;
    int fd; // the descriptor that came with it, or -1
};

struct reply {
    struct writer body;
    int fds[2];
    int fd_count;
    char problem[256];
};

// Sets the message of status 1.
enum outcome fail(struct reply *reply, const char *format, ...) __attribute__((format(printf, 2, 3)));

enum outcome prepare_shim(struct spawner *spawner, struct request *request, struct reply *reply); // shim_root.c
enum outcome start_shim(struct spawner *spawner, struct request *request, struct reply *reply);   // shim_start.c
enum outcome shim_status(struct spawner *spawner, struct request *request, struct reply *reply);  // shim_status.c
enum outcome stop_shim(struct spawner *spawner, struct request *request, struct reply *reply);    // shim_end.c
enum outcome peer_exe(struct spawner *spawner, struct request *request, struct reply *reply);     // peer_exe.c
enum outcome open_state(struct spawner *spawner, struct request *request, struct reply *reply);   // state_volume.c
