// START_SHIM: seal the private root, give it its writable directories, start one process in it.
#include "copy.h"
#include "destination.h"
#include "fds.h"
#include "relay.h"
#include "shim_child.h"
#include "shim_end.h"
#include "shim_endpoints.h"
#include "shim_nodes.h"
#include "shim_root.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define NAMESPACES (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

static enum outcome check_profile(const struct spawner *spawner, const struct start *start, const char *root, struct reply *reply) {
    char path[MAX_PATH + 16];
    uint8_t digest[DIGEST_SIZE];
    uint64_t size;
    snprintf(path, sizeof path, "%s/profile", root);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return fail(reply, "/profile: %s", strerror(errno));
    int result = copy_hashing(spawner, fd, 0, UINT64_MAX, 1 << 20, -1, digest, &size);
    close(fd);
    if (result != 0) return fail(reply, "/profile: %s", strerror(errno));
    if (memcmp(digest, start->profile, DIGEST_SIZE) != 0) return fail(reply, "/profile: not the profile that was asked for");
    return OUTCOME_DONE;
}

// The mount point must be new: a directory that holds measured files is never covered by a writable one.
static int bind_writable(const char *root, const char *area, const char *directory, uid_t owner) {
    char from[2 * MAX_PATH + 2], to[2 * MAX_PATH + 2];
    const char *name;
    int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int area_fd = open(area, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int parent = root_fd < 0 ? -1 : open_parent(root_fd, directory, (struct ownership){0, 0755}, &name);
    int made = area_fd < 0 ? -1 : make_directory(area_fd, directory, (struct ownership){owner, 0700});
    int result = parent < 0 || made < 0 ? -1 : mkdirat(parent, name, 0700);
    int problem = errno;
    const int opened[] = {root_fd, area_fd, parent, made};
    for (size_t i = 0; i < sizeof opened / sizeof opened[0]; i++) {
        if (opened[i] >= 0) close(opened[i]);
    }
    errno = problem;
    if (result != 0) return -1;
    snprintf(from, sizeof from, "%s%s", area, directory);
    snprintf(to, sizeof to, "%s%s", root, directory);
    return mount(from, to, NULL, MS_BIND, NULL); // keeps nosuid, nodev, noexec
}

static enum outcome complete_root(struct spawner *spawner, const struct start *start, const char *root, struct reply *reply) {
    char area[MAX_PATH];
    writable_area_path(spawner, start->id, area);
    for (unsigned i = 0; i < start->directory_count; i++) {
        if (bind_writable(root, area, start->directories[i], spawner->settings.shim_uid) != 0) {
            return fail(reply, "%s: %s", start->directories[i], strerror(errno));
        }
    }
    int *listeners = spawner->shims[start->id].relay.listeners;
    enum outcome outcome = place_nodes(spawner, start, root, reply);
    if (outcome == OUTCOME_DONE) outcome = listen_on_paths(spawner, start, root, listeners, reply);
    if (outcome != OUTCOME_DONE) return outcome;
    if (mount(NULL, root, NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL) != 0) {
        return fail(reply, "private root: %s", strerror(errno));
    }
    return OUTCOME_DONE;
}

static int write_proc(pid_t pid, const char *name, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, name);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n = write(fd, text, strlen(text));
    int problem = errno;
    close(fd);
    errno = problem;
    return n == (ssize_t)strlen(text) ? 0 : -1;
}

static int write_maps(pid_t pid, uid_t uid) {
    char map[64];
    snprintf(map, sizeof map, "%u %u 1", uid, uid);
    return write_proc(pid, "setgroups", "deny") != 0 || write_proc(pid, "uid_map", map) != 0 ? -1 : write_proc(pid, "gid_map", map);
}

// The child's listeners take the places of the endpoints that have none yet.
static bool take_listeners(struct relay *relay, const int *fds, int count) {
    int taken = 0;
    for (unsigned i = 0; i < relay->count; i++) {
        if (relay->listeners[i] < 0 && taken < count) relay->listeners[i] = fds[taken++];
    }
    for (int i = taken; i < count; i++) close(fds[i]);
    for (unsigned i = 0; i < relay->count; i++) {
        if (relay->listeners[i] < 0) return false;
    }
    return taken == count;
}

struct report {
    char text[128];
    ssize_t length;
};

static struct report await_child(int sync_fd, struct relay *relay) {
    struct report report = {.text = ""};
    int fds[MAX_PACKET_FDS], count;
    report.length = receive_packet(sync_fd, report.text, sizeof report.text - 1, fds, &count);
    if (count > 0 && !take_listeners(relay, fds, count)) report.length = (errno = EPROTO, -1);
    return report;
}

static bool is_step(const struct report *report, char step) { return report->length == 1 && report->text[0] == step; }

static enum outcome unexpected(const struct report *report, struct reply *reply) {
    if (report->length < 0) return fail(reply, "shim: no progress: %s", strerror(errno));
    return fail(reply, "shim: %s", report->length == 0 ? "ended before its start" : report->text);
}

// Follows the child through its network and its user namespace to its execve.
static enum outcome accompany(struct spawner *spawner, const struct start *start, pid_t pid, int sync_fd, struct reply *reply) {
    struct relay *relay = &spawner->shims[start->id].relay;
    struct timeval patience = {10, 0};
    setsockopt(sync_fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct report report;
    if (count_ports(start) > 0) {
        report = await_child(sync_fd, relay);
        if (!is_step(&report, 'N')) return unexpected(&report, reply);
    }
    if (relay->count > 0 && start_relay(spawner, start->id) != 0) return fail(reply, "relay: %s", strerror(errno));
    report = await_child(sync_fd, relay);
    if (!is_step(&report, 'U')) return unexpected(&report, reply);
    if (write_maps(pid, spawner->settings.shim_uid) != 0) return fail(reply, "shim: user namespace maps: %s", strerror(errno));
    if (send(sync_fd, "M", 1, MSG_NOSIGNAL) != 1) return fail(reply, "shim: ended before its start");
    report = await_child(sync_fd, relay);
    return report.length == 0 ? OUTCOME_DONE : unexpected(&report, reply);
}

struct ends {
    int request[2];
    int pin[2];
    int sync[2];
};

static void close_pair(int pair[2]) {
    for (int i = 0; i < 2; i++) {
        if (pair[i] >= 0) close(pair[i]);
        pair[i] = -1;
    }
}

static int open_ends(struct ends *ends) {
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends->request) != 0) return -1;
    if (pipe2(ends->pin, O_CLOEXEC) != 0) return -1;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends->sync);
}

static enum outcome launch(struct spawner *spawner, const struct start *start, const char *root, struct ends *ends, struct reply *reply) {
    struct shim *shim = &spawner->shims[start->id];
    if (open_ends(ends) != 0) return fail(reply, "shim: %s", strerror(errno));
    struct shim_launch plan = {
        .settings = &spawner->settings,
        .root = root,
        .request_fd = ends->request[1],
        .pin_fd = ends->pin[0],
        .sync_fd = ends->sync[1],
        .start = start,
    };
    pid_t pid = (pid_t)syscall(SYS_clone, NAMESPACES | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) return fail(reply, "shim: clone: %s", strerror(errno));
    if (pid == 0) run_shim(&plan);
    shim->pid = pid;
    shim->state = SHIM_RUNNING;
    close(ends->sync[1]);
    ends->sync[1] = -1;
    enum outcome outcome = accompany(spawner, start, pid, ends->sync[0], reply);
    if (outcome != OUTCOME_DONE) return outcome;
    write_u32(&reply->body, (uint32_t)pid);
    reply->fds[0] = ends->request[0];
    reply->fds[1] = ends->pin[1];
    reply->fd_count = 2;
    ends->request[0] = ends->pin[1] = -1;
    return OUTCOME_DONE;
}

static void plan_relay(struct relay *relay, const struct start *start) {
    relay->count = start->endpoint_count;
    for (unsigned i = 0; i < relay->count; i++) {
        relay->listeners[i] = -1;
        memcpy(relay->targets[i], start->to[i], sizeof relay->targets[i]);
    }
}

static enum outcome check_and_launch(struct spawner *spawner, const struct start *start, struct reply *reply) {
    char root[MAX_PATH];
    struct ends ends = {{-1, -1}, {-1, -1}, {-1, -1}};
    struct shim *shim = &spawner->shims[start->id];
    shim_root_path(spawner, start->id, root);
    enum outcome outcome = check_start(start, shim, reply);
    if (outcome == OUTCOME_DONE) outcome = check_profile(spawner, start, root, reply);
    if (outcome == OUTCOME_DONE) plan_relay(&shim->relay, start);
    if (outcome == OUTCOME_DONE) outcome = complete_root(spawner, start, root, reply);
    if (outcome == OUTCOME_DONE) outcome = launch(spawner, start, root, &ends, reply);
    close_pair(ends.request);
    close_pair(ends.pin);
    close_pair(ends.sync);
    if (outcome != OUTCOME_DONE) give_up_shim(spawner, start->id);
    return outcome;
}

enum outcome start_shim(struct spawner *spawner, struct request *request, struct reply *reply) {
    struct start *start = calloc(1, sizeof *start);
    enum outcome outcome = OUTCOME_BREACH;
    if (start != NULL && read_start(&request->body, start) && start->id < MAX_SHIMS) {
        struct shim *shim = &spawner->shims[start->id];
        if (shim->state == SHIM_PREPARED) {
            outcome = check_and_launch(spawner, start, reply);
            log_line("shim %u: %s", start->id, outcome == OUTCOME_DONE ? "started" : reply->problem);
        }
    }
    free(start);
    return outcome;
}
