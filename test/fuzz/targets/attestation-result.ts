import { encodeAttestationResult, parseAttestationResult } from "../../../attest/index.ts";
import { expectSame } from "../property.ts";

/** White space and the order of fields are free when it is read: the law is about its own encoding. */
export function run(bytes: Uint8Array): void {
  const encoded = encodeAttestationResult(parseAttestationResult(bytes));
  expectSame(encoded, encodeAttestationResult(parseAttestationResult(encoded)), "attestation result");
}
