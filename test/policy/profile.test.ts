import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PolicyError } from "../../policy/errors.ts";
import { RESULT } from "../../policy/runtime/bpf.ts";
import { compileProfile, encodeProfile, parseCompiledProfile } from "../../policy/runtime/compile.ts";
import { decide, decideAll, type FilterName, type SystemCall, type Verdict } from "../../policy/runtime/decide.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import {
  ARMED_HIGH,
  AUDIT_ARCH_X86_64,
  type Condition,
  type SyscallRule,
  X32_SYSCALL_BIT,
} from "../../policy/runtime/profile.ts";
import { syscallName, syscallNumber } from "../../policy/runtime/syscalls.ts";
import { PROFILE_NAMES, profileText, readProfile } from "../../vm-images/profiles.ts";
import { runBpf } from "../support/bpf-machine.ts";

const text = profileText("local");
const local = readProfile(text);
const shipped = PROFILE_NAMES.map((name) => ({ name, profile: readProfile(profileText(name)) }));
const FILTERS: readonly FilterName[] = ["load", "lock", "serve"];
const ARMED = BigInt(ARMED_HIGH) << 32n;
const VERDICTS = new Map<number, Verdict>([
  [RESULT.kill, "kill"],
  [RESULT.deny, "deny"],
  [RESULT.absent, "absent"],
  [RESULT.notify, "notify"],
  [RESULT.allow, "allow"],
]);

function call(name: string, ...args: readonly bigint[]): SystemCall {
  const nr = syscallNumber(name);
  if (nr === undefined) throw new Error(name);
  return { arch: AUDIT_ARCH_X86_64, nr, args: [...args, 0n, 0n, 0n, 0n, 0n, 0n].slice(0, 6) };
}

/** Arguments that meet all conditions, and for each condition some that miss just that one. */
function bothSides({ conditions }: SyscallRule): readonly (readonly bigint[])[] {
  const met = [0n, 0n, 0n, 0n, 0n, 0n];
  for (const { arg, test: kind, value } of conditions) if (kind !== "without") met[arg] = value;
  const missed = conditions.flatMap((condition) =>
    misses(condition).map((value) => met.map((other, arg) => (arg === condition.arg ? value : other))),
  );
  return [met, ...missed];
}

function misses({ test: kind, value }: Condition): readonly bigint[] {
  const outside = ~value & 0xffff_ffff_ffff_ffffn;
  if (kind === "is") return [value ^ 1n, value | (1n << 32n), value | (1n << 63n)];
  if (kind === "only") return [outside, outside & -outside, 1n << 32n];
  return [value, value & -value];
}

/** Values at which rules and guards turn. */
const argument = fc.oneof(
  fc.constantFrom(
    0n,
    1n,
    2n,
    3n,
    4n,
    5n,
    6n,
    7n,
    15n,
    16n,
    22n,
    0x8_0000n,
    ARMED,
    ARMED + 16n,
    ARMED + 4096n,
    ARMED - 1n,
  ),
  fc.constantFrom(ARMED - (1n << 32n) - 1n, ARMED + (1n << 32n), 1n << 32n, (1n << 32n) + 22n, 0xffff_ffff_ffff_ffffn),
  fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }),
);
const args = fc.array(argument, { minLength: 6, maxLength: 6 });

describe("the compiled filters", () => {
  test.each(shipped)(
    "I5: under $name the filters answer as the profile says for every system-call number",
    ({ profile }) => {
      const compiled = parseCompiledProfile(compileProfile(profile));
      const someArgs = [
        [0n, 0n, 0n, 0n, 0n, 0n],
        [22n, 5n, 4n, 0n, 0n, 0n],
        [1n, 0n, ARMED, 0n, 0n, 0n],
        [1n, 1n, ARMED + 16n, 0n, 0n, 0n],
        [ARMED, 4096n, 3n, 0n, 0n, 0n],
        [0x3d0f00n, 0n, 0n, 0n, 0n, 0n],
      ];
      for (let nr = 0; nr < 600; nr += 1) {
        for (const filter of FILTERS) {
          for (const values of someArgs) {
            const systemCall = { arch: AUDIT_ARCH_X86_64, nr, args: values };
            expect(VERDICTS.get(runBpf(compiled.filters[filter], systemCall)), `${filter} ${nr}`).toBe(
              decide(profile, filter, systemCall),
            );
          }
        }
      }
    },
  );

  test.each(shipped)(
    "I5: under $name the filters answer as the profile says on both sides of every condition",
    ({ profile }) => {
      const compiled = parseCompiledProfile(compileProfile(profile));
      for (const rule of [...profile.load, ...profile.serve, ...profile.watch, ...profile.absent]) {
        for (const values of bothSides(rule)) {
          const systemCall = { arch: AUDIT_ARCH_X86_64, nr: rule.nr, args: values };
          for (const filter of FILTERS)
            expect(
              VERDICTS.get(runBpf(compiled.filters[filter], systemCall)),
              `${filter} ${rule.syscall} ${values}`,
            ).toBe(decide(profile, filter, systemCall));
        }
      }
    },
  );

  test.each(shipped)("I5: under $name the filters answer as the profile says for any arguments", ({ profile }) => {
    const compiled = parseCompiledProfile(encodeProfile(profile));
    const rules = [...profile.load, ...profile.serve, ...profile.watch, ...profile.absent];
    const calls = fc.record({
      arch: fc.constantFrom(AUDIT_ARCH_X86_64, AUDIT_ARCH_X86_64, AUDIT_ARCH_X86_64, 0x4000_0003, 0),
      nr: fc.oneof(
        fc.constantFrom(...rules.map((rule) => rule.nr)),
        fc.nat({ max: 600 }),
        fc.nat({ max: 0x7fff_ffff }),
      ),
      args,
    });
    fc.assert(
      fc.property(calls, (systemCall) => {
        for (const filter of FILTERS)
          expect(VERDICTS.get(runBpf(compiled.filters[filter], systemCall))).toBe(decide(profile, filter, systemCall));
      }),
      { numRuns: 1500 },
    );
  });

  test("I5: x32 and 32-bit entries end the process whatever the number", () => {
    for (const nr of [0, 20, 39, 59, 319]) {
      expect(decideAll(local, FILTERS, { arch: AUDIT_ARCH_X86_64, nr: nr | X32_SYSCALL_BIT, args: [] })).toBe("kill");
      expect(decideAll(local, FILTERS, { arch: 0x4000_0003, nr, args: [] })).toBe("kill");
    }
  });

  test("I5: attempts on the watch list are shown to the agent in every stage", () => {
    for (const name of ["execve", "fork", "clone", "clone3", "socket", "ptrace", "io_uring_setup", "bpf", "seccomp"]) {
      expect(decideAll(local, ["load"], call(name)), name).toBe("notify");
      expect(decideAll(local, FILTERS, call(name)), name).toBe("notify");
    }
    expect(decideAll(local, FILTERS, call("prctl", 22n))).toBe("notify");
  });

  test("I5: after the lock filter no message with descriptors is sent or received", () => {
    expect(decideAll(local, ["load"], call("sendmsg"))).toBe("allow");
    for (const name of ["sendmsg", "recvmsg", "sendmmsg", "recvmmsg"]) {
      expect(decideAll(local, ["load", "lock"], call(name)), name).toBe("deny");
    }
  });

  test.each(shipped)("I5: under $name the serve filter is installed in every thread or not at all", ({ profile }) => {
    for (const flags of [0n, 2n, 3n, 8n, 9n, 17n]) {
      expect(decideAll(profile, ["load", "lock"], call("seccomp", 1n, flags, ARMED + 16n))).toBe("notify");
    }
  });

  test("I5: a thread that a library started just before ARM can begin after it, and starts no other", () => {
    for (const { name, profile } of shipped.filter(({ profile: { opens } }) => opens.includes("thread"))) {
      // the C library's first calls in a new thread: it aborts when one is denied
      for (const first of ["rseq", "set_robust_list", "rt_sigprocmask"])
        expect(decideAll(profile, FILTERS, call(first)), `${name} ${first}`).toBe("allow");
      expect(decideAll(profile, ["load", "lock"], call("clone", 0x3d0f00n))).toBe("allow");
      expect(decideAll(profile, FILTERS, call("clone", 0x3d0f00n))).toBe("deny");
    }
  });

  test("I5: after ARM no memory becomes executable and no file is opened for writing", () => {
    for (const name of ["mmap", "mprotect"]) {
      expect(decideAll(local, ["load", "lock"], call(name, 0n, 4096n, 5n)), name).toBe("allow");
      expect(decideAll(local, ["load", "lock"], call(name, 0n, 4096n, 3n)), name).toBe("allow");
      expect(decideAll(local, ["load", "lock"], call(name, 0n, 4096n, 6n)), name).toBe("deny");
      expect(decideAll(local, ["load", "lock"], call(name, 0n, 4096n, 7n)), name).toBe("deny");
    }
    expect(decideAll(local, FILTERS, call("mmap", 0n, 4096n, 5n))).toBe("deny");
    expect(decideAll(local, FILTERS, call("mmap", 0n, 4096n, 3n))).toBe("allow");
    expect(decideAll(local, FILTERS, call("mprotect", 0n, 4096n, 4n))).toBe("deny");
    expect(decideAll(local, FILTERS, call("openat", 0n, 0n, 2n))).toBe("deny");
    expect(decideAll(local, FILTERS, call("openat", 0n, 0n, 0x8_0000n))).toBe("allow");
  });

  test("I5: only the armed filters can be installed, each once, and their pages cannot be changed", () => {
    const install = (address: bigint, flags = 0n): SystemCall => call("seccomp", 1n, flags, address);
    expect(decideAll(local, ["load"], install(ARMED))).toBe("allow");
    expect(decideAll(local, ["load", "lock"], install(ARMED))).toBe("deny");
    expect(decideAll(local, ["load", "lock"], install(ARMED + 16n, 1n))).toBe("allow");
    expect(decideAll(local, FILTERS, install(ARMED + 16n, 1n))).toBe("deny");
    expect(decideAll(local, ["load", "lock"], install(ARMED + 8n))).toBe("notify");
    expect(decideAll(local, ["load"], call("seccomp", 1n, 8n, ARMED))).toBe("notify");
    for (const name of ["mmap", "mprotect", "munmap", "madvise"]) {
      expect(decideAll(local, ["load"], call(name, ARMED, 4096n)), name).toBe("deny");
      expect(decideAll(local, ["load"], call(name, ARMED - 4096n, 8192n)), name).toBe("deny");
      expect(decideAll(local, ["load"], call(name, 4096n, 1n << 45n)), name).toBe("deny");
    }
  });
});

describe("the text and the file", () => {
  test("I12: the same text gives the same bytes, and the file reads back", () => {
    const bytes = compileProfile(local);
    expect(compileProfile(parseProfile(text))).toEqual(bytes);
    const back = parseCompiledProfile(bytes);
    expect(back.name).toBe("local");
    expect(back.landlock).toEqual(local.landlock);
    expect(back.limits.map(({ value }) => value)).toEqual(local.limits.map(({ value }) => value));
  });

  test("I10: wrong statements end in a typed error that names the line", () => {
    const wrong = [
      "profil local",
      "profile Local",
      "profile a\nprofile b",
      "arch aarch64",
      "limit core",
      "limit core -1",
      "limit rss 1",
      "limit core 0\nlimit core 0",
      "landlock exec /bin",
      "landlock read etc",
      "landlock read /a/../b",
      "watch",
      "watch not_a_call",
      "allow read",
      "stage serve\nstage load",
      "stage load\nstage load",
      "stage load\nallow read when",
      "stage load\nallow read when arg6 is 0",
      "stage load\nallow read when arg0 not 0",
      "stage load\nallow read when arg0 is PROT_EXE",
      "stage load\nallow read when arg0 is 1 or arg1 is 2",
      "stage load\nallow read when arg0 is 1 and",
      "stage load\nallow read write when arg0 is 1",
    ];
    for (const line of wrong) {
      expect(() => parseProfile(line), line).toThrow(/^profile line \d+: expected /);
    }
    expect(() => parseProfile("profile a")).toThrow(/arch/);
    expect(() => parseProfile("x".repeat(70_000))).toThrow(/at most/);
  });

  test("I10: a path of many components that is refused in the end is refused at once", () => {
    const text = `profile a\narch x86_64\nlandlock read ${"/a".repeat(120)}\u00e9\n`;
    const start = performance.now();
    expect(() => parseProfile(text)).toThrow(/line 3: expected an absolute path/);
    expect(performance.now() - start).toBeLessThan(1000);
  });

  test("I10: any text and any damaged file end in a profile or a typed error", () => {
    const words = fc.constantFrom(
      "profile",
      "arch",
      "x86_64",
      "limit",
      "core",
      "0",
      "landlock",
      "read",
      "/",
      "watch",
      "allow",
      "stage",
      "load",
      "when",
      "arg0",
      "is",
      "and",
      "#",
      "PROT_EXEC",
      "a|b",
    );
    const texts = fc.oneof(
      fc.string(),
      fc.array(words.chain((word) => fc.constantFrom(`${word} `, `${word}\n`))).map((all) => all.join("")),
    );
    fc.assert(
      fc.property(texts, (any) => expectTyped(() => parseProfile(any))),
      { numRuns: 500 },
    );
    const bytes = compileProfile(local);
    const damage = fc.tuple(fc.nat({ max: bytes.length - 1 }), fc.nat({ max: 255 }), fc.nat({ max: bytes.length }));
    fc.assert(
      fc.property(damage, ([at, value, cut]) => {
        const copy = bytes.slice(0, cut);
        if (at < copy.length) copy[at] = value;
        expectTyped(() => parseCompiledProfile(copy));
      }),
      { numRuns: 500 },
    );
  });

  test("names and numbers of system calls agree", () => {
    for (const [name, nr] of [
      ["read", 0],
      ["execve", 59],
      ["openat", 257],
      ["seccomp", 317],
      ["rseq", 334],
      ["io_uring_setup", 425],
      ["mseal", 462],
    ] as const) {
      expect(syscallNumber(name)).toBe(nr);
      expect(syscallName(nr)).toBe(name);
    }
    expect(syscallNumber("constructor")).toBeUndefined();
  });
});

function expectTyped(act: () => unknown): void {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(PolicyError);
  }
}
