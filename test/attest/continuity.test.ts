import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type AssuranceClass,
  type Continuity,
  continuityFindings,
  EvidenceRefused,
  encodeContinuity,
  launchEvent,
  parseContinuity,
  verifyEvidence,
} from "../../attest/index.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { makeEvidence, referenceEvents } from "../support/evidence-maker.ts";

const before: Continuity = {
  version: 2,
  clock: "5000000",
  resetCount: 5,
  restartCount: 2,
  bootSeed: "b0".repeat(16),
  firmwareVersion: "2019102300163636",
  epoch: "3",
  audit: { seq: 40, hash: "aa".repeat(32) },
};
const farBehind = 5_000_000 - 2 ** 22 - 1;
const codes = (now: Partial<Continuity>, safe = true, assurance: AssuranceClass = "provider-ek") => {
  const { reasons, doubts } = continuityFindings(before, { ...before, ...now }, { safe, assurance });
  return [...reasons.map(({ code }) => code), ...doubts.map(({ code }) => `doubt ${code}`)];
};

describe("continuity", () => {
  it.each<[string, Partial<Continuity>, boolean, string[]]>([
    ["the same state again has nothing against it", {}, true, []],
    ["a later one of the same boot neither", { clock: "5000001", audit: { seq: 41, hash: "bb".repeat(32) } }, true, []],
    ["a clock that went back within a boot is refused", { clock: "4999999" }, true, ["clock-went-back"]],
    ["also when it calls itself unsafe", { clock: "4999999" }, false, ["clock-went-back"]],
    [
      "a lower resetCount is TPM state put back",
      { resetCount: 4, clock: "5020000" },
      true,
      ["tpm-rolled-back", "doubt rebooted"],
    ],
    ["so is a lower restartCount within one reset", { restartCount: 1 }, true, ["tpm-rolled-back", "doubt rebooted"]],
    [
      "a reset starts restartCount again",
      { resetCount: 6, restartCount: 0, clock: "5020000" },
      true,
      ["doubt rebooted"],
    ],
    [
      "after a reset an unsafe clock may lag",
      { resetCount: 6, restartCount: 0, clock: "4990000" },
      false,
      ["doubt rebooted"],
    ],
    [
      "but by no more than a TPM may leave its clock unsaved",
      { resetCount: 6, restartCount: 0, clock: `${farBehind}` },
      false,
      ["clock-went-back", "doubt rebooted"],
    ],
    [
      "a safe one may not",
      { resetCount: 6, restartCount: 0, clock: "4990000" },
      true,
      ["clock-went-back", "doubt rebooted"],
    ],
    [
      "another boot that the TPM has not counted is state put back and started again, however far it has come",
      { bootSeed: "b1".repeat(16), clock: "9000000", audit: { seq: 99, hash: "bb".repeat(32) } },
      true,
      ["boot-forked"],
    ],
    [
      "another boot that it has counted is a boot",
      { bootSeed: "b1".repeat(16), resetCount: 6 },
      true,
      ["doubt rebooted"],
    ],
    ["a system that slept goes on with the same boot", { restartCount: 3 }, true, ["doubt rebooted"]],
    ["a lower epoch is refused", { epoch: "2" }, true, ["epoch-went-back"]],
    ["so is a missing one", { epoch: null }, true, ["epoch-went-back"]],
    ["a higher epoch is not", { epoch: "18446744073709551615" }, true, []],
    ["I8: a shorter audit log is refused", { audit: { seq: 39, hash: "cc".repeat(32) } }, true, ["audit-rolled-back"]],
    [
      "I8: another record at the same place is refused",
      { audit: { seq: 40, hash: "cc".repeat(32) } },
      true,
      ["audit-forked"],
    ],
    ["I8: a head that is gone is refused", { audit: null }, true, ["audit-rolled-back"]],
    ["other TPM firmware is a doubt", { firmwareVersion: "0000000000000001" }, true, ["doubt tpm-firmware"]],
  ])("I9: %s", (_, now, safe, expected) => {
    expect(codes(now, safe)).toEqual(expected);
  });

  it("I9: a software TPM's clock may lag in a new boot, however it calls itself, and is a doubt; within a boot it may not", () => {
    const reset = { resetCount: 6, restartCount: 0, clock: "1" };
    expect(codes(reset, true, "software-tpm")).toEqual(["doubt clock-lags", "doubt rebooted"]);
    expect(codes(reset, true, "provider-ek")).toEqual(["clock-went-back", "doubt rebooted"]);
    expect(codes({ clock: "4999999" }, true, "software-tpm")).toEqual(["clock-went-back"]);
  });

  it("I9: of two machines with one state, that report in turn, one is refused", () => {
    const first = { ...before, clock: "5000500", audit: { seq: 42, hash: "bb".repeat(32) } };
    const clone = { ...before, clock: "5000200", audit: { seq: 41, hash: "cc".repeat(32) } };
    expect(
      continuityFindings(first, clone, { safe: true, assurance: "hardware-ek" }).reasons.map(({ code }) => code),
    ).toEqual(["clock-went-back", "audit-rolled-back"]);
  });

  it("I9: verification compares with the report before it, and says what to compare the next one with", async () => {
    const { evidence, challenge, enrolment } = await makeEvidence();
    const { continuity, doubts } = await verifyEvidence(evidence, challenge, enrolment, null);
    expect(doubts).toEqual([]);
    expect((await verifyEvidence(evidence, challenge, enrolment, continuity)).doubts).toEqual([]);
    const later = { ...continuity, audit: { seq: 8, hash: "aa".repeat(32) } };
    await expect(verifyEvidence(evidence, challenge, enrolment, later)).rejects.toSatisfy(
      (error) =>
        error instanceof EvidenceRefused && error.reasons.map(({ code }) => code).join() === "audit-rolled-back",
    );
  });

  it("I9: a report of another boot under the last one's counters is refused, whatever else has gone on", async () => {
    const { evidence, challenge, enrolment } = await makeEvidence();
    const { continuity } = await verifyEvidence(evidence, challenge, enrolment, null);
    const other = await makeEvidence({ claims: { bootSeed: new Uint8Array(16) } });
    await expect(verifyEvidence(other.evidence, other.challenge, other.enrolment, continuity)).rejects.toSatisfy(
      (error) =>
        error instanceof EvidenceRefused &&
        error.reasons.map(({ code, got }) => `${code} ${got}`).join() === `boot-forked ${"00".repeat(16)}`,
    );
  });

  it("I8: a launch that is refused has not opened the audit log: its head is not compared, and the one of before is kept", async () => {
    const events = [...referenceEvents(), launchEvent("cap", "refused", sha256(utf8("")))];
    const refused = { events, launch: "refused", asserted: { tokens: [], keys: [] } } as const;
    const { evidence, challenge, enrolment } = await makeEvidence(refused);
    const first = await verifyEvidence(evidence, challenge, enrolment, null);
    expect(first.continuity.audit).toBeNull();
    const kept = { ...first.continuity, audit: before.audit };
    const { continuity, doubts } = await verifyEvidence(evidence, challenge, enrolment, kept);
    expect([continuity.audit, doubts]).toEqual([before.audit, []]);
  });

  it("is kept as canonical JSON that reads back the same", () => {
    fc.assert(
      fc.property(
        fc.record({
          version: fc.constant(2 as const),
          clock: fc.bigInt(0n, (1n << 64n) - 1n).map(String),
          resetCount: fc.nat(0xffff_ffff),
          restartCount: fc.nat(0xffff_ffff),
          bootSeed: fc.constant("0f".repeat(16)),
          firmwareVersion: fc.constant("0123456789abcdef"),
          epoch: fc.option(fc.bigInt(0n, (1n << 64n) - 1n).map(String)),
          audit: fc.option(fc.record({ seq: fc.nat(), hash: fc.constant("ab".repeat(32)) })),
        }),
        (continuity) => {
          expect(parseContinuity(encodeContinuity(continuity))).toEqual(continuity);
        },
      ),
    );
  });

  it("I10: anything else is a typed error", () => {
    for (const text of ["", "{}", "null", '{"version":2}', `${new TextDecoder().decode(encodeContinuity(before))} `])
      expect(() => parseContinuity(utf8(text))).toThrow(expect.objectContaining({ code: "ERR_POLICY_MALFORMED" }));
  });
});
