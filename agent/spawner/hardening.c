// Kernel switches that PID 1 turns once and that nobody turns back.
#include "spawner.h"
#include "sysfile.h"

#include <errno.h>
#include <string.h>

struct sysctl {
    const char *path;
    const char *value;
};

static const struct sysctl SYSCTLS[] = {
    {"/proc/sys/kernel/kexec_load_disabled", "1"},
    {"/proc/sys/kernel/dmesg_restrict", "1"},
    {"/proc/sys/kernel/kptr_restrict", "2"},
    {"/proc/sys/kernel/core_pattern", "\n"}, // no name, no core file; a bare empty write would change nothing
    {"/proc/sys/kernel/unprivileged_bpf_disabled", "1"},
    {"/proc/sys/kernel/perf_event_paranoid", "3"},
    {"/proc/sys/kernel/sysrq", "0"},
    {"/proc/sys/fs/suid_dumpable", "0"},
    {"/proc/sys/fs/protected_symlinks", "1"},
    {"/proc/sys/fs/protected_hardlinks", "1"},
    {"/proc/sys/fs/protected_fifos", "2"},
    {"/proc/sys/fs/protected_regular", "2"},
    {"/proc/sys/vm/unprivileged_userfaultfd", "0"},
    {"/proc/sys/kernel/modules_disabled", "1"}, // the initrd loaded everything there is
};

static void set(const char *path, const char *value) {
    if (write_line(path, value) != 0) log_line(LEVEL_WARNING "%s: %s", path, strerror(errno));
}

void harden_kernel(enum variant variant) {
    for (size_t i = 0; i < sizeof SYSCTLS / sizeof SYSCTLS[0]; i++) set(SYSCTLS[i].path, SYSCTLS[i].value);
    // 3: no process may trace or read the memory of another, root included, until the next boot.
    set("/proc/sys/kernel/yama/ptrace_scope", variant == VARIANT_DEV ? "0" : "3");
}

void forbid_user_namespaces(void) { set("/proc/sys/user/max_user_namespaces", "0"); }
