import { CborDecoder } from "./cbor-decoder.ts";
import { CborEncoder } from "./cbor-encoder.ts";
import { type CborLimits, type CborValue, defaultCborLimits } from "./cbor-value.ts";

export * from "./cbor-value.ts";

/**
 * Reads one CBOR item under the core deterministic encoding (RFC 8949 section 4.2.1) and nothing else: definite
 * lengths, shortest heads, map keys (integers or text) sorted by their encoded bytes and unique, valid UTF-8, tag
 * 601 only, no floating point, no `undefined`, no bignum, no trailing bytes. What is accepted encodes back to the
 * same bytes. Byte strings are parts of one copy of the input.
 *
 * Checks the form only: what a key means is the caller's business.
 *
 * @throws PolicyError `ERR_CBOR_MALFORMED`
 */
export function decodeCbor(bytes: Uint8Array, limits: CborLimits = defaultCborLimits): CborValue {
  return CborDecoder.decode(bytes, limits);
}

/**
 * The one encoding that `decodeCbor` accepts for a value. Map order does not matter: keys are sorted here.
 *
 * @throws TypeError for what has no place in it: fractions, integers beyond 64 bits, lone surrogates, equal keys
 */
export function encodeCbor(value: CborValue): Uint8Array {
  return new CborEncoder().value(value).finish();
}
