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

// As many as 64 scopes can name, each caller 16.
#define CACHE_SIZE 1024
#define SIZE_LIMIT (256ll << 20)
// What one request hashes. Nothing else that the agent asks for waits longer than that.
#define SLICE (4u << 20)
// The agent has one for each user, and a policy no more users than scopes.
#define LOOKS 64

// These fields name a file, and its content where nobody can change it.
struct known {
    dev_t device;
    ino_t inode;
    off_t size;
    struct timespec modified;
    struct timespec changed;
    uint8_t digest[DIGEST_SIZE];
};

// A file that is being hashed. Nothing of it serves another look: what was hashed may have changed since.
struct look {
    uint32_t number;
    uint64_t used;
    struct known known;
    struct sha256 hash;
    uint64_t done;
};

static struct {
    uint64_t used; // 0: there is nothing
    struct known known;
} cache[CACHE_SIZE];
static struct look looks[LOOKS];
static uint64_t uses; // counts: whatever was used longest ago makes room

static bool same_time(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

static bool describes(const struct known *known, const struct stat *status) {
    return known->device == status->st_dev && known->inode == status->st_ino && known->size == status->st_size &&
           same_time(known->modified, status->st_mtim) && same_time(known->changed, status->st_ctim);
}

static const struct known *find(const struct stat *status) {
    for (unsigned i = 0; i < CACHE_SIZE; i++) {
        if (cache[i].used == 0 || !describes(&cache[i].known, status)) continue;
        cache[i].used = ++uses;
        return &cache[i].known;
    }
    return NULL;
}

static void keep(const struct known *known) {
    unsigned place = 0;
    for (unsigned i = 1; i < CACHE_SIZE; i++) {
        if (cache[i].used < cache[place].used) place = i;
    }
    cache[place].used = ++uses;
    cache[place].known = *known;
}

static void begin(struct look *look, const struct stat *status) {
    memset(look, 0, sizeof *look);
    look->known.device = status->st_dev;
    look->known.inode = status->st_ino;
    look->known.size = status->st_size;
    look->known.modified = status->st_mtim;
    look->known.changed = status->st_ctim;
    sha256_begin(&look->hash);
}

static struct look *begin_numbered(const struct stat *status) {
    static uint32_t last;
    struct look *look = &looks[0];
    for (unsigned i = 1; i < LOOKS; i++) {
        if (looks[i].used < look->used) look = &looks[i];
    }
    begin(look, status);
    look->number = ++last == 0 ? ++last : last;
    return look;
}

static struct look *find_look(uint32_t number, const struct stat *status) {
    for (unsigned i = 0; i < LOOKS; i++) {
        if (looks[i].number == number && describes(&looks[i].known, status)) return &looks[i];
    }
    return errno = ESTALE, NULL;
}

static enum measured go_on(const struct spawner *spawner, int fd, struct look *look) {
    struct stat after;
    if (look->known.size > SIZE_LIMIT) return errno = EFBIG, UNMEASURED;
    ssize_t n = hash_more(spawner, fd, look->done, SLICE, &look->hash);
    if (n < 0) return UNMEASURED;
    look->done += (uint64_t)n;
    if (n == SLICE && look->done < (uint64_t)look->known.size) return UNFINISHED;
    sha256_end(&look->hash, look->known.digest);
    if (fstat(fd, &after) != 0) return UNMEASURED;
    return describes(&look->known, &after) ? MEASURED : (errno = EAGAIN, UNMEASURED);
}

// Times do not tell: a write through a mapping of a file in memory leaves them as they were.
static bool is_read_only(int fd) {
    struct statvfs system;
    return fstatvfs(fd, &system) == 0 && (system.f_flag & ST_RDONLY) != 0;
}

enum measured measure_executable(const struct spawner *spawner, int fd, const struct stat *status, uint32_t *look,
                                 uint8_t digest[DIGEST_SIZE]) {
    bool fixed = is_read_only(fd);
    // Every program of the image lies in its root. What a workload made for itself has no digest that anybody allows, and
    // hashing it over and over would keep the others waiting.
    if (!fixed && !spawner->settings.service) return errno = EACCES, UNMEASURED;
    const struct known *found = fixed ? find(status) : NULL;
    if (found != NULL) {
        memcpy(digest, found->digest, DIGEST_SIZE);
        return MEASURED;
    }
    struct look *own = *look == 0 ? begin_numbered(status) : find_look(*look, status);
    if (own == NULL) return UNMEASURED;
    enum measured measured = go_on(spawner, fd, own);
    *look = own->number;
    own->used = ++uses;
    if (measured == UNFINISHED) return measured;
    if (measured == MEASURED && fixed) keep(&own->known);
    memcpy(digest, own->known.digest, DIGEST_SIZE);
    own->number = 0;
    own->used = 0;
    return measured;
}

struct ahead {
    const struct spawner *spawner;
    int to;
};

static void measure_one_ahead(const char *path, void *context) {
    const struct ahead *ahead = context;
    struct stat status;
    struct look look;
    enum measured measured = UNFINISHED;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return;
    bool wanted = fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && is_read_only(fd) && find(&status) == NULL;
    if (wanted) begin(&look, &status);
    while (wanted && measured == UNFINISHED) measured = go_on(ahead->spawner, fd, &look);
    if (measured == MEASURED) {
        keep(&look.known); // the same program for several workloads is hashed once
        if (write(ahead->to, &look.known, sizeof look.known) != (ssize_t)sizeof look.known) _exit(1);
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
