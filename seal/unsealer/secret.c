#include "secret.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_SINK 3
#define SECRET_PAGE 4096

int harden_process(void)
{
    const struct rlimit no_core = { 0, 0 };
    struct rlimit locked;

    if (setrlimit(RLIMIT_CORE, &no_core) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0)
        return -1;
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || getrlimit(RLIMIT_MEMLOCK, &locked) != 0)
        return -1;
    /* Under a limit MCL_FUTURE would make a later allocation fail; then only the secret's page is locked. */
    if (locked.rlim_cur == RLIM_INFINITY)
        return mlockall(MCL_CURRENT | MCL_FUTURE);
    return 0;
}

uint8_t *open_secret_page(void)
{
    void *page = mmap(NULL, SECRET_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return NULL;
    if (mlock(page, SECRET_PAGE) == 0 && madvise(page, SECRET_PAGE, MADV_DONTDUMP) == 0 &&
        madvise(page, SECRET_PAGE, MADV_WIPEONFORK) == 0)
        return page;
    int saved = errno;
    (void)munmap(page, SECRET_PAGE);
    errno = saved;
    return NULL;
}

void close_secret_page(uint8_t *page)
{
    explicit_bzero(page, SECRET_PAGE);
    (void)munmap(page, SECRET_PAGE);
}

int check_sinks(unsigned count)
{
    struct stat status;

    for (unsigned i = 0; i < count; i++) {
        if (fstat((int)(FIRST_SINK + i), &status) != 0)
            return 0;
        /* Never a file: the PIN must not reach a disk. */
        if (!S_ISFIFO(status.st_mode) && !S_ISSOCK(status.st_mode))
            return 0;
    }
    return close_range(FIRST_SINK + count, ~0U, 0) == 0;
}

static int write_all(int fd, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return -1;
        bytes += written;
        length -= (size_t)written;
    }
    return 0;
}

int write_sinks(const uint8_t *data, size_t size, unsigned count)
{
    if (size < 2 || data[0] == 0 || data[0] >= size) {
        errno = EBADMSG;
        return -1;
    }
    for (unsigned i = 0; i < count; i++) {
        if (write_all((int)(FIRST_SINK + i), data, 1 + (size_t)data[0]) != 0)
            return -1;
    }
    return 0;
}
