import { createPublicKey, type KeyObject, type webcrypto } from "node:crypto";
import { concatBytes, equalBytes, type Policy, sha256Hex, toHex } from "../../policy/index.ts";
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
  /** By which the token is asked for it: the policy's name, for a key that arrived with the scope that let it in before it. */
  readonly place: string;
  readonly publicKey: KeyObject;
  readonly spki: Uint8Array;
  readonly id: Uint8Array;
  readonly label: string;
  /** What makes it this key, whatever it is called and however it is encoded. */
  readonly identity: string;
  /** Size of the modulus or of the curve's field. */
  readonly bits: number;
  /** Bytes of every signature. */
  readonly signatureLength: number;
} & (
  | { readonly keyType: "rsa"; readonly modulus: Uint8Array; readonly exponent: Uint8Array }
  | {
      readonly keyType: "ec";
      readonly modulus: null;
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
  const { publicKey, jwk } = parsePublicKey(name, source.spki);
  const common = { name, place: name, publicKey, spki: source.spki, id: source.id, label: source.label };
  if (jwk.kty === "RSA") {
    const modulus = base64url(jwk.n);
    const bits = modulus.length * 8 - Math.clz32(modulus[0] ?? 0) + 24;
    const sizes = { bits, signatureLength: modulus.length };
    // Not the exponent: two private keys of one modulus are one secret.
    const identity = `rsa ${toHex(modulus)}`;
    return { ...common, ...sizes, identity, keyType: "rsa", modulus, exponent: base64url(jwk.e) };
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
    // Not y: the two points of one x are one secret and its negative.
    identity: `ec ${jwk.crv} ${toHex(base64url(jwk.x))}`,
    keyType: "ec",
    modulus: null,
    ecParams: Uint8Array.from(curve.oid),
    ecPoint: concatBytes(Uint8Array.from(header), point),
    bits: curve.bits,
    signatureLength: point.length - 1,
  };
}

/**
 * Holds that each key of the policy is one key: no two entries are the same key in another encoding or for another use. The policy
 * itself compares digests only.
 * @throws AgentError `ERR_LAUNCH`
 */
export function verifyKeyUses(policy: Policy, sources: ReadonlyMap<string, PublicKeySource>): void {
  const seen = new Map<string, { readonly name: string; readonly spki: string; readonly does: string }>();
  for (const [name, { spki, does }] of Object.entries(policy.keys)) {
    const source = sources.get(name);
    if (source === undefined) continue;
    const { identity } = brokerKey(name, source, spki);
    const first = seen.get(identity) ?? { name, spki, does };
    seen.set(identity, first);
    if (first.spki === spki && first.does === does) continue;
    const expected = `what ${first.name} is: ${first.spki} that does ${first.does}`;
    throw new AgentError("ERR_LAUNCH", `key ${name}`, { expected, got: `the same key as ${spki} that does ${does}` });
  }
}

/** One key has one encoding here: with a second one it could stand in a policy twice. */
function parsePublicKey(name: string, spki: Uint8Array): { publicKey: KeyObject; jwk: webcrypto.JsonWebKey } {
  try {
    const publicKey = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
    const jwk = publicKey.export({ format: "jwk" });
    // From the numbers: a compressed point, for one, would be exported as it came.
    const encoded = createPublicKey({ key: jwk, format: "jwk" }).export({ format: "der", type: "spki" });
    if (equalBytes(Uint8Array.from(encoded), spki)) return { publicKey, jwk };
  } catch (cause) {
    const fields = { expected: "an RSA or EC key", got: "another public key", cause };
    throw new AgentError("ERR_LAUNCH", `key ${name} spki`, fields);
  }
  throw new AgentError("ERR_LAUNCH", `key ${name} spki`, { expected: "the one encoding of its key", got: "another" });
}

function base64url(text: string | undefined): Uint8Array {
  return Uint8Array.from(Buffer.from(text ?? "", "base64url"));
}
