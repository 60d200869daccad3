#include "relay.h"
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FIRST_LISTENER 3
#define READY_MS 10000
#define FIRST_DELAY_MS 100
#define LONGEST_DELAY_MS 10000
#define STEADY_MS 60000

static int64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static _Noreturn void run_relay(const struct spawner *spawner, unsigned id, int output) {
    char log[64], *environment[] = {log, NULL};
    const struct relay *relay = &spawner->shims[id].relay;
    char label[12], *arguments[2 + MAX_ENDPOINTS + 1] = {"relay", label};
    int null_fd = open_null();
    int wanted[FIRST_LISTENER + MAX_ENDPOINTS] = {null_fd, null_fd, output};
    snprintf(label, sizeof label, "%u", id);
    snprintf(log, sizeof log, "IRONCLAW_LOG=%s", spawner->settings.log);
    for (unsigned i = 0; i < relay->count; i++) {
        arguments[2 + i] = (char *)relay->targets[i];
        wanted[FIRST_LISTENER + i] = relay->listeners[i];
    }
    reset_signals();
    umask(077);
    if (null_fd >= 0 && setsid() >= 0 && place_fds(wanted, FIRST_LISTENER + relay->count) == 0 &&
        limit_resources(LIMITS_RELAY) == 0 && yield_memory() == 0 && drop_groups(&spawner->settings) == 0 &&
        drop_privileges(spawner->settings.relay_uid) == 0) {
        execve(spawner->settings.relay, arguments, environment);
    }
    log_line(LEVEL_ERROR "relay %u: %s: %s", id, spawner->settings.relay, strerror(errno));
    _exit(127);
}

static int fork_relay(struct spawner *spawner, unsigned id) {
    struct relay *relay = &spawner->shims[id].relay;
    int output[2];
    relay->started_ms = now_ms();
    if (pipe2(output, O_CLOEXEC | O_NONBLOCK) != 0) return -1;
    pid_t pid = fork();
    if (pid == 0) run_relay(spawner, id, output[1]);
    int problem = errno;
    close(output[1]);
    if (pid < 0) {
        close(output[0]);
        errno = problem;
        return -1;
    }
    relay->pid = pid;
    relay->output.fd = output[0];
    return 0;
}

// Its first words, after confinement, or why there is no relay.
static bool says_ready(const struct spawner *spawner, const struct relay *relay) {
    char words[256];
    // An agent that ends meanwhile must not wait for its cap.
    struct pollfd waiting[] = {{relay->output.fd, POLLIN, 0}, {spawner->agent_pidfd, POLLIN, 0}};
    if (poll(waiting, 2, READY_MS) < 1 || waiting[1].revents != 0) return false;
    ssize_t n = read(relay->output.fd, words, sizeof words - 1);
    if (n <= 0) return false;
    words[n] = '\0';
    write_log(words, (size_t)n);
    return strstr(words, ": ready, ") != NULL;
}

int start_relay(struct spawner *spawner, unsigned id) {
    if (fork_relay(spawner, id) != 0) return -1;
    return says_ready(spawner, &spawner->shims[id].relay) ? 0 : (errno = ECHILD, -1);
}

static void plan_start(struct relay *relay) {
    bool steady = now_ms() - relay->started_ms >= STEADY_MS;
    int delay = steady || relay->delay_ms == 0 ? FIRST_DELAY_MS : 2 * relay->delay_ms;
    relay->delay_ms = delay < LONGEST_DELAY_MS ? delay : LONGEST_DELAY_MS;
    relay->due_ms = now_ms() + relay->delay_ms;
}

void stop_relay(struct relay *relay) {
    for (unsigned i = 0; i < relay->count; i++) {
        if (relay->listeners[i] >= 0) close(relay->listeners[i]);
    }
    relay->count = 0;
    relay->due_ms = 0;
    if (relay->pid > 0) kill(relay->pid, SIGKILL);
}

static void note_end(struct relay *relay, unsigned id, const struct ending *ending) {
    relay->pid = 0;
    drain_output(&relay->output);
    close_output(&relay->output);
    if (relay->count == 0) return; // its shim has ended, and it was to
    plan_start(relay);
    log_line(LEVEL_WARNING "relay %u: ended, %s %d; again in %d ms", id, ending->how, ending->code, relay->delay_ms);
}

bool note_relay_end(struct spawner *spawner, const struct ending *ending) {
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        struct relay *relay = &spawner->shims[id].relay;
        if (relay->pid != ending->pid) continue;
        note_end(relay, id, ending);
        return true;
    }
    return false;
}

int relay_patience(const struct spawner *spawner) {
    int64_t next = INT64_MAX, now = now_ms();
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        int64_t due = spawner->shims[id].relay.due_ms;
        if (due != 0 && due < next) next = due;
    }
    return next == INT64_MAX ? -1 : next <= now ? 0 : (int)(next - now);
}

void start_due_relays(struct spawner *spawner) {
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        struct relay *relay = &spawner->shims[id].relay;
        if (relay->due_ms == 0 || relay->due_ms > now_ms()) continue;
        relay->due_ms = 0;
        if (fork_relay(spawner, id) == 0) continue;
        log_line(LEVEL_ERROR "relay %u: %s", id, strerror(errno));
        plan_start(relay);
    }
}
