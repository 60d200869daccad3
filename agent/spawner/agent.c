// Starting the agent, and knowing whether it lives.
#include "child.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

static _Noreturn void run_agent(const struct settings *settings, int socket_fd) {
    // An empty OPENSSL_CONF: Node's OpenSSL reads no configuration file.
    static char *const environment[] = {"PATH=/usr/bin:/bin", "HOME=/", "OPENSSL_CONF=", NULL};
    int null_fd = open_null();
    int wanted[] = {null_fd, settings->output, settings->output, socket_fd};
    reset_signals();
    umask(022);
    if (null_fd >= 0 && setsid() >= 0 && place_fds(wanted, AGENT_FD + 1) == 0 && limit_resources(LIMITS_AGENT) == 0 &&
        drop_groups(settings) == 0 && drop_privileges(settings->agent_uid) == 0) {
        execve(settings->agent_argv[0], settings->agent_argv, environment);
    }
    log_line("agent: %s: %s", settings->agent_argv[0], strerror(errno));
    _exit(127);
}

int start_agent(struct spawner *spawner) {
    int ends[2], one = 1;
    struct timeval patience = {10, 0};
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return -1;
    // Credentials on every packet: a child that inherited the agent's end is told apart from the agent.
    if (setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &one, sizeof one) != 0) return -1;
    if (setsockopt(ends[0], SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) != 0) return -1;
    pid_t pid = fork();
    if (pid < 0) return -1;
    if (pid == 0) run_agent(&spawner->settings, ends[1]);
    close(ends[1]);
    spawner->agent = pid;
    spawner->agent_socket = ends[0];
    spawner->agent_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return spawner->agent_pidfd < 0 ? -1 : 0;
}

bool agent_is_gone(const struct spawner *spawner) {
    struct pollfd waiting = {spawner->agent_pidfd, POLLIN, 0};
    return poll(&waiting, 1, 0) != 0;
}
