// The relay's own confinement, and then what a relay that was taken over would try: one word for each attempt, with how it ended.
// Arguments: the targets.
#include "../../../agent/relay/relay.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void say(const char *format, ...) { (void)format; }

static struct target targets[MAX_ENDPOINTS];
static size_t count;
static int given[2]; // a pipe that was open before

static int try_connect(const char *text) {
    struct endpoint to;
    if (!parse_endpoint(text, &to)) return errno = EINVAL, -1;
    int fd = socket(to.address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int result = fd < 0 ? -1 : connect(fd, &to.address.any, to.length);
    return result != 0 && errno == EINPROGRESS ? 0 : result;
}

static int try_abstract(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0ironclaw-relay-escape"};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? -1 : connect(fd, (struct sockaddr *)&address, 2 + 22);
}

static int try_sendto(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return (int)sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&address, sizeof address);
}

static int attempt(const char *what) {
    static char *const arguments[] = {"true", NULL};
    if (strcmp(what, "open") == 0) return open("/etc/passwd", O_RDONLY);
    if (strcmp(what, "read") == 0) return (int)read(given[0], (char[1]){0}, 1);
    if (strcmp(what, "write") == 0) return (int)write(given[1], "x", 1);
    if (strcmp(what, "execve") == 0) return execve("/bin/true", arguments, arguments);
    if (strcmp(what, "fork") == 0) return fork() == 0 ? (_exit(0), 0) : 0;
    if (strcmp(what, "mmap") == 0) return mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
    if (strcmp(what, "kill") == 0) return kill(getppid(), 0);
    if (strcmp(what, "ioctl") == 0) return (int)syscall(SYS_ioctl, 2, 0x5401, 0);
    if (strcmp(what, "bind") == 0) return (int)syscall(SYS_bind, 0, 0, 0);
    if (strcmp(what, "sendmsg") == 0) return (int)syscall(SYS_sendmsg, 0, 0, 0);
    if (strcmp(what, "recvmsg") == 0) return (int)syscall(SYS_recvmsg, 0, 0, 0);
    if (strcmp(what, "io_uring") == 0) return (int)syscall(SYS_io_uring_setup, 1, 0);
    if (strcmp(what, "x32") == 0) return (int)syscall(0x40000000 | SYS_close, -1);
    if (strcmp(what, "datagram") == 0) return socket(AF_INET, SOCK_DGRAM, 0);
    if (strcmp(what, "netlink") == 0) return socket(AF_NETLINK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (strcmp(what, "multipath") == 0) return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 262);
    if (strcmp(what, "sendto") == 0) return try_sendto();
    if (strcmp(what, "abstract") == 0) return try_abstract();
    return try_connect(what);
}

static void report(const char *what) {
    int status = 0, outcome[2];
    char text[32] = "";
    if (pipe(given) != 0 || pipe(outcome) != 0) exit(1);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(outcome[1], STDERR_FILENO); // the one descriptor that a relay may write to
        alarm(10); // an attempt that works may wait for ever
        if (confine(targets, count) != 0) _exit(99);
        const char *name = attempt(what) < 0 ? strerrorname_np(errno) : "works";
        if (write(STDERR_FILENO, name, strlen(name)) < 0) _exit(98);
        _exit(0);
    }
    close(outcome[1]);
    waitpid(pid, &status, 0);
    if (read(outcome[0], text, sizeof text - 1) < 0) exit(1);
    printf("%s %s\n", what, WIFSIGNALED(status) ? sigabbrev_np(WTERMSIG(status)) : WEXITSTATUS(status) == 0 ? text : "unconfined");
    close(outcome[0]);
    close(given[0]);
    close(given[1]);
}

// TARGET... -- ATTEMPT...
int main(int argc, char **argv) {
    int at = 1;
    for (; at < argc && strcmp(argv[at], "--") != 0; at++, count++) {
        if (count == MAX_ENDPOINTS || !parse_endpoint(argv[at], &targets[count].endpoint)) return 2;
    }
    for (at++; at < argc; at++) {
        report(argv[at]);
        fflush(stdout);
    }
    return 0;
}
