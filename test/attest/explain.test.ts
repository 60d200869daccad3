import { describe, expect, it } from "vitest";
import { explain, explainReasons, launchEvent, type ReferenceValues, summarise } from "../../attest/index.ts";
import { judge, withoutPcrs } from "../support/appraisal.ts";
import { refusedLaunch } from "../support/appraisal-rows.ts";
import { referenceEvents, servingEvents } from "../support/evidence-maker.ts";

const nothing = new Uint8Array(32);

describe("the explanation for people", () => {
  it("I9: says the verdict first, and refusals before warnings", async () => {
    const setting = { assurance: "software-tpm" as const, reference: { pcrs: withoutPcrs("1") } };
    const lines = explain(await judge(setting)).split("\n");
    expect(lines[0]).toBe("m1: contraindicated (launch serving, software-tpm, release test release)");
    expect(lines[1]).toBe("  refused  assurance: assurance class: expected provider-ek or better, got software-tpm");
    expect(lines[2]).toMatch(/^ {2}warning {2}firmware-unpinned: PCRs 1: /);
  });

  it("I9: marks each PCR and event that differs, and no other", async () => {
    const text = explain(await judge(refusedLaunch));
    const marked = text.split("\n").filter((line) => line.endsWith("<- differs"));
    expect(marked).toHaveLength(1);
    expect(marked[0]).toMatch(/^library \/usr\/lib\/libsofthsm2\.so +[0-9a-f]{16} {2}[0-9a-f]{16} {2}<- differs$/);
    expect(text).toContain("0x000001c4 value out of range");
    expect(text).toMatch(/^ {2}4 {2}bootloader +([0-9a-f]{16}) {2}\1$/m);
    expect(text).toMatch(/^ 13 {2}agent +- +[0-9a-f]{16}$/m);
  });

  it("I9: lists tokens and keys, names policy, report and release, and says what it does not prove", async () => {
    const result = await judge({});
    const text = explain(result);
    expect(text).toMatch(/^tokens and keys .*\ntoken signing .*\nkey release /m);
    expect(text).toContain(`policy default, sha256 ${result.policy.sha256}`);
    expect(text).toContain(`report sha256 ${result.evidence}, judged 2026-06-01T00:00:00.000Z`);
    const flat = text.replaceAll(/\s+/g, " ");
    expect(result.notProven).toHaveLength(8);
    for (const paragraph of result.notProven) expect(flat).toContain(`- ${paragraph.text}`);
    expect(Math.max(...text.split("\n").map((line) => line.length))).toBeLessThan(120);
  });

  it("I9: a sandbox profile that is wider than local is said before all tables", async () => {
    const events = servingEvents().with(3, launchEvent("profile", "relay", nothing));
    const reference = referenceEvents().map(({ kind, name, sha256 }) => ({ kind, name, sha256: sha256.toHex() }));
    const released = reference.with(3, { kind: "profile", name: "relay", sha256: nothing.toHex() });
    const result = await judge({ scene: { events }, reference: { events: released as ReferenceValues["events"] } });
    expect(explain(result).split("\n").slice(0, 3)).toEqual([
      "m1: warning (launch serving, provider-ek, release test release)",
      "  exception  profile relay",
      "",
    ]);
    const exceptions = ["module nethsm: tcp 192.0.2.7:1500 through the relay"];
    const refused = await judge({ scene: { events, asserted: { exceptions, shims: [] } } });
    expect(explain(refused).split("\n").slice(1, 4)).toEqual([
      "  exception  module nethsm: tcp 192.0.2.7:1500 through the relay",
      "  exception  profile relay",
      expect.stringMatching(/^ {2}refused /),
    ]);
    expect(refused.findings.slice(0, 3).map(({ code }) => code === "profile-exception")).toEqual([true, true, false]);
    expect(explain(await judge({}))).not.toContain("exception");
  });

  it("I10: text from outside cannot steer the reader's terminal", async () => {
    const reasons = [{ code: "x\u0007", item: "\u001b[2J\u202eevil\u200f", expected: "a\nb", got: "c" }];
    const events = [
      ...referenceEvents().with(4, launchEvent("library", "\u001b]0;title\u0007", nothing)),
      launchEvent("cap", "refused", nothing),
    ];
    const result = await judge({ scene: { events, launch: "refused", asserted: { tokens: [], keys: [], reasons } } });
    for (const text of [explain(result), summarise(result), explainReasons(reasons)]) {
      expect(text).toContain("?[2J?evil?: expected a?b");
      // biome-ignore lint/suspicious/noControlCharactersInRegex: these are the ones that must not be there
      expect(text).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202e]/);
    }
  });
});
