import { randomBytes, randomInt } from "node:crypto";
import type { Found, MaskedNeedle, ScannedProcess } from "./guest-memory.ts";

/** What a scan looks for, so that the scanner does not hold it itself. */
export function maskedNeedle(name: string, value: Uint8Array): MaskedNeedle {
  const mask = randomBytes(value.length);
  const hidden = value.map((byte, index) => byte ^ (mask[index] ?? 0));
  return { name, mask: mask.toString("base64"), masked: Buffer.from(hidden).toString("base64") };
}

/** The whole, and each half by itself: also a copy of which a part was overwritten is found. */
export function pinNeedles(pin: Uint8Array): readonly MaskedNeedle[] {
  const half = pin.length >> 1;
  return [
    maskedNeedle("pin", pin),
    maskedNeedle("first half", pin.subarray(0, half)),
    maskedNeedle("second half", pin.subarray(half)),
  ];
}

/** Of the same alphabet and length as a PIN. */
export function newCanary(length: number): string {
  return Array.from({ length }, () => String.fromCharCode(0x61 + randomInt(26))).join("");
}

/** As bytes in all encodings in which a text could be held. */
export function inAllEncodings(text: string): Uint8Array {
  const wide = Buffer.from(text, "utf16le");
  return Buffer.concat([Buffer.from(`${text}\n`), wide, Buffer.from("\n\n"), Buffer.from(wide).swap16()]);
}

export const nothing: Found = { utf8: 0, utf16le: 0, utf16be: 0 };
export const total = ({ utf8, utf16le, utf16be }: Found) => utf8 + utf16le + utf16be;
export const counted = ({ counts }: Pick<ScannedProcess, "counts">, names: readonly string[]) =>
  names.map((name) => counts[name] ?? nothing);
