import { constants, createHash, publicDecrypt } from "node:crypto";
import { concatBytes, DIGESTS, type DigestName, equalBytes } from "../../policy/index.ts";
import type { BrokerKey } from "./key.ts";

/**
 * Verifies RSASSA-PKCS1-v1_5 over a DigestInfo (RFC 8017, 8.2.2): a token with a fault in the CRT arithmetic gives signatures that reveal the key.
 */
export function verifyRsaPkcs1(key: BrokerKey, digestInfo: Uint8Array, signature: Uint8Array): boolean {
  try {
    const opened = publicDecrypt({ key: key.publicKey, padding: constants.RSA_PKCS1_PADDING }, signature);
    return equalBytes(Uint8Array.from(opened), digestInfo);
  } catch {
    return false;
  }
}

/** Verifies the result of the private operation: raised to the public exponent it is the block again. */
export function verifyRsaBlock(key: BrokerKey, block: Uint8Array, result: Uint8Array): boolean {
  try {
    const opened = publicDecrypt({ key: key.publicKey, padding: constants.RSA_NO_PADDING }, result);
    return equalBytes(Uint8Array.from(opened), block) && result.length === block.length;
  } catch {
    return false;
  }
}

/** Verifies RSASSA-PSS over a digest, MGF1 and salt of the same hash (RFC 8017, 8.1.2 and 9.1.2). */
export function verifyRsaPss(key: BrokerKey, digest: DigestName, hash: Uint8Array, signature: Uint8Array): boolean {
  try {
    const opened = publicDecrypt({ key: key.publicKey, padding: constants.RSA_NO_PADDING }, signature);
    return isEncodedMessage(Uint8Array.from(opened), key.bits - 1, digest, hash);
  } catch {
    return false;
  }
}

/** EMSA-PSS-VERIFY with a salt of the hash's length; `bits` is emBits. */
function isEncodedMessage(opened: Uint8Array, bits: number, digest: DigestName, hash: Uint8Array): boolean {
  const { size } = DIGESTS[digest];
  const length = Math.ceil(bits / 8);
  const leading = opened.length - length;
  if (leading < 0 || opened.subarray(0, leading).some((byte) => byte !== 0)) return false;
  const encoded = opened.subarray(leading);
  const dataLength = length - size - 1;
  if (dataLength < size + 1 || encoded[length - 1] !== 0xbc) return false;
  const masked = encoded.subarray(0, dataLength);
  const seed = encoded.subarray(dataLength, dataLength + size);
  const unusedBits = 8 * length - bits;
  if ((masked[0] ?? 0) >> (8 - unusedBits) !== 0) return false;
  const mask = mgf1(digest, seed, dataLength);
  const data = masked.map((byte, index) => byte ^ (mask[index] ?? 0));
  data[0] = (data[0] ?? 0) & (0xff >> unusedBits);
  const zeros = data.subarray(0, dataLength - size - 1);
  if (zeros.some((byte) => byte !== 0) || data[zeros.length] !== 1) return false;
  const salt = data.subarray(zeros.length + 1);
  return equalBytes(seed, digestOf(digest, new Uint8Array(8), hash, salt));
}

function mgf1(digest: DigestName, seed: Uint8Array, length: number): Uint8Array {
  const blocks: Uint8Array[] = [];
  for (let counter = 0; blocks.length * DIGESTS[digest].size < length; counter += 1) {
    blocks.push(digestOf(digest, seed, Uint8Array.of(counter >>> 24, counter >>> 16, counter >>> 8, counter)));
  }
  return concatBytes(...blocks).subarray(0, length);
}

function digestOf(digest: DigestName, ...parts: readonly Uint8Array[]): Uint8Array {
  const hash = createHash(digest);
  for (const part of parts) hash.update(part);
  return Uint8Array.from(hash.digest());
}
