import { sha256 as pureSha256, sha384 as pureSha384, sha512 as pureSha512 } from "@noble/hashes/sha2.js";
import { toHex } from "./bytes.ts";
import { findNodeCrypto, type Runtime, thisRuntime } from "./platform.ts";

/** The hashes of this project (FIPS 180-4): 32, 48 and 64 bytes. */
export interface Hashes {
  sha256(bytes: Uint8Array): Uint8Array;
  sha384(bytes: Uint8Array): Uint8Array;
  sha512(bytes: Uint8Array): Uint8Array;
  /** Writes the digest to the front of `target`, which may be what is hashed: for many short inputs, that allocate nothing. */
  sha256Into(bytes: Uint8Array, target: Uint8Array): void;
  sha384Into(bytes: Uint8Array, target: Uint8Array): void;
}

/** In JavaScript alone: they run wherever this file does. */
export const pureHashes: Hashes = {
  sha256: (bytes) => pureSha256(bytes),
  sha384: (bytes) => pureSha384(bytes),
  sha512: (bytes) => pureSha512(bytes),
  sha256Into: (bytes, target) => target.set(pureSha256(bytes)),
  sha384Into: (bytes, target) => target.set(pureSha384(bytes)),
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
  const sha256Into = nativeHash(native.hash, "sha256");
  const sha384Into = nativeHash(native.hash, "sha384");
  const sha512Into = nativeHash(native.hash, "sha512");
  return {
    sha256: (bytes) => made(sha256Into, bytes, 32),
    sha384: (bytes) => made(sha384Into, bytes, 48),
    sha512: (bytes) => made(sha512Into, bytes, 64),
    sha256Into,
    sha384Into,
  };
}

type HashInto = (bytes: Uint8Array, target: Uint8Array) => void;

function made(into: HashInto, bytes: Uint8Array, size: number): Uint8Array {
  const digest = new Uint8Array(size);
  into(bytes, digest);
  return digest;
}

/** Asked for as a string, because an ArrayBuffer from outside costs more than the hash of a short input. */
function nativeHash(hash: OneShotHash, algorithm: string): HashInto {
  return (bytes, target) => {
    const text = hash(algorithm, bytes, "latin1");
    for (let index = 0; index < text.length; index++) target[index] = text.charCodeAt(index);
  };
}

export const { sha256, sha384, sha512, sha256Into, sha384Into } = openHashes(thisRuntime);

/** SHA-256 as 64 lower-case hexadecimal digits. */
export function sha256Hex(bytes: Uint8Array): string {
  return toHex(sha256(bytes));
}
