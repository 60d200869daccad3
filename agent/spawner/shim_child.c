#include "shim_child.h"
#include "child.h"
#include "shim_endpoints.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SYNC_FD 5

static _Noreturn void give_up(int sync_fd, const char *step) {
    char message[128];
    int length = snprintf(message, sizeof message, "%s: %s", step, strerror(errno));
    if (send(sync_fd, message, (size_t)length, MSG_NOSIGNAL) < 0) _exit(126);
    _exit(127);
}

// The old root goes away altogether: nothing of the machine's file systems is left to be reached by "..".
static int enter_root(const char *root) {
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return -1;
    if (chdir(root) != 0 || syscall(SYS_pivot_root, ".", ".") != 0) return -1;
    return umount2(".", MNT_DETACH) != 0 || chdir("/") != 0 ? -1 : 0;
}

// Last of the namespaces, so that the others do not belong to it: root in here would have no power over them.
static int enter_user_namespace(const struct settings *settings, int sync_fd) {
    char answer;
    if (drop_groups(settings) != 0 || unshare(CLONE_NEWUSER) != 0) return -1;
    if (send(sync_fd, "U", 1, MSG_NOSIGNAL) != 1) return -1;
    ssize_t n = recv(sync_fd, &answer, 1, 0);
    if (n == 1) return 0;
    if (n == 0) errno = EPIPE;
    return -1;
}

static int arrange_fds(const struct shim_launch *launch) {
    int null_fd = open_null();
    if (null_fd < 0) return -1;
    bool show = launch->settings->shim_stderr || launch->settings->variant == VARIANT_DEV;
    int wanted[] = {null_fd, null_fd, show ? launch->settings->output : null_fd, launch->request_fd, launch->pin_fd, launch->sync_fd};
    if (place_fds(wanted, SYNC_FD + 1) != 0) return -1;
    return fcntl(SYNC_FD, F_SETFD, FD_CLOEXEC);
}

void run_shim(const struct shim_launch *launch) {
    static char *const arguments[] = {"shim", "/profile", NULL};
    reset_signals();
    umask(077);
    if (setsid() < 0) give_up(launch->sync_fd, "setsid");
    if (yield_memory() != 0) give_up(launch->sync_fd, "oom_score_adj"); // before /proc is out of reach
    if (count_ports(launch->start) > 0 && offer_ports(launch->start, launch->sync_fd) != 0) give_up(launch->sync_fd, "endpoints");
    if (arrange_fds(launch) != 0) give_up(launch->sync_fd, "descriptors");
    if (enter_root(launch->root) != 0) give_up(SYNC_FD, "private root");
    if (sethostname("shim", 4) != 0) give_up(SYNC_FD, "host name");
    if (enter_user_namespace(launch->settings, SYNC_FD) != 0) give_up(SYNC_FD, "user namespace");
    if (limit_resources(LIMITS_SHIM) != 0) give_up(SYNC_FD, "limits");
    if (drop_privileges(launch->settings->shim_uid) != 0) give_up(SYNC_FD, "privileges");
    execve("/shim", arguments, launch->start->environment);
    give_up(SYNC_FD, "/shim");
}
