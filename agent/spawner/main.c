// The spawner's life: set up, start the agent, serve it, and never outlive it. Protocol and boot: agent/SPAWNER.md
#include "executables.h"
#include "options.h"
#include "relay.h"
#include "run_dir.h"
#include "shim_end.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define EARLIEST_REBOOT_S 60
#define DISK_PATIENCE_S 10

// A machine that fails at once must not spin: its reboots are a minute apart.
static unsigned seconds_to_wait(void) {
    struct timespec up;
    if (clock_gettime(CLOCK_BOOTTIME, &up) != 0 || up.tv_sec >= EARLIEST_REBOOT_S) return 0;
    return (unsigned)(EARLIEST_REBOOT_S - up.tv_sec);
}

// A disk that does not answer may keep a child for ever, and not the reboot.
static void settle_disks(const struct settings *settings, enum exit_code code, const char *reason) {
    pid_t pid = fork();
    if (pid == 0) {
        leave_lost_record(settings->store, code, reason);
        if (!settings->service) sync();
        _exit(0);
    }
    struct pollfd waiting = {pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0), POLLIN, 0};
    if (waiting.fd < 0 || poll(&waiting, 1, DISK_PATIENCE_S * 1000) != 1) log_line(LEVEL_ERROR "disks: not done");
}

// An agent PCR that could not be capped is open for as long as this lasts.
static void await_reboot(const char *tpm, bool capped) {
    while (seconds_to_wait() > 0) {
        sleep(1); // every signal is blocked
        if (capped) continue;
        capped = cap_agent_pcr(tpm) == 0;
        if (capped) log_line(LEVEL_NOTICE "agent PCR capped");
    }
}

_Noreturn void cap_and_reboot(const struct spawner *spawner, enum exit_code code, const char *reason) {
    // Who holds the log-in first, which takes no time, then the cap: everything else only costs time in which the PCR is open.
    if (spawner->settings.service) kill_shims(spawner);
    else kill(-1, SIGKILL);
    bool is_capped = spawner->capped || cap_agent_pcr(spawner->settings.tpm) == 0;
    const char *capped = is_capped ? "capped" : "NOT capped";
    unsigned wait = spawner->settings.service ? 0 : seconds_to_wait();
    char when[32] = "";
    if (wait > 0) snprintf(when, sizeof when, " in %u s", wait);
    if (code == EXIT_ASKED && is_capped) log_line(LEVEL_NOTICE "%s; agent PCR capped, rebooting%s", reason, when);
    else log_line(LEVEL_ERROR "%s; agent PCR %s, rebooting%s", reason, capped, when);
    settle_disks(&spawner->settings, code, reason);
    if (spawner->settings.service) _exit(code);
    await_reboot(spawner->settings.tpm, is_capped);
    reboot(RB_AUTOBOOT);
    log_line(LEVEL_ERROR "reboot: %s", strerror(errno));
    for (;;) pause(); // PID 1 may not end
}

static int set_up_image(struct settings *settings) {
    if (boot_mounts(settings) != 0) return -1;
    settings->log = open_log(boot_log(), NULL);
    settings->variant = boot_variant();
    static const char *const NAMES[] = {"release", "demo", "dev"};
    log_line("variant %s", NAMES[settings->variant]);
    harden_kernel(settings->variant);
    return prepare_devices(settings);
}

static int set_up_service(void) {
    // A mount namespace of its own: the private roots are nobody else's business, and end with the spawner.
    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) return -1;
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

static int open_signals(void) {
    sigset_t blocked;
    sigfillset(&blocked);
    if (sigprocmask(SIG_SETMASK, &blocked, NULL) != 0) return -1;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigaddset(&blocked, SIGTERM);
    return signalfd(-1, &blocked, SFD_CLOEXEC | SFD_NONBLOCK);
}

static void note_end(struct spawner *spawner, pid_t pid, int status) {
    bool killed = WIFSIGNALED(status);
    struct ending ending = {pid, status, killed ? "signal" : "exit code", killed ? WTERMSIG(status) : WEXITSTATUS(status)};
    if (note_relay_end(spawner, &ending) || note_shim_end(spawner, &ending)) return;
    for (size_t i = 0; i < spawner->workload_count; i++) {
        if (spawner->workloads[i].pid != pid) continue;
        spawner->workloads[i].pid = 0;
        drain_output(&spawner->workloads[i].output); // its last words stand before its end
        log_line(LEVEL_WARNING "workload %s: ended, %s %d", spawner->workloads[i].name, ending.how, ending.code);
    }
    if (pid == spawner->shell) start_shell(spawner);
}

void reap_children(struct spawner *spawner) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == spawner->agent) {
            char reason[64];
            snprintf(reason, sizeof reason, "the agent ended (wait status 0x%x)", (unsigned)status);
            cap_and_reboot(spawner, EXIT_AGENT_LOST, reason);
        }
        note_end(spawner, pid, status);
    }
}

static void take_signals(struct spawner *spawner, int signal_fd) {
    struct signalfd_siginfo info;
    while (read(signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGTERM) continue;
        // First of all: the agent's last words need no PCR.
        spawner->capped = cap_agent_pcr(spawner->settings.tpm) == 0;
        if (!spawner->capped) log_line(LEVEL_ERROR "agent PCR NOT capped before the agent's end");
        if (spawner->settings.service) let_agent_end(spawner);
        cap_and_reboot(spawner, EXIT_STOPPED, "asked to end");
    }
    reap_children(spawner);
}

#define FIXED 3
#define WAITING (FIXED + MAX_WORKLOADS + MAX_SHIMS)

// Where the text of each workload and relay comes in.
static struct output *output_of(struct spawner *spawner, size_t i) {
    static struct output none = {.fd = -1};
    if (i < spawner->workload_count) return &spawner->workloads[i].output;
    if (i < MAX_WORKLOADS) return &none;
    struct relay *relay = &spawner->shims[i - MAX_WORKLOADS].relay;
    return relay->pid > 0 ? &relay->output : &none;
}

static _Noreturn void serve(struct spawner *spawner, int signal_fd) {
    struct pollfd waiting[WAITING] = {{signal_fd, POLLIN, 0}, {spawner->agent_socket, POLLIN, 0}};
    for (bool started_ahead = false;;) {
        waiting[2] = (struct pollfd){spawner->ahead_fd, POLLIN, 0};
        for (size_t i = FIXED; i < WAITING; i++) waiting[i] = (struct pollfd){output_of(spawner, i - FIXED)->fd, POLLIN, 0};
        int ready = poll(waiting, WAITING, relay_patience(spawner));
        if (ready < 0 && errno != EINTR) cap_and_reboot(spawner, EXIT_SETUP, "poll failed");
        if (ready < 0) continue;
        if (waiting[0].revents != 0) take_signals(spawner, signal_fd);
        if (waiting[1].revents != 0 && serve_request(spawner) == OUTCOME_BREACH) {
            cap_and_reboot(spawner, EXIT_BREACH, "the agent broke the protocol");
        }
        if (waiting[2].revents != 0) take_measured_ahead(spawner);
        for (size_t i = FIXED; i < WAITING; i++) {
            if (waiting[i].revents != 0) pass_on_output(output_of(spawner, i - FIXED));
        }
        start_due_relays(spawner);
        // Not earlier: the agent's own start wants the processor and the disk first.
        if (waiting[1].revents != 0 && !started_ahead) start_measuring_ahead(spawner);
        started_ahead = started_ahead || waiting[1].revents != 0;
    }
}

int main(int argc, char **argv) {
    static struct spawner spawner;
    bool image = getpid() == 1;
    const char *log = image ? open_log(NULL, NULL) : open_log(getenv("IRONCLAW_LOG"), getenv("JOURNAL_STREAM"));
    spawner.settings = image ? image_settings() : parse_options(argc, argv);
    spawner.settings.log = log;
    if (spawner.settings.cap_only) return cap_agent_pcr(spawner.settings.tpm) == 0 ? 0 : EXIT_SETUP;
    // Nothing is under way yet that would have to be capped, or it is another spawner's.
    if (!image && take_listen_sockets(&spawner.settings.listen) != 0) return EXIT_USAGE;
    if (!image && take_run_dir(spawner.settings.run_dir) != 0) return EXIT_SETUP;
    spawner.phase = PHASE_LAUNCH;
    spawner.ahead_fd = -1;
    struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    umask(022);
    int signal_fd = open_signals();
    if (signal_fd < 0 || (image ? set_up_image(&spawner.settings) : set_up_service()) != 0) {
        cap_and_reboot(&spawner, EXIT_SETUP, "set-up failed");
    }
    if (start_agent(&spawner) != 0) cap_and_reboot(&spawner, EXIT_SETUP, "the agent cannot be started");
    log_line("agent started, pid %d", (int)spawner.agent);
    start_shell(&spawner);
    serve(&spawner, signal_fd);
}
