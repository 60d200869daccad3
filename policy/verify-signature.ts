import { concatBytes, fromHex } from "./bytes.ts";
import { findNodeCrypto, type Runtime, thisRuntime } from "./platform.ts";

/** Public half of a key that signs. The only two kinds: ECDSA P-256, RSA-2048 with exponent 65537. */
export type VerificationKey =
  | { readonly kind: "p256"; readonly x: Uint8Array; readonly y: Uint8Array }
  | { readonly kind: "rsa2048"; readonly modulus: Uint8Array };

/** A key that the platform has taken: for whoever checks several signatures of one key. */
export interface ImportedKey {
  /**
   * True when `signature` (r||s or PKCS#1, SHA-256) over `data` verifies; false for everything else, also where the platform gives up on a
   * key. Says nothing about whose key it is.
   */
  verify(data: Uint8Array, signature: Uint8Array): Promise<boolean>;
}

/** A way to verify the signatures of this project: ECDSA P-256 and RSASSA-PKCS1-v1_5 with 2048 bits, both with SHA-256, nothing else. */
export interface Signatures {
  /** `null` for a key that is none: a point off the curve, a modulus of another size. */
  importKey(key: VerificationKey): Promise<ImportedKey | null>;
}

// With the key kind fixed, all of the SubjectPublicKeyInfo but the key itself is constant.
export const P256_PREFIX = fromHex("3059301306072a8648ce3d020106082a8648ce3d03010703420004");
export const RSA_PREFIX = fromHex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100");
export const RSA_SUFFIX = fromHex("0203010001");

/** SubjectPublicKeyInfo DER of a key. Does not check that a P-256 point is on the curve. */
export function encodeSpki(key: VerificationKey): Uint8Array {
  if (key.kind === "p256") return concatBytes(P256_PREFIX, key.x, key.y);
  return concatBytes(RSA_PREFIX, key.modulus, RSA_SUFFIX);
}

/** Bytes of a raw signature: r||s, or that of the modulus. */
export function signatureSize(kind: VerificationKey["kind"]): number {
  return kind === "p256" ? 64 : 256;
}

/** Sizes first, so that no platform sees a key or signature that another one would read differently. */
function hasKeySize(key: VerificationKey): boolean {
  if (key.kind === "p256") return key.x.length === 32 && key.y.length === 32;
  return key.modulus.length === 256 && (key.modulus[0] ?? 0) >= 0x80;
}

/** WebCrypto, which every platform has. Each check waits for another thread. */
export const webSignatures: Signatures = {
  importKey: async (key) => {
    if (!hasKeySize(key)) return null;
    const { kind } = key;
    const algorithm =
      kind === "p256" ? { name: "ECDSA", namedCurve: "P-256" } : { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
    const scheme = kind === "p256" ? { name: "ECDSA", hash: "SHA-256" } : { name: "RSASSA-PKCS1-v1_5" };
    const spki = Uint8Array.from(encodeSpki(key));
    try {
      const imported = await crypto.subtle.importKey("spki", spki, algorithm, false, ["verify"]);
      return checkedKey(kind, (data, signature) =>
        crypto.subtle.verify(scheme, imported, Uint8Array.from(signature), Uint8Array.from(data)),
      );
    } catch {
      return null;
    }
  },
};

type Verify = (data: Uint8Array, signature: Uint8Array) => boolean | Promise<boolean>;

function checkedKey(kind: VerificationKey["kind"], verify: Verify): ImportedKey {
  return {
    verify: async (data, signature) => {
      if (signature.length !== signatureSize(kind)) return false;
      try {
        return (await verify(data, signature)) === true;
      } catch {
        return false;
      }
    },
  };
}

/** What is used of `node:crypto`. */
interface NodeSignatures {
  createPublicKey(options: { readonly key: Uint8Array; readonly format: "der"; readonly type: "spki" }): object;
  verify(
    algorithm: "sha256",
    data: Uint8Array,
    key: { readonly key: object; readonly dsaEncoding: "ieee-p1363" },
    signature: Uint8Array,
  ): boolean;
}

/**
 * The platform's own verification where it has one that answers at once, else WebCrypto: the same answers, three to five times sooner. Decided here
 * only. A check holds up the event loop for 0.1 ms (P-256) or less, no longer than handing it to another thread takes; the agent makes few of
 * them, and the verifier service judges in threads of its own.
 */
export function openSignatures(runtime: Runtime): Signatures {
  const native = findNodeCrypto(runtime, ["createPublicKey", "verify"]) as NodeSignatures | null;
  return native === null ? webSignatures : nodeSignatures(native);
}

function nodeSignatures({ createPublicKey, verify }: NodeSignatures): Signatures {
  const importSpki = (key: VerificationKey): object | null => {
    try {
      return createPublicKey({ key: encodeSpki(key), format: "der", type: "spki" });
    } catch {
      return null;
    }
  };
  return {
    importKey: async (key) => {
      const imported = hasKeySize(key) ? importSpki(key) : null;
      if (imported === null) return null;
      const options = { key: imported, dsaEncoding: "ieee-p1363" } as const; // says nothing to an RSA key
      return checkedKey(key.kind, (data, signature) => verify("sha256", data, options, signature));
    },
  };
}

export const signatures = openSignatures(thisRuntime);
