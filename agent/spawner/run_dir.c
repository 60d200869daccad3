#include "run_dir.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 100
#define TRY_US 10000

// The kernel drops the lock with the last process that has it: a number in a file would outlive its process, and become another one's. Between
// fork and exec a child has it too, and ends a moment after the spawner that was killed.
static int lock(int directory) {
    for (int i = 0; i < TRIES; i++, usleep(TRY_US)) {
        if (flock(directory, LOCK_EX | LOCK_NB) == 0) return 0;
        if (errno != EWOULDBLOCK && errno != EINTR) return -1;
    }
    return errno = EWOULDBLOCK, -1;
}

static int open_own(const char *path) {
    struct stat status;
    if (mkdir(path, 0700) != 0 && errno != EEXIST) return -1;
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (directory < 0 || fstat(directory, &status) != 0) return -1;
    if (status.st_uid == geteuid() && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0) return directory;
    return errno = EPERM, -1;
}

// What was mounted there ended with the mount namespace of whoever mounted it. Empty directories are left, and only those are taken away: cut off
// anywhere, the next start goes on with the rest.
static int clear_away(int directory, char *name, size_t capacity) {
    static const char *const KINDS[] = {"", ".rw", ".dev"};
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        for (size_t i = 0; i < sizeof KINDS / sizeof KINDS[0]; i++) {
            snprintf(name, capacity, "/%u%s", id, KINDS[i]);
            if (unlinkat(directory, name + 1, AT_REMOVEDIR) != 0 && errno != ENOENT) return -1;
        }
    }
    return 0;
}

int take_run_dir(const char *path) {
    char name[16] = "";
    int directory = open_own(path); // open, and so locked, to the spawner's end
    if (directory >= 0 && lock(directory) == 0 && clear_away(directory, name, sizeof name) == 0) return 0;
    const char *why = errno == EWOULDBLOCK ? "another spawner has it" : errno == EPERM ? "not this user's alone" : strerror(errno);
    char place[MAX_PATH + sizeof name];
    snprintf(place, sizeof place, "%s%s", path, name);
    log_line(LEVEL_ERROR "run directory %s: %s", place, why);
    return -1;
}
