import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { refusalCodes } from "../../../attest/service/errors.ts";
import { enrolledView, flagNames, machineStates } from "../../../attest/service/machine-state.ts";
import { codeLabel, Metrics } from "../../../attest/service/metrics.ts";
import { OPERATOR, openVerifierBench, VIEWER } from "../../support/verifier-fixture.ts";

const alerts = readFileSync(new URL("../../../attest/service/alerts.example.yaml", import.meta.url), "utf8");
const metrics = new Metrics({ queueDepth: () => 0, openChallenges: () => 0, workers: () => 0 });
const names = metrics.registry.getMetricsAsArray().map(({ name }) => name);
const rule = /(ironclaw_verifier_\w+)(?:\{(\w+)=~?"([^"]*)"\})?/g;
/** Values that a label may have, by metric and label. */
const values: Readonly<Record<string, readonly string[]>> = {
  "ironclaw_verifier_machines state": machineStates,
  "ironclaw_verifier_machine_flags flag": flagNames,
  "ironclaw_verifier_machine_events_total kind": [...machineStates, ...flagNames, "rejected"],
  "ironclaw_verifier_refusals_total code": refusalCodes,
  "ironclaw_verifier_enrolments_total outcome": [
    "begun",
    "enrolled",
    "enrolled-again",
    "refused",
    "clone",
    "name-taken",
    "key-changed",
  ],
  "ironclaw_verifier_reloads_total outcome": ["done", "kept"],
};

describe("the example alert rules", () => {
  test("name only metrics that there are, with values that they can have", () => {
    const used = [...alerts.matchAll(rule)];
    expect(used.length).toBeGreaterThan(10);
    for (const [, name = "", label, value = ""] of used) {
      expect(names, name).toContain(name.replace(/_bucket$/, ""));
      if (label === undefined) continue;
      for (const one of value.split("|")) expect(values[`${name} ${label}`], `${name} ${label}`).toContain(one);
    }
  });
});

describe("a service that has just started", () => {
  test("has every series that a rule names: an alert on its increase would miss one that is born with its first event", async () => {
    const fresh = new Metrics({ queueDepth: () => 0, openChallenges: () => 0, workers: () => 0 });
    fresh.fleet({ states: new Map(), flags: new Map() });
    fresh.ages([{ name: "m1", view: enrolledView("2026-06-01T00:00:00.000Z") }], new Date());
    const text = await fresh.registry.metrics();
    for (const [, name = "", label, value = ""] of alerts.matchAll(rule)) {
      const wanted = label === undefined ? [`${name}`] : value.split("|").map((one) => `${name}{${label}="${one}"}`);
      for (const series of wanted) expect(text).toContain(`\n${series}`);
    }
  });

  test("has a rule for whatever a machine can show", () => {
    for (const seen of [
      'state="silent"',
      'kind="changed"',
      'kind="rebooted"',
      'flag="violation"',
      'flag="clone"',
      'flag="rolled-back"',
    ])
      expect(alerts).toContain(seen);
  });
});

describe("a metric's labels", () => {
  test("I10: a code that a machine makes up is counted as one of ours", () => {
    expect(codeLabel(undefined)).toBe("none");
    expect(codeLabel("pcr-mismatch")).toBe("pcr-mismatch");
    expect(codeLabel("launch-anything")).toBe("launch");
    expect(codeLabel('x"} 1\nmachines 9')).toBe("other");
  });

  test("every code that the verifier gives has a label of its own", () => {
    const attest = new URL("../../../attest/", import.meta.url);
    const sources = readdirSync(attest).filter((file) => file.endsWith(".ts"));
    const given = sources.flatMap((file) => [
      ...readFileSync(new URL(file, attest), "utf8").matchAll(
        /\b(?:contraindicated|warning|reason)\(\s*"([a-z][a-z-]+)"/g,
      ),
    ]);
    const found = new Set(given.map(([, code = ""]) => code).filter((code) => !code.startsWith("launch-")));
    expect(found.size).toBeGreaterThan(30);
    expect([...found].filter((code) => codeLabel(code) !== code)).toEqual([]);
  });

  test("I9: are for viewers: numbers before and after a report would tell a stranger of a machine's name and reasons", async () => {
    await using bench = await openVerifierBench();
    const asked = await bench.ask("GET", "/metrics");
    expect([asked.status, asked.body.error.code]).toEqual([401, "unauthenticated"]);
    expect((await bench.ask("GET", "/metrics", { token: VIEWER })).text).toContain("ironclaw_verifier_machines");
  });

  test("I9: the age of a machine's last affirming report is each enrolled machine's alone, and no other report makes it young", async () => {
    await using bench = await openVerifierBench();
    const ages = async () => {
      const { text } = await bench.ask("GET", "/metrics", { token: VIEWER });
      const series = text.matchAll(/^ironclaw_verifier_affirming_age_seconds\{machine="([^"]*)"\} (\S+)$/gm);
      return [...series].map(([, name, age]) => [name, age]);
    };
    expect(await ages()).toEqual([]);
    const tpm = await bench.enrol("m1");
    await bench.enrol("m2");
    expect(await ages()).toEqual([
      ["m1", "+Inf"],
      ["m2", "+Inf"],
    ]);
    expect((await bench.attest("m1", tpm)).body.tier).toBe("affirming");
    bench.later(30);
    expect((await ages())[0]).toEqual(["m1", "30"]);
    const worse = await bench.attest("m1", tpm, { launch: "refused" });
    expect(worse.body.tier).not.toBe("affirming");
    await bench.restart();
    bench.later(30);
    expect((await ages())[0]).toEqual(["m1", "60"]);
    await bench.ask("DELETE", "/v1/machines/m1", { token: OPERATOR });
    expect(await ages()).toEqual([["m2", "+Inf"]]);
  });

  test("I10: nothing that a stranger sends becomes a time series", async () => {
    await using bench = await openVerifierBench();
    const series = async () =>
      (await bench.ask("GET", "/metrics", { token: VIEWER })).text.split("\n").filter((line) => line.includes("{"))
        .length;
    const noise = async (word: string) => {
      await bench.ask("POST", "/v1/challenges", { body: { machine: word } });
      await bench.ask("GET", `/${word}`);
      await bench.ask("GET", `/v1/machines/${word}`, { token: VIEWER });
      await bench.ask("POST", "/v1/enrolments", { body: { [word]: word } });
      await bench.send({ nonce: new Uint8Array(32) }, Buffer.from(word));
    };
    await noise("first");
    await series(); // the request for it is one itself
    const before = await series();
    for (let at = 0; at < 20; at++) await noise(`made-up-${at}`);
    expect(await series()).toBe(before);
    expect((await bench.ask("GET", "/metrics", { token: VIEWER })).text).not.toContain("made-up");
  });
});
