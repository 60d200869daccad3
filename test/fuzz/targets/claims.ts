import { encodeClaims, parseClaims } from "../../../attest/claims-codec.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeClaims(parseClaims(bytes)), "claims");
}
