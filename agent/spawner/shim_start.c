// START_SHIM: seal the private root, give it its writable directories, start one process in it.
#include "child.h"
#include "copy.h"
#include "destination.h"
#include "environment.h"
#include "request.h"
#include "shim_child.h"
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

#define MAX_ENVIRONMENT 32
#define MAX_DIRECTORIES 8
#define MAX_VARIABLE 1024
#define NAMESPACES (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP)

struct start {
    uint8_t id;
    uint8_t profile[DIGEST_SIZE];
    uint8_t variable_count;
    uint8_t directory_count;
    char variables[MAX_ENVIRONMENT][MAX_VARIABLE + 1];
    char directories[MAX_DIRECTORIES][MAX_PATH + 1];
    char *environment[MAX_ENVIRONMENT + 1];
};

static bool read_start(struct reader *body, struct start *start) {
    start->id = read_u8(body);
    const uint8_t *profile = read_bytes(body, DIGEST_SIZE);
    start->variable_count = read_u8(body);
    if (profile == NULL || start->variable_count > MAX_ENVIRONMENT) return false;
    memcpy(start->profile, profile, DIGEST_SIZE);
    for (unsigned i = 0; i < start->variable_count; i++) {
        read_text(body, start->variables[i], sizeof start->variables[i]);
        start->environment[i] = start->variables[i];
    }
    start->directory_count = read_u8(body);
    if (start->directory_count > MAX_DIRECTORIES) return false;
    for (unsigned i = 0; i < start->directory_count; i++) read_text(body, start->directories[i], sizeof start->directories[i]);
    return reader_ended(body);
}

static enum outcome check_environment(const struct start *start, struct reply *reply) {
    for (unsigned i = 0; i < start->variable_count; i++) {
        const char *entry = start->variables[i];
        size_t name = strcspn(entry, "=");
        if (!environment_is_sound(entry)) return fail(reply, "environment variable %u: not allowed", i);
        for (unsigned j = 0; j < i; j++) {
            if (strncmp(start->variables[j], entry, name + 1) == 0) return fail(reply, "environment variable %u: given twice", i);
        }
    }
    return OUTCOME_DONE;
}

static bool lies_below(const char *path, const char *directory) {
    size_t length = strlen(directory);
    return strncmp(path, directory, length) == 0 && path[length] == '/';
}

static enum outcome check_directories(const struct start *start, const struct shim *shim, struct reply *reply) {
    for (unsigned i = 0; i < start->directory_count; i++) {
        if (!destination_is_sound(start->directories[i])) return fail(reply, "directory %u: not a normalised absolute path", i);
        for (unsigned j = 0; j < start->directory_count; j++) {
            if (j != i && lies_below(start->directories[i], start->directories[j])) return fail(reply, "directory %u: inside another", i);
        }
    }
    for (size_t i = 0; i < shim->writable_count; i++) {
        bool found = false;
        for (unsigned j = 0; j < start->directory_count; j++) found = found || lies_below(shim->writable[i], start->directories[j]);
        if (!found) return fail(reply, "%s: in no writable directory", shim->writable[i]);
    }
    return OUTCOME_DONE;
}

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

static enum outcome seal_root(const struct spawner *spawner, const struct start *start, const char *root, struct reply *reply) {
    char area[MAX_PATH];
    writable_area_path(spawner, start->id, area);
    for (unsigned i = 0; i < start->directory_count; i++) {
        if (bind_writable(root, area, start->directories[i], spawner->settings.shim_uid) != 0) {
            return fail(reply, "%s: %s", start->directories[i], strerror(errno));
        }
    }
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

// Follows the child through its user namespace to its execve.
static enum outcome accompany(const struct spawner *spawner, pid_t pid, int sync_fd, struct reply *reply) {
    char message[128] = "";
    struct timeval patience = {10, 0};
    setsockopt(sync_fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    ssize_t n = recv(sync_fd, message, sizeof message - 1, 0);
    if (n == 1 && message[0] == 'U') {
        if (write_maps(pid, spawner->settings.shim_uid) != 0) return fail(reply, "shim: user namespace maps: %s", strerror(errno));
        if (send(sync_fd, "M", 1, MSG_NOSIGNAL) != 1) return fail(reply, "shim: ended before its start");
        n = recv(sync_fd, message, sizeof message - 1, 0);
        if (n == 0) return OUTCOME_DONE;
    }
    if (n < 0) return fail(reply, "shim: no progress: %s", strerror(errno));
    message[n] = '\0';
    return fail(reply, "shim: %s", n == 0 ? "ended before its start" : message);
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
        .environment = start->environment,
    };
    pid_t pid = (pid_t)syscall(SYS_clone, NAMESPACES | SIGCHLD, 0, 0, 0, 0);
    if (pid < 0) return fail(reply, "shim: clone: %s", strerror(errno));
    if (pid == 0) run_shim(&plan);
    shim->pid = pid;
    shim->state = SHIM_RUNNING;
    close(ends->sync[1]);
    ends->sync[1] = -1;
    enum outcome outcome = accompany(spawner, pid, ends->sync[0], reply);
    if (outcome != OUTCOME_DONE) {
        kill(pid, SIGKILL);
        return outcome;
    }
    write_u32(&reply->body, (uint32_t)pid);
    reply->fds[0] = ends->request[0];
    reply->fds[1] = ends->pin[1];
    reply->fd_count = 2;
    ends->request[0] = ends->pin[1] = -1;
    return OUTCOME_DONE;
}

static enum outcome check_and_launch(struct spawner *spawner, const struct start *start, struct reply *reply) {
    char root[MAX_PATH];
    struct ends ends = {{-1, -1}, {-1, -1}, {-1, -1}};
    shim_root_path(spawner, start->id, root);
    enum outcome outcome = check_environment(start, reply);
    if (outcome == OUTCOME_DONE) outcome = check_directories(start, &spawner->shims[start->id], reply);
    if (outcome == OUTCOME_DONE) outcome = check_profile(spawner, start, root, reply);
    if (outcome == OUTCOME_DONE) outcome = seal_root(spawner, start, root, reply);
    if (outcome == OUTCOME_DONE) outcome = launch(spawner, start, root, &ends, reply);
    close_pair(ends.request);
    close_pair(ends.pin);
    close_pair(ends.sync);
    return outcome;
}

enum outcome start_shim(struct spawner *spawner, struct request *request, struct reply *reply) {
    struct start *start = calloc(1, sizeof *start);
    enum outcome outcome = OUTCOME_BREACH;
    if (start != NULL && read_start(&request->body, start) && start->id < MAX_SHIMS) {
        struct shim *shim = &spawner->shims[start->id];
        if (shim->state == SHIM_PREPARED && !shim->start_used) {
            shim->start_used = true;
            outcome = check_and_launch(spawner, start, reply);
            log_line("shim %u: %s", start->id, outcome == OUTCOME_DONE ? "started" : reply->problem);
        }
    }
    free(start);
    return outcome;
}
