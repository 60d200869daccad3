import { createPublicKey, type KeyObject } from "node:crypto";
import { concatBytes, sha256Hex } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";

/** The public side of a key on the token, as the launch found it. */
export interface PublicKeySource {
  /** SubjectPublicKeyInfo, DER. */
  readonly spki: Uint8Array;
  /** CKA_ID and CKA_LABEL for the callers. */
  readonly id: Uint8Array;
  readonly label: string;
}

/** What the broker knows about a scope's key. Everything is derived from `spki`, whose digest stands in the policy. */
export type BrokerKey = {
  readonly name: string;
  readonly publicKey: KeyObject;
  readonly spki: Uint8Array;
  readonly id: Uint8Array;
  readonly label: string;
  /** Size of the modulus or of the curve's field. */
  readonly bits: number;
  /** Bytes of every signature. */
  readonly signatureLength: number;
} & (
  | { readonly keyType: "rsa"; readonly modulus: Uint8Array; readonly exponent: Uint8Array }
  | {
      readonly keyType: "ec";
      /** DER of the curve's object identifier. */
      readonly ecParams: Uint8Array;
      /** DER OCTET STRING around the uncompressed point. */
      readonly ecPoint: Uint8Array;
    }
);

interface Curve {
  readonly oid: readonly number[];
  readonly bits: number;
}

const CURVES: ReadonlyMap<string, Curve> = new Map([
  ["P-256", { oid: [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], bits: 256 }],
  ["P-384", { oid: [6, 5, 0x2b, 0x81, 4, 0, 0x22], bits: 384 }],
  ["P-521", { oid: [6, 5, 0x2b, 0x81, 4, 0, 0x23], bits: 521 }],
]);

/**
 * Derives a scope's key from its public key.
 * @param expected `sha256:<hex>` of the SPKI, from the policy
 * @throws AgentError `ERR_LAUNCH` when the key is not the policy's or of a kind that is not served
 */
export function brokerKey(name: string, source: PublicKeySource, expected: string): BrokerKey {
  const got = `sha256:${sha256Hex(source.spki)}`;
  if (got !== expected) throw new AgentError("ERR_LAUNCH", `key ${name} spki`, { expected, got });
  const publicKey = createPublicKey({ key: Buffer.from(source.spki), format: "der", type: "spki" });
  const jwk = publicKey.export({ format: "jwk" });
  const common = { name, publicKey, spki: source.spki, id: source.id, label: source.label };
  if (jwk.kty === "RSA") {
    const modulus = base64url(jwk.n);
    const bits = modulus.length * 8 - Math.clz32(modulus[0] ?? 0) + 24;
    return { ...common, keyType: "rsa", modulus, exponent: base64url(jwk.e), bits, signatureLength: modulus.length };
  }
  const curve = CURVES.get(jwk.crv ?? "");
  if (curve === undefined) {
    throw new AgentError("ERR_LAUNCH", `key ${name} type`, {
      expected: "RSA or a NIST curve",
      got: jwk.crv ?? `${jwk.kty}`,
    });
  }
  const point = concatBytes(Uint8Array.of(4), base64url(jwk.x), base64url(jwk.y));
  // DER lengths from 128 on take a byte in front.
  const header = point.length < 128 ? [4, point.length] : [4, 0x81, point.length];
  return {
    ...common,
    keyType: "ec",
    ecParams: Uint8Array.from(curve.oid),
    ecPoint: concatBytes(Uint8Array.from(header), point),
    bits: curve.bits,
    signatureLength: point.length - 1,
  };
}

function base64url(text: string | undefined): Uint8Array {
  return Uint8Array.from(Buffer.from(text ?? "", "base64url"));
}
