import { encodeSpkiPem } from "../../policy/keys.ts";

// Keys that nobody has: seeds need the form only, and the same bytes every time.

const p256Prefix = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
const rsaPrefix = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100";

/** A P-256 public key whose coordinates are one byte repeated. */
export function madeP256(byte: number): string {
  return encodeSpkiPem(Uint8Array.fromHex(`${p256Prefix}${byte.toString(16).padStart(2, "0").repeat(64)}`));
}

/** An RSA-2048 public key whose modulus is one byte, at least 0x80, repeated. */
export function madeRsa(byte: number): string {
  return encodeSpkiPem(Uint8Array.fromHex(`${rsaPrefix}${byte.toString(16).repeat(256)}0203010001`));
}

/** The release root that every sealed package among the seeds is for. */
export const rootKeyPem = madeP256(0x11);
export const releaseKeyPem = madeP256(0x22);
export const operatorKeyPem = madeRsa(0xc3);
