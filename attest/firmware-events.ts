import { equalBytes, printableLine, toHex, utf8 } from "../policy/index.ts";
import { bankAlgorithm, hashInBank, type PcrBank } from "./banks.ts";
import { certificateName } from "./certificate-name.ts";
import type { FirmwareEvent } from "./firmware-log.ts";

/** UEFI_VARIABLE_DATA: a GUID, then u64 length of the name in UTF-16 units, u64 length of the contents, name, contents. */
const variableHead = 32;
const maxText = 200;
const ownerSize = 16;

/**
 * The bytes of an event that its digest vouches for: its data, or that part of it which the boot loader or firmware
 * hashed; `null` where no part of the data has the digest (an image, a volume: the data only describes it). Whoever
 * compared the replayed PCR with a quote knows that these bytes were measured there.
 *
 * Found by the hash alone, whatever the event calls itself. Does not establish the event's type, nor anything in the data
 * outside of what is returned, nor who measured it.
 */
export function authenticatedData(event: FirmwareEvent, bank: PcrBank): Uint8Array | null {
  const digest = event.digests.get(bankAlgorithm(bank));
  if (digest === undefined) return null;
  return parts(event.data).find((part) => equalBytes(hashInBank(bank, part), digest)) ?? null;
}

/** What is hashed in practice: all; text without its NUL; GRUB's text after "grub_cmd: "; the contents of a variable. */
function parts(data: Uint8Array): readonly Uint8Array[] {
  const contents = variableContents(data);
  return [data, ...textParts(data), ...(contents === null ? [] : [contents])];
}

function textParts(data: Uint8Array): readonly Uint8Array[] {
  const text = data.at(-1) === 0 ? data.subarray(0, -1) : data;
  const [colon, space] = utf8(": ");
  // The name of a GRUB event is short: nothing is searched in a large blob.
  const at = text.subarray(0, 64).findIndex((byte, index) => byte === colon && text[index + 1] === space);
  const bare = at === -1 ? [] : [text.subarray(at + 2), data.subarray(at + 2)];
  return [...(text.length === data.length ? [] : [text]), ...bare];
}

function variableContents(data: Uint8Array): Uint8Array | null {
  if (data.length < variableHead) return null;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const nameBytes = 2n * view.getBigUint64(16, true);
  const size = view.getBigUint64(24, true);
  if (BigInt(variableHead) + nameBytes + size !== BigInt(data.length)) return null;
  return data.subarray(data.length - Number(size));
}

/** An event for a person. What is in `measured` was extended; `name` and `claimed` are the log's word. */
export interface FirmwareEventView {
  readonly index: number;
  readonly pcr: number;
  /** The event type in words, or its number. */
  readonly name: string;
  /** In the bank, hexadecimal; `null` where the event has none there. */
  readonly digest: string | null;
  /** Text of `authenticatedData`. */
  readonly measured: string | null;
  /** Text of the whole data, where no part of it is authenticated. */
  readonly claimed: string | null;
}

/** Texts are printable, at most 200 characters: this comes from outside. */
export function describeFirmwareEvent(event: FirmwareEvent, index: number, bank: PcrBank): FirmwareEventView {
  const digest = event.digests.get(bankAlgorithm(bank));
  const measured = authenticatedData(event, bank);
  return {
    ...{ index, pcr: event.pcr },
    name: event.name ?? `type 0x${event.type.toString(16).padStart(8, "0")}`,
    digest: digest === undefined ? null : toHex(digest),
    measured: measured === null ? null : dataText(measured),
    claimed: measured === null ? dataText(event.data) : null,
  };
}

/** ASCII, ASCII in UTF-16LE, or hexadecimal; a variable by its name, an entry of a list of authorities by its certificate's. */
function dataText(data: Uint8Array): string {
  const contents = variableContents(data);
  if (contents !== null) {
    const name = asciiText(data.subarray(variableHead, data.length - contents.length));
    if (name !== null) return cut(`${name} = ${authorityText(contents) ?? dataText(contents)}`);
  }
  return cut(asciiText(data) ?? toHex(data.subarray(0, maxText)));
}

/** Of an EFI_SIGNATURE_DATA with a certificate, behind the GUID of whoever put it there. The certificate is not verified. */
function authorityText(data: Uint8Array): string | null {
  const name = certificateName(data.subarray(ownerSize));
  return name === null ? null : `certificate of ${printableLine(name)}`;
}

/** @returns `null` for anything but ASCII in one or two bytes each, with or without a NUL after it; white space is a blank */
function asciiText(data: Uint8Array): string | null {
  for (const size of [1, 2]) {
    if (data.length % size !== 0) continue;
    const units = Array.from({ length: Math.min(data.length / size, maxText + 1) }, (_, index) =>
      size === 1 ? (data[index] ?? 0) : (data[2 * index] ?? 0) | ((data[2 * index + 1] ?? 0) << 8),
    );
    if (units.at(-1) === 0) units.pop();
    const printable = units.map((unit) => (unit >= 0x09 && unit <= 0x0d ? 0x20 : unit));
    if (units.length > 0 && printable.every((unit) => unit >= 0x20 && unit <= 0x7e))
      return String.fromCharCode(...printable);
  }
  return null;
}

function cut(text: string): string {
  return text.length > maxText ? `${text.slice(0, maxText - 1)}…` : text;
}
