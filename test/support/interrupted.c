// Preloaded into an agent: its notifier's calls end as they do in a process that is stopped and goes on while others want the listener's
// lock. Every second order to the listener fails with EINTR and is not given, and every third wait ends with POLLERR alone.
#include <dlfcn.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/ioctl.h>

static unsigned orders, waits;

int ioctl(int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int (*next)(int, unsigned long, ...) = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    if (request == SECCOMP_IOCTL_NOTIF_RECV || request == SECCOMP_IOCTL_NOTIF_SEND) {
        if (orders++ % 2 == 0) return errno = EINTR, -1;
    }
    return next(fd, request, argument);
}

int poll(struct pollfd *entries, nfds_t count, int timeout) {
    int (*next)(struct pollfd *, nfds_t, int) = (int (*)(struct pollfd *, nfds_t, int))dlsym(RTLD_NEXT, "poll");
    if (count != 1 || timeout != -1 || entries->events != POLLIN || waits++ % 3 != 0) return next(entries, count, timeout);
    entries->revents = POLLERR;
    return 1;
}
