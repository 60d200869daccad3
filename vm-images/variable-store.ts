import type { UefiVariable } from "../attest/index.ts";
import { ByteReader, concatBytes } from "../policy/index.ts";
import { ImageError } from "./errors.ts";

// OVMF's variable store as it lies in flash: EDK II, MdeModulePkg/Include/Guid/VariableFormat.h, with authenticated headers.

/** Attributes of variables that survive a reboot. */
export const NON_VOLATILE = {
  /** Boot services only. */
  bootOnly: 0x03,
  /** Boot and runtime services; written with a time-based signature. */
  authenticated: 0x27,
} as const;

export interface StoredVariable extends UefiVariable {
  readonly attributes: (typeof NON_VOLATILE)[keyof typeof NON_VOLATILE];
}

/** EFI_FIRMWARE_VOLUME_HEADER: its signature's and its length's places. */
const VOLUME = { signatureAt: 40, signature: "_FVH", lengthAt: 48 };
/** gEfiAuthenticatedVariableGuid aaf32c78-947b-439a-a180-2e144ec37792, as it lies in memory. */
const STORE_GUID = "782cf3aa7b949a43a1802e144ec37792";
/** VARIABLE_STORE_HEADER: guid, u32 size, u8 format, u8 state, six bytes. */
const STORE_HEADER = 28;
const FORMATTED_HEALTHY = 0xfe5a;
const START_ID = 0x55aa;
const VAR_ADDED = 0x3f;
/** 2026-01-01T00:00:00Z as EFI_TIME. */
const TIME = Uint8Array.of(0xea, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);

/**
 * A copy of the firmware's blank template with these variables in it, as if somebody had enrolled them.
 * Throws {@link ImageError} ERR_IMAGE_MALFORMED when the template is not such a store, not blank, or too small.
 */
export function writeVariables(template: Uint8Array, variables: readonly StoredVariable[]): Uint8Array {
  const { start, end } = freeSpace(template);
  const bytes = concatBytes(...variables.map(encodeVariable));
  if (start + bytes.length > end) throw malformed("free space", `${bytes.length} bytes`, `${end - start}`);
  const store = Uint8Array.from(template);
  store.set(bytes, start);
  return store;
}

function freeSpace(template: Uint8Array): { start: number; end: number } {
  const headerLength = read(template, VOLUME.lengthAt, 2).u16le("HeaderLength");
  const signature = new TextDecoder().decode(read(template, VOLUME.signatureAt, 4).bytes(4, "Signature"));
  if (signature !== VOLUME.signature) throw malformed("Signature", VOLUME.signature, "other bytes");
  const store = read(template, headerLength, STORE_HEADER);
  const kind = Buffer.from(store.bytes(16, "Signature")).toString("hex");
  if (kind !== STORE_GUID) throw malformed("store's Signature", STORE_GUID, kind);
  const [start, end] = [headerLength + STORE_HEADER, headerLength + store.u32le("Size")];
  if (store.u16le("Format, State") !== FORMATTED_HEALTHY) throw malformed("Format, State", "5a fe", "other bytes");
  if (end > template.length)
    throw malformed("Size", `at most ${template.length - headerLength}`, `${end - headerLength}`);
  if (!template.subarray(start, end).every((byte) => byte === 0xff)) throw malformed("variables", "none", "some");
  return { start, end };
}

/** AUTHENTICATED_VARIABLE_HEADER, name, contents, padded to four bytes. */
function encodeVariable({ vendor, name, data, attributes }: StoredVariable): Uint8Array {
  const wideName = Buffer.from(`${name}\0`, "utf16le");
  const head = new DataView(new ArrayBuffer(16));
  head.setUint16(0, START_ID, true);
  head.setUint8(2, VAR_ADDED);
  head.setUint32(4, attributes, true); // then MonotonicCount, 0
  const sizes = new DataView(new ArrayBuffer(12)); // PubKeyIndex 0, NameSize, DataSize
  sizes.setUint32(4, wideName.length, true);
  sizes.setUint32(8, data.length, true);
  const time = attributes === NON_VOLATILE.authenticated ? TIME : new Uint8Array(16);
  const variable = concatBytes(new Uint8Array(head.buffer), time, new Uint8Array(sizes.buffer), vendor, wideName, data);
  return concatBytes(variable, new Uint8Array((4 - (variable.length % 4)) % 4).fill(0xff));
}

function read(bytes: Uint8Array, at: number, length: number): ByteReader {
  if (at + length > bytes.length) throw malformed("length", `at least ${at + length}`, `${bytes.length}`);
  return new ByteReader(bytes.subarray(at, at + length), "variable store");
}

const malformed = (what: string, expected: string, got: string): ImageError =>
  new ImageError("ERR_IMAGE_MALFORMED", `variable store ${what}`, { expected, got });
