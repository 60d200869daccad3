import { ByteReader, concatBytes, type ErrorFields } from "../policy/index.ts";
import { hashInBank, type PcrBank } from "./banks.ts";
import { AttestError } from "./errors.ts";

// PE/COFF (Microsoft PE Format), only what measured boot needs: sections, and the Authenticode digest that firmware extends
// into PCR 4 for each image it starts (Windows Authenticode Portable Executable Signature Format; EDK II computes the same).

export interface PeSection {
  readonly name: string;
  readonly virtualAddress: number;
  readonly virtualSize: number;
  /** Bytes in the file, with alignment padding. */
  readonly rawSize: number;
  readonly rawOffset: number;
}

export interface PeImage {
  readonly bytes: Uint8Array;
  /** IMAGE_FILE_HEADER.Machine: 0x8664 or 0xaa64 here, others are not refused. */
  readonly machine: number;
  /** SizeOfHeaders. */
  readonly headersSize: number;
  /** File offset of the CheckSum field, 4 bytes. */
  readonly checksumOffset: number;
  /** File offset of the certificate table's directory entry, 8 bytes. */
  readonly certificateEntryOffset: number;
  /** Bytes of the attribute certificate table at the end of the file. */
  readonly certificateSize: number;
  /** In the order of the section table. */
  readonly sections: readonly PeSection[];
}

const MAX_SECTIONS = 96;
const OPTIONAL_HEADER = { pe32: 0x10b, pe32plus: 0x20b } as const;

/**
 * Parse the headers of a PE image. Refuses sections that overlap each other, the headers or the certificate table, and a
 * certificate table that is not the end of the file: such a file has parts that two readers could see differently.
 * Throws {@link AttestError} ERR_PE_MALFORMED.
 */
export function parsePe(bytes: Uint8Array): PeImage {
  if (part(bytes, 0, 64, "DOS header").u16le("e_magic") !== 0x5a4d)
    throw malformed("e_magic", { expected: "MZ", got: "other bytes" });
  const at = part(bytes, 60, 4, "e_lfanew").u32le("e_lfanew");
  const coff = part(bytes, at, 24, "COFF header");
  if (coff.u32le("signature") !== 0x4550)
    throw malformed("signature", {
      expected: "PE, two NUL bytes",
      got: "other bytes",
    });
  const machine = coff.u16le("Machine");
  const sectionCount = coff.u16le("NumberOfSections");
  coff.bytes(12, "TimeDateStamp, PointerToSymbolTable, NumberOfSymbols");
  const optionalSize = coff.u16le("SizeOfOptionalHeader");
  const optionalAt = at + 24;
  const optional = parseOptionalHeader(bytes, optionalAt, optionalSize);
  if (sectionCount > MAX_SECTIONS) {
    throw malformed("NumberOfSections", {
      expected: `at most ${MAX_SECTIONS}`,
      got: `${sectionCount}`,
    });
  }
  const tableAt = optionalAt + optionalSize;
  const sections = parseSections(bytes, tableAt, sectionCount);
  if (tableAt + 40 * sectionCount > optional.headersSize || optional.headersSize > bytes.length) {
    throw malformed("SizeOfHeaders", {
      expected: "to end after the section table, in the file",
      got: `${optional.headersSize}`,
    });
  }
  const end = requireDisjoint(bytes, sections, optional.headersSize);
  requireCertificateTable(bytes, optional.certificateAt, optional.certificateSize, end);
  return {
    bytes,
    machine,
    headersSize: optional.headersSize,
    checksumOffset: optionalAt + 64,
    certificateEntryOffset: optional.certificateEntryOffset,
    certificateSize: optional.certificateSize,
    sections,
  };
}

/**
 * Authenticode digest of the image, 32 or 48 bytes: what the firmware extends for it, whatever its signature.
 * Does not verify a signature.
 */
export function measurePe(image: PeImage, bank: PcrBank): Uint8Array {
  const { bytes, checksumOffset, certificateEntryOffset, headersSize } = image;
  const onDisk = image.sections.filter((section) => section.rawSize > 0).toSorted((a, b) => a.rawOffset - b.rawOffset);
  const hashed = headersSize + onDisk.reduce((sum, section) => sum + section.rawSize, 0);
  const end = bytes.length - image.certificateSize;
  return hashInBank(
    bank,
    concatBytes(
      bytes.subarray(0, checksumOffset),
      bytes.subarray(checksumOffset + 4, certificateEntryOffset),
      bytes.subarray(certificateEntryOffset + 8, headersSize),
      ...onDisk.map((section) => bytes.subarray(section.rawOffset, section.rawOffset + section.rawSize)),
      bytes.subarray(Math.min(hashed, end), end),
    ),
  );
}

/**
 * Content of the section of that name: the first VirtualSize bytes, without alignment padding; `null` when there is none.
 * Throws {@link AttestError} ERR_PE_MALFORMED when the name occurs twice, or part of the content is not in the file.
 */
export function readPeSection(image: PeImage, name: string): Uint8Array | null {
  const found = image.sections.filter((section) => section.name === name);
  if (found.length > 1)
    throw malformed(`section ${name}`, {
      expected: "at most one",
      got: `${found.length}`,
    });
  const section = found[0];
  if (section === undefined) return null;
  if (section.virtualSize > section.rawSize) {
    throw malformed(`section ${name} VirtualSize`, {
      expected: `at most ${section.rawSize}`,
      got: `${section.virtualSize}`,
    });
  }
  return image.bytes.slice(section.rawOffset, section.rawOffset + section.virtualSize);
}

interface OptionalHeader {
  readonly headersSize: number;
  readonly certificateEntryOffset: number;
  readonly certificateAt: number;
  readonly certificateSize: number;
}

function parseOptionalHeader(bytes: Uint8Array, at: number, size: number): OptionalHeader {
  const magic = part(bytes, at, 2, "optional header").u16le("Magic");
  if (magic !== OPTIONAL_HEADER.pe32 && magic !== OPTIONAL_HEADER.pe32plus) {
    throw malformed("Magic", {
      expected: "0x10b or 0x20b",
      got: `0x${magic.toString(16)}`,
    });
  }
  const directories = magic === OPTIONAL_HEADER.pe32plus ? 112 : 96;
  // Without a certificate entry the digest would need other rules; every UEFI image has one.
  const count = part(bytes, at + directories - 4, 4, "NumberOfRvaAndSizes").u32le("NumberOfRvaAndSizes");
  if (count < 5 || size < directories + 40) {
    throw malformed("NumberOfRvaAndSizes", {
      expected: "at least 5, inside the optional header",
      got: `${count}`,
    });
  }
  const certificateEntryOffset = at + directories + 32;
  const entry = part(bytes, certificateEntryOffset, 8, "certificate table entry");
  return {
    headersSize: part(bytes, at + 60, 4, "SizeOfHeaders").u32le("SizeOfHeaders"),
    certificateEntryOffset,
    certificateAt: entry.u32le("offset"),
    certificateSize: entry.u32le("size"),
  };
}

function parseSections(bytes: Uint8Array, at: number, count: number): PeSection[] {
  const reader = part(bytes, at, 40 * count, "section table");
  return Array.from({ length: count }, () => {
    const name = sectionName(reader.bytes(8, "Name"));
    const virtualSize = reader.u32le("VirtualSize");
    const virtualAddress = reader.u32le("VirtualAddress");
    const rawSize = reader.u32le("SizeOfRawData");
    const rawOffset = reader.u32le("PointerToRawData");
    reader.bytes(16, "relocations, line numbers, characteristics");
    return { name, virtualAddress, virtualSize, rawSize, rawOffset };
  });
}

function sectionName(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  const name = end < 0 ? bytes : bytes.subarray(0, end);
  if (name.some((byte) => byte < 0x21 || byte > 0x7e))
    throw malformed("Name", {
      expected: "printable ASCII",
      got: "other bytes",
    });
  return String.fromCharCode(...name);
}

/** Returns where the last section ends in the file. */
function requireDisjoint(bytes: Uint8Array, sections: readonly PeSection[], headersSize: number): number {
  let free = headersSize;
  for (const section of sections.filter(({ rawSize }) => rawSize > 0).toSorted((a, b) => a.rawOffset - b.rawOffset)) {
    const end = section.rawOffset + section.rawSize;
    if (section.rawOffset < free || end > bytes.length) {
      throw malformed(`section ${section.name}`, {
        expected: `bytes of its own between ${free} and ${bytes.length}`,
        got: `${section.rawSize} bytes at ${section.rawOffset}`,
      });
    }
    free = end;
  }
  return free;
}

function requireCertificateTable(bytes: Uint8Array, at: number, size: number, sectionsEnd: number): void {
  const isLast = size === 0 ? at === 0 : at >= sectionsEnd && at + size === bytes.length;
  if (isLast) return;
  throw malformed("certificate table", {
    expected: "none, or the end of the file",
    got: `${size} bytes at ${at}`,
  });
}

function part(bytes: Uint8Array, offset: number, length: number, what: string): ByteReader {
  if (offset + length > bytes.length) {
    throw malformed(what, {
      expected: `${length} bytes at ${offset}`,
      got: `a file of ${bytes.length} bytes`,
    });
  }
  return new ByteReader(bytes.subarray(offset, offset + length), `pe ${what}`);
}

function malformed(what: string, fields: ErrorFields): AttestError {
  return new AttestError("ERR_PE_MALFORMED", `pe ${what}`, fields);
}
