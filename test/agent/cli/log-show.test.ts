import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeEvidence, parsePcrs } from "../../../attest/evidence.ts";
import { concatBytes, toHex, utf8 } from "../../../policy/index.ts";
import { cli } from "../../support/cli.ts";
import { expectComplaint } from "../../support/cli-fixture.ts";
import { makeEvidence } from "../../support/evidence-maker.ts";
import { logEvent, logHeader, noActionType, typicalLog } from "../../support/firmware-log-writer.ts";

const REAL = resolve(import.meta.dirname, "../../vectors/firmware-logs/systemd-boot-ovmf.bin");
let directory = "";
let quoted: ReadonlyMap<number, Uint8Array>;
const at = (name: string) => join(directory, name);

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "log-show-"));
  const { evidence } = await makeEvidence();
  quoted = parsePcrs(evidence.pcrs).values;
  writeFileSync(at("report.cbor"), encodeEvidence(evidence));
  writeFileSync(at("agent.cel"), evidence.agentLog);
  writeFileSync(at("firmware.log"), evidence.firmwareLog);
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("log show", () => {
  test("I9: prints the PCR values that a report's quote has, from its two logs", async () => {
    const { code, out, err } = await cli(["log", "show", at("report.cbor"), "--json"]);
    expect({ code, err }).toEqual({ code: 0, err: "" });
    const { bank, firmware, agent } = JSON.parse(out);
    expect(bank).toBe("sha256");
    for (const [pcr, value] of Object.entries({ ...firmware.pcrs, ...agent.pcrs }))
      expect(value, `PCR ${pcr}`).toBe(toHex(quoted.get(Number(pcr)) ?? new Uint8Array()));
    expect(agent.events[2]).toMatchObject({ recnum: 2, kind: "policy", name: "policy" });
    expect(firmware).toMatchObject({ algorithms: ["0x000b", "0x000c"], startupLocality: 0 });
  });

  test("each log alone is known by how it begins", async () => {
    const both = JSON.parse((await cli(["log", "show", at("report.cbor"), "--json"])).out);
    for (const [file, kind, other] of [
      ["firmware.log", "firmware", "agent"],
      ["agent.cel", "agent", "firmware"],
    ] as const) {
      const alone = JSON.parse((await cli(["log", "show", at(file), "--json"])).out);
      expect(alone).toEqual({ bank: "sha256", [kind]: both[kind], [other]: null });
    }
  });

  test("I9: of a real log, says what was measured and what is only claimed", async () => {
    const { code, out } = await cli(["log", "show", REAL]);
    expect(code).toBe(0);
    expect(out).toMatch(/^firmware log: 27 events, PCR 0 starts at 0$/m);
    expect(out).toMatch(/^ 14 {2}PCR 4 .*measured {2}Calling EFI Application from Boot Option {2}\(UEFI action\)$/m);
    expect(out).toMatch(/^ {2}1 {2}PCR 0 .*claims {4}[0-9a-f]{32} {2}\(firmware volume\)$/m);
    expect(out).toMatch(/^ 12 {2}73b2090e3e72430531e7bc7d63e88826891ef4e04d6c1e250dc5c52db24f2f48$/m);
    expect(out).toContain("once a quote shows the same");
  });

  test("prints nothing that a terminal obeys, and notes that belong to no PCR", async () => {
    const note = utf8("\u001b]0;title\u0007");
    const events = [logEvent(0xffffffff, noActionType, note), logEvent(4, 0x8000f001, note)];
    writeFileSync(at("terminal.log"), concatBytes(logHeader(), ...events));
    for (const more of [[], ["--json"]]) {
      const { code, out } = await cli(["log", "show", at("terminal.log"), ...more]);
      expect(code).toBe(0);
      expect(out).toMatch(/^[\n -~]*$/);
    }
    expect((await cli(["log", "show", at("terminal.log")])).out).toContain("PCR none");
  });

  test("I10: what is no log, is cut, or lacks the bank ends with exit code 3; an unknown bank with 2", async () => {
    writeFileSync(at("one-bank.log"), concatBytes(logHeader([[0x000b, 32]]), logEvent(4, 0xd, utf8("x"), ["sha256"])));
    writeFileSync(at("cut.log"), typicalLog().slice(0, -1));
    writeFileSync(at("cut.cbor"), new Uint8Array([0xa9, 0x01]));
    writeFileSync(at("empty"), "");
    for (const line of [
      [at("cut.log")],
      [at("cut.cbor")],
      [at("empty")],
      [resolve(REAL, "../refused-sha1-only.bin")],
      [at("one-bank.log"), "--bank", "sha384"],
    ])
      expectComplaint(await cli(["log", "show", ...line]), 3, line.join(" "));
    expectComplaint(await cli(["log", "show", REAL, "--bank", "sha1"]), 2, "sha1");
    expectComplaint(await cli(["log", "show", at("nothing")]), 4, "no file");
  });
});
