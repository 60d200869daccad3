#include "initrd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DIRECTORY "/modules"

static int is_module(const struct dirent *entry) {
    size_t length = strlen(entry->d_name);
    return length > 3 && strcmp(entry->d_name + length - 3, ".ko") == 0;
}

// By name: the build numbers them so that each comes after what it needs.
static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

// ENODEV: code for another processor. The kernel has a slower one built in.
static bool load(int fd) { return syscall(SYS_finit_module, fd, "", 0) == 0 || errno == EEXIST || errno == ENODEV; }

void load_modules(void) {
    struct dirent **entries;
    int count = scandir(DIRECTORY, &entries, is_module, by_name);
    if (count < 0) give_up("modules", strerror(errno));
    for (int i = 0; i < count; i++) {
        char path[300];
        snprintf(path, sizeof path, DIRECTORY "/%s", entries[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || !load(fd)) give_up(path, strerror(errno));
        close(fd);
        free(entries[i]);
    }
    free(entries);
}
