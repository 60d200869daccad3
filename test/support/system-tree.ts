import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Files, openFiles } from "../../agent/doctor/index.ts";

const ROOT_HASH = "0123456789abcdef".repeat(4);

/** What our image's kernel and init show in these files: every guarantee holds. */
export const IMAGE: Readonly<Record<string, string>> = {
  "/proc/cmdline": `console=ttyS0 init_on_free=1 ironclaw.variant=release lockdown=confidentiality verity=9:${ROOT_HASH}:${"5a".repeat(32)}:erofs\n`,
  "/proc/self/mountinfo": `1 1 0:2 / / rw - rootfs rootfs rw
25 1 254:0 / / ro,nosuid,nodev,relatime - erofs /dev/dm-0 ro
26 25 0:21 / /proc rw,nosuid,nodev,noexec,relatime shared:3 - proc proc rw
`,
  "/sys/dev/block/254:0/dm/uuid": `CRYPT-VERITY-${ROOT_HASH}-root\n`,
  "/sys/dev/block/254:0/ro": "1\n",
  "/proc/swaps": "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n",
  "/proc/sys/fs/suid_dumpable": "0\n",
  "/proc/sys/kernel/core_pattern": "\n",
  "/proc/sys/kernel/kexec_load_disabled": "1\n",
  "/proc/sys/kernel/modules_disabled": "1\n",
  "/proc/sys/kernel/osrelease": "6.12.1-amd64\n",
  "/proc/sys/kernel/seccomp/actions_avail": "kill_process kill_thread trap errno user_notif trace log allow\n",
  "/proc/sys/kernel/yama/ptrace_scope": "3\n",
  "/sys/kernel/security/lockdown": "none integrity [confidentiality]\n",
  "/sys/kernel/security/lsm": "lockdown,capability,landlock,yama\n",
  ...Object.fromEntries(
    ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"].map((name) => [`/proc/self/ns/${name}`, ""]),
  ),
};

/** A folder that stands for a system; null takes a file away. */
export function systemTree(
  changes: Readonly<Record<string, string | null>> = {},
): Disposable & { readonly files: Files; readonly root: string } {
  const root = mkdtempSync(join(tmpdir(), "system-"));
  for (const [path, text] of Object.entries({ ...IMAGE, ...changes })) {
    if (text === null) continue;
    mkdirSync(join(root, dirname(path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }
  return { root, files: openFiles(root), [Symbol.dispose]: () => rmSync(root, { recursive: true }) };
}
