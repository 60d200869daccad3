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

/** What may be done below `path`; everything else in the file system is denied. Nothing grants execution. */
export interface LandlockRule {
  readonly access: "read" | "write";
  readonly path: string;
}

/**
 * A test on one 64-bit argument register: `is` equality, `only` no bit outside `value`, `without` no bit inside it.
 * There is no inequality: the kernel ignores the upper half of most arguments, so a caller could dodge it.
 */
export interface Condition {
  readonly arg: number;
  readonly test: "is" | "only" | "without";
  readonly value: bigint;
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
  readonly limits: readonly Limit[];
  readonly landlock: readonly LandlockRule[];
  /** Denied, and each attempt is shown to the agent by the kernel's notifier. */
  readonly watch: readonly SyscallRule[];
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
/** Offset of the lock filter's `struct sock_fprog` from the start of that range. */
export const ARMED_LOCK = 0;
/** Offset of the serve filter's `struct sock_fprog`. */
export const ARMED_SERVE = 16;
/** Calls that change mappings: first argument an address, second a length. Guarded around the armed range. */
export const MAPPING_CALLS: readonly string[] = ["mmap", "mprotect", "munmap", "madvise"];
/** Removed by the lock filter: file descriptors may not travel over the request socket any more. */
export const LOCKED_CALLS: readonly string[] = ["sendmsg", "recvmsg", "sendmmsg", "recvmmsg"];
