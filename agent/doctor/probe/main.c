// Asks the kernel what it can do, by calls that change nothing, and prints a word and a number a line. Not part of the guest
// image: there the shims have asked, and the agent knows.
#include <errno.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif
#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define LANDLOCK_VERSION 1

static long landlock_abi(void) {
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION);
    return abi < 0 ? 0 : abi;
}

static int has_user_notification(void) {
    unsigned int action = SECCOMP_RET_USER_NOTIF;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

static int has_pidfd(void) {
    int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
    if (fd >= 0) close(fd);
    return fd >= 0;
}

static int has_peer_pidfd(void) {
    int pair[2], fd = -1;
    socklen_t length = sizeof fd;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return 0;
    int found = getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &fd, &length) == 0;
    if (found) close(fd);
    close(pair[0]);
    close(pair[1]);
    return found;
}

// Without a place for its parameters nothing is made: EFAULT says that the call is there and allowed.
static int has_io_uring(void) { return syscall(SYS_io_uring_setup, 1, NULL) < 0 && errno == EFAULT; }

int main(void) {
    printf("landlock %ld\nuserNotification %d\npidfd %d\npeerPidfd %d\nioUring %d\n", landlock_abi(), has_user_notification(),
           has_pidfd(), has_peer_pidfd(), has_io_uring());
    return fflush(stdout) == 0 ? 0 : 1;
}
