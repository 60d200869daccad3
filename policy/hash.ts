import { sha256 as sha256Of } from "@noble/hashes/sha2.js";
import { toHex } from "./bytes.ts";

/** SHA-256, 32 bytes (FIPS 180-4). */
export function sha256(bytes: Uint8Array): Uint8Array {
  return sha256Of(bytes);
}

/** SHA-256 as 64 lower-case hexadecimal digits. */
export function sha256Hex(bytes: Uint8Array): string {
  return toHex(sha256Of(bytes));
}
