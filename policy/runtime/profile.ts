/** Resources a profile may limit, with their RLIMIT_ numbers on x86_64. */
export const RESOURCES = {
  cpu: 0,
  fsize: 1,
  data: 2,
  stack: 3,
  core: 4,
  nproc: 6,
  nofile: 7,
  memlock: 8,
  as: 9,
  msgqueue: 12,
} as const;

export type Resource = keyof typeof RESOURCES;

export interface Limit {
  readonly resource: Resource;
  /** Soft and hard value: bytes, seconds or a count, as setrlimit(2) defines it for the resource. */
  readonly value: bigint;
}

/**
 * What may be done below `path`; everything else in the file system is denied. Nothing grants execution. `device` is
 * reading, writing and ioctl of what is there, without making or removing anything.
 */
export interface LandlockRule {
  readonly access: Access;
  readonly path: string;
}

/** Kinds of Landlock rules with their numbers in the compiled file. */
export const ACCESS = { read: 1, write: 2, device: 3 } as const;

export type Access = keyof typeof ACCESS;

/**
 * What a profile may open that the profile `local` keeps shut, with its bit in the compiled file. `openings.ts` says
 * which calls belong to each.
 */
export const OPENINGS = { inet: 1, unix: 2, netlink: 4, thread: 8, device: 16 } as const;

export type Opening = keyof typeof OPENINGS;

/**
 * A test on one 64-bit argument register: `is` equality, `only` no bit outside `value`, `without` no bit inside it.
 * There is no inequality: the kernel ignores the upper half of most arguments, so a caller could dodge it.
 */
export interface Condition {
  readonly arg: number;
  readonly test: "is" | "only" | "without";
  readonly value: bigint;
  /** The value as the text has it, for people: `PROT_EXEC`, `O_CLOEXEC|O_NONBLOCK`, `0`. */
  readonly written: string;
}

/** One system call with conditions that must all hold. Several rules for one call are alternatives. */
export interface SyscallRule {
  readonly syscall: string;
  readonly nr: number;
  readonly conditions: readonly Condition[];
}

/** The runtime policy of a shim. */
export interface Profile {
  readonly name: string;
  readonly arch: "x86_64";
  /** Declared in the text; the linter holds it against what the rules open. */
  readonly opens: readonly Opening[];
  readonly limits: readonly Limit[];
  readonly landlock: readonly LandlockRule[];
  /** Denied, and each attempt is shown to the agent by the kernel's notifier. */
  readonly watch: readonly SyscallRule[];
  /** Denied with ENOSYS, as by a kernel that has no such call, so that a library takes the older one. Not shown. */
  readonly absent: readonly SyscallRule[];
  /** Allowed from the start on: while the library is loaded and logs in. */
  readonly load: readonly SyscallRule[];
  /** Still allowed after ARM. */
  readonly serve: readonly SyscallRule[];
}

/** AUDIT_ARCH_X86_64 of linux/audit.h. */
export const AUDIT_ARCH_X86_64 = 0xc000_003e;
/** Set in the number of every x32 call. */
export const X32_SYSCALL_BIT = 0x4000_0000;

/**
 * Upper 32 bits of the addresses (4 GiB from 0x100000000000) where the shim keeps the filters that it installs later.
 * The first filter lets nobody map, unmap or change pages there, so that the library can neither alter those filters
 * nor install one of its own. Far from where the kernel puts programs (0x55...), libraries and stacks (0x7f...).
 */
export const ARMED_HIGH = 0x1000;
/**
 * The filters that lie there: the offset of each one's `struct sock_fprog` from the start of that range, and the flags
 * with which alone it can be installed. 1 is SECCOMP_FILTER_FLAG_TSYNC: threads that the library has started by then
 * must not keep the wider filter.
 */
export const ARMED_FILTERS = { lock: { offset: 0, flags: 0 }, serve: { offset: 16, flags: 1 } } as const;
/** Calls that change mappings: first argument an address, second a length. Guarded around the armed range. */
export const MAPPING_CALLS: readonly string[] = ["mmap", "mprotect", "munmap", "madvise"];
/** Removed by the lock filter: file descriptors may not travel over the request socket any more. */
export const LOCKED_CALLS: readonly string[] = ["sendmsg", "recvmsg", "sendmmsg", "recvmmsg"];
