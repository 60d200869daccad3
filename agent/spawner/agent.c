// Starting the agent, and knowing whether it lives.
#include "child.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

// What tells the agent of the sockets behind AGENT_FD. Its process id is known in the child only.
static void name_sockets(const struct listen_sockets *listen, char *environment[3]) {
    static char pid[32], count[32], names[sizeof listen->names + 16];
    if (listen->count == 0) return;
    snprintf(pid, sizeof pid, "LISTEN_PID=%d", (int)getpid());
    snprintf(count, sizeof count, "LISTEN_FDS=%d", listen->count);
    snprintf(names, sizeof names, "LISTEN_FDNAMES=%s", listen->names);
    environment[0] = pid;
    environment[1] = count;
    environment[2] = names;
}

// Elsewhere than in the image the TPM belongs to a group, which others may be in: Debian's `tss`. The agent has that one group more.
static int join_tpm_group(const struct settings *settings) {
    struct stat node;
    if (!settings->service || settings->single_uid || stat(settings->tpm, &node) != 0) return 0;
    if (!S_ISCHR(node.st_mode) || node.st_gid == 0 || (node.st_mode & S_IRGRP) == 0) return 0;
    return setgroups(1, &node.st_gid);
}

static _Noreturn void run_agent(const struct settings *settings, int socket_fd) {
    // An empty OPENSSL_CONF: Node's OpenSSL reads no configuration file.
    char *environment[] = {"PATH=/usr/bin:/bin", "HOME=/", "OPENSSL_CONF=", NULL, NULL, NULL, NULL};
    const struct listen_sockets *listen = &settings->listen;
    int null_fd = open_null();
    int wanted[AGENT_FD + 1 + MAX_LISTEN] = {null_fd, settings->output, settings->output, socket_fd};
    memcpy(wanted + AGENT_FD + 1, listen->fds, sizeof(int) * (size_t)listen->count);
    name_sockets(listen, environment + 3);
    reset_signals();
    umask(022);
    if (null_fd >= 0 && setsid() >= 0 && place_fds(wanted, AGENT_FD + 1 + listen->count) == 0 &&
        limit_resources(LIMITS_AGENT) == 0 && drop_groups(settings) == 0 && join_tpm_group(settings) == 0 &&
        drop_privileges(settings->agent_uid) == 0) {
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
    for (int i = 0; i < spawner->settings.listen.count; i++) close(spawner->settings.listen.fds[i]); // the agent's own now
    spawner->agent = pid;
    spawner->agent_socket = ends[0];
    spawner->agent_pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return spawner->agent_pidfd < 0 ? -1 : 0;
}

#define LAST_WORDS_MS 5000

void let_agent_end(const struct spawner *spawner) {
    struct pollfd waiting = {spawner->agent_pidfd, POLLIN, 0};
    if (kill(spawner->agent, SIGTERM) != 0 || poll(&waiting, 1, LAST_WORDS_MS) != 1) log_line("the agent did not end by itself");
}

bool agent_is_gone(const struct spawner *spawner) {
    struct pollfd waiting = {spawner->agent_pidfd, POLLIN, 0};
    return poll(&waiting, 1, 0) != 0;
}
