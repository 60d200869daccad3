// SHIM_STATUS: what the kernel says about a shim. The agent may not read another user's /proc entries itself.
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const NAMESPACES[] = {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"};

// -1 when the process is gone.
static ssize_t read_status(pid_t pid, char *text, size_t capacity) {
    char path[64];
    size_t length = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    for (ssize_t n = 1; n > 0 && length < capacity; length += n > 0 ? (size_t)n : 0) n = read(fd, text + length, capacity - length);
    close(fd);
    return (ssize_t)length;
}

// "name inode" lines. `process` is a pid or "self".
static ssize_t read_namespaces(const char *process, char *text, size_t capacity) {
    size_t length = 0;
    for (size_t i = 0; i < sizeof NAMESPACES / sizeof NAMESPACES[0]; i++) {
        char path[64], target[64];
        unsigned long inode;
        snprintf(path, sizeof path, "/proc/%s/ns/%s", process, NAMESPACES[i]);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n < 0) return -1;
        target[n] = '\0';
        const char *bracket = strchr(target, '[');
        if (bracket == NULL || sscanf(bracket, "[%lu]", &inode) != 1) return errno = EPROTO, -1;
        length += (size_t)snprintf(text + length, capacity - length, "%s %lu\n", NAMESPACES[i], inode);
    }
    return (ssize_t)length;
}

// Every process inherits them, so that they stand in the shim's count too.
static bool read_own_filters(uint32_t *filters) {
    static char text[8192];
    ssize_t length = read_status(getpid(), text, sizeof text - 1);
    if (length < 0) return false;
    text[length] = '\0';
    const char *line = strstr(text, "\nSeccomp_filters:");
    return line != NULL && sscanf(line + 1, "Seccomp_filters: %u", filters) == 1;
}

// A process that is about to end has no namespaces any more and is not yet to be reaped: that is not an answer.
#define TRIES 100
#define TRY_US 10000

static bool describe_running(const struct shim *shim, uint32_t filters, struct writer *body) {
    char status[8192], of_shim[512], of_spawner[512], process[16];
    snprintf(process, sizeof process, "%d", (int)shim->pid);
    ssize_t status_length = read_status(shim->pid, status, sizeof status);
    ssize_t shim_length = read_namespaces(process, of_shim, sizeof of_shim);
    ssize_t spawner_length = read_namespaces("self", of_spawner, sizeof of_spawner);
    if (status_length < 0 || shim_length < 0 || spawner_length < 0) return false;
    write_u8(body, 1);
    write_u32(body, 0);
    write_sized16(body, status, (size_t)status_length);
    write_sized16(body, of_shim, (size_t)shim_length);
    write_sized16(body, of_spawner, (size_t)spawner_length);
    write_u32(body, filters);
    return true;
}

enum outcome shim_status(struct spawner *spawner, struct request *request, struct reply *reply) {
    unsigned id = read_u8(&request->body);
    if (!reader_ended(&request->body) || id >= MAX_SHIMS) return OUTCOME_BREACH;
    const struct shim *shim = &spawner->shims[id];
    uint32_t filters;
    if (!read_own_filters(&filters)) return fail(reply, "shim status: the kernel counts no seccomp filters");
    for (int i = 0; reap_children(spawner), shim->state == SHIM_RUNNING && i < TRIES; i++) {
        if (describe_running(shim, filters, &reply->body)) return OUTCOME_DONE;
        usleep(TRY_US);
    }
    if (shim->state == SHIM_RUNNING) return fail(reply, "shim status: %s", strerror(errno));
    bool ended = shim->state == SHIM_ENDED;
    write_u8(&reply->body, ended ? 2 : 0);
    write_u32(&reply->body, ended ? (uint32_t)shim->wait_status : 0);
    for (int i = 0; i < 3; i++) write_sized16(&reply->body, "", 0);
    write_u32(&reply->body, filters);
    return OUTCOME_DONE;
}
