import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { evidenceSources, frameReport } from "../../agent/report.ts";
import { collectEvidence, launchEvent, pcrBanks, verifyEvidence } from "../../attest/index.ts";
import { fromHex, sha256, utf8 } from "../../policy/index.ts";
import { type LaunchBench, openLaunchBench, type Provisioned } from "../support/launch-fixture.ts";
import { challengeFor, openReporter, report } from "../support/reporter.ts";
import { addSecondToken, withBoth } from "../support/second-token.ts";

let bench: LaunchBench;
let provisioned: Provisioned;
beforeAll(async () => {
  bench = await openLaunchBench();
  provisioned = await bench.provision();
});
afterAll(() => bench[Symbol.asyncDispose]());

const anchor = (at: number) => launchEvent("anchor", `event ${at}`, sha256(utf8(`${at}`)));
const bankOf = (at: number) => (at % 2 === 0 ? "sha256" : "sha384");

describe("a report", () => {
  test("I9: taken again and again while the launch runs verifies every time, and tells its states in order", async () => {
    const seen: string[] = [];
    let ended = false;
    let reports: Promise<void> = Promise.resolve();
    await using booted = await bench.boot(provisioned, {
      beforeLaunch: async (early) => {
        const reporter = await openReporter(bench, early);
        const poll = async () => {
          for (let at = 0; !ended; at++) seen.push((await report(reporter, bankOf(at))).claims.measured.launch);
          seen.push((await report(reporter)).claims.measured.launch);
        };
        reports = poll();
        reports.catch(() => undefined); // awaited below
      },
    });
    ended = true;
    await reports;
    expect(booted.record.state.kind).toBe("serving");
    expect(seen.at(-1)).toBe("serving");
    // Extends and reports take turns at the lock, so the events before the unseal leave room for reports.
    expect(seen.filter((state) => state === "measuring").length).toBeGreaterThan(3);
    const order = ["booted", "measuring", "unsealing", "logging-in", "checking-keys", "capping", "serving"];
    const places = seen.map((state) => order.indexOf(state));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
  });

  test("I9: by either kind of attestation key verifies in either bank, and under its own enrolment only", async () => {
    await using booted = await bench.boot(provisioned);
    const [p256, rsa] = [await openReporter(bench, booted), await openReporter(bench, booted, "rsa2048")];
    for (const bank of pcrBanks) {
      for (const reporter of [p256, rsa]) expect((await report(reporter, bank)).claims.measured.launch).toBe("serving");
      await expect(report({ ...rsa, enrolment: p256.enrolment }, bank)).rejects.toMatchObject({
        reasons: [expect.objectContaining({ code: "ak-not-enrolled" })],
      });
    }
  });

  test("I9: taken while events are extended without a pause verifies against its own log", async () => {
    await using booted = await bench.boot(provisioned);
    const reporter = await openReporter(bench, booted);
    const extending = Promise.all(Array.from({ length: 60 }, (_, at) => booted.log.measure(anchor(at))));
    const taken = await Promise.all(Array.from({ length: 10 }, (_, at) => report(reporter, bankOf(at))));
    await extending;
    expect(taken).toHaveLength(10);
    expect((await report(reporter)).agentLog.length).toBe(provisioned.events.length + 4 + 60);
  });

  test("I9: whose log was read before one more extend is refused, so the lock is what makes the others agree", async () => {
    await using booted = await bench.boot(provisioned);
    const { sources, enrolment } = await openReporter(bench, booted);
    const challenge = challengeFor("sha256");
    const unlocked: Parameters<typeof collectEvidence>[2] = {
      ...evidenceSources(sources),
      locked: async (act) => {
        const records = await sources.log.locked(async (now) => [...now]);
        await sources.log.measure(anchor(0));
        return act(records);
      },
    };
    const evidence = await collectEvidence(sources.tpm, sources.ak, unlocked, challenge);
    await expect(verifyEvidence(evidence, challenge, enrolment, null)).rejects.toMatchObject({
      reasons: [expect.objectContaining({ code: "pcr-replay", item: "PCR 13 (sha256)" })],
    });
  });

  test("I8 I9: of a clean launch names token, keys, release and the head of the audit log", async () => {
    await using booted = await bench.boot(provisioned);
    const reporter = await openReporter(bench, booted);
    const head = await reporter.sources.audit.append(
      {
        ...{ caller: null, scope: "release-signing", key: null, mechanism: null, operation: "connect" },
        ...{ inputDigest: null, decision: "deny", approvals: [], step: "caller", reason: "unknown" },
      },
      "durable",
    );
    const { claims } = await report(reporter);
    expect(claims.asserted).toMatchObject({
      machine: "bench-vm",
      image: { id: provisioned.release.image.id, variant: "demo" },
      reasons: [],
      tokens: [{ name: "launch-bench", label: "launch-bench", serial: bench.token.serial }],
      audit: { seq: 1, hash: fromHex(head.hash) },
    });
    expect(claims.asserted.keys.map(({ name, does }) => `${name} ${does}`)).toEqual([
      "document-rsa sign",
      "release-ec sign",
    ]);
    expect(claims.debugEnabled).toBe(false);
  });

  test("I9: of two tokens names both, and on which of them each key lies", async () => {
    const second = await addSecondToken(bench);
    await using booted = await bench.boot(await bench.provision(withBoth(bench, second)));
    const { claims } = await report(await openReporter(bench, booted));
    expect(claims.asserted.tokens.map(({ name, serial }) => `${name} ${serial}`)).toEqual([
      `launch-bench ${bench.token.serial}`,
      `second ${second.serial}`,
    ]);
    expect(claims.asserted.keys.map(({ name, token }) => `${name} ${token}`)).toEqual([
      "document-rsa launch-bench",
      "release-ec launch-bench",
      "second-ec second",
    ]);
  });

  test("I5: counts what the library tried apart from what the probe tried", async () => {
    await using booted = await bench.boot(provisioned);
    const reporter = await openReporter(bench, booted);
    const { witnessed } = booted.record;
    const [execve, socket] = [59, 41];
    expect(witnessed[execve]).toBeGreaterThan(0);
    const shims = booted.record.shims.map((shim) => ({ ...shim, attempts: () => ({ [execve]: 2 }) }));
    const record = { ...booted.record, shims };
    const { claims } = await report({ ...reporter, sources: { ...reporter.sources, record } });
    expect(claims.asserted.violations).toEqual(new Map([["execve", 2]]));
    expect(claims.asserted.probeWitnessed.get("execve")).toBe(witnessed[execve]);
    expect(claims.asserted.probeWitnessed.get("socket")).toBe(witnessed[socket]);
    expect(claims.selfReported.probe.get("execve")).toBe(1);
  });

  test("I2: of a refused launch verifies too, and carries the reasons and the TPM's own answers", async () => {
    await using booted = await bench.boot(provisioned, { devices: [] });
    const { claims } = await report(await openReporter(bench, booted));
    expect(claims.measured.launch).toBe("refused");
    expect(claims.asserted.reasons).toContainEqual(expect.objectContaining({ item: "devices devices" }));
    expect(claims.asserted.unseal.map(({ command, rc }) => `${command} ${rc}`)).toEqual([
      "TPM2_PolicyPCR 0x000001c4",
      "TPM2_Unseal 0x0000099d",
    ]);
    expect(claims.asserted.tokens).toEqual([]);
    expect(claims.asserted.keys).toEqual([]);
  });

  test("I10: is still made, and verifies, when nothing of the cabinet could be read", async () => {
    await using booted = await bench.boot(provisioned, { slots: (slots) => slots.clear() });
    const { claims } = await report(await openReporter(bench, booted));
    expect(claims.asserted).toMatchObject({ machine: "unnamed", image: { id: "unknown" } });
    expect(claims.measured).toMatchObject({ launch: "refused", policy: null, libraries: new Map() });
  });

  test("on the report port is its length and its bytes", () => {
    expect(frameReport(Uint8Array.of(7, 8, 9))).toEqual(Uint8Array.of(0, 0, 0, 3, 7, 8, 9));
  });
});
