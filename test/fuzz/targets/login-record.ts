import { encodeLoginRecord, parseLoginRecord } from "../../../seal/tpm-records.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeLoginRecord(parseLoginRecord(bytes, "hsm-pin")), "login record");
}
