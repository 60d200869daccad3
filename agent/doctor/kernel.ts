import { missingFeatures, type SandboxFeature } from "../../policy/index.ts";
import type { Files } from "./files.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

/** What the kernel answers when it is asked itself (probe/main.c); null where nobody could ask. */
export interface KernelProbe {
  /** ABI version, 0 for none. */
  readonly landlock: number | null;
  readonly userNotification: boolean | null;
  readonly pidfd: boolean | null;
  /** SO_PEERPIDFD. */
  readonly peerPidfd: boolean | null;
  readonly ioUring: boolean | null;
}

export const NOT_PROBED: KernelProbe = {
  landlock: null,
  userNotification: null,
  pidfd: null,
  peerPidfd: null,
  ioUring: null,
};

const NAMESPACES = ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"] as const;

/**
 * What the sandbox is made of.
 * @param lacks what the machine's policy does without; null where there is no policy to ask
 */
export function kernelFindings(
  files: Files,
  probe: KernelProbe,
  lacks: readonly SandboxFeature[] | null,
): readonly Finding[] {
  return [
    notification(files, probe),
    landlock(files, probe, lacks),
    pidfd(probe, files),
    namespaces(files),
    ioUring(files, probe),
  ];
}

function notification(files: Files, { userNotification }: KernelProbe): Finding {
  const actions = files.text("/proc/sys/kernel/seccomp/actions_avail")?.split(" ") ?? [];
  const there = userNotification ?? actions.includes("user_notif");
  if (there) return ok("seccomp-notify", actions.join(" ") || "the kernel says so");
  return fail("seccomp-notify", { expected: "user_notif", got: actions.join(" ") || "no seccomp filters" });
}

function landlock(files: Files, probe: KernelProbe, lacks: readonly SandboxFeature[] | null): Finding {
  const active = files.text("/sys/kernel/security/lsm")?.split(",").includes("landlock") ?? null;
  const abi = probe.landlock ?? (active === false ? 0 : null);
  if (abi === null) {
    if (active === true) return ok("landlock", "on; its version is not known before a shim has asked");
    return warn("landlock", { expected: "a version", got: "not known: nobody could ask the kernel" });
  }
  if (abi === 0) return fail("landlock", { expected: "on", got: "off, or a kernel without it" });
  const missing = missingFeatures(abi);
  const wanted = missing.filter((feature) => lacks?.includes(feature) !== true);
  if (wanted.length === 0)
    return ok(
      "landlock",
      `ABI ${abi}${missing.length === 0 ? "" : `, without ${missing.join(", ")}, as the policy allows`}`,
    );
  const problem = {
    expected: lacks === null ? "ABI 6" : `ABI 6, or sandbox.lacks ${wanted.join(", ")}`,
    got: `ABI ${abi}, without ${wanted.join(", ")}`,
  };
  return lacks === null ? warn("landlock", problem) : fail("landlock", problem);
}

function pidfd({ pidfd, peerPidfd }: KernelProbe, files: Files): Finding {
  const release = files.text("/proc/sys/kernel/osrelease") ?? "";
  const [major = 0, minor = 0] = release.split(".").map((part) => Number.parseInt(part, 10));
  const since = (wantedMajor: number, wantedMinor: number) =>
    major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
  if (!(pidfd ?? since(5, 3))) return fail("pidfd", { expected: "pidfd_open", got: `Linux ${release}` });
  if (peerPidfd ?? since(6, 5)) return ok("pidfd", "of the peer itself (SO_PEERPIDFD)");
  return warn("pidfd", { expected: "SO_PEERPIDFD", got: `pidfd_open only: Linux ${release}` });
}

function namespaces(files: Files): Finding {
  const missing = NAMESPACES.filter((name) => !files.exists(`/proc/self/ns/${name}`));
  if (missing.length === 0) return ok("namespaces", NAMESPACES.join(" "));
  return fail("namespaces", { expected: NAMESPACES.join(" "), got: `none for ${missing.join(", ")}` });
}

/** The shim's filter denies it, and its probe tries that before every launch: this line says who else may use it. */
function ioUring(files: Files, { ioUring: there }: KernelProbe): Finding {
  const disabled = files.text("/proc/sys/kernel/io_uring_disabled");
  if (there === false || disabled === "2") return ok("io-uring", "off for everybody");
  return ok("io-uring", "off in the sandbox, and there for programs outside it");
}
