import { concatBytes, fromHex } from "./bytes.ts";
import { findNodeCrypto, type Runtime, thisRuntime } from "./platform.ts";

/** SubjectPublicKeyInfo of an Ed25519 key, all but the key itself (RFC 8410). */
const SPKI_PREFIX = fromHex("302a300506032b6570032100");
/** RFC 8032, 5.1: the field, and the order of the base point. */
const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27_742_317_777_372_353_535_851_937_790_883_648_493n;
const D = 37_095_705_934_669_439_343_138_083_508_754_565_189_542_113_879_843_219_016_388_785_533_085_940_283_555n;
const SIGN_BIT = 1n << 255n;

/** The y coordinates of the eight points whose order divides 8. With one of them as key a signature over one message is one over many. */
const SMALL_ORDER_Y: ReadonlySet<bigint> = new Set([
  0n,
  1n,
  P - 1n,
  littleEndian(fromHex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")),
  littleEndian(fromHex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")),
]);

/** Verifies one signature (64 bytes, R || S) of a point (32 bytes). False for everything else that could be wrong. */
export type VerifyEd25519 = (point: Uint8Array, data: Uint8Array, signature: Uint8Array) => Promise<boolean>;

/** A point of the curve in its one encoding, and of large order: what a key has to be. Platforms do not agree about others. */
export function isEd25519Point(bytes: Uint8Array): boolean {
  if (bytes.length !== 32) return false;
  const y = littleEndian(bytes) & ~SIGN_BIT;
  return y < P && !SMALL_ORDER_Y.has(y) && isSquareRatio(y * y - 1n, D * y * y + 1n);
}

/**
 * By the platform's own arithmetic where it answers at once, else by WebCrypto. What they disagree about is refused before they see it:
 * S not below the group's order (RFC 8032, 5.1.7), and points that are small or encoded in a second way, as key or as R.
 */
export function openEd25519(runtime: Runtime): VerifyEd25519 {
  const native = findNodeCrypto(runtime, ["createPublicKey", "verify"]) as NodeVerify | null;
  const verify = native === null ? verifyOnWeb : verifyOnNode(native);
  return async (point, data, signature) => {
    if (!isEd25519Point(point) || !isSignature(signature)) return false;
    try {
      return (await verify(Uint8Array.from(concatBytes(SPKI_PREFIX, point)), data, signature)) === true;
    } catch {
      return false;
    }
  };
}

export const verifyEd25519: VerifyEd25519 = openEd25519(thisRuntime);

function isSignature(signature: Uint8Array): boolean {
  return (
    signature.length === 64 && isEd25519Point(signature.subarray(0, 32)) && littleEndian(signature.subarray(32)) < L
  );
}

type VerifySpki = (spki: Uint8Array<ArrayBuffer>, data: Uint8Array, signature: Uint8Array) => Promise<boolean>;

const verifyOnWeb: VerifySpki = async (spki, data, signature) => {
  const key = await crypto.subtle.importKey("spki", spki, { name: "Ed25519" }, false, ["verify"]);
  return crypto.subtle.verify({ name: "Ed25519" }, key, Uint8Array.from(signature), Uint8Array.from(data));
};

/** What is used of `node:crypto`. */
interface NodeVerify {
  createPublicKey(options: { readonly key: Uint8Array; readonly format: "der"; readonly type: "spki" }): object;
  verify(algorithm: null, data: Uint8Array, key: object, signature: Uint8Array): boolean;
}

function verifyOnNode({ createPublicKey, verify }: NodeVerify): VerifySpki {
  return async (spki, data, signature) =>
    verify(null, data, createPublicKey({ key: spki, format: "der", type: "spki" }), signature);
}

/** Whether u / v has a square root: then there is an x to this y (RFC 8032, 5.1.3). Euler's criterion. */
function isSquareRatio(u: bigint, v: bigint): boolean {
  return power(modulo(u * v), (P - 1n) / 2n) <= 1n;
}

function power(base: bigint, exponent: bigint): bigint {
  let result = 1n;
  for (let square = base, rest = exponent; rest > 0n; rest >>= 1n, square = (square * square) % P)
    if ((rest & 1n) === 1n) result = (result * square) % P;
  return result;
}

function modulo(value: bigint): bigint {
  return ((value % P) + P) % P;
}

function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}
