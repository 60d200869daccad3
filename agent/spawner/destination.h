// Paths inside a shim's private root.
#pragma once

#include <stdbool.h>
#include <sys/types.h>

// Absolute, printable ASCII, at most 1024 bytes and 16 components, none empty, "." or "..".
bool destination_is_sound(const char *path);

// What new directories get.
struct ownership {
    uid_t owner; // and group
    mode_t mode;
};

// Makes the directories above `path` below `root` and returns an O_PATH descriptor of the last one; `*name` is the final
// component. No symbolic link is followed. -1 with errno.
int open_parent(int root, const char *path, struct ownership ownership, const char **name);

// The directory `path` itself, made in the same way.
int make_directory(int root, const char *path, struct ownership ownership);
