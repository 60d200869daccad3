import { readFileSync } from "node:fs";
import { afterEach, describe, expect, it } from "vitest";
import { type MachineState, Metrics } from "../../agent/metrics/metrics.ts";
import { type BrokerFixture, startBroker } from "../support/broker-fixture.ts";
import { DIGEST, ECDSA, openSession, sign, signInit } from "../support/broker-session.ts";

const SERVING: MachineState = {
  ...{ state: "serving", policySerial: 7, frozen: { all: false, scopes: new Set<string>() } },
  tokens: [{ name: "signing", served: true, waiting: 3, shims: [{ role: "active" }, { role: "spare" }] }],
  ...{ inFlight: new Map([["release-signing", 2]]), violations: new Map([["execve", 4]]) },
  audit: { seq: 12, durableSeq: 10, failed: false },
};

/** The value of one series of the text; undefined when there is none. */
function seriesIn(text: string, series: string): string | undefined {
  return text
    .split("\n")
    .find((line) => line.startsWith(`${series} `))
    ?.split(" ")[1];
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
    const decisions = (outcome: string) =>
      seriesIn(text, `ironclaw_decisions_total{scope="release-signing",outcome="${outcome}"}`);
    expect([decisions("allow"), decisions("parameters"), decisions("key")]).toEqual(["2", "1", "1"]);
    const latency = 'ironclaw_operation_seconds_count{scope="release-signing",operation="sign"}';
    expect(seriesIn(text, latency)).toBe("2");
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
    const text = await textOf(SERVING);
    const known = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name));
    for (const file of ["alerts.yml", "README.md"]) {
      const named = readFileSync(`agent/metrics/${file}`, "utf8").match(/ironclaw_[a-z_]+/g) ?? [];
      expect(named.length).toBeGreaterThan(3);
      for (const name of named) expect(known, `${name} in ${file}`).toContain(name);
    }
  });
});
