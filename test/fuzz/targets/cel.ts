import { encodeCel, parseCel, renderCelJsonLines, replayCel } from "../../../attest/cel.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const records = parseCel(bytes);
  expectSame(bytes, encodeCel(records), "cel");
  replayCel(records, "sha384");
  renderCelJsonLines(records);
}
