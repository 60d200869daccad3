#include "usb_sysfs.h"
#include "destination.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ATTRIBUTE_LIMIT 65536

static const char *const ATTRIBUTES[] = {
    "busnum", "devnum", "speed", "descriptors", "bConfigurationValue", "idVendor", "idProduct", "uevent",
};

static const struct ownership OWNERSHIP = {0, 0755};

static int close_keeping_errno(int fd) {
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

// The kernel gives an attribute in one read, or page by page when it is binary.
static ssize_t read_whole(const char *path, char *bytes) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    ssize_t n = -1;
    while (fd >= 0 && length < ATTRIBUTE_LIMIT && (n = read(fd, bytes + length, ATTRIBUTE_LIMIT - length)) > 0) length += (size_t)n;
    if (fd >= 0) close_keeping_errno(fd);
    if (length == ATTRIBUTE_LIMIT) return errno = EFBIG, -1;
    return n < 0 ? -1 : (ssize_t)length;
}

static int copy_attribute(int root, const char *directory, const char *destination, const char *name) {
    static char bytes[ATTRIBUTE_LIMIT];
    char path[PATH_MAX + 32];
    const char *last;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    ssize_t length = read_whole(path, bytes);
    if (length < 0) return errno == ENOENT ? 0 : -1; // a device that is not configured has no configuration
    snprintf(path, sizeof path, "%s/%s", destination, name);
    int parent = open_parent(root, path, OWNERSHIP, &last);
    int to = parent < 0 ? -1 : openat(parent, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    if (parent >= 0) close_keeping_errno(parent);
    if (to < 0) return -1;
    if (write(to, bytes, (size_t)length) != length) return close_keeping_errno(to);
    return close(to);
}

static int link_to(int root, const char *path, const char *target) {
    const char *last;
    int parent = open_parent(root, path, OWNERSHIP, &last);
    if (parent < 0) return -1;
    int result = symlinkat(target, parent, last);
    close_keeping_errno(parent);
    return result;
}

// "../" for each component above the last one.
static void climb(const char *path, char *way, size_t capacity) {
    size_t used = 0;
    way[0] = '\0';
    for (const char *c = path + 1; (c = strchr(c, '/')) != NULL && used + 4 < capacity; c++) {
        memcpy(way + used, "../", 4);
        used += 3;
    }
}

static int copy_all(int root, const char *directory, const char *destination) {
    char link[MAX_PATH + 64], target[2 * MAX_PATH], way[64];
    const char *name = strrchr(destination, '/') + 1;
    for (size_t i = 0; i < sizeof ATTRIBUTES / sizeof ATTRIBUTES[0]; i++) {
        if (copy_attribute(root, directory, destination, ATTRIBUTES[i]) != 0) return -1;
    }
    snprintf(link, sizeof link, "%s/subsystem", destination);
    climb(link, way, sizeof way);
    snprintf(target, sizeof target, "%ssys/bus/usb", way);
    if (link_to(root, link, target) != 0) return -1;
    snprintf(link, sizeof link, "/sys/bus/usb/devices/%s", name);
    snprintf(target, sizeof target, "../../../..%s", destination);
    return link_to(root, link, target);
}

int copy_usb_attributes(const struct settings *settings, const struct start *start, const char *root, const char *directory) {
    char sysfs[PATH_MAX], real[PATH_MAX], destination[MAX_PATH];
    if (realpath(settings->sysfs, sysfs) == NULL || realpath(directory, real) == NULL) return -1;
    size_t above = strlen(sysfs);
    if (strncmp(real, sysfs, above) != 0 || strncmp(real + above, "/devices/", 9) != 0) return errno = ENODEV, -1;
    int length = snprintf(destination, sizeof destination, "/sys%s", real + above);
    if (length < 0 || (size_t)length >= sizeof destination - 32 || !destination_is_sound(destination)) return errno = ENAMETOOLONG, -1;
    if (in_writable_directory(start, destination)) return errno = EEXIST, -1;
    int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (root_fd < 0) return -1;
    int result = copy_all(root_fd, real, destination);
    close_keeping_errno(root_fd);
    return result;
}
