import { decodeCel, encodeCel, parseCel, renderCelJsonLines, replayCel } from "../../../attest/cel.ts";
import { IronclawError } from "../../../policy/index.ts";
import { expectSame, expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectTrue(outcome(parseCel, bytes) === outcome(decodeCel, bytes), "cel: the two readers differ");
  const records = parseCel(bytes);
  expectSame(bytes, encodeCel(records), "cel");
  replayCel(records, "sha384");
  renderCelJsonLines(records);
}

/** What is wrong where something is; `null` for a log, of which the encoding is compared. */
function outcome(read: (bytes: Uint8Array) => unknown, bytes: Uint8Array): string | null {
  try {
    read(bytes);
    return null;
  } catch (error) {
    if (error instanceof IronclawError) return error.message;
    throw error;
  }
}
