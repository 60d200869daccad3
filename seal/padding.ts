import { SealError } from "./errors.ts";

/** Nonce and tag of AES-256-GCM (NIST SP 800-38D). */
export const NONCE_BYTES = 12;
export const TAG_BYTES = 16;

const LENGTH_BYTES = 2;
const SMALLEST = 64;
const LARGEST = 32_768;
/** Longest secret that can be sealed, in bytes. */
export const MAX_SECRET_BYTES = LARGEST - LENGTH_BYTES;

/** Whether a padded secret can have this size: 64 bytes times a power of two, up to 32 KiB. */
export function isPaddedSize(size: number): boolean {
  return size >= SMALLEST && size <= LARGEST && Number.isInteger(Math.log2(size / SMALLEST));
}

/**
 * `u16 length | secret | zeros`: few sizes for all secrets, so that a PIN's length does not show. The caller wipes both.
 * @throws SealError ERR_SEAL_INPUT for an empty secret or one that is too long; says nothing about it
 */
export function padSecret(secret: Uint8Array): Uint8Array {
  if (secret.length < 1 || secret.length > MAX_SECRET_BYTES) {
    throw new SealError("ERR_SEAL_INPUT", "secret", {
      expected: `1 to ${MAX_SECRET_BYTES} bytes`,
      got: secret.length === 0 ? "none" : "more",
    });
  }
  let size = SMALLEST;
  while (size < LENGTH_BYTES + secret.length) size *= 2;
  const padded = new Uint8Array(size);
  new DataView(padded.buffer).setUint16(0, secret.length);
  padded.set(secret, LENGTH_BYTES);
  return padded;
}
