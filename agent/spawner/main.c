// The spawner's life: set up, start the agent, serve it, and never outlive it. Protocol and boot: agent/SPAWNER.md
#include "executables.h"
#include "spawner.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
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
#include <sys/wait.h>
#include <unistd.h>

static char *const IMAGE_AGENT[] = {
    "/usr/bin/node",
    "--no-experimental-ffi",
    "--disallow-code-generation-from-strings",
    "/usr/lib/ironclaw/agent.cjs",
    "agent",
    "--config",
    "/etc/ironclaw/agent.json",
    NULL,
};

static const struct settings IMAGE_SETTINGS = {
    .output = STDERR_FILENO,
    .agent_uid = AGENT_UID,
    .shim_uid = SHIM_UID,
    .cabinet = "",
    .state = "",
    .state_template = "/usr/lib/ironclaw/state-volume.template",
    .run_dir = "/run/ironclaw-shim",
    .workloads = "/etc/ironclaw/workloads",
    .tpm = "/dev/tpmrm0",
    .agent_argv = IMAGE_AGENT,
};

_Noreturn void cap_and_reboot(const struct spawner *spawner, enum exit_code code, const char *reason) {
    // The cap first: everything else only costs time in which the PCR is open.
    int capped = cap_agent_pcr(spawner->settings.tpm);
    log_line("%s; agent PCR %s, rebooting", reason, capped == 0 ? "capped" : "NOT capped");
    if (spawner->settings.service) _exit(code);
    sync();
    reboot(RB_AUTOBOOT);
    log_line("reboot: %s", strerror(errno));
    for (;;) pause(); // PID 1 may not end
}

static struct settings parse_options(int argc, char **argv) {
    static const struct option OPTIONS[] = {
        {"service", no_argument, NULL, 's'},          {"cabinet", required_argument, NULL, 'c'},
        {"run-dir", required_argument, NULL, 'r'},    {"workloads", required_argument, NULL, 'w'},
        {"tpm", required_argument, NULL, 't'},        {"single-uid", no_argument, NULL, 'u'},
        {"shim-stderr", no_argument, NULL, 'e'},      {"state", required_argument, NULL, 'd'},
        {NULL, 0, NULL, 0},
    };
    struct settings settings = IMAGE_SETTINGS;
    for (int option; (option = getopt_long(argc, argv, "+", OPTIONS, NULL)) != -1;) {
        switch (option) {
        case 's': settings.service = true; break;
        case 'c': settings.cabinet = optarg; break;
        case 'r': settings.run_dir = optarg; break;
        case 'w': settings.workloads = optarg; break;
        case 't': settings.tpm = optarg; break;
        case 'u': settings.single_uid = true; break;
        case 'e': settings.shim_stderr = true; break;
        case 'd': settings.state = optarg; break;
        default: exit(EXIT_USAGE);
        }
    }
    if (!settings.service || optind >= argc || strlen(settings.run_dir) > MAX_PATH - 16) {
        fputs("usage: spawner --service [OPTION...] -- AGENT ARGUMENT...  (see agent/SPAWNER.md)\n", stderr);
        exit(EXIT_USAGE);
    }
    if (settings.single_uid) settings.agent_uid = settings.shim_uid = 0;
    settings.agent_argv = argv + optind;
    return settings;
}

static int set_up_image(struct settings *settings) {
    if (boot_mounts(settings) != 0) return -1;
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
    int code = WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
    const char *how = WIFSIGNALED(status) ? "signal" : "exit code";
    for (unsigned id = 0; id < MAX_SHIMS; id++) {
        struct shim *shim = &spawner->shims[id];
        if (shim->state != SHIM_RUNNING || shim->pid != pid) continue;
        shim->state = SHIM_ENDED;
        shim->wait_status = status;
        log_line("shim %u: ended, %s %d", id, how, code);
    }
    for (size_t i = 0; i < spawner->workload_count; i++) {
        if (spawner->workloads[i].pid != pid) continue;
        spawner->workloads[i].pid = 0;
        // Its last words stand before its end: as much as a pipe holds, in case something else still writes into it.
        for (int chunks = 0; chunks < 16 && relay_output(&spawner->workloads[i]); chunks++) continue;
        log_line("workload %s: ended, %s %d", spawner->workloads[i].name, how, code);
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
        if (info.ssi_signo == SIGTERM) cap_and_reboot(spawner, EXIT_ASKED, "asked to end");
    }
    reap_children(spawner);
}

static _Noreturn void serve(struct spawner *spawner, int signal_fd) {
    struct pollfd waiting[3 + MAX_WORKLOADS] = {{signal_fd, POLLIN, 0}, {spawner->agent_socket, POLLIN, 0}};
    for (bool started_ahead = false;;) {
        size_t workloads = spawner->workload_count;
        waiting[2] = (struct pollfd){spawner->ahead_fd, POLLIN, 0};
        for (size_t i = 0; i < workloads; i++) waiting[3 + i] = (struct pollfd){spawner->workloads[i].output, POLLIN, 0};
        if (poll(waiting, 3 + workloads, -1) < 0 && errno != EINTR) cap_and_reboot(spawner, EXIT_SETUP, "poll failed");
        if (waiting[0].revents != 0) take_signals(spawner, signal_fd);
        if (waiting[1].revents != 0 && serve_request(spawner) == OUTCOME_BREACH) {
            cap_and_reboot(spawner, EXIT_BREACH, "the agent broke the protocol");
        }
        if (waiting[2].revents != 0) take_measured_ahead(spawner);
        for (size_t i = 0; i < workloads; i++) {
            if (waiting[3 + i].revents != 0) relay_output(&spawner->workloads[i]);
        }
        // Not earlier: the agent's own start wants the processor and the disk first.
        if (waiting[1].revents != 0 && !started_ahead) start_measuring_ahead(spawner);
        started_ahead = started_ahead || waiting[1].revents != 0;
    }
}

int main(int argc, char **argv) {
    static struct spawner spawner;
    bool image = getpid() == 1;
    spawner.settings = image ? IMAGE_SETTINGS : parse_options(argc, argv);
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
