#include "state_key.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define KEY_SIZE 96
#define DESCRIPTION "ironclaw:state"
#define PATIENCE_MS 10000
#define PAGE 4096

// What the pipe may carry, and one byte more, so that a longer text is noticed.
struct received {
    uint8_t bytes[2 + KEY_SIZE + 1];
    size_t length;
};

bool is_pipe_to_read(int fd) {
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISFIFO(status.st_mode) && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
}

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

// Until the pipe's end. False when it does not come in time, or the agent is gone.
static bool receive_all(const struct spawner *spawner, int fd, struct received *received) {
    struct pollfd waiting[2] = {{fd, POLLIN, 0}, {spawner->agent_pidfd, POLLIN, 0}};
    for (int64_t end = now_ms() + PATIENCE_MS, left; (left = end - now_ms()) > 0;) {
        if (poll(waiting, 2, (int)left) < 0 && errno != EINTR) return false;
        if (waiting[1].revents != 0) return false;
        ssize_t n = read(fd, received->bytes + received->length, sizeof received->bytes - received->length);
        if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
        if (n == 0) return true; // the end, or more than there may be
        if (n > 0) received->length += (size_t)n;
    }
    return false;
}

static enum outcome read_key(const struct spawner *spawner, int pipe_fd, struct received *received, struct reply *reply) {
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", pipe_fd);
    // Opened anew: the flags of the descriptor that came are shared with the agent, who could make a read wait for ever.
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return fail(reply, "state-key: pipe: %s", strerror(errno));
    bool ended = receive_all(spawner, fd, received);
    close(fd);
    if (!ended) return fail(reply, "state-key: the pipe did not end within %d s", PATIENCE_MS / 1000);
    bool good = received->length == 2 + KEY_SIZE && received->bytes[0] == 0 && received->bytes[1] == KEY_SIZE;
    return good ? OUTCOME_DONE : fail(reply, "state-key: expected %d bytes and their length", KEY_SIZE);
}

static enum outcome give_to_kernel(const struct received *received, int32_t *key, struct reply *reply) {
    // Of type logon: it can be used by its name inside the kernel and read by nobody.
    *key = (int32_t)syscall(SYS_add_key, "logon", DESCRIPTION, received->bytes + 2, KEY_SIZE, KEY_SPEC_THREAD_KEYRING);
    return *key >= 0 ? OUTCOME_DONE : fail(reply, "state-kernel: key ring: %s", strerror(errno));
}

enum outcome take_state_key(const struct spawner *spawner, int pipe_fd, int32_t *key, struct reply *reply) {
    struct received *received = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (received == MAP_FAILED) return fail(reply, "state-key: memory: %s", strerror(errno));
    enum outcome outcome;
    if (mlock(received, PAGE) != 0 || madvise(received, PAGE, MADV_DONTDUMP) != 0) {
        outcome = fail(reply, "state-key: locked memory: %s", strerror(errno));
    } else {
        outcome = read_key(spawner, pipe_fd, received, reply);
    }
    if (outcome == OUTCOME_DONE) outcome = give_to_kernel(received, key, reply);
    explicit_bzero(received, PAGE);
    munmap(received, PAGE);
    return outcome;
}

void drop_state_key(int32_t key) {
    if (syscall(SYS_keyctl, KEYCTL_INVALIDATE, key) != 0) log_line(LEVEL_WARNING "state volume: key: %s", strerror(errno));
}
