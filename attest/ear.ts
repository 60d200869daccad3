import {
  decodeSpkiPem,
  parseVerificationKey,
  type SigningKey,
  sha256,
  utf8,
  verifySignature,
} from "../policy/index.ts";
import type { AttestationResult } from "./attestation-result.ts";
import { type EarClaims, encodeEarClaims, parseEarClaims } from "./ear-claims.ts";
import { AttestError } from "./errors.ts";
import { MAX_EAR, parseEarHeader, splitJws } from "./jws.ts";

/** Who signs results: an ECDSA P-256 key whose `sign` gives r||s, from a file or on a token. */
export type EarKey = SigningKey;

export interface EarOptions {
  readonly key: EarKey;
  readonly now: Date;
  /** How long a relying party may act on the result: 1 second to a day. */
  readonly ttlSeconds: number;
  /** The challenge's. `null` where the token is for nobody's challenge, e.g. a result that was judged again. */
  readonly nonce: Uint8Array | null;
}

/** A token, split and read. Its signature is not verified: see `verifyEar`. */
export interface Ear {
  readonly claims: EarClaims;
  /** What the header says the key's id is. */
  readonly kid: string;
  /** What is signed. */
  readonly input: Uint8Array;
  /** r||s */
  readonly signature: Uint8Array;
}

/**
 * An attestation result as a signed token (APPRAISAL.md section 3): a compact JWS, ES256.
 * @throws AttestError `ERR_EAR_MALFORMED` for another kind of key, or for a result too long for a token; what `key.sign` throws
 */
export async function signEar(result: AttestationResult, options: EarOptions): Promise<string> {
  const { key, now, ttlSeconds, nonce } = options;
  if (!(Number.isInteger(ttlSeconds) && ttlSeconds >= 1 && ttlSeconds <= 86_400))
    throw new TypeError(`EAR ttlSeconds: ${ttlSeconds}, not 1 to 86400`);
  const header = utf8(JSON.stringify({ alg: "ES256", typ: "JWT", kid: earKeyId(key.spkiPem) }));
  const claims = encodeEarClaims(result, { iat: Math.floor(now.getTime() / 1000), ttlSeconds, nonce });
  const input = `${base64url(header)}.${base64url(claims)}`;
  const token = `${input}.${base64url(await key.sign(utf8(input)))}`;
  if (token.length <= MAX_EAR) return token;
  throw new AttestError("ERR_EAR_MALFORMED", "EAR", {
    expected: `at most ${MAX_EAR} characters`,
    got: `${token.length}`,
  });
}

/** `kid` of a key: SHA-256 of its SubjectPublicKeyInfo in base64url. @throws AttestError `ERR_EAR_MALFORMED` unless it is a P-256 key */
export function earKeyId(spkiPem: string): string {
  requireP256(spkiPem);
  return base64url(sha256(decodeSpkiPem(spkiPem)));
}

/**
 * Reads a token. Establishes nothing about who made it: see `verifyEar`.
 * @throws AttestError `ERR_EAR_MALFORMED`
 */
export function parseEar(jws: string): Ear {
  const { header, payload, input, signature } = splitJws(jws);
  const { kid } = parseEarHeader(header);
  return { claims: parseEarClaims(payload), kid, input, signature };
}

/**
 * Proves that the holder of this key signed the token, and that `now` is in its time. The key comes from the caller alone: the header's `kid` must be that of
 * the key, and nothing else in a token can choose a key or an algorithm.
 *
 * Does not establish that the token is about your challenge: compare `claims.eat_nonce` with the nonce you sent. Nor that the verifier is a good one.
 *
 * @throws AttestError `ERR_EAR_MALFORMED` for no token or another kind of key; `ERR_EAR_REFUSED` for another key, a bad signature or another time
 */
export async function verifyEar(jws: string, spkiPem: string, now: Date): Promise<EarClaims> {
  const expected = earKeyId(spkiPem);
  const { claims, kid, input, signature } = parseEar(jws);
  if (kid !== expected) throw refused("kid", expected, kid);
  if (!(await verifySignature(spkiPem, input, signature)))
    throw refused("signature", "one of this key over header and payload", "one that does not verify");
  const seconds = now.getTime() / 1000;
  // Compared so that a time that is none refuses.
  if (!(seconds >= claims.iat - CLOCK_SKEW_SECONDS)) throw refused("iat", `${claims.iat} or later`, `${seconds}`);
  if (!(seconds < claims.exp)) throw refused("exp", `before ${claims.exp}`, `${seconds}`);
  return claims;
}

/** Between the clocks of verifier and relying party; a token's end is not moved. */
const CLOCK_SKEW_SECONDS = 60;

function requireP256(spkiPem: string): void {
  const { kind } = parseVerificationKey(spkiPem);
  if (kind === "p256") return;
  throw new AttestError("ERR_EAR_MALFORMED", "EAR key", { expected: "ECDSA P-256, the only key of ES256", got: kind });
}

function base64url(bytes: Uint8Array): string {
  return bytes.toBase64({ alphabet: "base64url", omitPadding: true });
}

function refused(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_EAR_REFUSED", `EAR ${what}`, { expected, got });
}
