import {
  ARMED_FILTERS,
  ARMED_HIGH,
  AUDIT_ARCH_X86_64,
  type Condition,
  LOCKED_CALLS,
  MAPPING_CALLS,
  type Profile,
  type SyscallRule,
  X32_SYSCALL_BIT,
} from "./profile.ts";
import { syscallName } from "./syscalls.ts";

/** What a seccomp filter sees of a call: `struct seccomp_data` without the instruction pointer. */
export interface SystemCall {
  readonly arch: number;
  readonly nr: number;
  readonly args: readonly bigint[];
}

/** The three filters, in the order in which the shim installs them. */
export type FilterName = "load" | "lock" | "serve";

/**
 * `kill` ends the process, `deny` answers EPERM, `absent` ENOSYS, `notify` EPERM after showing the attempt to the agent.
 */
export type Verdict = "allow" | "notify" | "absent" | "deny" | "kill";

/**
 * What one filter of a compiled profile answers, computed from the profile itself. The kernel takes the strictest
 * answer of all installed filters, `deny` before `notify`: see `decideAll`.
 */
export function decide(profile: Profile, filter: FilterName, call: SystemCall): Verdict {
  if (call.arch !== AUDIT_ARCH_X86_64 || (call.nr & X32_SYSCALL_BIT) !== 0) return "kill";
  switch (filter) {
    case "load":
      return decideLoad(profile, call);
    case "lock":
      return LOCKED_CALLS.includes(syscallName(call.nr)) || installs(call, "lock") ? "deny" : "allow";
    case "serve":
      return decideServe(profile, call);
    default:
      return filter satisfies never;
  }
}

/** The kernel's answer once `filters` are installed. */
export function decideAll(profile: Profile, filters: readonly FilterName[], call: SystemCall): Verdict {
  const order: readonly Verdict[] = ["kill", "deny", "absent", "notify", "allow"];
  const answers = filters.map((filter) => decide(profile, filter, call));
  return order.find((verdict) => answers.includes(verdict)) ?? "allow";
}

function decideLoad(profile: Profile, call: SystemCall): Verdict {
  if (installs(call, "lock") || installs(call, "serve")) return "allow";
  if (touchesArmed(call)) return "deny";
  const among = (rules: readonly SyscallRule[]): boolean => rules.some((rule) => matches(rule, call));
  if (among(profile.load)) return "allow";
  if (among(profile.absent)) return "absent";
  return among(profile.watch) ? "notify" : "deny";
}

/**
 * What the first filter answers in its own way passes here, so that its notification or ENOSYS is what remains: but not
 * what it allowed in stage load, or that would stay allowed.
 */
function decideServe(profile: Profile, call: SystemCall): Verdict {
  if (installs(call, "serve")) return "deny";
  const among = (rules: readonly SyscallRule[]): boolean => rules.some((rule) => matches(rule, call));
  if (among(profile.serve)) return "allow";
  if (among(profile.load)) return "deny";
  return among([...profile.absent, ...profile.watch]) ? "allow" : "deny";
}

/** seccomp(SECCOMP_SET_MODE_FILTER, its flags, one of the programs armed before the library was loaded). */
function installs(call: SystemCall, filter: keyof typeof ARMED_FILTERS): boolean {
  const [operation, flags, program] = call.args;
  const armed = ARMED_FILTERS[filter];
  return (
    syscallName(call.nr) === "seccomp" &&
    operation === 1n &&
    flags === BigInt(armed.flags) &&
    program === (BigInt(ARMED_HIGH) << 32n) + BigInt(armed.offset)
  );
}

/** A range below 4 GiB that starts neither in the armed range nor in the 4 GiB before it cannot reach it. */
function touchesArmed(call: SystemCall): boolean {
  if (!MAPPING_CALLS.includes(syscallName(call.nr))) return false;
  const [address = 0n, length = 0n] = call.args;
  const high = Number(address >> 32n);
  return high === ARMED_HIGH || high === ARMED_HIGH - 1 || length >> 32n !== 0n;
}

export function matches(rule: SyscallRule, call: SystemCall): boolean {
  return rule.nr === call.nr && rule.conditions.every((condition) => holds(condition, call.args[condition.arg] ?? 0n));
}

function holds({ test, value }: Condition, argument: bigint): boolean {
  if (test === "is") return argument === value;
  return test === "only" ? (argument & ~value & 0xffff_ffff_ffff_ffffn) === 0n : (argument & value) === 0n;
}
