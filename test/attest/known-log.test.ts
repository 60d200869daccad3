import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { pcrBanks } from "../../attest/banks.ts";
import { celRecord, decodeCel, encodeCel, readCel, replayCel, replayLog } from "../../attest/cel.ts";
import { enrolledKey } from "../../attest/enrolled-keys.ts";
import { expectedLog } from "../../attest/expected-log.ts";
import { launchEvent } from "../../attest/launch-events.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { AGENT_PCR, IronclawError, toBase64 } from "../../policy/index.ts";
import {
  makeEnrolment,
  makeEvidence,
  makeReference,
  referenceEvents,
  servingEvents,
  softEccKey,
} from "../support/evidence-maker.ts";

const known = expectedLog(makeReference());
const digest = (byte: number) => new Uint8Array(32).fill(byte);
const logOf = (events: readonly ReturnType<typeof launchEvent>[]) =>
  encodeCel(events.map((event, index) => celRecord(index, AGENT_PCR, event)));
const served = logOf(servingEvents());

/** The records, or what was wrong. */
function outcome(read: () => unknown): unknown {
  try {
    return read();
  } catch (error) {
    if (error instanceof IronclawError) return error.message;
    throw error;
  }
}

describe("a log of which the beginning is known", () => {
  it("is what a release says of the launch, to the byte, and the PCR behind it", () => {
    const { records, bytes, pcrs } = expectedLog(makeReference());
    expect(encodeCel(records).slice(1)).toEqual(bytes);
    expect(records.map(({ event }) => event)).toEqual(referenceEvents());
    for (const bank of pcrBanks) expect(pcrs.get(bank)).toEqual(replayCel(records, bank));
    expect(readCel(served, [known]).begins).toBe(known);
  });

  it("I9: has the same records and PCR as one that is read whole, whatever follows", () => {
    const events = fc.array(fc.tuple(fc.constantFrom("anchor", "token", "config"), fc.string({ maxLength: 30 })), {
      maxLength: 300,
    });
    fc.assert(
      fc.property(events, (list) => {
        const log = logOf([
          ...referenceEvents(),
          ...list.map(([kind, name], index) => launchEvent(kind as "anchor", name, digest(index))),
        ]);
        const read = readCel(log, [known]);
        expect(read.begins).toBe(known);
        expect(read.records).toEqual(decodeCel(log));
        for (const bank of pcrBanks) expect(replayLog(read, bank)).toEqual(replayCel(decodeCel(log), bank));
      }),
      { numRuns: 60 },
    );
  });

  it("I9: is refused for the same change with the same words, inside what is known and behind it", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(served.length - 1), fc.nat(255)), { minLength: 1, maxLength: 2 }),
        fc.nat(3),
        (changes, cut) => {
          const bytes = served.slice(0, served.length - cut);
          for (const [at, byte] of changes) bytes[at] = byte;
          expect(outcome(() => readCel(bytes, [known]).records)).toEqual(outcome(() => decodeCel(bytes)));
        },
      ),
      { numRuns: 1000 },
    );
    // A count that is less than what is known, and one that is more than there is.
    for (const count of [0, 3, 9, 14, 23]) {
      const bytes = Uint8Array.from(served, (byte, index) => (index === 0 ? 0x80 + count : byte));
      expect(outcome(() => readCel(bytes, [known]).records)).toEqual(outcome(() => decodeCel(bytes)));
    }
  });

  it.each([
    ["a name that is too long for a log", "\u20ac".repeat(2000)],
    ["a name that has no encoding", "\ud800"],
  ])("I9: is not known by a release with %s, and such a log is refused as ever", (_, name) => {
    const [first, ...more] = makeReference().events;
    if (first === undefined) throw new Error("an event");
    const odd = expectedLog({ events: [first, { ...first, name }, ...more] });
    expect({ records: odd.records, bytes: odd.bytes.length }).toEqual({ records: [], bytes: 0 });
    if (!name.isWellFormed()) return;
    const log = logOf([...referenceEvents().slice(0, 1), launchEvent("config", name, digest(1))]);
    expect(() => readCel(log, [odd])).toThrow(IronclawError);
    expect(outcome(() => readCel(log, [odd]).records)).toEqual(outcome(() => decodeCel(log)));
  });

  it("is known by the longest of several, and another launch's is no beginning of it", () => {
    const longer = { ...readCel(served, []), pcrs: new Map() };
    const other = expectedLog({ events: makeReference().events.slice(1) });
    const nothing = expectedLog({ events: [] });
    expect(readCel(served, [known, longer, other, nothing]).begins).toBe(longer);
    expect(readCel(served, [other, nothing]).begins).toBeNull();
    // Heads of one, two and three bytes: the same records behind each.
    for (const more of [5, 40, 300]) {
      const log = logOf([
        ...servingEvents(),
        ...Array.from({ length: more }, (_, index) => launchEvent("anchor", "a", digest(index))),
      ]);
      expect(readCel(log, [longer]).begins).toBe(longer);
      expect(readCel(log, [longer]).records).toEqual(decodeCel(log));
      expect(replayLog(readCel(log, [longer]), "sha384")).toEqual(replayCel(decodeCel(log), "sha384"));
    }
  });

  it.each(pcrBanks)("I9: a report verifies and is refused as without it (%s)", async (bank) => {
    const { evidence, challenge, enrolment } = await makeEvidence({ bank });
    const whole = await verifyEvidence(evidence, challenge, enrolment, null);
    const sooner = await verifyEvidence(evidence, challenge, enrolment, null, [known, whole.knownLog]);
    expect(sooner.logBegins).toBe(whole.knownLog);
    expect({ ...sooner, logBegins: null }).toEqual({ ...whole, logBegins: null });
    // An event that no TPM extended, behind a beginning that one did.
    const agentLog = logOf([...servingEvents(), launchEvent("anchor", "made up", digest(1))]);
    const refusals = await Promise.all(
      [[], [known], [whole.knownLog]].map((beginnings) =>
        verifyEvidence({ ...evidence, agentLog }, challenge, enrolment, null, beginnings).catch(
          ({ reasons }) => reasons,
        ),
      ),
    );
    expect(refusals[0]).toEqual(expect.arrayContaining([expect.objectContaining({ code: "pcr-replay" })]));
    expect(refusals[1]).toEqual(refusals[0]);
    expect(refusals[2]).toEqual(refusals[0]);
  });

  it("I10: what was read of it does not change with the caller's buffer", () => {
    const bytes = served.slice();
    const read = readCel(bytes, [known]);
    bytes.fill(0);
    expect(read.records).toEqual(decodeCel(served));
    expect(read.bytes).toEqual(served.slice(1));
  });
});

describe("an enrolled key that is kept", () => {
  it("I9: is the enrolment's, and a report by another key is refused behind a good one", async () => {
    const key = await softEccKey();
    const { evidence, challenge, enrolment } = await makeEvidence({ key });
    await verifyEvidence(evidence, challenge, enrolment, null);
    const other = await softEccKey();
    const foreign = { ...evidence, ak: other.publicArea, signature: await other.sign(evidence.quote) };
    for (const report of [foreign, { ...evidence, signature: foreign.signature }])
      await expect(verifyEvidence(report, challenge, enrolment, null)).rejects.toMatchObject({
        code: "ERR_EVIDENCE_REFUSED",
      });
    const swapped = makeEnrolment(other);
    const reasons = await verifyEvidence(evidence, challenge, swapped, null).catch((error) => error.reasons);
    expect(reasons).toEqual([expect.objectContaining({ code: "ak-not-enrolled" })]);
  });

  it("I10: is one of the last 1024 that were needed", async () => {
    const { publicArea } = await softEccKey();
    const akPublic = (number: number) => {
      const area = publicArea.slice();
      new DataView(area.buffer).setUint32(area.length - 4, number); // no point of the curve, and a key to keep all the same
      return toBase64(area);
    };
    const [first, second] = [enrolledKey({ akPublic: akPublic(1) }), enrolledKey({ akPublic: akPublic(2) })];
    for (let number = 3; number <= 1024; number++) enrolledKey({ akPublic: akPublic(number) });
    expect(enrolledKey({ akPublic: akPublic(1) })).toBe(first);
    enrolledKey({ akPublic: akPublic(1025) });
    expect(enrolledKey({ akPublic: akPublic(1) })).toBe(first);
    expect(enrolledKey({ akPublic: akPublic(2) })).not.toBe(second);
  });
});
