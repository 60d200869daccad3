import { sha256 as pureSha256, sha384 as pureSha384, sha512 as pureSha512 } from "@noble/hashes/sha2.js";
import { toHex } from "./bytes.ts";
import { findNodeCrypto, type Runtime, thisRuntime } from "./platform.ts";

/** The hashes of this project (FIPS 180-4): 32, 48 and 64 bytes. */
export interface Hashes {
  sha256(bytes: Uint8Array): Uint8Array;
  sha384(bytes: Uint8Array): Uint8Array;
  sha512(bytes: Uint8Array): Uint8Array;
}

/** In JavaScript alone: they run wherever this file does. */
export const pureHashes: Hashes = {
  sha256: (bytes) => pureSha256(bytes),
  sha384: (bytes) => pureSha384(bytes),
  sha512: (bytes) => pureSha512(bytes),
};

/** `crypto.hash` of Node. */
type OneShotHash = (algorithm: string, bytes: Uint8Array, encoding: "latin1") => string;

interface NodeHash {
  readonly hash: OneShotHash;
}

/**
 * The platform's own hashes where it has them, else the pure ones: the same bytes, two to five times faster for short inputs and eight for
 * large ones. Decided here only.
 */
export function openHashes(runtime: Runtime): Hashes {
  const native = findNodeCrypto(runtime, ["hash"]) as NodeHash | null;
  if (native === null) return pureHashes;
  return {
    sha256: nativeHash(native.hash, "sha256", 32),
    sha384: nativeHash(native.hash, "sha384", 48),
    sha512: nativeHash(native.hash, "sha512", 64),
  };
}

/** Asked for as a string, because an ArrayBuffer from outside costs more than the hash of a short input. */
function nativeHash(hash: OneShotHash, algorithm: string, size: number): (bytes: Uint8Array) => Uint8Array {
  return (bytes) => {
    const text = hash(algorithm, bytes, "latin1");
    const digest = new Uint8Array(size);
    for (let index = 0; index < size; index++) digest[index] = text.charCodeAt(index);
    return digest;
  };
}

export const { sha256, sha384, sha512 } = openHashes(thisRuntime);

/** SHA-256 as 64 lower-case hexadecimal digits. */
export function sha256Hex(bytes: Uint8Array): string {
  return toHex(sha256(bytes));
}
