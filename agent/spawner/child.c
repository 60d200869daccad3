#include "child.h"
#include "sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// 64 scopes with 256 connections, each a socket and a pidfd, and everything else.
#define AGENT_FILES (64 * 256 * 2 + 1024)
#define ABOVE 80 // higher than any descriptor that place_fds fills

void reset_signals(void) {
    sigset_t none;
    for (int signal_number = 1; signal_number < NSIG; signal_number++) signal(signal_number, SIG_DFL); // fails for KILL and STOP
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int limit(__rlimit_resource_t resource, rlim_t value) {
    struct rlimit wanted = {value, value};
    return setrlimit(resource, &wanted);
}

// Who started the service may have lowered the hard limit, and without privilege it is the limit: the agent then refuses connections earlier.
static int limit_agent_files(void) {
    struct rlimit now;
    if (limit(RLIMIT_NOFILE, AGENT_FILES) == 0) return 0;
    return getrlimit(RLIMIT_NOFILE, &now) == 0 && now.rlim_max < AGENT_FILES ? limit(RLIMIT_NOFILE, now.rlim_max) : -1;
}

int limit_resources(enum limits limits) {
    if (limit(RLIMIT_CORE, 0) != 0) return -1; // a core would hold a PIN
    if (limits == LIMITS_AGENT) return limit_agent_files();
    if (limits != LIMITS_SHIM && limit(RLIMIT_NOFILE, 4096) != 0) return -1;
    if (limits == LIMITS_RELAY) return 0; // the relay's own are tighter
    if (limits == LIMITS_WORKLOAD) return limit(RLIMIT_NPROC, 256); // of its uid: the others need processes too
    if (limit(RLIMIT_NOFILE, 256) != 0 || limit(RLIMIT_NPROC, 64) != 0) return -1;
    if (limit(RLIMIT_AS, 1ull << 30) != 0 || limit(RLIMIT_FSIZE, 16ull << 20) != 0) return -1;
    return limit(RLIMIT_MEMLOCK, 1ull << 20) != 0 || limit(RLIMIT_MSGQUEUE, 0) != 0 ? -1 : 0;
}

int yield_memory(void) { return write_line("/proc/self/oom_score_adj", "500"); }

int drop_groups(const struct settings *settings) {
    // A user namespace with one uid has no right to change groups, and none of the groups shown mean anything in it.
    return settings->single_uid ? 0 : setgroups(0, NULL);
}

static int drop_bounding_set(void) {
    for (unsigned long capability = 0; capability < 64; capability++) {
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0) return errno == EINVAL && capability > CAP_SYSLOG ? 0 : -1;
    }
    return 0;
}

int drop_privileges(uid_t uid) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    if (drop_bounding_set() != 0) return -1;
    if (setresgid(uid, uid, uid) != 0 || setresuid(uid, uid, uid) != 0) return -1;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0) return -1;
    if (syscall(SYS_capset, &header, none) != 0) return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); // last: a change of credentials clears it
}

int place_fds(const int *wanted, int count) {
    int moved[ABOVE];
    if (count > ABOVE) return errno = EINVAL, -1;
    for (int i = 0; i < count; i++) {
        if ((moved[i] = fcntl(wanted[i], F_DUPFD, ABOVE)) < 0) return -1;
    }
    for (int i = 0; i < count; i++) {
        if (dup2(moved[i], i) < 0) return -1;
    }
    return (int)syscall(SYS_close_range, (unsigned)count, ~0u, 0u);
}

int open_null(void) { return open("/dev/null", O_RDWR | O_CLOEXEC | O_NOCTTY); }
