#include "shim_endpoints.h"
#include "destination.h"
#include "fds.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 16 // of who waits for one of the relay's connections

static bool is_path(const char *listen) { return listen[0] == '/'; }

static int listen_on(const struct endpoint *endpoint) {
    int fd = socket(endpoint->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (bind(fd, &endpoint->address.any, endpoint->length) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

// By way of the parent's descriptor: no link is followed, and a path may be as long as an address although the root's comes before it.
static int listen_in(int parent, const char *name, uid_t owner) {
    struct endpoint endpoint = {.address.path.sun_family = AF_UNIX, .length = sizeof endpoint.address.path};
    char *path = endpoint.address.path.sun_path;
    int length = snprintf(path, sizeof endpoint.address.path.sun_path, "/proc/self/fd/%d/%s", parent, name);
    if (length < 0 || (size_t)length >= sizeof endpoint.address.path.sun_path) return errno = ENAMETOOLONG, -1;
    int fd = listen_on(&endpoint);
    if (fd < 0) return -1;
    if (fchownat(parent, name, owner, owner, AT_SYMLINK_NOFOLLOW) == 0 && fchmodat(parent, name, 0600, 0) == 0) return fd;
    int problem = errno;
    close(fd);
    errno = problem;
    return -1;
}

static int listen_on_path(const char *root, const char *destination, uid_t owner) {
    const char *name;
    int root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int parent = root_fd < 0 ? -1 : open_parent(root_fd, destination, (struct ownership){0, 0755}, &name);
    int fd = parent < 0 ? -1 : listen_in(parent, name, owner);
    int problem = errno;
    if (root_fd >= 0) close(root_fd);
    if (parent >= 0) close(parent);
    errno = problem;
    return fd;
}

enum outcome listen_on_paths(const struct spawner *spawner, const struct start *start, const char *root, int *listeners,
                             struct reply *reply) {
    for (unsigned i = 0; i < start->endpoint_count; i++) {
        if (!is_path(start->listen[i])) continue;
        listeners[i] = listen_on_path(root, start->listen[i], spawner->settings.shim_uid);
        if (listeners[i] < 0) return fail(reply, "%s: %s", start->listen[i], strerror(errno));
    }
    return OUTCOME_DONE;
}

int count_ports(const struct start *start) {
    int count = 0;
    for (unsigned i = 0; i < start->endpoint_count; i++) count += !is_path(start->listen[i]);
    return count;
}

static int raise_loopback(void) {
    struct ifreq request = {.ifr_name = "lo"};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    int result = ioctl(fd, SIOCGIFFLAGS, &request);
    request.ifr_flags |= IFF_UP;
    if (result == 0) result = ioctl(fd, SIOCSIFFLAGS, &request);
    int problem = errno;
    close(fd);
    errno = problem;
    return result;
}

int offer_ports(const struct start *start, int sync_fd) {
    int fds[MAX_ENDPOINTS], count = 0;
    if (raise_loopback() != 0) return -1;
    for (unsigned i = 0; i < start->endpoint_count; i++) {
        struct endpoint endpoint;
        if (is_path(start->listen[i])) continue;
        if (!parse_endpoint(start->listen[i], &endpoint) || (fds[count++] = listen_on(&endpoint)) < 0) return -1;
    }
    return send_packet(sync_fd, "N", 1, fds, count); // the child's own copies end with its descriptors' arrangement
}
