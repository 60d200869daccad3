import { decodeCbor, encodeCbor } from "../../../policy/cbor.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeCbor(decodeCbor(bytes)), "cbor");
}
