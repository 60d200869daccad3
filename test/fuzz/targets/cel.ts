import {
  decodeCel,
  encodeCel,
  parseCel,
  readCel,
  renderCelJsonLines,
  replayCel,
  replayLog,
} from "../../../attest/cel.ts";
import { expectedLog } from "../../../attest/expected-log.ts";
import { IronclawError } from "../../../policy/index.ts";
import { makeReference } from "../../support/evidence-maker.ts";
import { expectSame, expectTrue } from "../property.ts";

const expected = expectedLog(makeReference());

export function run(bytes: Uint8Array): void {
  expectTrue(outcome(parseCel, bytes) === outcome(decodeCel, bytes), "cel: the two readers differ");
  const known = () => readCel(bytes, [expected]);
  expectTrue(outcome(known, bytes) === outcome(decodeCel, bytes), "cel: known and unknown beginnings differ");
  const records = parseCel(bytes);
  const again = readCel(bytes, [expected, { ...readCel(bytes, []), pcrs: new Map() }]);
  expectSame(encodeCel(again.records), encodeCel(records), "cel of a known beginning");
  expectSame(replayLog(known(), "sha256"), replayCel(records, "sha256"), "PCR of a known beginning");
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
