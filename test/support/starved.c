// Preloaded into an agent: the add-on's first piece of memory is not to be had, and the kernel does not watch its first socket, as when
// memory, or the user's share of epoll entries (epoll(7), max_user_watches), is used up.
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>

void *__libc_calloc(size_t count, size_t size);

static bool starved, unwatched;

static bool is_addon(const void *caller) {
    Dl_info info;
    return dladdr(caller, &info) != 0 && info.dli_fname != NULL && strstr(info.dli_fname, "agent_native.node") != NULL;
}

void *calloc(size_t count, size_t size) {
    if (!starved && is_addon(__builtin_return_address(0))) {
        starved = true;
        errno = ENOMEM;
        return NULL;
    }
    return __libc_calloc(count, size);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    int (*next)(int, int, int, struct epoll_event *) = (int (*)(int, int, int, struct epoll_event *))dlsym(RTLD_NEXT, "epoll_ctl");
    if (!unwatched && operation == EPOLL_CTL_ADD && is_addon(__builtin_return_address(0))) {
        unwatched = true;
        return errno = ENOSPC, -1;
    }
    return next(epoll, operation, fd, event);
}
