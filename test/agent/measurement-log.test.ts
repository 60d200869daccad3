import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MeasurementLog } from "../../agent/launch/measurement-log.ts";
import {
  type CelRecord,
  extendPcr,
  type LaunchEvent,
  launchEvent,
  launchEventDigests,
  type PcrBank,
  replayCel,
  resetValue,
  type Tpm,
} from "../../attest/index.ts";
import { AGENT_PCR, equalBytes, sha256, utf8 } from "../../policy/index.ts";

type Digests = Parameters<Tpm["pcrExtend"]>[1];

/** Only what a TPM does with its PCR. A test may delay or fail an extend; everything else would be an error here. */
function registers(when: (digests: Digests) => Promise<unknown> = async () => undefined) {
  const pcr = { sha256: resetValue("sha256", AGENT_PCR), sha384: resetValue("sha384", AGENT_PCR) };
  const tpm = {
    pcrExtend: async (_: number, ...events: readonly Digests[]) => {
      for (const digests of events) {
        await when(digests);
        pcr.sha256 = extendPcr("sha256", pcr.sha256, digests.sha256);
        pcr.sha384 = extendPcr("sha384", pcr.sha384, digests.sha384);
      }
    },
    pcrRead: async (bank: PcrBank) => new Map([[AGENT_PCR, pcr[bank]]]),
  } as unknown as Tpm;
  return { tpm, pcr };
}

const event = (name: string): LaunchEvent => launchEvent("violation", name, sha256(utf8(name)));
const names = (records: readonly CelRecord[]) => records.map((record) => record.event.name);

describe("the measurement log", () => {
  test("I9: events measured at once are extended and written down in one order", async () => {
    const { tpm, pcr } = registers();
    const log = new MeasurementLog(tpm, AGENT_PCR);
    await Promise.all(["a", "b", "c", "d"].map((name) => log.measure(event(name))));
    await log.locked(async (records) => {
      expect(names(records)).toEqual(["a", "b", "c", "d"]);
      expect(replayCel(records, "sha256")).toEqual(pcr.sha256);
      expect(replayCel(records, "sha384")).toEqual(pcr.sha384);
    });
  });

  test("I9: whoever holds the lock sees log and register agree, however the extends are timed", async () => {
    const acts = fc.array(fc.constantFrom("measure", "look"), { minLength: 1, maxLength: 20 });
    await fc.assert(
      fc.asyncProperty(fc.scheduler(), acts, async (scheduler, order) => {
        const { tpm, pcr } = registers(() => scheduler.schedule(Promise.resolve()));
        const log = new MeasurementLog(tpm, AGENT_PCR);
        const look = () =>
          log.locked(async (records) => {
            const before = replayCel(records, "sha384");
            await scheduler.schedule(Promise.resolve());
            expect(replayCel(records, "sha384")).toEqual(before);
            expect(pcr.sha384).toEqual(before);
          });
        const running = Promise.all(order.map((act, at) => (act === "look" ? look() : log.measure(event(`${at}`)))));
        await scheduler.waitFor(running);
      }),
      { numRuns: 60 },
    );
  });

  test("I3: an event that could not be extended is not written down, and the next one is", async () => {
    const lost = launchEventDigests(event("lost"));
    const { tpm } = registers(async ({ sha256: digest }) => {
      if (equalBytes(digest, lost.sha256)) throw new Error("no TPM");
    });
    const log = new MeasurementLog(tpm, AGENT_PCR);
    const settled: string[] = [];
    await log.measure(event("first"), () => settled.push("first"));
    await expect(log.measure(event("lost"), () => settled.push("lost"))).rejects.toThrow("no TPM");
    await log.measure(event("cap"), () => settled.push("cap"));
    await log.locked(async (records) => expect(names(records)).toEqual(["first", "cap"]));
    expect(settled).toEqual(["first", "cap"]);
  });

  test("I9: of several events those before one that fails are written down, as the register holds them", async () => {
    const lost = launchEventDigests(event("lost"));
    const { tpm, pcr } = registers(async ({ sha256: digest }) => {
      if (equalBytes(digest, lost.sha256)) throw new Error("no TPM");
    });
    const log = new MeasurementLog(tpm, AGENT_PCR);
    const settled: string[] = [];
    await log.measureAll(["a", "b"].map(event), () => settled.push("both"));
    const failing = log.measureAll(["c", "d", "lost", "e"].map(event), () => settled.push("all four"));
    await expect(failing).rejects.toThrow("no TPM");
    await log.measure(event("cap"));
    await log.locked(async (records) => {
      expect(names(records)).toEqual(["a", "b", "c", "d", "cap"]);
      expect(replayCel(records, "sha256")).toEqual(pcr.sha256);
    });
    expect(settled).toEqual(["both"]);
  });

  test("I9: what becomes true with an event does so before the lock is given on", async () => {
    const { tpm } = registers();
    const log = new MeasurementLog(tpm, AGENT_PCR);
    let state = "before";
    const measuring = log.measure(event("a"), () => {
      state = "after";
    });
    const seen = log.locked(async (records) => `${state} ${records.length}`);
    await measuring;
    expect(await seen).toBe("after 1");
  });

  test("I9: one that fails while it holds the lock does not keep the next from it", async () => {
    const log = new MeasurementLog(registers().tpm, AGENT_PCR);
    await expect(log.locked(() => Promise.reject(new Error("no quote")))).rejects.toThrow("no quote");
    expect(await log.locked(async (records) => records.length)).toBe(0);
  });
});
