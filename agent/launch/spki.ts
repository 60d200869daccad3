import { createPublicKey } from "node:crypto";
import type { ShimKey } from "../shim-replies.ts";

/** DER of the object identifier 1.2.840.10045.3.1.7, as CKA_EC_PARAMS holds it. */
const P256_PARAMETERS = "06082a8648ce3d030107";

/** SubjectPublicKeyInfo (DER) of a token's key, or `null` for a kind of key that is not served. */
export function spkiOf(key: Pick<ShimKey, "modulus" | "exponent" | "ecParams" | "ecPoint">): Uint8Array | null {
  const jwk = key.modulus.length > 0 ? rsaJwk(key.modulus, key.exponent) : ecJwk(key.ecParams, key.ecPoint);
  if (jwk === null) return null;
  try {
    return new Uint8Array(createPublicKey({ key: jwk, format: "jwk" }).export({ type: "spki", format: "der" }));
  } catch {
    return null; // not a point of the curve, or no RSA key: nothing that a policy can name
  }
}

function rsaJwk(modulus: Uint8Array, exponent: Uint8Array): { kty: "RSA"; n: string; e: string } {
  return { kty: "RSA", n: base64url(stripZeros(modulus)), e: base64url(stripZeros(exponent)) };
}

/** CKA_EC_POINT is a DER OCTET STRING around the uncompressed point; some tokens leave the wrapping out. */
function ecJwk(parameters: Uint8Array, point: Uint8Array): { kty: "EC"; crv: "P-256"; x: string; y: string } | null {
  if (Buffer.from(parameters).toString("hex") !== P256_PARAMETERS) return null;
  const raw = point.length === 67 && point[0] === 0x04 && point[1] === 65 ? point.subarray(2) : point;
  if (raw.length !== 65 || raw[0] !== 0x04) return null;
  return { kty: "EC", crv: "P-256", x: base64url(raw.subarray(1, 33)), y: base64url(raw.subarray(33)) };
}

function stripZeros(bytes: Uint8Array): Uint8Array {
  const first = bytes.findIndex((byte) => byte !== 0);
  return first < 0 ? bytes : bytes.subarray(first);
}

function base64url(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64url");
}
