import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CODE_SECTIONS, everyCode, findCode } from "../../agent/cli/codes/catalogue.ts";
import { CABINET_CODES, DOCTOR_CODES, HOST_CODES } from "../../agent/cli/codes/findings.ts";
import { LOG_ACTS } from "../../agent/cli/codes/log-lines.ts";
import { CATALOGUE } from "../../agent/doctor/index.ts";
import { STATE_PROBLEMS } from "../../agent/errors.ts";
import { EXPOSURE_WORDS } from "../../vm-images/host/exposure-words.ts";
import { cli } from "../support/cli.ts";
import { root } from "./documents.ts";
import { logMessages } from "./log-messages.ts";
import { needsAct } from "./messages.ts";
import { otherLines } from "./other-lines.ts";
import { PUBLISHED } from "./published.ts";

/** The sources of the product, without the list itself. */
const sources = ["policy", "attest", "seal", "agent", "vm-images"]
  .flatMap((folder) =>
    readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => join(folder, name)),
  )
  .filter((path) => path.endsWith(".ts") && !path.includes("node_modules") && !path.startsWith("agent/cli/codes/"))
  .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));
const listed = new Set(everyCode());

describe("pages that are made from the sources", () => {
  test.each(Object.entries(PUBLISHED))("%s is what `node test/docs/published.ts` writes", (path, make) => {
    expect(readFileSync(join(root, path), "utf8")).toBe(make());
  });
});

/** Codes of other programs, and beginnings of ours. */
const NOT_OURS =
  /^ERR_(?:PARSE_ARGS|HTTP|CTP|BYTES|POLICY|ENVELOPE|ELF)(?:_|$)(?!\w*(?:TRUNCATED|TRAILING|VALUE|MALFORMED|INVALID|WIDENS|SIGNATURE|UNSUPPORTED))/;
/** Functions that make a reason or finding, whose first argument is its code. */
const MAKERS = /(?<!function )\b(?:reason|contraindicated|warning|finding)\(\s*(?:"([^"]+)"|([A-Za-z`][^,;{]*?)),/g;
/** Where a code is taken from one of the closed unions, or from the reason of somebody else. */
const TAKEN_OVER: Readonly<Record<string, readonly string[]>> = {
  "agent/audit/log.ts": ["code"],
  "agent/launch/inputs.ts": ['UNTRUSTED.has(code) ? "release-not-trusted" : "release-malformed"'],
  "agent/shims/agent-loss.ts": ["AGENT_LOST"],
  "agent/shims/recovery.ts": ["code"],
  "agent/state-volume.ts": ["error.state"],
  "attest/finding.ts": ["code"],
  "attest/reason.ts": ["error.code"],
  "policy/policy-lint.ts": ["code"],
  "seal/diagnosis.ts": ["code"],
  // Another function of that name.
  "seal/keys.ts": ["cause)"],
};

/** The members of `CabinetFindingId`. */
function cabinetIds(): readonly string[] {
  const text = readFileSync(join(root, "agent/cli/cabinet-finding.ts"), "utf8");
  const [, union = ""] = /^export type CabinetFindingId =([^;]*);/m.exec(text) ?? [];
  return [...union.matchAll(/"(\w+)"/g)].map(([, id = ""]) => id);
}

describe("the list of codes", () => {
  test("has every error code of the sources, and none that is gone", () => {
    const found = new Set(
      sources.flatMap(({ text }) => text.match(/\bERR_[A-Z0-9_]+\b/g) ?? []).filter((code) => !NOT_OURS.test(code)),
    );
    expect([...found].filter((code) => !listed.has(code))).toEqual([]);
    expect([...listed].filter((code) => code.startsWith("ERR_") && !found.has(code))).toEqual([]);
  });

  test("has every reason and finding that the sources make, by name", () => {
    const unlisted: string[] = [];
    const computed: string[] = [];
    let count = 0;
    for (const { path, text } of sources) {
      for (const [, literal, expression = ""] of text.matchAll(MAKERS)) {
        count += 1;
        if (literal !== undefined) {
          if (findCode(literal).length === 0) unlisted.push(`${path}: ${literal}`);
        } else if (!(TAKEN_OVER[path] ?? []).includes(expression.trim()))
          computed.push(`${path}: ${expression.trim()}`);
      }
    }
    const recovery = sources.flatMap(({ text }) =>
      [...text.matchAll(/\bnoReboot\([^,]+, "([^"]+)"/g)].map(([, code = ""]) => code),
    );
    expect(recovery.filter((code) => findCode(code).length === 0)).toEqual([]);
    expect(recovery.length).toBeGreaterThan(2);
    expect(unlisted).toEqual([]);
    expect(computed).toEqual([]);
    expect(count).toBeGreaterThan(100);
  });

  test("has what the sources take from lists of their own", () => {
    for (const code of [
      ...STATE_PROBLEMS,
      "state-full",
      "audit-full",
      "audit-space-low",
      "audit-stopped",
      "agent-lost",
    ])
      expect(listed.has(code), code).toBe(true);
  });

  test("has every finding of `doctor`, of the host check and of `cabinet verify`, each in a section of its own", () => {
    for (const [codes, ids] of [
      [DOCTOR_CODES, Object.keys(CATALOGUE)],
      [HOST_CODES, Object.keys(EXPOSURE_WORDS)],
      [CABINET_CODES, cabinetIds()],
    ] as const) {
      const listedIn = (id: string) => findCode(id).some(({ section }) => section.codes === codes);
      expect(ids.filter((id) => !listedIn(id))).toEqual([]);
      expect(Object.keys(codes).sort()).toEqual([...ids].sort());
    }
  });

  test("has no reason that is gone: each stands in the sources as a text", () => {
    const all = sources.map(({ text }) => text).join("\n");
    const gone = [...listed].filter(
      (code) => !/^\d+$|\*$/.test(code) && !new RegExp(`["'\`]${code}["'\`]|^ *${code}[:?]`, "m").test(all),
    );
    expect(gone).toEqual([]);
  });

  test("says of each what it means and what to do, in one line", () => {
    for (const { title, codes } of CODE_SECTIONS) {
      for (const [code, { means, act }] of Object.entries(codes)) {
        for (const text of [means, act]) expect(text, `${title}: ${code}`).toMatch(/^\S[^\n]{5,}\S$|^nothing$/);
      }
    }
  });
});

describe("lines of the log", () => {
  test("each error and warning says what to do, and nothing is said of a line that is gone", () => {
    const asked = new Set(
      logMessages()
        .filter(needsAct)
        .map(({ component, message }) => `${component} ${message}`),
    );
    expect([...asked].filter((line) => LOG_ACTS[line] === undefined)).toEqual([]);
    expect(Object.keys(LOG_ACTS).filter((line) => !asked.has(line))).toEqual([]);
  });

  test.each(otherLines().map((each) => [each.title, each] as const))(
    "%s: each line of the sources has its row, and no row is of a line that is gone",
    (_, { lines, acts }) => {
      expect(lines.length).toBeGreaterThan(3);
      expect(Object.keys(acts).sort()).toEqual(lines);
    },
  );

  test("every line is written through the log: no program of the guest writes to standard error by itself", () => {
    const direct = sources
      .filter(({ path }) => path.startsWith("agent/") && !path.startsWith("agent/cli/") && path !== "agent/journal.ts")
      .filter(({ text }) => /process\.(?:stderr|stdout)|\bconsole\./.test(text));
    expect(direct.map(({ path }) => path)).toEqual([]);
  });
});

describe("`ironclaw explain`", () => {
  test("prints every code of the list with what to do", async () => {
    for (const code of everyCode()) {
      const { code: exit, out } = await cli(["explain", code]);
      expect(exit, code).toBe(0);
      expect(out).toContain(`${code}: `);
      expect(out).toContain("\n  do ");
    }
  });

  test("takes a report's `launch-` code for the machine's own, and names what was meant", async () => {
    expect((await cli(["explain", "launch-hsm-absent"])).out).toMatch(/^hsm-absent: /);
    expect((await cli(["explain", "launch-state"])).out).toMatch(/^launch-state: /);
    const { code, err } = await cli(["explain", "hsm-absnet"]);
    expect([code, err]).toEqual([2, expect.stringContaining("did you mean hsm-absent?")]);
    expect(JSON.parse((await cli(["explain", "ERR_USAGE", "--json"])).out)).toMatchObject({ found: [{ exitCode: 2 }] });
  });
});
