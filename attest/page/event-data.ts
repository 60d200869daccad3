import type { FirmwareEvent } from "../firmware-log.ts";

const variableTypes = new Set([0x80000001, 0x80000002, 0x8000000c, 0x800000e0]);
const longest = 200;

/**
 * What a firmware event says about itself, for a reader. Nobody vouches for it: only the digest is in the register. Never throws,
 * whatever the bytes are.
 */
export function describeEventData({ type, data }: Pick<FirmwareEvent, "type" | "data">): string {
  if (data.length === 0) return "no data";
  const variable = variableTypes.has(type) ? variableName(data) : null;
  if (variable !== null) return variable;
  const text = printableText(data);
  if (text !== null) return text;
  if (data.length === 4 && data.every((byte) => byte === 0)) return "zeros";
  return `${data.length} bytes`;
}

/** UEFI_VARIABLE_DATA: a GUID, two lengths, then the name in UTF-16. */
function variableName(data: Uint8Array): string | null {
  if (data.length < 32) return null;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const length = view.getBigUint64(16, true);
  const size = view.getBigUint64(24, true);
  if (length === 0n || length > BigInt(longest) || 32n + 2n * length > BigInt(data.length)) return null;
  const name = decode("utf-16le", data.subarray(32, 32 + 2 * Number(length)));
  return name === null ? null : `variable ${name}, ${size} bytes`;
}

function printableText(data: Uint8Array): string | null {
  const cut = data.subarray(0, 2 * longest);
  const narrow = decode("utf-8", trimNul(cut, 1));
  if (narrow !== null && isText(narrow)) return narrow.slice(0, longest);
  const wide = decode("utf-16le", trimNul(cut, 2));
  return wide !== null && wide.length > 2 && isText(wide) ? wide.slice(0, longest) : null;
}

function isText(text: string): boolean {
  return /^[\x20-\x7e]{3,}$/.test(text);
}

function trimNul(data: Uint8Array, step: 1 | 2): Uint8Array {
  let end = data.length - (data.length % step);
  while (end >= step && data.subarray(end - step, end).every((byte) => byte === 0)) end -= step;
  return data.subarray(0, end);
}

function decode(encoding: string, bytes: Uint8Array): string | null {
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}
