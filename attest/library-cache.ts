import { ByteReader } from "../policy/index.ts";
import type { ElfMachine } from "./elf.ts";
import { AttestError } from "./errors.ts";

// /etc/ld.so.cache as ldconfig of glibc 2.33 and later writes it (sysdeps/generic/dl-cache.h, "new format"): one file, little-endian here. All offsets
// count from the file's start.

const MAGIC = "glibc-ld.so.cache1.1";
const HEADER = 48;
const ENTRY = 24;
const MAX_ENTRIES = 65_536;
const MAX_NAME = 4096;
/** Entries of ELF libraries for glibc, by machine. */
const FLAGS: Readonly<Record<ElfMachine, number>> = { x86_64: 0x0303, aarch64: 0x0a03 };
const EXTENSION_MAGIC = 0xeaa42174;
const EXTENSION_HWCAPS = 1;
/** In an entry's hwcap: the low half is an index into the list of subdirectory names of `glibc-hwcaps`. */
const HWCAP_IS_INDEX = 1n << 62n;

/** The classes of x86_64 processors for which glibc looks for variants of a library (x86-64 psABI, section 3.1.1), the lowest first. */
export const CPU_LEVELS = ["x86-64-v2", "x86-64-v3", "x86-64-v4"] as const;
export type CpuLevel = (typeof CPU_LEVELS)[number];
const levels: readonly string[] = CPU_LEVELS;

interface CacheEntry {
  readonly flags: number;
  readonly name: string;
  readonly path: string;
  /** The `glibc-hwcaps` subdirectory, `null` for a library that every processor may use. */
  readonly variant: string | null;
}

export interface LibraryCache {
  /**
   * The path that the loader takes for a name on a processor of this class, `null` when the cache has none.
   *
   * Throws {@link AttestError} ERR_CLOSURE when there are variants for several processors, and nobody said which one it is.
   */
  find(name: string, machine: ElfMachine, cpu: CpuLevel | undefined): string | null;
}

/**
 * Reads a cache of libraries. Establishes where the loader looks for a name; whether there is a file is for the caller to say.
 *
 * Throws {@link AttestError} ERR_ELF_UNSUPPORTED for an older format, ERR_ELF_MALFORMED for anything out of bounds.
 */
export function parseLibraryCache(bytes: Uint8Array): LibraryCache {
  const magic = String.fromCharCode(...bytes.subarray(0, MAGIC.length));
  if (magic !== MAGIC) {
    throw new AttestError("ERR_ELF_UNSUPPORTED", "ld.so.cache magic", { expected: MAGIC, got: JSON.stringify(magic) });
  }
  const reader = new ByteReader(slice(bytes, MAGIC.length, HEADER - MAGIC.length), "ld.so.cache");
  const count = reader.u32le("nlibs");
  reader.u32le("len_strings");
  const order = reader.u8("flags");
  if (order !== 2) throw malformed("byte order", "2 (little-endian)", `${order}`);
  reader.bytes(3, "padding");
  const extensionAt = reader.u32le("extension_offset");
  if (count > MAX_ENTRIES) throw malformed("nlibs", `at most ${MAX_ENTRIES}`, `${count}`);
  const variants = extensionAt === 0 ? [] : parseVariants(bytes, extensionAt);
  const entries = parseEntries(bytes, count, variants);
  return { find: (name, machine, cpu) => choose(entries, name, machine, cpu) };
}

function parseEntries(bytes: Uint8Array, count: number, variants: readonly string[]): CacheEntry[] {
  const reader = new ByteReader(slice(bytes, HEADER, count * ENTRY), "ld.so.cache entries");
  return Array.from({ length: count }, () => {
    const flags = reader.u32le("flags");
    const name = nameAt(bytes, reader.u32le("key"));
    const path = nameAt(bytes, reader.u32le("value"));
    reader.u32le("osversion");
    return { flags, name, path, variant: variantOf(reader.u64le("hwcap"), variants) };
  });
}

function variantOf(hwcap: bigint, variants: readonly string[]): string | null {
  if (hwcap === 0n) return null;
  // the bits of processors before glibc-hwcaps: no class of today names them
  if ((hwcap & HWCAP_IS_INDEX) === 0n) return "";
  const index = Number(hwcap & 0xffff_ffffn);
  const variant = variants[index];
  if (variant === undefined) throw malformed("hwcap", `an index below ${variants.length}`, `${index}`);
  return variant;
}

function parseVariants(bytes: Uint8Array, at: number): string[] {
  const head = new ByteReader(slice(bytes, at, 8), "ld.so.cache extension");
  const magic = head.u32le("magic");
  if (magic !== EXTENSION_MAGIC) throw malformed("extension", "its magic", `0x${magic.toString(16)}`);
  const count = head.u32le("count");
  if (count > 16) throw malformed("extension", "at most 16 sections", `${count}`);
  const sections = new ByteReader(slice(bytes, at + 8, count * 16), "ld.so.cache sections");
  const variants: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const tag = sections.u32le("tag");
    sections.u32le("flags");
    const offset = sections.u32le("offset");
    const size = sections.u32le("size");
    if (tag !== EXTENSION_HWCAPS) continue;
    if (size % 4 !== 0 || size > 4096) throw malformed("glibc-hwcaps", "names, 1024 at most", `${size} bytes`);
    const names = new ByteReader(slice(bytes, offset, size), "ld.so.cache glibc-hwcaps");
    while (names.remaining > 0) variants.push(nameAt(bytes, names.u32le("name")));
  }
  return variants;
}

function choose(
  entries: readonly CacheEntry[],
  name: string,
  machine: ElfMachine,
  cpu: CpuLevel | undefined,
): string | null {
  const ours = entries.filter((entry) => entry.name === name && entry.flags === FLAGS[machine]);
  const best = cpu === undefined ? -1 : levels.indexOf(cpu);
  if (cpu === undefined && ours.some(({ variant }) => variant !== null)) {
    throw new AttestError("ERR_CLOSURE", `ld.so.cache ${name}`, {
      expected: "one file for every processor, or the processor's class",
      got: "variants",
      hint: `name the class: ${levels.join(", ")}`,
    });
  }
  const rank = ({ variant }: CacheEntry): number => (variant === null ? -1 : levels.indexOf(variant));
  const usable = ours.filter((entry) => entry.variant === null || (rank(entry) >= 0 && rank(entry) <= best));
  const [chosen] = usable.toSorted((a, b) => rank(b) - rank(a));
  return chosen?.path ?? null;
}

function nameAt(bytes: Uint8Array, offset: number): string {
  const end = bytes.indexOf(0, offset);
  const name = offset < bytes.length && end > offset && end - offset <= MAX_NAME ? bytes.subarray(offset, end) : null;
  if (name === null || name.some((byte) => byte < 0x20 || byte > 0x7e)) {
    throw malformed("a name", "NUL-terminated printable ASCII", `other bytes at ${offset}`);
  }
  return String.fromCharCode(...name);
}

function slice(bytes: Uint8Array, offset: number, length: number): Uint8Array {
  if (offset + length > bytes.length)
    throw malformed("length", `${length} bytes at ${offset}`, `${bytes.length} in all`);
  return bytes.subarray(offset, offset + length);
}

function malformed(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ELF_MALFORMED", `ld.so.cache ${what}`, { expected, got });
}
