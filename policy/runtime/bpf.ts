import { PolicyError } from "../errors.ts";

/** `struct sock_filter` of linux/filter.h. */
export interface BpfInstruction {
  readonly code: number;
  readonly jt: number;
  readonly jf: number;
  readonly k: number;
}

/** The opcodes used: BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K. */
export const BPF = { load: 0x20, equal: 0x15, anyBit: 0x45, result: 0x06 } as const;

/** Filter results of linux/seccomp.h; EPERM is 1, ENOSYS 38. */
export const RESULT = {
  kill: 0x8000_0000,
  deny: 0x0005_0001,
  absent: 0x0005_0026,
  notify: 0x7fc0_0000,
  allow: 0x7fff_0000,
} as const;

/** Offsets in `struct seccomp_data`, which is little-endian on x86_64. */
export const DATA_NR = 0;
export const DATA_ARCH = 4;
export const argLow = (arg: number): number => 16 + 8 * arg;
export const argHigh = (arg: number): number => argLow(arg) + 4;

/** A place in the program that is not known yet. Jumps only go forward. */
export type Label = symbol;
/** Where a jump goes: on to the next instruction, or to a label. */
type Target = Label | "next";

interface Draft {
  readonly code: number;
  readonly k: number;
  readonly yes: Target;
  readonly no: Target;
}

/** Builds a classic BPF program with labels. */
export class BpfAssembler {
  readonly #drafts: Draft[] = [];
  readonly #places = new Map<Label, number>();

  load(offset: number): void {
    this.#drafts.push({ code: BPF.load, k: offset, yes: "next", no: "next" });
  }
  ifEqual(k: number, yes: Target, no: Target): void {
    this.#drafts.push({ code: BPF.equal, k, yes, no });
  }
  ifAnyBit(k: number, yes: Target, no: Target): void {
    this.#drafts.push({ code: BPF.anyBit, k, yes, no });
  }
  result(k: number): void {
    this.#drafts.push({ code: BPF.result, k, yes: "next", no: "next" });
  }
  place(label: Label): void {
    this.#places.set(label, this.#drafts.length);
  }

  /** @throws PolicyError ERR_PROFILE_INVALID on a jump over more than 255 instructions; TypeError on a label that was not placed */
  finish(): readonly BpfInstruction[] {
    return this.#drafts.map(({ code, k, yes, no }, at) => ({
      code,
      jt: this.#jump(yes, at),
      jf: this.#jump(no, at),
      k,
    }));
  }

  #jump(target: Target, at: number): number {
    if (target === "next") return 0;
    const place = this.#places.get(target);
    if (place === undefined || place <= at) throw new TypeError(`bpf jump at ${at}: ${String(target)} is not ahead`);
    const distance = place - at - 1;
    if (distance > 255)
      throw new PolicyError("ERR_PROFILE_INVALID", "profile rules for one call", {
        expected: "at most 255 instructions",
        got: `${distance}`,
      });
    return distance;
  }
}
