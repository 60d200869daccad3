import { ByteReader, type ErrorFields } from "../policy/index.ts";
import { AttestError } from "./errors.ts";

// ELF-64 Object File Format (System V gABI) and the GNU extensions that decide which files the loader opens. Only program
// headers are read, as the loader does: section headers may say anything.

export type ElfMachine = "x86_64" | "aarch64";

export interface ElfObject {
  readonly machine: ElfMachine;
  readonly kind: "executable" | "shared";
  readonly soname: string | null;
  /** DT_NEEDED, in order. */
  readonly needed: readonly string[];
  /** DT_RPATH elements; empty when there is a DT_RUNPATH, because the loader then ignores it. */
  readonly rpath: readonly string[];
  /** DT_RUNPATH elements; `null` when there is none, which is not the same as an empty one. */
  readonly runpath: readonly string[] | null;
  /** PT_INTERP: the loader that the kernel starts for an executable. */
  readonly interpreter: string | null;
  /** `false` under DF_1_NODEFLIB: the default directories are not searched for this object's dependencies. */
  readonly searchesDefaults: boolean;
  /** What a profile that lets no memory be writable and executable will not load, and what a closure cannot show. */
  readonly traits: ElfTraits;
}

export interface ElfTraits {
  /** PT_GNU_STACK with PF_X, or none at all: the loader then makes the stack executable. */
  readonly executableStack: boolean;
  /** DT_TEXTREL or DF_TEXTREL: the loader writes to code while it relocates. */
  readonly textRelocations: boolean;
  /** A PT_LOAD that is writable and executable. */
  readonly writableCode: boolean;
  /** `dlopen` or `dlmopen` among its dynamic names: what it opens then is in no closure. */
  readonly opensLater: boolean;
}

interface Segment {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly address: number;
  readonly fileSize: number;
  readonly memorySize: number;
}

const HEADER_SIZE = 64;
const PROGRAM_HEADER_SIZE = 56;
const MAX_SEGMENTS = 128;
const MAX_DYNAMIC = 4096;
const MAX_NAME = 4096;
const PAGE = 4096;

const PT = { load: 1, dynamic: 2, interpreter: 3, gnuStack: 0x6474e551 } as const;
const PF_EXECUTE = 1;
const PF_WRITE = 2;
const DT = {
  needed: 1,
  strtab: 5,
  strsz: 10,
  soname: 14,
  rpath: 15,
  textrel: 22,
  runpath: 29,
  flags: 30,
  flags1: 0x6ffffffb,
} as const;
const DF_TEXTREL = 0x4;
const DF_1_NODEFLIB = 0x800;
const once: ReadonlySet<number> = new Set(Object.values(DT).filter((tag) => tag !== DT.needed));
/** Tags that make the loader open further files by rules of their own. */
const refusedTags: ReadonlyMap<number, string> = new Map([
  [0x7ffffffd, "DT_AUXILIARY"],
  [0x7fffffff, "DT_FILTER"],
  [0x6ffffefc, "DT_AUDIT"],
  [0x6ffffefb, "DT_DEPAUDIT"],
]);

/**
 * Parse a 64-bit little-endian ELF executable or shared object. Files on which this parser and the loader could disagree
 * (overlapping segments, a dynamic section whose file offset is not where its address is mapped from, a tag twice) are refused.
 *
 * Establishes which files the object asks for. Says nothing about what its code opens later with dlopen.
 * Throws {@link AttestError} ERR_ELF_MALFORMED, or ERR_ELF_UNSUPPORTED for a class, machine or tag outside this project.
 */
export function parseElf(bytes: Uint8Array): ElfObject {
  const header = parseElfHeader(bytes);
  const segments = parseSegments(bytes, header.segmentsAt, header.segmentCount);
  const dynamic = parseDynamic(bytes, segments);
  const value = (tag: number): number | undefined => dynamic.find((entry) => entry.tag === tag)?.value;
  const strings = dynamicStrings(bytes, segments, value(DT.strtab), value(DT.strsz));
  const optional = (tag: number): string | null => {
    const at = value(tag);
    return at === undefined ? null : strings(at);
  };
  const runpath = optional(DT.runpath);
  const rpath = optional(DT.rpath);
  return {
    machine: header.machine,
    kind: header.kind,
    soname: optional(DT.soname),
    needed: dynamic.filter((entry) => entry.tag === DT.needed).map((entry) => strings(entry.value)),
    rpath: rpath === null || runpath !== null ? [] : rpath.split(":"),
    runpath: runpath === null ? null : runpath.split(":"),
    interpreter: parseInterpreter(bytes, segments),
    searchesDefaults: ((value(DT.flags1) ?? 0) & DF_1_NODEFLIB) === 0,
    traits: {
      ...segmentTraits(segments),
      textRelocations: value(DT.textrel) !== undefined || ((value(DT.flags) ?? 0) & DF_TEXTREL) !== 0,
      opensLater: namesIn(bytes, segments, value(DT.strtab), value(DT.strsz), ["dlopen", "dlmopen"]),
    },
  };
}

function segmentTraits(segments: readonly Segment[]): Pick<ElfTraits, "executableStack" | "writableCode"> {
  const stack = onlySegment(segments, PT.gnuStack, "PT_GNU_STACK");
  const both = PF_EXECUTE | PF_WRITE;
  return {
    executableStack: stack === null || (stack.flags & PF_EXECUTE) !== 0,
    writableCode: segments.some(({ type, flags }) => type === PT.load && (flags & both) === both),
  };
}

/** Whether one of `names` stands in the dynamic string table, as a whole name or as the end of one: that is how linkers share them. */
function namesIn(
  bytes: Uint8Array,
  segments: readonly Segment[],
  address: number | undefined,
  size: number | undefined,
  names: readonly string[],
): boolean {
  if (address === undefined || size === undefined) return false;
  const start = fileOffset(segments, address, size, "DT_STRTAB");
  const table = bytes.subarray(start, start + size);
  return names.some((name) => {
    const wanted = [...name].map((character) => character.charCodeAt(0));
    for (let at = table.indexOf(wanted[0] ?? 0); at >= 0; at = table.indexOf(wanted[0] ?? 0, at + 1)) {
      if (table[at + wanted.length] === 0 && wanted.every((byte, index) => table[at + index] === byte)) return true;
    }
    return false;
  });
}

interface ElfHeader {
  readonly machine: ElfMachine;
  readonly kind: ElfObject["kind"];
  readonly segmentsAt: number;
  readonly segmentCount: number;
}

function parseElfHeader(bytes: Uint8Array): ElfHeader {
  const reader = part(bytes, 0, HEADER_SIZE, "header");
  if (reader.u32("e_ident magic") !== 0x7f454c46)
    throw malformed("e_ident", { expected: "7f 45 4c 46", got: "other bytes" });
  requireSupported("EI_CLASS", 2, reader.u8("EI_CLASS"));
  requireSupported("EI_DATA", 1, reader.u8("EI_DATA"));
  requireSupported("EI_VERSION", 1, reader.u8("EI_VERSION"));
  const abi = reader.u8("EI_OSABI");
  if (abi !== 3) requireSupported("EI_OSABI", 0, abi); // System V, or GNU when the file uses IFUNC or unique symbols
  reader.bytes(8, "EI_PAD");
  const type = reader.u16le("e_type");
  if (type !== 2) requireSupported("e_type", 3, type);
  const machine = machineOf(reader.u16le("e_machine"));
  requireSupported("e_version", 1, reader.u32le("e_version"));
  reader.bytes(8, "e_entry");
  const segmentsAt = safe(reader.u64le("e_phoff"), "e_phoff");
  reader.bytes(8 + 4, "e_shoff, e_flags");
  requireSupported("e_ehsize", HEADER_SIZE, reader.u16le("e_ehsize"));
  requireSupported("e_phentsize", PROGRAM_HEADER_SIZE, reader.u16le("e_phentsize"));
  const segmentCount = reader.u16le("e_phnum");
  if (segmentCount > MAX_SEGMENTS)
    throw malformed("e_phnum", {
      expected: `at most ${MAX_SEGMENTS}`,
      got: `${segmentCount}`,
    });
  return {
    machine,
    kind: type === 2 ? "executable" : "shared",
    segmentsAt,
    segmentCount,
  };
}

function machineOf(value: number): ElfMachine {
  if (value === 62) return "x86_64";
  if (value === 183) return "aarch64";
  throw new AttestError("ERR_ELF_UNSUPPORTED", "elf e_machine", {
    expected: "62 (x86_64) or 183 (aarch64)",
    got: `${value}`,
  });
}

function parseSegments(bytes: Uint8Array, at: number, count: number): Segment[] {
  const reader = part(bytes, at, count * PROGRAM_HEADER_SIZE, "program headers");
  const segments: Segment[] = [];
  for (let index = 0; index < count; index += 1) {
    const type = reader.u32le("p_type");
    const flags = reader.u32le("p_flags");
    const offset = safe(reader.u64le("p_offset"), "p_offset");
    const address = safe(reader.u64le("p_vaddr"), "p_vaddr");
    reader.bytes(8, "p_paddr");
    const fileSize = safe(reader.u64le("p_filesz"), "p_filesz");
    const memorySize = safe(reader.u64le("p_memsz"), "p_memsz");
    reader.bytes(8, "p_align");
    segments.push({ type, flags, offset, address, fileSize, memorySize });
  }
  requireLoadable(bytes, segments);
  return segments;
}

/** PT_LOAD segments ascend and share no page, so that every address is backed by one place of the file only. */
function requireLoadable(bytes: Uint8Array, segments: readonly Segment[]): void {
  let free = 0;
  for (const segment of segments) {
    if (segment.type !== PT.load) continue;
    const { offset, address, fileSize, memorySize } = segment;
    if (fileSize > memorySize || offset + fileSize > bytes.length) {
      throw malformed("PT_LOAD", {
        expected: "a range inside the file, no larger than its memory",
        got: `${fileSize} bytes at ${offset}`,
      });
    }
    if (address % PAGE !== offset % PAGE) {
      throw malformed("PT_LOAD p_vaddr", {
        expected: `${offset % PAGE} in its page, as p_offset`,
        got: `${address % PAGE}`,
      });
    }
    const page = address - (address % PAGE);
    if (page < free)
      throw malformed("PT_LOAD p_vaddr", {
        expected: `a page from ${free} on`,
        got: `${address}`,
      });
    free = Math.ceil((address + memorySize) / PAGE) * PAGE;
  }
}

function parseInterpreter(bytes: Uint8Array, segments: readonly Segment[]): string | null {
  const segment = onlySegment(segments, PT.interpreter, "PT_INTERP");
  if (segment === null) return null;
  if (segment.fileSize > MAX_NAME)
    throw malformed("PT_INTERP", {
      expected: `at most ${MAX_NAME} bytes`,
      got: `${segment.fileSize}`,
    });
  const content = part(bytes, segment.offset, segment.fileSize, "PT_INTERP").bytes(segment.fileSize, "path");
  const path = nulTerminated(content, 0, "PT_INTERP");
  if (!path.startsWith("/"))
    throw malformed("PT_INTERP", {
      expected: "an absolute path",
      got: JSON.stringify(path),
    });
  return path;
}

interface DynamicEntry {
  readonly tag: number;
  readonly value: number;
}

function parseDynamic(bytes: Uint8Array, segments: readonly Segment[]): DynamicEntry[] {
  const segment = onlySegment(segments, PT.dynamic, "PT_DYNAMIC");
  if (segment === null) return [];
  // The loader reads the section at its address; a file offset that says otherwise would show us another section.
  const mapped = fileOffset(segments, segment.address, segment.fileSize, "PT_DYNAMIC");
  if (mapped !== segment.offset)
    throw malformed("PT_DYNAMIC p_offset", {
      expected: `${mapped}`,
      got: `${segment.offset}`,
    });
  const count = Math.min(Math.floor(segment.fileSize / 16), MAX_DYNAMIC);
  const reader = part(bytes, segment.offset, count * 16, "PT_DYNAMIC");
  const entries: DynamicEntry[] = [];
  for (let index = 0; index < count; index += 1) {
    const tag = reader.u64le("d_tag");
    const value = reader.u64le("d_val");
    if (tag === 0n) return entries;
    if (tag < 0x80000000n) addDynamic(entries, Number(tag), value);
  }
  throw malformed("PT_DYNAMIC", {
    expected: `DT_NULL within ${count} entries`,
    got: "none",
  });
}

function addDynamic(entries: DynamicEntry[], tag: number, value: bigint): void {
  const refused = refusedTags.get(tag);
  if (refused !== undefined) {
    throw new AttestError("ERR_ELF_UNSUPPORTED", `elf ${refused}`, {
      expected: "none",
      got: "one",
    });
  }
  if (tag !== DT.needed && !once.has(tag)) return;
  if (once.has(tag) && entries.some((entry) => entry.tag === tag)) {
    throw malformed(`dynamic tag 0x${tag.toString(16)}`, {
      expected: "once",
      got: "twice",
    });
  }
  entries.push({ tag, value: safe(value, "d_val") });
}

/** The string table of the dynamic section, as a function from an offset in it to a non-empty name. */
function dynamicStrings(
  bytes: Uint8Array,
  segments: readonly Segment[],
  address: number | undefined,
  size: number | undefined,
): (offset: number) => string {
  if (address === undefined || size === undefined) {
    return () => {
      throw malformed("DT_STRTAB and DT_STRSZ", {
        expected: "both, because names refer to them",
        got: "not both",
      });
    };
  }
  const start = fileOffset(segments, address, size, "DT_STRTAB");
  const table = bytes.subarray(start, start + size);
  return (offset) => nulTerminated(table, offset, "DT_STRTAB");
}

/** Where in the file the bytes at `address` are mapped from. All of them lie in one segment's file part. */
function fileOffset(segments: readonly Segment[], address: number, size: number, what: string): number {
  const home = segments.find(
    (segment) =>
      segment.type === PT.load && address >= segment.address && address + size <= segment.address + segment.fileSize,
  );
  if (home === undefined)
    throw malformed(what, {
      expected: "an address range in a PT_LOAD segment",
      got: `${size} bytes at ${address}`,
    });
  return home.offset + (address - home.address);
}

function onlySegment(segments: readonly Segment[], type: number, what: string): Segment | null {
  const found = segments.filter((segment) => segment.type === type);
  if (found.length > 1) throw malformed(what, { expected: "at most one", got: `${found.length}` });
  return found[0] ?? null;
}

function nulTerminated(table: Uint8Array, offset: number, what: string): string {
  const end = table.indexOf(0, offset);
  const name = offset < table.length && end > offset && end - offset <= MAX_NAME ? table.subarray(offset, end) : null;
  if (name === null || name.some((byte) => byte < 0x20 || byte > 0x7e)) {
    throw malformed(what, {
      expected: "a NUL-terminated name in printable ASCII",
      got: `other bytes at ${offset}`,
    });
  }
  return String.fromCharCode(...name);
}

function part(bytes: Uint8Array, offset: number, length: number, what: string): ByteReader {
  if (offset + length > bytes.length) {
    throw malformed(what, {
      expected: `${length} bytes at ${offset}`,
      got: `a file of ${bytes.length} bytes`,
    });
  }
  return new ByteReader(bytes.subarray(offset, offset + length), `elf ${what}`);
}

function safe(value: bigint, what: string): number {
  if (value > 0xffff_ffff_ffffn)
    throw malformed(what, {
      expected: "at most 48 bits",
      got: `0x${value.toString(16)}`,
    });
  return Number(value);
}

function requireSupported(what: string, expected: number, got: number): void {
  if (expected === got) return;
  throw new AttestError("ERR_ELF_UNSUPPORTED", `elf ${what}`, {
    expected: `${expected}`,
    got: `${got}`,
  });
}

function malformed(what: string, fields: ErrorFields): AttestError {
  return new AttestError("ERR_ELF_MALFORMED", `elf ${what}`, fields);
}
