// The measured list of workloads, and the dev variant's shell.
#include "child.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_ARGUMENTS 32
#define LIST_LIMIT 16384
#define SHELL_PORT "/dev/virtio-ports/ironclaw.shell"

struct line {
    const char *name;
    uid_t uid;
    const char *port;
    char *arguments[MAX_ARGUMENTS + 1];
};

static char *read_list(const char *path) {
    char *text = calloc(1, LIST_LIMIT + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = 0;
    size_t length = 0;
    if (text != NULL && fd >= 0) {
        while (length < LIST_LIMIT && (n = read(fd, text + length, LIST_LIMIT - length)) > 0) length += (size_t)n;
    }
    if (fd >= 0) close(fd);
    if (text != NULL && fd >= 0 && n == 0 && length < LIST_LIMIT) return text;
    free(text);
    return NULL;
}

static bool parse_uid(const char *text, uid_t *uid) {
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    *uid = (uid_t)value;
    return errno == 0 && *text >= '0' && *text <= '9' && *end == '\0' && value >= WORKLOAD_UID_MIN && value < 60000;
}

// Splits in place.
static bool parse_line(char *text, struct line *line) {
    char *words[MAX_ARGUMENTS + 3];
    size_t count = 0;
    for (char *word = strsep(&text, " "); word != NULL; word = strsep(&text, " ")) {
        if (*word == '\0' || count == MAX_ARGUMENTS + 3) return false;
        words[count++] = word;
    }
    if (count < 4 || !parse_uid(words[1], &line->uid) || words[3][0] != '/') return false;
    line->name = words[0];
    line->port = strcmp(words[2], "-") == 0 ? NULL : words[2];
    if (strlen(line->name) >= sizeof((struct workload *)0)->name) return false;
    if (line->port != NULL && (strchr(line->port, '/') != NULL || strlen(line->port) > 64)) return false;
    memcpy(line->arguments, words + 3, (count - 3) * sizeof words[0]);
    line->arguments[count - 3] = NULL;
    return true;
}

static int parse_list(char *text, struct line *lines) {
    int count = 0, number = 0;
    for (char *line = strsep(&text, "\n"); line != NULL; line = strsep(&text, "\n")) {
        number++;
        if (*line == '\0' || *line == '#') continue;
        if (count == MAX_WORKLOADS || !parse_line(line, &lines[count++])) return -number;
    }
    return count;
}

static _Noreturn void run_workload(const struct settings *settings, const struct line *line, int output) {
    char port[128];
    char *environment[] = {"PATH=/usr/bin:/bin", "HOME=/", NULL, NULL};
    int null_fd = open_null();
    int wanted[] = {null_fd, output, output};
    if (line->port != NULL) {
        snprintf(port, sizeof port, "IRONCLAW_PORT=/dev/virtio-ports/%s", line->port);
        environment[2] = port;
    }
    reset_signals();
    umask(077);
    if (null_fd >= 0 && setsid() >= 0 && place_fds(wanted, 3) == 0 && limit_resources(LIMITS_WORKLOAD) == 0 &&
        yield_memory() == 0 && drop_groups(settings) == 0 && drop_privileges(settings->single_uid ? 0 : line->uid) == 0) {
        execve(line->arguments[0], line->arguments, environment);
    }
    log_line(LEVEL_ERROR "workload %s: %s: %s", line->name, line->arguments[0], strerror(errno));
    _exit(127);
}

// A workload gets a pipe and not the console: with a terminal in its hands it could stop everybody else's output.
static int start_one(struct spawner *spawner, const struct line *line) {
    int output[2];
    if (pipe2(output, O_CLOEXEC) != 0) return -1;
    pid_t pid = fcntl(output[0], F_SETFL, O_NONBLOCK) != 0 ? -1 : fork();
    if (pid == 0) run_workload(&spawner->settings, line, output[1]);
    int problem = errno;
    close(output[1]);
    if (pid < 0) {
        close(output[0]);
        errno = problem;
        return -1;
    }
    struct workload *workload = &spawner->workloads[spawner->workload_count++];
    snprintf(workload->name, sizeof workload->name, "%s", line->name);
    workload->pid = pid;
    workload->output.fd = output[0];
    log_line("workload %s: started as uid %u, pid %d", line->name, spawner->settings.single_uid ? 0 : line->uid, (int)pid);
    return 0;
}

int start_workloads(struct spawner *spawner, char *problem, size_t capacity) {
    struct line lines[MAX_WORKLOADS];
    char *text = read_list(spawner->settings.workloads);
    int count = text == NULL ? 0 : parse_list(text, lines);
    int started = 0;
    if (text == NULL) snprintf(problem, capacity, "%s: cannot be read", spawner->settings.workloads);
    if (count < 0) snprintf(problem, capacity, "%s: line %d", spawner->settings.workloads, -count);
    for (int i = 0; i < count && start_one(spawner, &lines[i]) == 0; i++) started++;
    if (count > 0 && started < count) snprintf(problem, capacity, "workload %s: %s", lines[started].name, strerror(errno));
    free(text);
    return text == NULL || count < 0 || started < count ? -1 : started;
}

void each_workload_program(const struct settings *settings, void (*visit)(const char *path, void *context), void *context) {
    struct line lines[MAX_WORKLOADS];
    char *text = read_list(settings->workloads);
    int count = text == NULL ? 0 : parse_list(text, lines);
    for (int i = 0; i < count; i++) visit(lines[i].arguments[0], context);
    free(text);
}

void start_shell(struct spawner *spawner) {
    static char *const arguments[] = {"sh", "-i", NULL};
    static char *const environment[] = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/", "PS1=# ", NULL};
    if (spawner->settings.variant != VARIANT_DEV || access("/bin/sh", X_OK) != 0 || access(SHELL_PORT, F_OK) != 0) return;
    pid_t pid = fork();
    if (pid != 0) {
        spawner->shell = pid < 0 ? 0 : pid;
        return;
    }
    reset_signals();
    int port = open(SHELL_PORT, O_RDWR | O_CLOEXEC | O_NOCTTY);
    int wanted[] = {port, port, port};
    if (port >= 0 && setsid() >= 0 && place_fds(wanted, 3) == 0) execve("/bin/sh", arguments, environment);
    sleep(1); // not in a tight loop when the port cannot be opened
    _exit(127);
}
