import { SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import type { RunningMachine } from "../../vm-images/story/running.ts";

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

/** What a workload of this machine reads in these files. */
export async function readInGuest(running: RunningMachine, paths: readonly string[]): Promise<Record<string, string>> {
  const workload = await running.workload(SCOPED_UID);
  try {
    const read = async (path: string) => String((await workload.request("read", { path }))["content"]).trim();
    const contents: Record<string, string> = {};
    for (const path of paths) contents[path] = await read(path);
    return contents;
  } finally {
    workload.close();
  }
}
