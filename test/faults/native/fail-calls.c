// Preloaded into a program: counts its calls on files below one directory (FAULT_ROOT), tells each on descriptor 3, and does to one of them what
// was ordered. An order is an open of "/fault/INDEX/ACT": the count begins anew, and the call with that index (from 0) gets ACT, once:
//   a number   the call is not made, and fails with this errno
//   short      a write takes half of its bytes
//   kill       the process is killed before the call
//   torn       a write takes half of its bytes, then the process is killed
//   after      the process is killed once the call was made
// A line on descriptor 3 is "call path", with the file's path as it was opened; an order's is "order INDEX/ACT". Before a rename stands "from path",
// behind a call that should have made a name and did not "refused path".
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FDS 1024
#define ORDER "/fault/"

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

enum act { NONE, FAIL, SHORT, KILL, TORN, AFTER };

static char *paths[MAX_FDS]; // of descriptors below the directory
static atomic_int calls;
static int struck = -1, problem;
static enum act act;

static void tell(const char *what, const char *which) {
    char line[600];
    int length = snprintf(line, sizeof line, "%s %s\n", what, which);
    // Not through write(), which is ours.
    if (length > 0) syscall(SYS_write, 3, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}

static bool below(const char *path) {
    static const char *root;
    if (root == NULL) root = getenv("FAULT_ROOT") ?: "/nowhere/at/all";
    return path != NULL && strncmp(path, root, strlen(root)) == 0;
}

static const char *path_of(int fd) { return fd >= 0 && fd < MAX_FDS ? paths[fd] : NULL; }

static void take_order(const char *order) {
    static const struct {
        const char *word;
        enum act act;
    } words[] = {{"short", SHORT}, {"kill", KILL}, {"torn", TORN}, {"after", AFTER}};
    char *rest;
    struck = (int)strtol(order, &rest, 10);
    const char *word = *rest == '/' ? rest + 1 : "";
    problem = atoi(word);
    act = problem > 0 ? FAIL : NONE;
    for (size_t at = 0; at < sizeof words / sizeof words[0]; at++)
        if (strcmp(word, words[at].word) == 0) act = words[at].act;
    atomic_store(&calls, 0);
    tell("order", order);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

// What is to become of this call.
static enum act meet(const char *call, const char *path) {
    if (!below(path)) return NONE;
    tell(call, path);
    enum act met = atomic_fetch_add(&calls, 1) == struck ? act : NONE;
    if (met == KILL) die();
    if (met == FAIL) errno = problem;
    return met;
}

// After the call: `result` is its own.
static ssize_t made(enum act met, ssize_t result) {
    if (met == AFTER || met == TORN) die();
    return result;
}

// The same for a call that makes a name: one that made none is told as well.
static int named(enum act met, const char *path, int result) {
    int problem_then = errno;
    if (result < 0 && below(path)) tell("refused", path);
    errno = problem_then;
    return (int)made(met, result);
}

static size_t taken(enum act met, size_t length) { return met == SHORT || met == TORN ? length / 2 : length; }

static int opened(const char *path, int fd) {
    if (fd >= 0 && fd < MAX_FDS && below(path)) paths[fd] = strdup(path);
    return fd;
}

static int open_as(const char *call, int at, const char *path, int flags, mode_t mode) {
    if (strncmp(path, ORDER, strlen(ORDER)) == 0) {
        take_order(path + strlen(ORDER));
        return errno = ENOENT, -1;
    }
    enum act met = meet(flags & O_CREAT ? "create" : call, path);
    if (met == FAIL) return -1;
    return opened(path, named(met, path, NEXT(openat)(at, path, flags, mode)));
}

#define MODE(flags)                                              \
    ({                                                           \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode_t mode_ = (flags)&O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                            \
        mode_;                                                   \
    })

int open(const char *path, int flags, ...) { return open_as("open", AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return open_as("open", AT_FDCWD, path, flags, MODE(flags)); }
int openat(int at, const char *path, int flags, ...) { return open_as("open", at, path, flags, MODE(flags)); }
int openat64(int at, const char *path, int flags, ...) { return open_as("open", at, path, flags, MODE(flags)); }

int close(int fd) {
    if (path_of(fd) != NULL) {
        free(paths[fd]);
        paths[fd] = NULL;
    }
    return NEXT(close)(fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    enum act met = meet("write", path_of(fd));
    return met == FAIL ? -1 : made(met, NEXT(write)(fd, bytes, taken(met, length)));
}

static ssize_t write_at(int fd, const void *bytes, size_t length, off64_t offset) {
    enum act met = meet("write", path_of(fd));
    return met == FAIL ? -1 : made(met, NEXT(pwrite64)(fd, bytes, taken(met, length), offset));
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return write_at(fd, bytes, length, offset); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) { return write_at(fd, bytes, length, offset); }

// Of several pieces a short write takes the half of the first.
static ssize_t write_pieces(int fd, const struct iovec *pieces, int count, off64_t offset) {
    enum act met = meet("write", path_of(fd));
    if (met == FAIL) return -1;
    struct iovec first = count > 0 ? pieces[0] : (struct iovec){0};
    first.iov_len = taken(met, first.iov_len);
    bool whole = met != SHORT && met != TORN;
    return made(met, offset < 0 ? NEXT(writev)(fd, whole ? pieces : &first, whole ? count : 1)
                                : NEXT(pwritev64)(fd, whole ? pieces : &first, whole ? count : 1, offset));
}

ssize_t writev(int fd, const struct iovec *pieces, int count) { return write_pieces(fd, pieces, count, -1); }
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) { return write_pieces(fd, pieces, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) { return write_pieces(fd, pieces, count, offset); }

ssize_t read(int fd, void *bytes, size_t length) {
    enum act met = meet("read", path_of(fd));
    return met == FAIL ? -1 : made(met, NEXT(read)(fd, bytes, length));
}

static ssize_t read_at(int fd, void *bytes, size_t length, off64_t offset) {
    enum act met = meet("read", path_of(fd));
    return met == FAIL ? -1 : made(met, NEXT(pread64)(fd, bytes, length, offset));
}

ssize_t pread(int fd, void *bytes, size_t length, off_t offset) { return read_at(fd, bytes, length, offset); }
ssize_t pread64(int fd, void *bytes, size_t length, off64_t offset) { return read_at(fd, bytes, length, offset); }

int fsync(int fd) {
    enum act met = meet("fsync", path_of(fd));
    return met == FAIL ? -1 : (int)made(met, NEXT(fsync)(fd));
}

int fdatasync(int fd) {
    enum act met = meet("fdatasync", path_of(fd));
    return met == FAIL ? -1 : (int)made(met, NEXT(fdatasync)(fd));
}

static int cut(int fd, off64_t length) {
    enum act met = meet("ftruncate", path_of(fd));
    return met == FAIL ? -1 : (int)made(met, NEXT(ftruncate64)(fd, length));
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

int rename(const char *from, const char *to) {
    if (below(to)) tell("from", from);
    enum act met = meet("rename", to);
    return met == FAIL ? -1 : (int)made(met, NEXT(rename)(from, to));
}

int link(const char *from, const char *to) {
    enum act met = meet("link", to);
    return met == FAIL ? -1 : named(met, to, NEXT(link)(from, to));
}

int unlink(const char *path) {
    enum act met = meet("unlink", path);
    return met == FAIL ? -1 : (int)made(met, NEXT(unlink)(path));
}

int mkdir(const char *path, mode_t mode) {
    enum act met = meet("mkdir", path);
    return met == FAIL ? -1 : named(met, path, NEXT(mkdir)(path, mode));
}

int statfs(const char *path, struct statfs *status) {
    enum act met = meet("statfs", path);
    return met == FAIL ? -1 : (int)made(met, NEXT(statfs)(path, status));
}

int statfs64(const char *path, struct statfs64 *status) {
    enum act met = meet("statfs", path);
    return met == FAIL ? -1 : (int)made(met, NEXT(statfs64)(path, status));
}

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t length, unsigned flags) {
    enum act met = meet("write", path_of(to));
    return met == FAIL ? -1 : made(met, NEXT(copy_file_range)(from, from_at, to, to_at, taken(met, length), flags));
}
