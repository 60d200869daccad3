// What the spawner's files share: its settings, its state, and one prototype per concept. Protocol: agent/SPAWNER.md
#pragma once

#include "endpoint.h"
#include "listen.h"
#include "log_format.h"
#include "output.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define AGENT_UID 990
#define SHIM_UID 991
#define RELAY_UID 992
#define WORKLOAD_UID_MIN 1000
#define AGENT_FD 3
#define MAX_MESSAGE 65536
#define MAX_SHIMS 16
#define MAX_WORKLOADS 32
#define MAX_SHIM_FILES 256
#define MAX_PATH 1024
#define DIGEST_SIZE 32

enum variant { VARIANT_RELEASE, VARIANT_DEMO, VARIANT_DEV };
enum phase { PHASE_LAUNCH = 1, PHASE_SERVING = 2 };
enum exit_code { EXIT_USAGE = 2, EXIT_AGENT_LOST = 10, EXIT_BREACH = 11, EXIT_ASKED = 12, EXIT_SETUP = 13, EXIT_STOPPED = 14 };

// Fixed before the agent starts. PID 1 has no choices here: only `variant` is read, from the measured command line.
struct settings {
    bool service;
    bool cap_only; // a service's supervisor makes sure: nothing else is done
    bool single_uid;
    bool shim_stderr;
    const char *log; // IRONCLAW_LOG of the agent and of relays
    enum variant variant;
    int output; // the agent's output and the dev shim's: unlike the spawner's own, a write to it may block
    uid_t agent_uid;
    uid_t shim_uid;
    uid_t relay_uid;
    const char *cabinet;
    const char *state; // the state volume's disk; "" when there is none
    const char *store; // the agent's own disk; "" when there is none
    const char *state_template;
    const char *run_dir;
    const char *workloads;
    const char *tpm;
    const char *relay;   // its program
    const char *sysfs;   // where device nodes are looked up
    const char *devices;
    char *const *agent_argv;
    struct listen_sockets listen; // as a service only
};

enum shim_state { SHIM_UNUSED, SHIM_PREPARED, SHIM_RUNNING, SHIM_ENDED, SHIM_FAILED };

struct relay {
    unsigned count; // of its endpoints; 0 when there is no relay to be
    int listeners[MAX_ENDPOINTS];
    char targets[MAX_ENDPOINTS][MAX_ENDPOINT + 1];
    pid_t pid;  // 0 when none runs
    struct output output; // what it says, while `pid` is not 0
    int64_t started_ms;
    int64_t due_ms; // when it is started again, 0 for never
    int delay_ms;
};

// A child that ended.
struct ending {
    pid_t pid;
    int status; // of waitpid
    const char *how;
    int code;
};

struct placed_file;

struct shim {
    enum shim_state state;
    bool prepare_used;
    uint16_t placed_count;
    struct placed_file *placed; // in its private root, as prepared: shim_root.c
    pid_t pid;
    int wait_status;
    size_t writable_count;
    char *writable[MAX_SHIM_FILES]; // destinations in the writable area, checked against START_SHIM's directories
    struct relay relay;
};

struct workload {
    char name[32];
    pid_t pid;
    struct output output; // standard output and error
};

struct spawner {
    struct settings settings;
    enum phase phase;
    pid_t agent;
    int agent_pidfd;
    int agent_socket;
    pid_t shell;
    int ahead_fd; // executables.c; -1 when nobody measures ahead
    bool state_asked;
    bool capped; // before the end, because somebody asked for it
    struct shim shims[MAX_SHIMS];
    size_t workload_count;
    struct workload workloads[MAX_WORKLOADS];
};

// What a request handler found. A failure's message goes to the agent as status 1.
enum outcome { OUTCOME_DONE, OUTCOME_FAILED, OUTCOME_BREACH };

// log.c, agent/LOGS.md. A terminal that somebody stopped costs a moment and the text, never the spawner.
const char *open_log(const char *asked, const char *stream); // how lines look: see log_word
void write_log(const char *bytes, size_t length);
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

// boot.c, hardening.c, devices.c: PID 1 only. Each returns 0, or -1 when the machine cannot go on.
int boot_mounts(struct settings *settings); // opens the console
enum variant boot_variant(void);
const char *boot_log(void); // what the command line says of the log, NULL for nothing
void harden_kernel(enum variant variant);
void forbid_user_namespaces(void);
int prepare_devices(struct settings *settings); // finds the disks

// agent.c, workloads.c
int start_agent(struct spawner *spawner);
bool agent_is_gone(const struct spawner *spawner);
// Asks the agent to end, and gives it the time to sign and anchor its log.
void let_agent_end(const struct spawner *spawner);
// Starts every line of the list. The number started, or -1 with a message when the list cannot be used: then none was.
int start_workloads(struct spawner *spawner, char *problem, size_t capacity);
// The executables on the list; none when it cannot be used.
void each_workload_program(const struct settings *settings, void (*visit)(const char *path, void *context), void *context);
// The dev variant's root shell, if the image has one. Called again when it ends.
void start_shell(struct spawner *spawner);

// tpm_cap.c: extend PCR 13 in every active bank. 0, or -1 when the TPM did not.
int cap_agent_pcr(const char *tpm);

// lost_record.c: tells the next boot's agent that this one's is lost, and of no other end. Waits for the disk.
void leave_lost_record(const char *store, enum exit_code code, const char *reason);

// requests.c: one packet from the agent.
enum outcome serve_request(struct spawner *spawner);

// main.c. Both end the machine when the agent is gone, the first one only then.
void reap_children(struct spawner *spawner);
_Noreturn void cap_and_reboot(const struct spawner *spawner, enum exit_code code, const char *reason);
