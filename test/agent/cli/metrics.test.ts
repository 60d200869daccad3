import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { NO_REQUESTS } from "../../../agent/approvals/index.ts";
import { command } from "../../../agent/cli/metrics.ts";
import { type MachineState, Metrics } from "../../../agent/metrics/metrics.ts";
import { type ApprovalMachine, startApprovalMachine } from "../../support/approval-machine.ts";
import { cli } from "../../support/cli.ts";
import { expectComplaint } from "../../support/cli-fixture.ts";

const SERVING: MachineState = {
  ...{ state: "serving", policySerial: 7, frozen: { all: false, scopes: new Set<string>() } },
  tokens: [{ name: "signing", served: true, waiting: 3, shims: [{ role: "active" }] }],
  ...{ inFlight: new Map([["release-signing", 2]]), violations: new Map([["execve", 4]]) },
  audit: { seq: 12, durableSeq: 10, failed: false, spaceLow: false },
};

let machine: ApprovalMachine;
let directory: string;
let text: string;
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "ironclaw-metrics-"));
  machine = await startApprovalMachine(NO_REQUESTS);
  machine.answer = async (line) => JSON.stringify({ id: JSON.parse(line).id, ok: true, text });
});
afterAll(async () => {
  await machine?.[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true });
});
beforeEach(async () => {
  const metrics = new Metrics(() => SERVING);
  metrics.answered("release-signing", "sign", 3);
  metrics.begin(["release-signing"]);
  text = await metrics.text();
});
const ask = (...words: string[]) => cli(["metrics", "--machine", machine.directory, ...words]);
const at = (name: string) => join(directory, name);
const seriesOf = (printed: string) => printed.split("\n").filter((line) => line !== "" && !line.startsWith("#"));

describe("what a machine counts", () => {
  test("I8: is printed whole, with the time by this host's clock", async () => {
    const before = Date.now() / 1000;
    const { code, out } = await ask();
    expect(code).toBe(0);
    expect(out).toContain(text.replaceAll(/\n+/g, "\n").trimEnd());
    const [, time] = /^ironclaw_time_seconds (\S+)$/m.exec(out) ?? [];
    expect(Number(time)).toBeGreaterThanOrEqual(before);
    expect(JSON.parse((await ask("--json")).out).text).toContain("ironclaw_serving 1\n");
  });

  test("I8: with a name every series of it says whose it is, and keeps its other labels and its value", async () => {
    const named = seriesOf((await ask("--name", "vm-1")).out);
    expect(named).toContain('ironclaw_serving{machine="vm-1"} 1');
    expect(named).toContain('ironclaw_shims{machine="vm-1",token="signing",role="active"} 1');
    expect(named).toContain('ironclaw_report_age_seconds{machine="vm-1"} +Inf');
    expect(named.every((line) => line.includes('{machine="vm-1"'))).toBe(true);
    const without = named.map((line) =>
      line
        .replace(/machine="vm-1",?/, "")
        .replace("{}", "")
        .replace(/ \S+$/, ""),
    );
    expect(without).toEqual(seriesOf((await ask()).out).map((line) => line.replace(/ \S+$/, "")));
  });

  test.each(["", "a b", 'x"} 1', "../x", "x".repeat(65), "a\nb"])("I10: a machine cannot be named %j", async (name) => {
    const { code, out, err } = await ask("--name", name);
    expect({ code, out }).toEqual({ code: 2, out: "" });
    expect(err).toMatch(/ERR_USAGE/);
  });
});

describe("a file for a collector", () => {
  test("I11: is replaced as a whole, and left as it is when the machine is gone or talks nonsense", async () => {
    expect(await ask("--name", "vm-1", "--out", at("vm-1.prom"))).toMatchObject({ code: 0 });
    const first = readFileSync(at("vm-1.prom"), "utf8");
    expect(seriesOf(first)).toContain('ironclaw_serving{machine="vm-1"} 1');
    const gone = ["metrics", "--machine", at("nowhere"), "--name", "vm-1", "--out", at("vm-1.prom")];
    expectComplaint(await cli(gone), 4, "metrics");
    text = "ironclaw_serving 1\nup 1\n";
    expectComplaint(await ask("--name", "vm-1", "--out", at("vm-1.prom")), 3, "metrics");
    expect(readFileSync(at("vm-1.prom"), "utf8")).toBe(first);
    expect(readdirSync(directory)).toEqual(["vm-1.prom"]);
  });

  test("I11: one that is there already is overwritten, and a folder is not", async () => {
    writeFileSync(at("vm-1.prom"), "old");
    expect(await ask("--out", at("vm-1.prom"))).toMatchObject({ code: 0 });
    expect(readFileSync(at("vm-1.prom"), "utf8")).toMatch(/^# HELP ironclaw_/);
    expectComplaint(await ask("--out", directory), 4, "metrics");
  });

  test.each([
    ["another program's metric", "node_load1 0"],
    ["the time", "ironclaw_time_seconds 99999999999"],
    ["a machine's name", 'ironclaw_serving{machine="vm-2"} 1'],
    ["a machine's name behind another label", 'ironclaw_shims{token="a",machine="vm-2"} 1'],
    ["a label that is not closed", 'ironclaw_serving{a="b} 1'],
    ["the time's own description", "# TYPE ironclaw_time_seconds counter"],
    ["a comment of another kind", "# EOF"],
    ["two values", "ironclaw_serving 1 2"],
    ["a value that is no number", "ironclaw_serving yes"],
    ["an escape that the format does not know", 'ironclaw_shims{token="\\x"} 1'],
    ["no value", "ironclaw_serving"],
    ["a carriage return in a comment", "# HELP ironclaw_serving a\rnode_load1 0"],
  ])("I10: a machine that answers with %s is not believed", async (_, line) => {
    text = `ironclaw_serving 1\n${line}\n`;
    const { code, out, err } = await ask("--name", "vm-1");
    expect({ code, out }).toEqual({ code: 3, out: "" });
    expect(err).toMatch(/metrics, line 2: expected .*ERR_CONTROL_MALFORMED/);
  });
});

describe("what is written about it", () => {
  test("each example of --help does as it says, with this machine and this folder", async () => {
    for (const example of command.examples) {
      const words = example
        .replace("/tmp/ironclaw-dev-x1/vm", machine.directory)
        .replace("/var/lib/node-exporter", directory)
        .split(" ");
      expect(await cli(words.slice(1)), example).toMatchObject({ code: 0, err: "" });
    }
    expect(readFileSync(at("vm-1.prom"), "utf8")).toContain('ironclaw_serving{machine="vm-1"} 1');
  });
});
