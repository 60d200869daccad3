import { describe, expect, it } from "vitest";
import { resetValue } from "../../attest/banks.ts";
import { type BootPhase, bootPhases, extendPhases } from "../../attest/boot-phases.ts";
import { EvidenceRefused } from "../../attest/errors.ts";
import { parsePcrs } from "../../attest/evidence.ts";
import { parseFirmwareLog, replayFirmwareLog } from "../../attest/firmware-log.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { readPhases } from "../../vm-images/installed-system.ts";
import { codesOf, judge } from "../support/appraisal.ts";
import { makeEvidence, makeReference } from "../support/evidence-maker.ts";
import { typicalLog } from "../support/firmware-log-writer.ts";

const BANKS = ["sha256", "sha384"] as const;
type Bank = (typeof BANKS)[number];

/** A report whose PCR went on by these words after the log had ended: what does not verify of it. */
async function refusalOf(bank: Bank, words: readonly string[], pcr = 11): Promise<readonly string[]> {
  const logged = replayFirmwareLog(parseFirmwareLog(typicalLog()), bank).get(pcr) ?? resetValue(bank, pcr);
  const honest = await makeEvidence({ bank });
  const values = new Map(parsePcrs(honest.evidence.pcrs).values);
  values.set(pcr, extendPhases(bank, logged, words as readonly BootPhase[])); // hostile words, too
  const { evidence, challenge, enrolment } = await makeEvidence({ bank, values });
  try {
    await verifyEvidence(evidence, challenge, enrolment, null);
    return [];
  } catch (error) {
    if (error instanceof EvidenceRefused) return error.reasons.map(({ code, item }) => `${code} ${item}`);
    throw error;
  }
}

describe.each(BANKS)("what is measured after the firmware's log, bank %s", (bank) => {
  it.each([
    [["enter-initrd"]],
    [["enter-initrd", "leave-initrd", "sysinit", "ready"]],
    [["sysinit"]],
    [["sysinit", "ready"]],
  ])("I9: systemd's phases %s explain PCR 11", async (words) => {
    expect(await refusalOf(bank, words)).toEqual([]);
  });

  it.each([
    ["one that is none", ["sysinit", "ready", "unready"]],
    ["one twice", ["sysinit", "sysinit"]],
    ["another order", ["ready", "sysinit"]],
    ["one left out", ["enter-initrd", "sysinit"]],
    ["the last alone", ["ready"]],
  ])("I9: %s does not", async (_, words) => {
    expect(await refusalOf(bank, words)).toEqual([`pcr-replay PCR 11 (${bank})`]);
  });

  it("I9: and they explain no other PCR", async () => {
    expect(await refusalOf(bank, ["sysinit", "ready"], 12)).toEqual([`pcr-replay PCR 12 (${bank})`]);
  });
});

describe("a system that our package is installed on", () => {
  const installed = { image: { id: makeReference().image.id, variant: "installed" as const } };
  const claims = { asserted: { image: installed.image } };

  it("I9: is never better than a warning, whatever the policy accepts", async () => {
    const result = await judge({
      references: [{ ...makeReference(), ...installed }],
      policy: { variants: ["installed"] },
      scene: claims,
    });
    expect(result.tier).toBe("warning");
    expect(codesOf(result)).toContain("warning installed-system");
  });

  it("I9: passes for no image, whatever its release says", async () => {
    const result = await judge({ policy: { variants: ["release", "installed"] }, scene: claims });
    expect(result.tier).toBe("contraindicated");
    expect(codesOf(result)).toContain("contraindicated image-variant");
  });

  it("I9: is refused by a policy that names images only", async () => {
    const result = await judge({ references: [{ ...makeReference(), ...installed }], scene: claims });
    expect(codesOf(result)).toContain("contraindicated image-variant");
  });

  it("its phases are named in their order, or refused", () => {
    expect(readPhases("")).toEqual([]);
    expect(readPhases("sysinit,ready")).toEqual(["sysinit", "ready"]);
    expect(readPhases(bootPhases.join())).toEqual(bootPhases);
    for (const list of ["ready,sysinit", "sysinit,sysinit", "sysinit,", "boot", " ready"])
      expect(readPhases(list)).toBeNull();
  });
});
