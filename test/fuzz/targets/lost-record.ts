import { sha256 } from "../../../policy/hash.ts";
import { encodeLostRecord, LOST_RECORD_BYTES, parseLostRecord } from "../../../seal/lost-record.ts";
import { expectSame } from "../property.ts";

const digestAt = LOST_RECORD_BYTES - 32;

/** The digest is put right first: a mutation that only breaks it shows nothing. */
export function run(input: Uint8Array): void {
  const bytes = input.slice();
  if (bytes.length === LOST_RECORD_BYTES) bytes.set(sha256(bytes.subarray(0, digestAt)), digestAt);
  const record = parseLostRecord(bytes);
  if (record !== null) expectSame(bytes, encodeLostRecord(record), "lost record");
}
