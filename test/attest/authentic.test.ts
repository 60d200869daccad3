import { describe, expect, it } from "vitest";
import { authenticReasons } from "../../attest/authentic.ts";
import { EvidenceRefused } from "../../attest/errors.ts";
import { type Evidence, encodePcrs, parsePcrs } from "../../attest/evidence.ts";
import type { Reason } from "../../attest/reason.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { concatBytes, sha256, utf8 } from "../../policy/index.ts";
import { type Made, makeEvidence, softEccKey, softRsaKey } from "../support/evidence-maker.ts";

const codesOf = (reasons: readonly Reason[]) => reasons.map(({ code }) => code);
const authentic = async ({ evidence, challenge, enrolment }: Made) =>
  codesOf(await authenticReasons(evidence, challenge, enrolment));
async function verified({ evidence, challenge, enrolment }: Made): Promise<readonly string[]> {
  try {
    await verifyEvidence(evidence, challenge, enrolment, null);
    return [];
  } catch (error) {
    if (error instanceof EvidenceRefused) return codesOf(error.reasons);
    throw error;
  }
}
const changed = (made: Made, sections: Partial<Evidence>): Made => ({
  ...made,
  evidence: { ...made.evidence, ...sections },
});

describe("whether a report is the machine's own", () => {
  it("I9: an honest one is, by either kind of key", async () => {
    expect(await authentic(await makeEvidence())).toEqual([]);
    expect(await authentic(await makeEvidence({ key: await softRsaKey() }))).toEqual([]);
    expect(await authentic(await makeEvidence({ bank: "sha384" }))).toEqual([]);
  });

  it("I9: one that its key signed and that does not verify is, and no log or claim is read for it", async () => {
    const unexplained = await makeEvidence({ values: new Map([[0, new Uint8Array(32)]]), asked: [0] });
    expect([await authentic(unexplained), await verified(unexplained)]).toEqual([
      [],
      expect.arrayContaining(["pcr-replay"]),
    ]);
    const nonsense = await makeEvidence({
      firmwareLog: utf8("no log"),
      values: new Map([[0, new Uint8Array(32)]]),
      asked: [0],
    });
    expect([await authentic(nonsense), await verified(nonsense)]).toEqual([
      [],
      expect.arrayContaining(["ERR_FIRMWARE_LOG"]),
    ]);
  });

  it("I9: whatever section a carrier changes, cuts or empties, it is not, and it does not verify either", async () => {
    const made = await makeEvidence();
    for (const section of Object.keys(made.evidence) as (keyof Evidence)[]) {
      const bytes = made.evidence[section];
      const flipped = bytes.with(bytes.length - 1, (bytes.at(-1) ?? 0) ^ 1);
      for (const other of [new Uint8Array(), bytes.slice(0, -1), concatBytes(bytes, Uint8Array.of(0)), flipped]) {
        const report = changed(made, { [section]: other });
        expect(await authentic(report), section).not.toEqual([]);
        expect(await verified(report), section).not.toEqual([]);
      }
    }
  });

  it.each<[string, string, () => Promise<Made>]>([
    ["by another key", "ak-not-enrolled", async () => makeEvidence({ enrolledKey: await softEccKey() })],
    ["over another nonce", "extra-data", async () => makeEvidence({ attest: { extraData: sha256(utf8("older")) } })],
    [
      "of another bank than was asked for",
      "pcr-selection",
      async () => {
        const made = await makeEvidence({ bank: "sha384" });
        return { ...made, challenge: { ...made.challenge, bank: "sha256" } };
      },
    ],
    ["of other registers than were asked for", "pcr-selection", () => makeEvidence({ quoted: [0, 1] })],
    [
      "with register values that the quote is not over",
      "pcr-digest",
      async () => {
        const made = await makeEvidence();
        const { bank, values } = parsePcrs(made.evidence.pcrs);
        return changed(made, { pcrs: encodePcrs({ bank, values: new Map([...values, [0, new Uint8Array(32)]]) }) });
      },
    ],
    [
      "without register values",
      "pcr-section",
      async () => changed(await makeEvidence(), { pcrs: encodePcrs({ bank: "sha256", values: new Map() }) }),
    ],
    [
      "with a section of register values that is none",
      "ERR_CBOR_MALFORMED",
      async () => changed(await makeEvidence(), { pcrs: utf8("no section") }),
    ],
  ])("I9: one %s is not", async (_, code, make) => {
    const made = await make();
    const codes = await authentic(made);
    expect(codes).toContain(code);
    expect(await verified(made)).toContain(code);
  });

  it("I9: another machine's key is refused whatever it signed", async () => {
    const [made, other] = [await makeEvidence(), await softEccKey()];
    const signature = await other.sign(made.evidence.quote);
    expect(await authentic(changed(made, { signature }))).toEqual(["signature"]);
    expect(await authentic(changed(made, { signature, ak: other.publicArea }))).toEqual([
      "ak-not-enrolled",
      "signature",
    ]);
  });
});
