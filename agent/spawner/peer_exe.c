// PEER_EXE: which program a connected process runs, by digest, a slice of it with each request.
#include "executables.h"
#include "request.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// The kernel's "Pid:" line, -1 for a process that is gone, 0 for a descriptor that is no pidfd.
static pid_t pid_of(int pidfd) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0) return 0;
    text[n] = '\0';
    const char *line = strstr(text, "\nPid:");
    return line == NULL ? 0 : (pid_t)strtol(line + 5, NULL, 10);
}

static bool is_alive(int pidfd) {
    struct pollfd waiting = {pidfd, POLLIN, 0};
    return poll(&waiting, 1, 0) == 0;
}

static bool still_runs(const char *link, const struct stat *status) {
    struct stat now;
    return stat(link, &now) == 0 && now.st_dev == status->st_dev && now.st_ino == status->st_ino;
}

static enum outcome describe(const struct spawner *spawner, int pidfd, pid_t pid, uint32_t look, struct reply *reply) {
    char link[64], path[MAX_PATH + 1];
    uint8_t digest[DIGEST_SIZE];
    struct stat status;
    snprintf(link, sizeof link, "/proc/%d/exe", (int)pid);
    int fd = open(link, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) {
        int problem = errno;
        if (fd >= 0) close(fd);
        return fail(reply, "peer executable: %s", strerror(problem));
    }
    enum measured measured = measure_executable(spawner, fd, &status, &look, digest);
    int problem = errno;
    close(fd);
    if (measured == UNFINISHED) {
        write_u8(&reply->body, 0);
        write_u32(&reply->body, look);
        return OUTCOME_DONE;
    }
    if (measured != MEASURED) return fail(reply, "peer executable: %s", strerror(problem));
    ssize_t length = readlink(link, path, sizeof path);
    // The pid belonged to this process during all of the above only if it is alive now.
    if (length < 0 || !still_runs(link, &status) || !is_alive(pidfd)) return fail(reply, "peer: it ended or runs another program now");
    write_u8(&reply->body, 1);
    write_u32(&reply->body, (uint32_t)pid);
    write_bytes(&reply->body, digest, DIGEST_SIZE);
    write_sized16(&reply->body, path, (size_t)length);
    return OUTCOME_DONE;
}

enum outcome peer_exe(struct spawner *spawner, struct request *request, struct reply *reply) {
    uint32_t look = read_u32(&request->body);
    if (!reader_ended(&request->body) || request->fd < 0) return OUTCOME_BREACH;
    pid_t pid = pid_of(request->fd);
    if (pid == 0) return OUTCOME_BREACH;
    if (pid < 0) return fail(reply, "peer: it ended");
    return describe(spawner, request->fd, pid, look, reply);
}
