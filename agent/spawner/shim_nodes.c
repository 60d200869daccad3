#include "shim_nodes.h"
#include "destination.h"
#include "shim_root.h"
#include "usb_sysfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define MAJOR_USB 189
#define NODE_OPTIONS "mode=0700,size=64k,nr_inodes=128"
#define PATIENCE_S 10

struct placing {
    const struct spawner *spawner;
    const struct start *start;
    const char *root;
    char area[MAX_PATH];
    unsigned count; // of the nodes made so far
    const char *why; // NULL when errno says it
};

static int close_keeping_errno(int fd) {
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

static int open_device(const struct settings *settings, const char *path, struct stat *status) {
    struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    int devices = open(settings->devices, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (devices < 0) return -1;
    int fd = (int)syscall(SYS_openat2, devices, path, &how, sizeof how);
    close_keeping_errno(devices);
    if (fd < 0 || fstat(fd, status) != 0) return fd < 0 ? -1 : close_keeping_errno(fd);
    if (S_ISCHR(status->st_mode)) return fd;
    errno = ENODEV;
    return close_keeping_errno(fd);
}

// The shim's own node of the same number: the machine's keeps its owner. A user namespace's root may make none, so that with
// a single uid it is the machine's.
static int make_source(struct placing *placing, int machine, dev_t device, char *path, size_t capacity) {
    const struct settings *settings = &placing->spawner->settings;
    unsigned number = placing->count++;
    if (settings->single_uid) return snprintf(path, capacity, "/proc/self/fd/%d", machine) < 0 ? -1 : 0;
    snprintf(path, capacity, "%s/%u", placing->area, number);
    if (mknod(path, S_IFCHR | 0600, device) != 0) return -1;
    return chown(path, settings->shim_uid, settings->shim_uid);
}

static int make_mount_point(const char *root, const char *destination) {
    const char *name;
    int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int parent = root_fd < 0 ? -1 : open_parent(root_fd, destination, (struct ownership){0, 0755}, &name);
    if (root_fd >= 0) close_keeping_errno(root_fd);
    if (parent < 0) return -1;
    int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0);
    close_keeping_errno(parent);
    return fd < 0 ? -1 : close(fd);
}

// Read-only: a device is written to all the same, but its node's owner and mode cannot be changed.
static int place(struct placing *placing, int machine, dev_t device, const char *destination) {
    char source[MAX_PATH + 16], target[2 * MAX_PATH + 2];
    if (make_mount_point(placing->root, destination) != 0) return -1;
    if (make_source(placing, machine, device, source, sizeof source) != 0) return -1;
    snprintf(target, sizeof target, "%s%s", placing->root, destination);
    if (mount(source, target, NULL, MS_BIND, NULL) != 0) return -1;
    return mount(NULL, target, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL);
}

static int place_named(struct placing *placing, const char *node) {
    struct stat status;
    int machine = open_device(&placing->spawner->settings, node + strlen("/dev/"), &status);
    if (machine < 0) return -1;
    int result = -1;
    if (device_is_acceptable(&placing->spawner->settings, status.st_rdev)) result = place(placing, machine, status.st_rdev, node);
    else placing->why = "not a device that a shim may have";
    close_keeping_errno(machine);
    return result;
}

static int place_usb(const struct usb_device *device, void *context) {
    struct placing *placing = context;
    const struct settings *settings = &placing->spawner->settings;
    char node[32];
    struct stat status;
    snprintf(node, sizeof node, "/dev/bus/usb/%03u/%03u", device->bus, device->number);
    if (in_writable_directory(placing->start, node)) return errno = EEXIST, -1;
    int machine = open_device(settings, node + strlen("/dev/"), &status);
    if (machine < 0) return -1;
    // drivers/usb/core: a device's node has this number, so the file is the device that sysfs described.
    bool same = status.st_rdev == makedev(MAJOR_USB, (device->bus - 1) * 128 + device->number - 1);
    int result = same ? place(placing, machine, status.st_rdev, node) : (errno = ENODEV, -1);
    close_keeping_errno(machine);
    return result != 0 ? -1 : copy_usb_attributes(settings, placing->start, placing->root, device->directory);
}

// Not nodev, unlike everything else of a shim's: here, where only root can write, and nowhere else.
static int open_area(struct placing *placing) {
    if (placing->spawner->settings.single_uid) return 0;
    node_area_path(placing->spawner, placing->start->id, placing->area);
    if (mkdir(placing->area, 0700) != 0) return -1;
    return mount("tmpfs", placing->area, "tmpfs", MS_NOSUID | MS_NOEXEC, NODE_OPTIONS);
}

static int place_one(struct placing *placing, const char *node) {
    struct usb_id id;
    if (!parse_usb_id(node, &id)) return place_named(placing, node);
    int found = each_usb_device(&placing->spawner->settings, id, place_usb, placing);
    if (found == 0) placing->why = "no such device";
    return found > 0 ? 0 : -1;
}

static enum outcome place_all(const struct spawner *spawner, const struct start *start, const char *root, struct reply *reply) {
    struct placing placing = {.spawner = spawner, .start = start, .root = root};
    if (open_area(&placing) != 0) return fail(reply, "device nodes: %s", strerror(errno));
    for (unsigned i = 0; i < start->node_count; i++) {
        if (place_one(&placing, start->nodes[i]) == 0) continue;
        return fail(reply, "%s: %s", start->nodes[i], placing.why == NULL ? strerror(errno) : placing.why);
    }
    return OUTCOME_DONE;
}

struct verdict {
    enum outcome outcome;
    char problem[256];
};

// What it opens or makes in the file system stays; of the spawner's descriptors it keeps none but this.
static _Noreturn void run_placing(const struct spawner *spawner, const struct start *start, const char *root, int to) {
    struct reply reply = {.problem = ""};
    struct verdict verdict = {.problem = ""};
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    if (dup2(to, STDERR_FILENO + 1) < 0 || syscall(SYS_close_range, STDERR_FILENO + 2, ~0u, 0u) != 0) _exit(1);
    verdict.outcome = place_all(spawner, start, root, &reply);
    memcpy(verdict.problem, reply.problem, sizeof verdict.problem);
    _exit(write(STDERR_FILENO + 1, &verdict, sizeof verdict) == (ssize_t)sizeof verdict ? 0 : 1);
}

static enum outcome await_placing(const struct spawner *spawner, int from, struct reply *reply) {
    struct verdict verdict;
    // An agent that ends meanwhile must not wait for its cap.
    struct pollfd waiting[] = {{from, POLLIN, 0}, {spawner->agent_pidfd, POLLIN, 0}};
    int ready = poll(waiting, 2, PATIENCE_S * 1000);
    if (ready == 0) return fail(reply, "device nodes: no answer within %d s", PATIENCE_S);
    if (ready < 0 || waiting[1].revents != 0) return fail(reply, "device nodes: given up");
    if (read(from, &verdict, sizeof verdict) != (ssize_t)sizeof verdict) return fail(reply, "device nodes: cannot be made");
    return verdict.outcome == OUTCOME_DONE ? OUTCOME_DONE : fail(reply, "%.255s", verdict.problem);
}

enum outcome place_nodes(const struct spawner *spawner, const struct start *start, const char *root, struct reply *reply) {
    int ends[2];
    if (start->node_count == 0) return OUTCOME_DONE;
    if (pipe2(ends, O_CLOEXEC) != 0) return fail(reply, "device nodes: %s", strerror(errno));
    // In a child: whoever authorises a USB device, or reads some of its attributes, waits for the device, in the kernel and deaf to signals.
    pid_t pid = fork();
    if (pid == 0) run_placing(spawner, start, root, ends[1]);
    close(ends[1]);
    enum outcome outcome = pid < 0 ? fail(reply, "device nodes: %s", strerror(errno)) : await_placing(spawner, ends[0], reply);
    close(ends[0]);
    if (pid > 0) kill(pid, SIGKILL); // ends, and is reaped, whenever the device lets go of it
    return outcome;
}
