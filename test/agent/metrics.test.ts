import { readFileSync } from "node:fs";
import { afterEach, describe, expect, it } from "vitest";
import type { Space } from "../../agent/audit/files.ts";
import { METER_OUTCOMES } from "../../agent/broker/index.ts";
import { newLaunchRecord } from "../../agent/launch/environment.ts";
import { stamp } from "../../agent/metrics/exposition.ts";
import { machineState } from "../../agent/metrics/machine-state.ts";
import { type MachineState, Metrics } from "../../agent/metrics/metrics.ts";
import { Metrics as VerifierMetrics } from "../../attest/service/metrics.ts";
import { AuditBench, ENTRY } from "../support/audit-fixture.ts";
import { type BrokerFixture, startBroker, tokenRefuses } from "../support/broker-fixture.ts";
import { DIGEST, decryptOnce, ECDSA, oaep, openSession, sign, signInit } from "../support/broker-session.ts";

const SERVING: MachineState = {
  ...{ state: "serving", policySerial: 7, frozen: { all: false, scopes: new Set<string>() } },
  tokens: [{ name: "signing", served: true, waiting: 3, shims: [{ role: "active" }, { role: "spare" }] }],
  ...{ inFlight: new Map([["release-signing", 2]]), violations: new Map([["execve", 4]]) },
  audit: { seq: 12, durableSeq: 10, failed: false, spaceLow: false },
};

/** The value of one series of the text; undefined when there is none. */
function seriesIn(text: string, series: string): string | undefined {
  return text
    .split("\n")
    .find((line) => line.startsWith(`${series} `))
    ?.split(" ")[1];
}

/** What was counted for a scope, without the zeros. */
function countsIn(text: string, scope = "release-signing"): Record<string, number> {
  const series = /^ironclaw_decisions_total\{scope="([a-z-]+)",outcome="([a-z]+)"\} (\d+)$/gm;
  const found = [...text.matchAll(series)].filter(([, of, , count]) => of === scope && count !== "0");
  return Object.fromEntries(found.map(([, , outcome, count]) => [outcome, Number(count)]));
}

const textOf = (machine: MachineState) => new Metrics(() => machine).text();
const servingIn = async (change: Partial<MachineState>) =>
  seriesIn(await textOf({ ...SERVING, ...change }), "ironclaw_serving");

describe("metrics", () => {
  let broker: BrokerFixture | null = null;
  afterEach(async () => {
    await broker?.close();
    broker = null;
  });

  it("I8: what a real broker decides and answers is counted, by scope and outcome", async () => {
    const metrics = new Metrics(() => SERVING);
    broker = await startBroker({ parts: { meter: metrics } });
    const client = await openSession(broker);
    for (const data of [DIGEST, DIGEST, new Uint8Array(5)]) {
      await signInit(client);
      await sign(client, data);
    }
    await signInit(client, ECDSA, 9n);
    const text = await metrics.text();
    expect(countsIn(text)).toEqual({ allow: 2, parameters: 1, key: 1 });
    const latency = 'ironclaw_operation_seconds_count{scope="release-signing",operation="sign"}';
    expect(seriesIn(text, latency)).toBe("2");
  });

  it("I8: what the policy allows and the token does not do is counted as that, too", async () => {
    const metrics = new Metrics(() => SERVING);
    const fails = () => Promise.reject(tokenRefuses(0x30n));
    broker = await startBroker({ parts: { meter: metrics }, token: { sign: fails, decrypt: fails } });
    const client = await openSession(broker);
    await signInit(client);
    expect((await sign(client)).rv).toBe(0x30n);
    expect(await decryptOnce(await openSession(broker, "vault"), oaep(0), new Uint8Array(256).fill(1))).toBe(0x40n);
    const text = await metrics.text();
    expect(countsIn(text)).toEqual({ allow: 1, token: 1 });
    expect(countsIn(text, "vault")).toEqual({ allow: 1, token: 1 });
  });

  it("I8: an operation whose record cannot be written is counted as that, not as allowed, and nothing is serving then", async () => {
    const bench = new AuditBench();
    try {
      let space: Space = { free: 64 << 20, total: 64 << 20 };
      const audit = bench.open({ files: { space: () => space } });
      const metrics = new Metrics(() => ({ ...SERVING, audit: machineState(newLaunchRecord(), audit, null).audit }));
      broker = await startBroker({ parts: { meter: metrics }, audit });
      const client = await openSession(broker);
      const seen = async (free: number) => {
        space = { ...space, free };
        audit.measure();
        await signInit(client);
        const { rv } = await sign(client);
        const text = await metrics.text();
        const gauges = ["serving", "audit_failed", "audit_space_low"].map((name) => seriesIn(text, `ironclaw_${name}`));
        return [rv, gauges.join(" "), countsIn(text)];
      };
      expect(await seen(64 << 20)).toEqual([0n, "1 0 0", { allow: 1 }]);
      expect(await seen((8 << 20) - 1)).toEqual([0n, "1 0 1", { allow: 2 }]);
      expect(await seen((512 << 10) - 1)).toEqual([6n, "0 1 1", { allow: 2, audit: 1 }]);
      expect(await seen(64 << 20)).toEqual([0n, "1 0 0", { allow: 3, audit: 1 }]);
      await broker.close();
      broker = null;
    } finally {
      bench.remove();
    }
  });

  it("I8: a log whose disk fails is not serving, whatever else is", async () => {
    const bench = new AuditBench();
    try {
      const audit = bench.open({ files: { write: () => -1 } });
      await expect(audit.append(ENTRY, "written")).rejects.toMatchObject({ code: "ERR_AUDIT_WRITE" });
      expect(audit.warnings).toMatchObject([{ code: "audit-stopped" }]);
      const { audit: state } = machineState(newLaunchRecord(), audit, null);
      expect(state).toMatchObject({ failed: true, spaceLow: false });
      expect(await servingIn({ audit: state })).toBe("0");
    } finally {
      bench.remove();
    }
  });

  it("I8: when serving begins every scope has every outcome at 0, and no others come", async () => {
    const metrics = new Metrics(() => SERVING);
    metrics.begin(["release-signing", "vault"]);
    const text = await metrics.text();
    expect(text.match(/^ironclaw_decisions_total\{.*\} 0$/gm)).toHaveLength(2 * METER_OUTCOMES.length);
    for (const outcome of METER_OUTCOMES) metrics.decided("vault", outcome);
    expect((await metrics.text()).match(/^ironclaw_decisions_total\{/gm)).toHaveLength(2 * METER_OUTCOMES.length);
  });

  it("I8: the state is that of the moment when it is asked, and nothing of an earlier one stays", async () => {
    let machine = SERVING;
    const metrics = new Metrics(() => machine);
    const first = await metrics.text();
    expect(seriesIn(first, 'ironclaw_token_waiting{token="signing"}')).toBe("3");
    expect(seriesIn(first, 'ironclaw_shims{token="signing",role="spare"}')).toBe("1");
    expect(seriesIn(first, "ironclaw_audit_lag_records")).toBe("2");
    expect(seriesIn(first, 'ironclaw_violations{syscall="execve"}')).toBe("4");
    expect(seriesIn(first, "ironclaw_report_age_seconds")).toBe("+Inf");
    machine = { ...SERVING, state: "stopped", tokens: [] };
    metrics.reported();
    const second = await metrics.text();
    expect(seriesIn(second, 'ironclaw_launch_state{state="serving"}')).toBeUndefined();
    expect(second).not.toContain("ironclaw_token_served{");
    expect(Number(seriesIn(second, "ironclaw_report_age_seconds"))).toBeLessThan(60);
  });

  it("I8: the one signal is 1 only while everything that the policy promises is served", async () => {
    expect(await servingIn({})).toBe("1");
    const [token] = SERVING.tokens;
    for (const change of [
      { state: "refused" },
      { tokens: [] },
      { tokens: token === undefined ? [] : [token, { ...token, name: "other", served: false }] },
      { audit: { ...SERVING.audit, failed: true } },
      { frozen: { all: true, scopes: new Set<string>() } },
    ])
      expect(await servingIn(change)).toBe("0");
    expect(await servingIn({ frozen: { all: false, scopes: new Set(["release-signing"]) } })).toBe("1");
  });

  it("I8: each metric of the alert rules and of the table is one that exists", async () => {
    const agents = stamp(await textOf(SERVING), { machine: "vm-1", now: 0 });
    const fleet = new VerifierMetrics({ queueDepth: () => 0, openChallenges: () => 0, workers: () => 0 });
    const text = `${agents}${await fleet.registry.metrics()}`;
    const known = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name));
    for (const file of ["metrics/alerts.yml", "metrics/README.md", "docs/run-book.md"]) {
      const named = readFileSync(`agent/${file}`, "utf8").match(/ironclaw_[a-z_]+/g) ?? [];
      expect(named.length).toBeGreaterThan(3);
      for (const name of named) expect(known, `${name} in ${file}`).toContain(name);
    }
  });
});
