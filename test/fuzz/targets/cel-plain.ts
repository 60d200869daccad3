import { celRecord, decodeCel, encodeCel } from "../../../attest/cel.ts";
import { readPlainCel } from "../../../attest/cel-reader.ts";
import { AGENT_PCR } from "../../../policy/index.ts";
import { expectSame, expectTrue } from "../property.ts";

/** Without the digests, which a mutation cannot mend: with the right ones in their place it has to be the one encoding of its events. */
export function run(bytes: Uint8Array): void {
  const records = readPlainCel(bytes, [])?.rest;
  if (records === undefined) {
    decodeCel(bytes);
    expectTrue(false, "cel: only the decoder takes it");
    return;
  }
  const mended = encodeCel(records.map(({ event }, index) => celRecord(index, AGENT_PCR, event)));
  for (const [index, right] of (readPlainCel(mended, [])?.rest ?? []).entries()) {
    // Parts of `mended`, so this puts the digests as they came into it.
    right.sha256.set(records[index]?.sha256 ?? []);
    right.sha384.set(records[index]?.sha384 ?? []);
  }
  expectSame(bytes, mended, "plain cel");
}
