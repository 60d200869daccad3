import { ByteReader, ByteWriter, utf8 } from "../bytes.ts";
import { PolicyError } from "../errors.ts";
import type { BpfInstruction } from "./bpf.ts";
import type { FilterName } from "./decide.ts";
import { compileFilter } from "./filters.ts";
import { lintProfile } from "./lint.ts";
import {
  ACCESS,
  type Access,
  ARMED_HIGH,
  AUDIT_ARCH_X86_64,
  OPENINGS,
  type Opening,
  type Profile,
  RESOURCES,
} from "./profile.ts";

/** "ICPF": the first four bytes of a compiled profile. */
const MAGIC = 0x4943_5046;
const VERSION = 2;
/** BPF_MAXINSNS of linux/bpf_common.h. */
const MAX_INSTRUCTIONS = 4096;
const MAX_ENTRIES = 64;
const FILTERS: readonly FilterName[] = ["load", "lock", "serve"];

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
    .u8(profile.opens.reduce((bits, opening) => bits | OPENINGS[opening], 0))
    .u32(AUDIT_ARCH_X86_64)
    .u32(ARMED_HIGH);
  file.u16(profile.limits.length);
  for (const { resource, value } of profile.limits) file.u8(RESOURCES[resource]).u64(value);
  file.u16(atMost("landlock rules", profile.landlock.length, MAX_ENTRIES));
  for (const { access, path } of profile.landlock) file.u8(ACCESS[access]).sized16(utf8(path));
  for (const filter of FILTERS) {
    const program = compileFilter(profile, filter);
    file.u16(atMost(`filter ${filter}`, program.length, MAX_INSTRUCTIONS));
    for (const { code, jt, jf, k } of program) file.u16(code).u8(jt).u8(jf).u32(k);
  }
  return file.finish();
}

/** What a compiled profile holds. The filters are programs only: the text is what a person should read. */
export interface CompiledProfile {
  readonly name: string;
  readonly opens: readonly Opening[];
  readonly limits: readonly { readonly resource: number; readonly value: bigint }[];
  readonly landlock: readonly { readonly access: Access; readonly path: string }[];
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
  const opens = openingsOf(reader.u8("opens"));
  expectValue("arch", AUDIT_ARCH_X86_64, reader.u32("arch"));
  expectValue("armed range", ARMED_HIGH, reader.u32("armed range"));
  const limits = times(count(reader, "limits", MAX_ENTRIES), () => ({
    resource: reader.u8("resource"),
    value: reader.u64("limit"),
  }));
  const landlock = times(count(reader, "landlock", MAX_ENTRIES), () => ({
    access: accessOf(reader.u8("access")),
    path: text("path", 255),
  }));
  const program = (): BpfInstruction[] =>
    times(count(reader, "filter", MAX_INSTRUCTIONS), () => ({
      code: reader.u16("code"),
      jt: reader.u8("jt"),
      jf: reader.u8("jf"),
      k: reader.u32("k"),
    }));
  const filters = { load: program(), lock: program(), serve: program() };
  reader.end();
  return { name, opens, limits, landlock, filters };
}

function openingsOf(bits: number): readonly Opening[] {
  // Object.keys is typed for objects with further keys; this one is a constant
  const names = (Object.keys(OPENINGS) as Opening[]).filter((name) => (bits & OPENINGS[name]) !== 0);
  expectValue(
    "opens",
    names.reduce((known, name) => known | OPENINGS[name], 0),
    bits,
  );
  return names;
}

function accessOf(number: number): Access {
  const access = (Object.keys(ACCESS) as Access[]).find((name) => ACCESS[name] === number);
  if (access === undefined)
    throw new PolicyError("ERR_PROFILE_INVALID", "profile access", { expected: "1, 2 or 3", got: `${number}` });
  return access;
}

function count(reader: ByteReader, field: string, cap: number): number {
  return atMost(`${field} count`, reader.u16(`${field} count`), cap);
}

function atMost(field: string, value: number, cap: number): number {
  if (value > cap)
    throw new PolicyError("ERR_PROFILE_INVALID", `profile ${field}`, { expected: `at most ${cap}`, got: `${value}` });
  return value;
}

function times<T>(length: number, make: () => T): T[] {
  return Array.from({ length }, make);
}

function expectValue(field: string, expected: number, got: number): void {
  if (got !== expected)
    throw new PolicyError("ERR_PROFILE_INVALID", `profile ${field}`, { expected: `${expected}`, got: `${got}` });
}
