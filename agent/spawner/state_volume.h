// OPEN_STATE's two halves: state_volume.c makes block devices of the disk, state_mount.c mounts what is on them.
#pragma once

#include "request.h"
#include "state_header.h"

#include <sys/stat.h>

// One request on its way.
struct opening {
    const struct spawner *spawner;
    struct reply *reply;
    int disk;
    struct stat disk_status;
    struct state_header header;
    bool format; // the disk was blank
};

enum outcome damaged(const struct opening *opening, const char *step); // with errno's text
// Writes from the disk's start on and syncs. 0, or -1 with errno.
int write_blocks(int disk, const void *blocks, size_t length);
// Mounts the volume at this node, and on one just formatted writes what is still missing: the id inside, then the header.
enum outcome mount_volume(const struct opening *opening, const char *node);
