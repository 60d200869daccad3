import { encodeEvidence, measureEvidence, measureExtraData, parseEvidence } from "../../../attest/evidence.ts";
import { exportEvidence } from "../../../attest/export.ts";
import { readReport } from "../../../attest/page/report.ts";
import { expectSame } from "../property.ts";

export const maxLength = 16384;

export function run(bytes: Uint8Array): void {
  const evidence = parseEvidence(bytes);
  expectSame(bytes, encodeEvidence(evidence), "evidence");
  expectSame(measureEvidence(evidence), measureEvidence({ ...evidence }), "the remembered digest of a report");
  measureExtraData(new Uint8Array(32), evidence);
  exportEvidence(evidence, null);
  readReport(bytes);
}
