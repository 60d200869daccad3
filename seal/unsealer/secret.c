#include "secret.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"

#define DELIVERY_MS 10000
#define FIRST_SINK 3

int harden_process(void)
{
    const struct rlimit no_core = { 0, 0 };
    struct rlimit locked;

    if (setrlimit(RLIMIT_CORE, &no_core) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0)
        return -1;
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
        return -1;
    /* Under a limit MCL_FUTURE would make a later allocation fail; then only the secret's pages are locked. */
    if (locked.rlim_cur == RLIM_INFINITY)
        return mlockall(MCL_CURRENT | MCL_FUTURE);
    return 0;
}

struct secret *open_secret(void)
{
    const size_t size = sizeof(struct secret);
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (pages == MAP_FAILED)
        return NULL;
    if (mlock(pages, size) == 0 && madvise(pages, size, MADV_DONTDUMP) == 0 && madvise(pages, size, MADV_WIPEONFORK) == 0)
        return pages;
    int saved = errno;
    (void)munmap(pages, size);
    errno = saved;
    return NULL;
}

void close_secret(struct secret *secret)
{
    explicit_bzero(secret, sizeof *secret);
    (void)munmap(secret, sizeof *secret);
}

bool is_end(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode));
}

bool take_inherited(unsigned count, struct sinks *ret)
{
    ret->count = count;
    for (unsigned i = 0; i < count; i++) {
        ret->fds[i] = (int)(FIRST_SINK + i);
        if (!is_end(ret->fds[i]))
            return false;
    }
    return close_range(FIRST_SINK + count, ~0U, 0) == 0;
}

/* Until the sink takes bytes. Of those that poll calls writable, pipes and sockets alike take PIPE_BUF bytes without blocking. */
static int wait_writable(int fd, long deadline)
{
    struct pollfd sink = { .fd = fd, .events = POLLOUT };

    for (;;) {
        long left = deadline - milliseconds();
        int ready = poll(&sink, 1, left > 0 ? (int)left : 0);
        if (ready > 0)
            return 0;
        if (ready == 0)
            errno = ETIMEDOUT;
        if (errno != EINTR)
            return -1;
    }
}

static int write_all(int fd, const uint8_t *bytes, size_t length, long deadline)
{
    while (length > 0) {
        if (wait_writable(fd, deadline) != 0)
            return -1;
        ssize_t written = write(fd, bytes, length < PIPE_BUF ? length : PIPE_BUF);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        bytes += written;
        length -= (size_t)written;
    }
    return 0;
}

int write_sinks(const uint8_t *bytes, size_t length, const struct sinks *sinks)
{
    const long deadline = milliseconds() + DELIVERY_MS;

    for (unsigned i = 0; i < sinks->count; i++) {
        if (write_all(sinks->fds[i], bytes, length, deadline) != 0)
            return -1;
    }
    return 0;
}
