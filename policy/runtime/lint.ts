import { bitsOf } from "./constants.ts";
import { canBeOpened, mayBeUnwatched, openingOf, unusedOpenings } from "./openings.ts";
import type { Profile, SyscallRule } from "./profile.ts";

/** Why a profile may not be used: `about` is a system call, a limit or a path. */
export interface Finding {
  readonly about: string;
  readonly reason: string;
}

/**
 * Calls that no profile may allow, by what they would give a hostile library. The few of them that `openings.ts` names
 * can be allowed in the shapes given there, by a profile that declares the opening.
 */
const FORBIDDEN: readonly { readonly reason: string; readonly calls: string }[] = [
  { reason: "starts or replaces a process", calls: "execve execveat fork vfork clone clone3" },
  {
    reason: "reaches into or signals another process",
    calls:
      "ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_open pidfd_getfd pidfd_send_signal kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo kcmp move_pages migrate_pages",
  },
  {
    reason: "runs other calls where no filter sees them",
    calls: "io_uring_setup io_uring_enter io_uring_register io_setup io_submit bpf userfaultfd openat2",
  },
  {
    reason: "changes the filters",
    calls: "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_set_self_attr",
  },
  {
    // a signal takes an attempt back that the notifier has not received yet (README.md, Openings)
    reason: "arranges for a signal, which can keep an attempt from being counted",
    calls: "timer_create timer_settime setitimer alarm mq_notify setrlimit",
  },
  {
    reason: "reaches an endpoint",
    calls:
      "socket socketpair connect bind listen accept accept4 sendto recvfrom recvmsg sendmmsg recvmmsg setsockopt getsockopt shmget shmat semget msgget mq_open",
  },
  {
    reason: "moves or replaces pages past the guard around the armed filters",
    calls: "mremap remap_file_pages pkey_mprotect mlockall map_shadow_stack mseal",
  },
  {
    reason: "makes memory or files outside the named directories",
    calls:
      "memfd_create memfd_secret open_by_handle_at name_to_handle_at mknod mknodat link linkat symlink symlinkat rename renameat renameat2",
  },
  {
    reason: "changes whose a file is and who may use it",
    calls:
      "chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat",
  },
  {
    reason: "places the process among others",
    calls:
      "mbind set_mempolicy set_mempolicy_home_node sched_setparam sched_setscheduler sched_setattr sched_setaffinity setpriority ioprio_set",
  },
  {
    reason: "is a privileged or rarely audited part of the kernel",
    calls:
      "mount umount2 pivot_root chroot move_mount open_tree open_tree_attr fsopen fsconfig fsmount fspick mount_setattr unshare setns keyctl add_key request_key perf_event_open init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff acct settimeofday clock_settime adjtimex clock_adjtime iopl ioperm modify_ldt arch_prctl personality setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset quotactl quotactl_fd syslog fanotify_init lookup_dcookie uselib vmsplice splice tee",
  },
];

/** Attempts at these must reach the agent, whatever their arguments. */
const MUST_WATCH =
  "execve execveat fork vfork clone clone3 socket socketpair connect bind ptrace process_vm_readv process_vm_writev io_uring_setup bpf userfaultfd keyctl add_key mount unshare setns memfd_create pidfd_getfd kill perf_event_open seccomp";

/** Calls of which one argument selects what they do: a rule names one of these values, and no other can be allowed. */
const SELECTORS: Readonly<Record<string, { readonly arg: number; readonly values: string }>> = {
  prctl: { arg: 0, values: "PR_SET_NAME PR_GET_NAME PR_GET_DUMPABLE PR_GET_SECCOMP PR_GET_NO_NEW_PRIVS" },
  fcntl: {
    arg: 1,
    values:
      "F_DUPFD F_DUPFD_CLOEXEC F_GETFD F_SETFD F_GETFL F_SETFL F_GETLK F_SETLK F_SETLKW F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW",
  },
  // reading limits
  prlimit64: { arg: 2, values: "0" },
};

/** Flags that F_SETFL may set: not O_ASYNC, by which a descriptor sends signals, nor O_DIRECT. */
const STATUS_FLAGS = bitsOf("O_RDWR|O_WRONLY|O_APPEND|O_NONBLOCK");
/** Flags of a file that is opened after ARM: to be read. */
const READING_FLAGS = bitsOf("O_CLOEXEC|O_NONBLOCK|O_NOFOLLOW|O_DIRECTORY|O_NOCTTY");
const FLAGS_OF_OPENING: Readonly<Record<string, number>> = { open: 1, openat: 2 };
/** What stage serve does to no file. */
const CHANGES_FILES = "creat truncate unlink unlinkat mkdir mkdirat rmdir";

/** The most processes and threads of the shim's user under a profile that opens `thread`. */
const MAX_THREADS = 8n;

const PROT_WRITE = 2n;
const PROT_EXEC = 4n;

/**
 * What makes a profile unfit to run a library under, all of it. An empty list means that the profile keeps the fixed
 * bounds of this project, not that it is minimal or that the library works under it.
 */
export function lintProfile(profile: Profile): readonly Finding[] {
  return [
    ...profile.load.flatMap((rule) => lintAllowed(profile, rule)),
    ...profile.serve.flatMap((rule) => lintAllowed(profile, rule)),
    ...profile.serve.flatMap((rule) => lintServe(profile, rule)),
    ...lintWatch(profile),
    ...lintLimits(profile),
    ...lintPaths(profile),
    ...lintOpenings(profile),
  ];
}

function lintAllowed(profile: Profile, rule: SyscallRule): Finding[] {
  const about = rule.syscall;
  const findings: Finding[] = [];
  if (isMapping(rule) && !(keepsOut(rule, PROT_WRITE) || keepsOut(rule, PROT_EXEC))) {
    const reason = "needs `arg2 without PROT_WRITE` or `arg2 without PROT_EXEC`: such a page would take code after ARM";
    findings.push({ about, reason });
  }
  return [...findings, ...lintForbidden(profile, rule), ...lintSelector(profile, rule)];
}

function lintForbidden(profile: Profile, rule: SyscallRule): Finding[] {
  const about = rule.syscall;
  const forbidden = FORBIDDEN.find(({ calls }) => calls.split(" ").includes(about));
  if (forbidden === undefined || openingOf(profile, rule) !== undefined) return [];
  const but = canBeOpened(about) ? ", but for the shapes of an opening that the profile declares" : "";
  return [{ about, reason: `may not be allowed: it ${forbidden.reason}${but}` }];
}

function lintSelector(profile: Profile, rule: SyscallRule): Finding[] {
  const about = rule.syscall;
  if (about === "ioctl" && openingOf(profile, rule) === undefined)
    return [{ about, reason: "may only be a USBDEVFS request of openings.ts, in a profile that opens device" }];
  const selector = SELECTORS[about];
  if (selector === undefined) return [];
  const { arg, values } = selector;
  const chosen = rule.conditions.find((condition) => condition.arg === arg && condition.test === "is")?.value;
  if (!values.split(" ").some((name) => bitsOf(name) === chosen))
    return [{ about, reason: `needs a condition \`arg${arg} is VALUE\`, with one of ${values}` }];
  if (about === "fcntl" && chosen === bitsOf("F_SETFL") && !keepsWithin(rule, 2, STATUS_FLAGS))
    return [{ about, reason: "F_SETFL needs `arg2 only` with O_RDWR, O_WRONLY, O_APPEND or O_NONBLOCK" }];
  return [];
}

function lintServe(profile: Profile, rule: SyscallRule): Finding[] {
  const about = rule.syscall;
  if (!profile.load.some(({ syscall }) => syscall === about)) {
    return [{ about, reason: "stage serve cannot allow what stage load does not" }];
  }
  if (CHANGES_FILES.split(" ").includes(about)) return [{ about, reason: "stage serve changes no file by its name" }];
  const flags = FLAGS_OF_OPENING[about];
  if (flags !== undefined && !keepsWithin(rule, flags, READING_FLAGS))
    return [{ about, reason: `stage serve needs \`arg${flags} only\` with flags for reading` }];
  if (isMapping(rule) && !keepsOut(rule, PROT_EXEC)) {
    return [{ about, reason: "stage serve needs `arg2 without PROT_EXEC`: no new code after the library is loaded" }];
  }
  return [];
}

function isMapping({ syscall }: SyscallRule): boolean {
  return syscall === "mmap" || syscall === "mprotect";
}

function keepsOut({ conditions }: SyscallRule, protection: bigint): boolean {
  return conditions.some(({ arg, test, value }) => arg === 2 && test === "without" && (value & protection) !== 0n);
}

/** True when the argument has no bit outside `mask`. */
function keepsWithin({ conditions }: SyscallRule, arg: number, mask: bigint): boolean {
  return conditions.some(
    (condition) => condition.arg === arg && condition.test !== "without" && (condition.value & ~mask) === 0n,
  );
}

function lintWatch(profile: Profile): Finding[] {
  const missing = MUST_WATCH.split(" ")
    .filter((name) => !profile.watch.some(({ syscall, conditions }) => syscall === name && conditions.length === 0))
    .filter((name) => !mayBeUnwatched(profile, name));
  // with a condition on it what is allowed is an exception, and every other attempt is still denied and shown
  const both = profile.watch.filter(
    (watched) =>
      watched.conditions.length === 0 &&
      profile.load.some(
        (rule) =>
          rule.syscall === watched.syscall && (rule.conditions.length === 0 || openingOf(profile, rule) === undefined),
      ),
  );
  return [
    ...missing.map((about) => ({ about, reason: "must be watched without conditions" })),
    ...both.map(({ syscall }) => ({ about: syscall, reason: "is allowed and watched: attempts would not be denied" })),
    ...(!watchesPrctlSeccomp(profile)
      ? [{ about: "prctl", reason: "must be watched when arg0 is PR_SET_SECCOMP" }]
      : []),
  ];
}

function watchesPrctlSeccomp(profile: Profile): boolean {
  return profile.watch.some(
    ({ syscall, conditions }) =>
      syscall === "prctl" && conditions.every(({ arg, test, value }) => arg === 0 && test === "is" && value === 22n),
  );
}

function lintLimits(profile: Profile): Finding[] {
  const threads = profile.opens.includes("thread");
  const zero = threads ? ["core", "msgqueue"] : ["core", "nproc", "msgqueue"];
  const value = (resource: string): bigint | undefined =>
    profile.limits.find((limit) => limit.resource === resource)?.value;
  const findings: Finding[] = zero
    .filter((name) => value(name) !== 0n)
    .map((about) => ({ about, reason: "limit must be 0" }));
  if (threads && (value("nproc") ?? MAX_THREADS + 1n) > MAX_THREADS)
    findings.push({ about: "nproc", reason: `limit must be at most ${MAX_THREADS} with threads` });
  for (const about of ["nofile", "fsize", "as"]) {
    if (value(about) === undefined) findings.push({ about, reason: "needs a limit" });
  }
  return findings;
}

function lintPaths(profile: Profile): Finding[] {
  const kernel = ["/proc", "/sys", "/dev"];
  const below = (path: string, root: string): boolean => path === root || path.startsWith(`${root}/`);
  return profile.landlock.flatMap(({ access, path }) => {
    if (access === "write" && (path === "/" || kernel.some((root) => below(path, root))))
      return [{ about: path, reason: "may not be writable" }];
    if (access === "device" && !below(path, "/dev")) return [{ about: path, reason: "is no place of device nodes" }];
    if (access === "device" && !profile.opens.includes("device"))
      return [{ about: path, reason: "needs `opens device`" }];
    return [];
  });
}

function lintOpenings(profile: Profile): Finding[] {
  const { opens, absent } = profile;
  const unused = unusedOpenings(profile).map((about) => ({ about, reason: "is declared, but no rule opens it" }));
  const hidden = absent
    .filter(({ syscall }) => syscall !== "clone3" || !opens.includes("thread"))
    .map(({ syscall: about }) => ({ about, reason: "may not be absent: only clone3, in a profile that opens thread" }));
  const answered = absent
    .filter(({ syscall }) => [...profile.watch, ...profile.load].some((rule) => rule.syscall === syscall))
    .map(({ syscall: about }) => ({ about, reason: "is absent and watched or allowed" }));
  return [...unused, ...hidden, ...answered];
}
