import { createECDH, createPublicKey, type KeyObject, verify, type webcrypto } from "node:crypto";
import { sha256 } from "../../policy/index.ts";
import type { BrokerKey } from "./key.ts";

/** A short Weierstrass curve with a = -3 (FIPS 186-4, D.1.2). `p` and `n` are the sizes of the field and of the group. */
interface Curve {
  readonly name: string;
  readonly bits: number;
  readonly p: bigint;
  readonly n: bigint;
}

interface Point {
  readonly x: bigint;
  readonly y: bigint;
}

const CURVES: ReadonlyMap<number, Curve> = new Map(
  [
    {
      ...{ name: "P-256", bits: 256, p: 2n ** 256n - 2n ** 224n + 2n ** 192n + 2n ** 96n - 1n },
      n: 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n,
    },
    {
      ...{ name: "P-384", bits: 384, p: 2n ** 384n - 2n ** 128n - 2n ** 96n + 2n ** 32n - 1n },
      n: 0xffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973n,
    },
    {
      ...{ name: "P-521", bits: 521, p: 2n ** 521n - 1n },
      n: 2n ** 521n - 0x5ae79787c40d069948033feb708f65a2fc44a36477663b851449048e16ec79bf7n,
    },
  ].map((curve) => [curve.bits, curve]),
);
const OPENSSL_NAMES: Readonly<Record<string, string>> = {
  "P-256": "prime256v1",
  "P-384": "secp384r1",
  "P-521": "secp521r1",
};

/** The message that is verified in the place of the caller's digest. Its own digest is shorter than every curve's order. */
const MESSAGE = new Uint8Array();
const MESSAGE_NUMBER = toNumber(sha256(MESSAGE));

/**
 * Verifies an ECDSA signature over a digest that somebody else made; node:crypto verifies over messages only.
 *
 * (r, s) is a signature of the digest z under Q when x(z/s G + r/s Q) = r. With h the digest of a known message and
 * Q' = Q + ((z - h)/r) G this is x(h/s G + r/s Q') = r: a signature of that message under Q'. So Q' is computed and OpenSSL verifies.
 * Everything here is public; the two cases that have no Q' (the sum is no point) are out of reach without the private key, and are refused.
 *
 * @param signature r and s, each of the field's size
 */
export function verifyEcdsaDigest(key: BrokerKey, digest: Uint8Array, signature: Uint8Array): boolean {
  const curve = CURVES.get(key.bits);
  if (key.keyType !== "ec" || curve === undefined || signature.length !== key.signatureLength) return false;
  const r = toNumber(signature.subarray(0, signature.length / 2));
  const s = toNumber(signature.subarray(signature.length / 2));
  if (r === 0n || r >= curve.n || s === 0n || s >= curve.n) return false;
  const factor = modulo((truncated(digest, curve) - MESSAGE_NUMBER) * inverse(r, curve.n), curve.n);
  const moved = factor === 0n ? key.publicKey : movedKey(curve, key.publicKey, factor);
  return moved !== null && verify("sha256", MESSAGE, { key: moved, dsaEncoding: "ieee-p1363" }, signature);
}

/** Q + factor G; null where the sum needs the rule for equal or opposite points. */
function movedKey(curve: Curve, key: KeyObject, factor: bigint): KeyObject | null {
  const own = pointOf(key.export({ format: "jwk" }));
  const sum = add(curve, own, multipleOfG(curve, factor));
  if (sum === null) return null;
  const coordinate = (value: bigint): string => toBytes(value, curve).toString("base64url");
  const jwk = { kty: "EC", crv: curve.name, x: coordinate(sum.x), y: coordinate(sum.y) };
  return createPublicKey({ key: jwk, format: "jwk" });
}

function multipleOfG(curve: Curve, factor: bigint): Point {
  const ecdh = createECDH(OPENSSL_NAMES[curve.name] ?? curve.name);
  ecdh.setPrivateKey(toBytes(factor, curve));
  const point = ecdh.getPublicKey();
  const size = (point.length - 1) / 2;
  return { x: toNumber(point.subarray(1, 1 + size)), y: toNumber(point.subarray(1 + size)) };
}

/** The chord rule (SEC 1, 2.2.1). */
function add({ p }: Curve, a: Point, b: Point): Point | null {
  if (a.x === b.x) return null;
  const slope = modulo((b.y - a.y) * inverse(modulo(b.x - a.x, p), p), p);
  const x = modulo(slope * slope - a.x - b.x, p);
  return { x, y: modulo(slope * (a.x - x) - a.y, p) };
}

/** The leftmost bits of the digest, as many as the order has (FIPS 186-4, 6.4). */
function truncated(digest: Uint8Array, { bits }: Curve): bigint {
  const excess = digest.length * 8 - bits;
  return excess > 0 ? toNumber(digest) >> BigInt(excess) : toNumber(digest);
}

/** By Euclid; `modulus` is a prime and `value` is not 0. */
function inverse(value: bigint, modulus: bigint): bigint {
  let [previous, remainder] = [modulus, modulo(value, modulus)];
  let [before, factor] = [0n, 1n];
  while (remainder !== 0n) {
    const quotient = previous / remainder;
    [previous, remainder] = [remainder, previous - quotient * remainder];
    [before, factor] = [factor, before - quotient * factor];
  }
  return modulo(before, modulus);
}

function modulo(value: bigint, modulus: bigint): bigint {
  const rest = value % modulus;
  return rest < 0n ? rest + modulus : rest;
}

function pointOf({ x, y }: webcrypto.JsonWebKey): Point {
  return { x: toNumber(Buffer.from(x ?? "", "base64url")), y: toNumber(Buffer.from(y ?? "", "base64url")) };
}

function toNumber(bytes: Uint8Array): bigint {
  return BigInt(`0x0${Buffer.from(bytes).toString("hex")}`);
}

function toBytes(value: bigint, { bits }: Curve): Buffer {
  const size = Math.ceil(bits / 8);
  return Buffer.from(value.toString(16).padStart(2 * size, "0"), "hex");
}
