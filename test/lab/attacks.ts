import { createHash, createPublicKey, type KeyObject, randomBytes, verify } from "node:crypto";
import { concatBytes, DIGESTS, fromHex, toHex } from "../../policy/index.ts";
import type { Lab, LabKey } from "./bench.ts";

/** What nobody released. */
export const EVIL = "release 6.6.6: everything the attacker wants\n";
/** What the release signer is there for. */
export const GOOD = "release 1.2.3\n";

export function publicKey({ keys }: Lab, name: LabKey): KeyObject {
  return createPublicKey({ key: Buffer.from(keys.get(name)?.spki ?? []), format: "der", type: "spki" });
}

/** Whether it is an ECDSA signature over the SHA-256 of the message, as PKCS #11 writes one. */
export function isEcSignature(lab: Lab, message: string): (signature: Uint8Array) => boolean {
  const key = { key: publicKey(lab, "ec").export({ format: "pem", type: "spki" }), dsaEncoding: "ieee-p1363" } as const;
  return (signature) => verify("sha256", Buffer.from(message), key, signature);
}

/** A message that whoever makes the signature, and whoever reads his log, cannot recognise. */
export interface Blinded {
  /** What is handed in: RSASSA-PKCS1-v1_5's block of the message times r^e, modulo n. */
  readonly block: Uint8Array;
  /** Takes r off what came back: the signature of the message, whether or not it is a good one. */
  unblind(answer: Uint8Array): Uint8Array;
}

/**
 * Chaum's blinding (1982) of a PKCS #1 v1.5 signature. It needs the private operation on a number of the caller's choice, which is what `raw-rsa` is.
 * @returns a block that is uniformly distributed whatever the message is
 */
export function blind(key: KeyObject, message: string): Blinded {
  const { n: modulus = "", e: exponent = "" } = key.export({ format: "jwk" });
  const [n, e] = [numberOf(Buffer.from(modulus, "base64url")), numberOf(Buffer.from(exponent, "base64url"))];
  const length = Buffer.from(modulus, "base64url").length;
  const r = (numberOf(randomBytes(length)) % (n - 3n)) + 2n;
  const block = (numberOf(pkcs1Block(message, length)) * power(r, e, n)) % n;
  const inverse = invert(r, n);
  return {
    block: bytesOf(block, length),
    unblind: (answer) => bytesOf((numberOf(answer) * inverse) % n, length),
  };
}

/** EMSA-PKCS1-v1_5 (RFC 8017, 9.2) with SHA-256. */
function pkcs1Block(message: string, length: number): Uint8Array {
  const digest = Uint8Array.from(createHash("sha256").update(message).digest());
  const info = concatBytes(Uint8Array.from(DIGESTS.sha256.digestInfoPrefix), digest);
  const padding = new Uint8Array(length - info.length - 3).fill(0xff);
  return concatBytes(Uint8Array.of(0, 1), padding, Uint8Array.of(0), info);
}

function power(base: bigint, exponent: bigint, modulus: bigint): bigint {
  let [result, square, left] = [1n, base % modulus, exponent];
  for (; left > 0n; left >>= 1n) {
    if ((left & 1n) === 1n) result = (result * square) % modulus;
    square = (square * square) % modulus;
  }
  return result;
}

/** Extended Euclid; n is a product of two large primes, so r has an inverse but for one chance in 2^1000. */
function invert(r: bigint, n: bigint): bigint {
  let [a, b, x, y] = [r, n, 1n, 0n];
  while (b !== 0n) [a, b, x, y] = [b, a % b, y, x - (a / b) * y];
  return ((x % n) + n) % n;
}

function numberOf(bytes: Uint8Array): bigint {
  return BigInt(`0x${toHex(Uint8Array.from(bytes))}`);
}

function bytesOf(value: bigint, length: number): Uint8Array {
  return fromHex(value.toString(16).padStart(length * 2, "0"));
}
