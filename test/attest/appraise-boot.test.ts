import { describe, expect, it } from "vitest";
import { defaultQuotePcrs } from "../../attest/index.ts";
import { concatBytes, utf8 } from "../../policy/index.ts";
import { judge, type Setting, withoutPcrs } from "../support/appraisal.ts";
import { makeReference } from "../support/evidence-maker.ts";
import { logEvent, logHeader } from "../support/firmware-log-writer.ts";

/** Every PCR that a release must pin, and every one that a policy can ask for besides. */
const releasePcrs = [4, 9, 11, 12];
const firmwarePcrs = [0, 2, 7];
const agentPcr = 13;
const otherPcrs = defaultQuotePcrs.filter((pcr) => ![...releasePcrs, ...firmwarePcrs, agentPcr].includes(pcr));
const allButAgent = defaultQuotePcrs.filter((pcr) => pcr !== agentPcr);

const findingsOf = async (setting: Setting) =>
  (await judge(setting)).findings.map(({ tier, code, item }) => `${tier} ${code}: ${item}`);
const askedWithout = (pcr: number) => ({ asked: defaultQuotePcrs.filter((one) => one !== pcr) });
const pcrsWith = (pcr: number, value: string) => {
  const pcrs = makeReference().pcrs;
  return { ...pcrs, sha256: { ...pcrs.sha256, [pcr]: value } };
};

describe("the PCRs of a report", () => {
  it.each([...releasePcrs, agentPcr])(
    "I9: a challenge that leaves out PCR %i is contraindicated, also where the release has no value for it",
    async (pcr) => {
      const setting = { scene: askedWithout(pcr), reference: { pcrs: withoutPcrs(`${pcr}`) } };
      expect(await findingsOf(setting)).toEqual([`contraindicated pcr-not-quoted: PCR ${pcr}`]);
    },
  );

  it.each(allButAgent)(
    "I9: a challenge that leaves out PCR %i where the release pins it is contraindicated",
    async (pcr) => {
      const reference = { pcrs: pcrsWith(pcr, "11".repeat(32)) };
      expect(await findingsOf({ scene: askedWithout(pcr), reference })).toEqual([
        `contraindicated pcr-not-quoted: PCR ${pcr}`,
      ]);
    },
  );

  it.each(allButAgent)("I9: PCR %i with another value than the release's is contraindicated", async (pcr) => {
    expect(await findingsOf({ reference: { pcrs: pcrsWith(pcr, "11".repeat(32)) } })).toEqual([
      `contraindicated pcr-mismatch: PCR ${pcr} (sha256)`,
    ]);
  });

  it.each(releasePcrs)("I9: a release without a value for PCR %i is contraindicated", async (pcr) => {
    expect(await findingsOf({ reference: { pcrs: withoutPcrs(`${pcr}`) } })).toEqual([
      `contraindicated pcr-no-reference: PCR ${pcr} (sha256)`,
    ]);
  });

  it.each(firmwarePcrs)("I9: a release without a value for PCR %i is contraindicated under `pinned`", async (pcr) => {
    const reference = { pcrs: withoutPcrs(`${pcr}`) };
    expect(await findingsOf({ reference })).toEqual([`contraindicated firmware-unpinned: PCRs ${pcr}`]);
    expect(await findingsOf({ reference, policy: { firmware: "warn" } })).toEqual([
      `warning firmware-unpinned: PCRs ${pcr}`,
    ]);
    expect(await findingsOf({ reference, policy: { firmware: "waived" } })).toEqual([]);
  });

  it.each(firmwarePcrs)(
    "I9: PCR %i that is neither asked for nor pinned is contraindicated under `pinned`",
    async (pcr) => {
      const setting = { scene: askedWithout(pcr), reference: { pcrs: withoutPcrs(`${pcr}`) } };
      expect(await findingsOf(setting)).toEqual([`contraindicated firmware-unpinned: PCRs ${pcr}`]);
    },
  );

  it.each(otherPcrs)("I9: a release without a value for PCR %i is a warning", async (pcr) => {
    expect(await findingsOf({ reference: { pcrs: withoutPcrs(`${pcr}`) } })).toEqual([
      `warning firmware-unpinned: PCRs ${pcr}`,
    ]);
  });

  it.each([4, 9, 11])("I9: zeros in PCR %i are contraindicated, also where the release has zeros too", async (pcr) => {
    // Firmware that extends nothing but the boot PCRs, and not this one.
    const boot = releasePcrs.filter((one) => one !== pcr).map((one) => logEvent(one, 0xd, utf8("boot")));
    const scene = { firmwareLog: concatBytes(logHeader(), ...boot) };
    const found = await findingsOf({ scene, reference: { pcrs: pcrsWith(pcr, "00".repeat(32)) } });
    expect(found.filter((finding) => finding.includes("unextended"))).toEqual([
      `contraindicated pcr-unextended: PCR ${pcr} (sha256)`,
    ]);
    expect(found).not.toContain(`contraindicated pcr-mismatch: PCR ${pcr} (sha256)`);
  });

  it("I9: the agent PCR is judged by its events alone, whatever a release says of its value", async () => {
    expect(await findingsOf({ reference: { pcrs: pcrsWith(agentPcr, "11".repeat(32)) } })).toEqual([]);
  });
});
