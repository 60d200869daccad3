import { encodeDerSignature, parseDerSignature } from "../../../policy/keys.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeDerSignature(parseDerSignature(bytes)), "ECDSA-Sig-Value");
}
