import { EMPTY_HEAD, encodeRecord, verifyLine } from "../../../agent/audit/record.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const record = verifyLine(bytes, EMPTY_HEAD);
  const { line } = encodeRecord(record, EMPTY_HEAD, record.time);
  expectSame(bytes, line.subarray(0, -1), "audit record");
}
