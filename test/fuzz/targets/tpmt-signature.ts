import { encodeTpmSignature, parseTpmSignature } from "../../../attest/tpm-structures.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeTpmSignature(parseTpmSignature(bytes)), "TPMT_SIGNATURE");
}
