import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  // Reads a one-byte length and forgets what stands behind.
  expectSame(bytes, bytes.slice(0, 1 + (bytes[0] ?? 0)), "toy");
}
