#include "executables.h"
#include "copy.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define CACHE_SIZE 16
#define SIZE_LIMIT (256ull << 20)

// These fields name a file, and its content where nobody can change it.
struct known {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
    struct timespec changed;
    uint8_t digest[DIGEST_SIZE];
};

static struct known cache[CACHE_SIZE];
static unsigned cache_next;

static bool same_time(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

static bool describes(const struct known *known, const struct stat *status) {
    return known->device == status->st_dev && known->inode == status->st_ino && known->size == status->st_size &&
           same_time(known->modified, status->st_mtim) && same_time(known->changed, status->st_ctim);
}

static const struct known *find(const struct stat *status) {
    for (unsigned i = 0; i < CACHE_SIZE; i++) {
        if (cache[i].inode != 0 && describes(&cache[i], status)) return &cache[i];
    }
    return NULL;
}

static void keep(const struct known *known) { cache[cache_next++ % CACHE_SIZE] = *known; }

static int compute(const struct spawner *spawner, int fd, const struct stat *status, struct known *known) {
    uint64_t size;
    struct stat after;
    memset(known, 0, sizeof *known);
    known->device = status->st_dev;
    known->inode = status->st_ino;
    known->size = status->st_size;
    known->modified = status->st_mtim;
    known->changed = status->st_ctim;
    if (copy_hashing(spawner, fd, 0, UINT64_MAX, SIZE_LIMIT, -1, known->digest, &size) != 0 || fstat(fd, &after) != 0) return -1;
    return describes(known, &after) ? 0 : (errno = EAGAIN, -1);
}

// Times do not tell: a write through a mapping of a file in memory leaves them as they were.
static bool is_read_only(int fd) {
    struct statvfs system;
    return fstatvfs(fd, &system) == 0 && (system.f_flag & ST_RDONLY) != 0;
}

int measure_executable(const struct spawner *spawner, int fd, const struct stat *status, uint8_t digest[DIGEST_SIZE]) {
    bool fixed = is_read_only(fd);
    // Every program of the image lies in its root. What a workload made for itself has no digest that anybody allows, and
    // hashing it over and over would keep the others waiting.
    if (!fixed && !spawner->settings.service) return errno = EACCES, -1;
    const struct known *found = fixed ? find(status) : NULL;
    struct known computed;
    if (found == NULL) {
        if (compute(spawner, fd, status, &computed) != 0) return -1;
        if (fixed) keep(&computed);
        found = &computed;
    }
    memcpy(digest, found->digest, DIGEST_SIZE);
    return 0;
}

struct ahead {
    const struct spawner *spawner;
    int to;
};

static void measure_one_ahead(const char *path, void *context) {
    const struct ahead *ahead = context;
    struct stat status;
    struct known known;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return;
    bool wanted = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && is_read_only(fd) && find(&status) == NULL;
    if (wanted && compute(ahead->spawner, fd, &status, &known) == 0) {
        keep(&known); // the same program for several workloads is hashed once
        if (write(ahead->to, &known, sizeof known) != (ssize_t)sizeof known) _exit(1);
    }
    close(fd);
}

void start_measuring_ahead(struct spawner *spawner) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return;
    pid_t pid = fork();
    if (pid == 0) {
        struct ahead ahead = {spawner, ends[1]};
        // It must not keep the agent's socket open when the spawner is gone.
        if (close(spawner->agent_socket) != 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) _exit(1);
        setpriority(PRIO_PROCESS, 0, 19);
        each_workload_program(&spawner->settings, measure_one_ahead, &ahead);
        _exit(0);
    }
    close(ends[1]);
    if (pid > 0) spawner->ahead_fd = ends[0];
    else close(ends[0]);
}

void take_measured_ahead(struct spawner *spawner) {
    struct known known;
    ssize_t n = read(spawner->ahead_fd, &known, sizeof known);
    if (n == (ssize_t)sizeof known) {
        keep(&known);
    } else if (n >= 0 || errno != EAGAIN) {
        close(spawner->ahead_fd);
        spawner->ahead_fd = -1;
    }
}
