// The relay copies bytes between sockets and needs nothing else: what it cannot do it cannot be made to do.
#include "relay.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

// The header's struct is older than some kernels: members that a kernel does not know must be zero.
struct ruleset {
    uint64_t files, network, scoped;
};

struct port_rule {
    uint64_t access, port;
};

#define NET_BIND_AND_CONNECT 3
#define NET_CONNECT 2
#define RULE_NET_PORT 2
#define SCOPE_ABSTRACT_AND_SIGNAL 3

static uint64_t all_of_files(int abi) {
    uint64_t rights = (1ull << 13) - 1;
    if (abi >= 2) rights |= 1ull << 13; // refer
    if (abi >= 3) rights |= 1ull << 14; // truncate
    if (abi >= 5) rights |= 1ull << 15; // ioctl of a device
    return rights;
}

static int permit_ports(int ruleset, const struct target *targets, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct port_rule rule = {NET_CONNECT, endpoint_port(&targets[i].endpoint)};
        if (rule.port != 0 && syscall(SYS_landlock_add_rule, ruleset, RULE_NET_PORT, &rule, 0) != 0) return -1;
    }
    return 0;
}

// A Unix target is connected to by its path, which Landlock leaves alone.
static int restrict_files(const struct target *targets, size_t count) {
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1) return -1;
    struct ruleset wanted = {
        .files = all_of_files(abi),
        .network = abi >= 4 ? NET_BIND_AND_CONNECT : 0,
        .scoped = abi >= 6 ? SCOPE_ABSTRACT_AND_SIGNAL : 0,
    };
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &wanted, sizeof wanted, 0);
    if (ruleset < 0 || (abi >= 4 && permit_ports(ruleset, targets, count) != 0)) return -1;
    return syscall(SYS_landlock_restrict_self, ruleset, 0) != 0 ? -1 : close(ruleset);
}

static int limit(__rlimit_resource_t resource, rlim_t value) {
    struct rlimit wanted = {value, value};
    return setrlimit(resource, &wanted);
}

static int limit_resources(void) {
    if (limit(RLIMIT_NOFILE, FIRST_LISTENER + MAX_ENDPOINTS + 2 * MAX_CONNECTIONS + 1) != 0) return -1;
    if (limit(RLIMIT_CORE, 0) != 0 || limit(RLIMIT_NPROC, 0) != 0 || limit(RLIMIT_FSIZE, 0) != 0) return -1;
    return limit(RLIMIT_AS, 64ull << 20) != 0 || limit(RLIMIT_MEMLOCK, 0) != 0 ? -1 : limit(RLIMIT_MSGQUEUE, 0);
}

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define LOW(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]))
#define HIGH(n) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[n]) + 4)
#define UNLESS(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), 0, (skip))
#define WHEN(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (value), (skip), 0)
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define KILL BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define PLAIN(call) UNLESS(SYS_##call, 1), ALLOW

// Anything else ends the process: it has no reason to try. Each block with a condition skips itself when the number is another.
static int restrict_calls(const struct target *targets, size_t count) {
    uint32_t families[MAX_ENDPOINTS];
    for (size_t i = 0; i < MAX_ENDPOINTS; i++) families[i] = targets[i < count ? i : 0].endpoint.address.any.sa_family;
    struct sock_filter code[] = {
        LOAD(arch), WHEN(AUDIT_ARCH_X86_64, 1), KILL,
        LOAD(nr), // an x32 call has another number
        PLAIN(poll), PLAIN(recvfrom),
        UNLESS(SYS_sendto, 6), LOW(4), UNLESS(0, 3), HIGH(4), UNLESS(0, 1), ALLOW, KILL, // to who is connected only
        PLAIN(accept4), PLAIN(connect), PLAIN(getsockopt), PLAIN(setsockopt), PLAIN(shutdown), PLAIN(close),
        PLAIN(clock_gettime), PLAIN(restart_syscall), PLAIN(exit_group),
        UNLESS(SYS_write, 4), LOW(0), UNLESS(STDERR_FILENO, 1), ALLOW, KILL,
        // The protocol too: multipath TCP would be out of Landlock's sight.
        UNLESS(SYS_socket, 15), LOW(1), UNLESS(SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 12), LOW(2), UNLESS(0, 10), LOW(0),
        WHEN(families[0], 7), WHEN(families[1], 6), WHEN(families[2], 5), WHEN(families[3], 4),
        WHEN(families[4], 3), WHEN(families[5], 2), WHEN(families[6], 1), UNLESS(families[7], 1), ALLOW, KILL,
        KILL,
    };
    struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

int confine(const struct target *targets, size_t count) {
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return -1;
    if (limit_resources() != 0 || restrict_files(targets, count) != 0) return -1;
    return restrict_calls(targets, count);
}
