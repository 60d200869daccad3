#include "initrd.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SERIAL "root"
#define POLLS 1000
#define POLL_US 10000

static bool is_root_disk(const char *disk) {
    char path[300], serial[32] = "";
    snprintf(path, sizeof path, "/sys/block/%s/serial", disk);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    ssize_t n = read(fd, serial, sizeof serial - 1);
    close(fd);
    return n > 0 && strncmp(serial, SERIAL, strlen(SERIAL)) == 0;
}

static bool look_once(char node[DISK_NAME_SIZE]) {
    DIR *directory = opendir("/sys/block");
    bool found = false;
    if (directory == NULL) return false;
    for (struct dirent *entry; !found && (entry = readdir(directory)) != NULL;) {
        if (strncmp(entry->d_name, "vd", 2) != 0 || strlen(entry->d_name) > 16 || !is_root_disk(entry->d_name)) continue;
        snprintf(node, DISK_NAME_SIZE, "/dev/%.16s", entry->d_name);
        found = access(node, F_OK) == 0;
    }
    closedir(directory);
    return found;
}

void find_root_disk(char node[DISK_NAME_SIZE]) {
    for (int i = 0; i < POLLS; i++) {
        if (look_once(node)) return;
        usleep(POLL_US);
    }
    give_up("root disk", "none with the serial " SERIAL);
}
