/** What the spawner turns before it starts the agent, with the value that the kernel then shows to anybody. */
export const SWITCHES = {
  "/proc/sys/kernel/yama/ptrace_scope": "3",
  "/proc/sys/kernel/core_pattern": "",
  "/proc/sys/fs/suid_dumpable": "0",
  "/proc/sys/kernel/kexec_load_disabled": "1",
  "/proc/sys/kernel/modules_disabled": "1",
  "/proc/sys/kernel/dmesg_restrict": "1",
  "/proc/sys/kernel/kptr_restrict": "2",
  "/proc/sys/kernel/perf_event_paranoid": "3",
  "/proc/sys/kernel/unprivileged_bpf_disabled": "1",
  "/proc/sys/kernel/sysrq": "0",
  "/proc/sys/vm/unprivileged_userfaultfd": "0",
  "/proc/sys/user/max_user_namespaces": "0",
  "/sys/kernel/security/lockdown": "none integrity [confidentiality]",
} as const;
