import { ByteReader, ByteWriter, utf8 } from "../bytes.ts";
import { PolicyError } from "../errors.ts";
import type { BpfInstruction } from "./bpf.ts";
import type { FilterName } from "./decide.ts";
import { compileFilter } from "./filters.ts";
import { lintProfile } from "./lint.ts";
import { ARMED_HIGH, AUDIT_ARCH_X86_64, type Profile, RESOURCES } from "./profile.ts";

/** "ICPF": the first four bytes of a compiled profile. */
const MAGIC = 0x4943_5046;
const VERSION = 2;
/** BPF_MAXINSNS of linux/bpf_common.h. */
const MAX_INSTRUCTIONS = 4096;
const MAX_ENTRIES = 64;
const FILTERS: readonly FilterName[] = ["load", "lock", "serve"];
const ACCESS = { read: 1, write: 2 } as const;

/**
 * The binary file that the shim loads (layout in README.md). The same text always gives the same bytes.
 *
 * @throws PolicyError ERR_PROFILE_INVALID with every finding of the linter
 */
export function compileProfile(profile: Profile): Uint8Array {
  const findings = lintProfile(profile);
  if (findings.length > 0) {
    const got = findings.map(({ about, reason }) => `${about} ${reason}`).join("; ");
    throw new PolicyError("ERR_PROFILE_INVALID", `profile ${profile.name}`, { expected: "no lint finding", got });
  }
  return encodeProfile(profile);
}

/** Compiles without the linter: for tests of the shim itself. Use `compileProfile`. */
export function encodeProfile(profile: Profile): Uint8Array {
  const file = new ByteWriter()
    .u32(MAGIC)
    .u32(VERSION)
    .sized16(utf8(profile.name))
    .u8(0) // opens no socket family
    .u32(AUDIT_ARCH_X86_64)
    .u32(ARMED_HIGH);
  file.u16(profile.limits.length);
  for (const { resource, value } of profile.limits) file.u8(RESOURCES[resource]).u64(value);
  file.u16(profile.landlock.length);
  for (const { access, path } of profile.landlock) file.u8(ACCESS[access]).sized16(utf8(path));
  for (const filter of FILTERS) {
    const program = compileFilter(profile, filter);
    file.u16(program.length);
    for (const { code, jt, jf, k } of program) file.u16(code).u8(jt).u8(jf).u32(k);
  }
  return file.finish();
}

/** What a compiled profile holds. The filters are programs only: the text is what a person should read. */
export interface CompiledProfile {
  readonly name: string;
  readonly limits: readonly { readonly resource: number; readonly value: bigint }[];
  readonly landlock: readonly { readonly access: "read" | "write"; readonly path: string }[];
  readonly filters: Readonly<Record<FilterName, readonly BpfInstruction[]>>;
}

/**
 * Reads a compiled profile with the bounds that the shim applies. Does not establish that the filters are sound:
 * only its hash, compared with a build from text, does that.
 *
 * @throws PolicyError ERR_PROFILE_INVALID, ERR_BYTES_TRUNCATED, ERR_BYTES_TRAILING or ERR_BYTES_VALUE
 */
export function parseCompiledProfile(bytes: Uint8Array): CompiledProfile {
  const reader = new ByteReader(bytes, "profile");
  expectValue("magic", MAGIC, reader.u32("magic"));
  expectValue("version", VERSION, reader.u32("version"));
  const text = (field: string, cap: number): string => new TextDecoder().decode(reader.sized16(field, cap));
  const name = text("name", 31);
  expectValue("opens", 0, reader.u8("opens"));
  expectValue("arch", AUDIT_ARCH_X86_64, reader.u32("arch"));
  expectValue("armed range", ARMED_HIGH, reader.u32("armed range"));
  const limits = times(count(reader, "limits", MAX_ENTRIES), () => ({
    resource: reader.u8("resource"),
    value: reader.u64("limit"),
  }));
  const landlock = times(count(reader, "landlock", MAX_ENTRIES), () => {
    const access = reader.u8("access");
    if (access !== ACCESS.read) expectValue("access", ACCESS.write, access);
    return { access: access === ACCESS.read ? ("read" as const) : ("write" as const), path: text("path", 255) };
  });
  const program = (): BpfInstruction[] =>
    times(count(reader, "filter", MAX_INSTRUCTIONS), () => ({
      code: reader.u16("code"),
      jt: reader.u8("jt"),
      jf: reader.u8("jf"),
      k: reader.u32("k"),
    }));
  const filters = { load: program(), lock: program(), serve: program() };
  reader.end();
  return { name, limits, landlock, filters };
}

function count(reader: ByteReader, field: string, cap: number): number {
  const value = reader.u16(`${field} count`);
  if (value > cap)
    throw new PolicyError("ERR_PROFILE_INVALID", `profile ${field} count`, {
      expected: `at most ${cap}`,
      got: `${value}`,
    });
  return value;
}

function times<T>(length: number, make: () => T): T[] {
  return Array.from({ length }, make);
}

function expectValue(field: string, expected: number, got: number): void {
  if (got !== expected)
    throw new PolicyError("ERR_PROFILE_INVALID", `profile ${field}`, { expected: `${expected}`, got: `${got}` });
}
