import { argHigh, argLow, BpfAssembler, type BpfInstruction, DATA_ARCH, DATA_NR, type Label, RESULT } from "./bpf.ts";
import type { FilterName } from "./decide.ts";
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
import { syscallNumber } from "./syscalls.ts";

/** What one call's part of a filter consists of, in the order of evaluation. */
interface Block {
  readonly syscall: string;
  readonly nr: number;
  readonly rules: { readonly rule: SyscallRule; readonly result: number }[];
}

const HALF = 0xffff_ffffn;

/**
 * One of a profile's three seccomp programs. Its answer is `decide`'s for every call; a test runs both.
 * Calls are compared in the order of the text, so the frequent ones belong first.
 */
export function compileFilter(profile: Profile, filter: FilterName): readonly BpfInstruction[] {
  const code = new BpfAssembler();
  guardEntry(code);
  for (const block of blocksOf(profile, filter)) emitBlock(code, filter, block);
  code.result(filter === "lock" ? RESULT.allow : RESULT.deny);
  return code.finish();
}

/** A call through another entry (int 0x80, x32) has other numbers: it would pass for a different call. */
function guardEntry(code: BpfAssembler): void {
  const native = Symbol("native");
  const kill = Symbol("kill");
  const checked = Symbol("checked");
  code.load(DATA_ARCH);
  code.ifEqual(AUDIT_ARCH_X86_64, native, kill);
  code.place(native);
  code.load(DATA_NR);
  code.ifAnyBit(X32_SYSCALL_BIT, kill, checked);
  code.place(kill);
  code.result(RESULT.kill);
  code.place(checked);
}

function blocksOf(profile: Profile, filter: FilterName): readonly Block[] {
  const seccomp = { syscall: "seccomp", nr: syscallNumber("seccomp") ?? -1, rules: [] };
  const blocks = new Map<string, Block>([["seccomp", seccomp]]);
  const add = (rules: readonly SyscallRule[], result: number): void => {
    for (const rule of rules) {
      const block = blocks.get(rule.syscall) ?? { syscall: rule.syscall, nr: rule.nr, rules: [] };
      blocks.set(rule.syscall, block);
      block.rules.push({ rule, result });
    }
  };
  const always = (names: readonly string[]): SyscallRule[] =>
    names.map((syscall) => ({ syscall, nr: syscallNumber(syscall) ?? -1, conditions: [] }));
  switch (filter) {
    case "load":
      add(profile.load, RESULT.allow);
      add(profile.absent, RESULT.absent);
      add(profile.watch, RESULT.notify);
      break;
    case "lock":
      add(always(LOCKED_CALLS), RESULT.deny);
      add(always(["seccomp"]), RESULT.allow);
      break;
    case "serve":
      add(profile.serve, RESULT.allow);
      add(profile.load.filter(answeredOtherwise(profile)), RESULT.deny);
      add(profile.absent, RESULT.allow);
      add(profile.watch, RESULT.allow);
      break;
    default:
      filter satisfies never;
  }
  return [...blocks.values()];
}

/** True for a rule whose call the serve filter would let pass because another rule of it is watched or absent. */
function answeredOtherwise({ watch, absent }: Profile): (rule: SyscallRule) => boolean {
  const calls = new Set([...watch, ...absent].map(({ syscall }) => syscall));
  return ({ syscall }) => calls.has(syscall);
}

/** Falls through to the next block while the number differs; inside a block every path ends in a result. */
function emitBlock(code: BpfAssembler, filter: FilterName, block: Block): void {
  const next = Symbol(`after ${block.syscall}`);
  code.ifEqual(block.nr, "next", next);
  if (block.syscall === "seccomp") emitArming(code, filter);
  if (filter === "load" && MAPPING_CALLS.includes(block.syscall)) emitArmedGuard(code);
  for (const { rule, result } of block.rules) emitRule(code, rule, result);
  if (block.rules.every(({ rule }) => rule.conditions.length > 0)) code.result(RESULT.deny);
  code.place(next);
}

function emitRule(code: BpfAssembler, rule: SyscallRule, result: number): void {
  const otherwise = Symbol("otherwise");
  for (const condition of rule.conditions) emitCondition(code, condition, otherwise);
  code.result(result);
  code.place(otherwise);
}

function emitCondition(code: BpfAssembler, { arg, test, value }: Condition, otherwise: Label): void {
  const halves = [
    { offset: argLow(arg), bits: Number(value & HALF) },
    { offset: argHigh(arg), bits: Number((value >> 32n) & HALF) },
  ];
  for (const { offset, bits } of halves) {
    code.load(offset);
    if (test === "is") code.ifEqual(bits, "next", otherwise);
    else code.ifAnyBit(test === "only" ? ~bits >>> 0 : bits, otherwise, "next");
  }
}

/** The load filter lets the two armed programs in; each of them then refuses to be installed again. */
function emitArming(code: BpfAssembler, filter: FilterName): void {
  const armed = filter === "load" ? [ARMED_FILTERS.lock, ARMED_FILTERS.serve] : [ARMED_FILTERS[filter]];
  for (const { offset, flags } of armed) {
    const values = [1n, BigInt(flags), (BigInt(ARMED_HIGH) << 32n) + BigInt(offset)];
    const conditions = values.map((value, arg) => ({ arg, test: "is" as const, value, written: `${value}` }));
    const rule = { syscall: "seccomp", nr: syscallNumber("seccomp") ?? -1, conditions };
    emitRule(code, rule, filter === "load" ? RESULT.allow : RESULT.deny);
  }
}

function emitArmedGuard(code: BpfAssembler): void {
  const refuse = Symbol("armed range");
  const free = Symbol("elsewhere");
  code.load(argHigh(1));
  code.ifEqual(0, "next", refuse);
  code.load(argHigh(0));
  code.ifEqual(ARMED_HIGH, refuse, "next");
  code.ifEqual(ARMED_HIGH - 1, refuse, free);
  code.place(refuse);
  code.result(RESULT.deny);
  code.place(free);
}
