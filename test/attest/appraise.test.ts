import { readdirSync, readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  claimsOfFinding,
  contraindicated,
  explain,
  launchEvent,
  measureToken,
  reason,
  warning,
} from "../../attest/index.ts";
import { codesOf, judge, type Setting, withoutPcrs } from "../support/appraisal.ts";
import {
  contraindicatedRows,
  later,
  pinnedLibrary,
  pinnedProfile,
  previous,
  refusedLaunch,
  servingKey,
  warningRows,
} from "../support/appraisal-rows.ts";
import { referenceEvents, secondToken, servedKey, servingEvents, shim, token } from "../support/evidence-maker.ts";

const other = new Uint8Array(32);

describe("appraisal", () => {
  it("I9: an honest machine with every PCR pinned is affirmed", async () => {
    const result = await judge({});
    expect(codesOf(result)).toEqual([]);
    expect(result.tier).toBe("affirming");
    expect(result.events.every(({ agrees }) => agrees)).toBe(true);
  });

  it("anchors and narrowings after the cap change nothing", async () => {
    expect((await judge({ scene: { events: later("anchor", "audit 8") } })).tier).toBe("affirming");
    expect((await judge({ scene: { events: later("narrowed", "policy 2") } })).tier).toBe("affirming");
  });

  it.each(contraindicatedRows)("I9: %s is contraindicated", async (_title, code, setting) => {
    const result = await judge(setting);
    expect(codesOf(result)).toContain(`contraindicated ${code}`);
    expect(result.tier).toBe("contraindicated");
  });

  it.each(warningRows)("I9: %s is a warning, and nothing else", async (_title, code, setting) => {
    const result = await judge(setting);
    expect(codesOf(result)).toEqual([`warning ${code}`]);
    expect(result.tier).toBe("warning");
  });

  it("I9: every code of the document's table has a row here, by its tier", () => {
    const rows = documentedFindings();
    const tested = [
      ...contraindicatedRows.map(([, code]) => `contraindicated ${documented(code)}`),
      ...warningRows.map(([, code]) => `warning ${documented(code)}`),
    ];
    const listed = rows.flatMap(({ code, tiers }) => tiers.map((tier) => `${tier} ${code}`));
    expect([...new Set(tested)].toSorted()).toEqual(listed.toSorted());
  });

  it("I9: every code that the source can find is in the document's table, and no other", () => {
    const folder = new URL("../../attest/", import.meta.url);
    const sources = ["continuity.ts", "verify.ts", ...readdirSync(folder).filter((file) => /^appraise/.test(file))];
    const text = sources.map((file) => readFileSync(new URL(file, folder), "utf8")).join("\n");
    const found = [...text.matchAll(/\b(?:contraindicated|warning)\(\s*["`]([a-z-]+)(\$\{)?/g)];
    const judged = found.map(([, code, open]) => (open === undefined ? code : `${code}*`));
    const doubts = [...text.matchAll(/(?:doubts\.push\(|unsafe = .*?\[|doubts: \[)reason\("([a-z-]+)"/g)].map(
      ([, code]) => code,
    );
    expect(doubts.toSorted()).toEqual(["clock-lags", "clock-unsafe", "rebooted", "tpm-firmware"]);
    const documentedCodes = documentedFindings().map(({ code }) => code);
    expect([...new Set([...judged, ...doubts])].toSorted()).toEqual(documentedCodes.toSorted());
  });

  it("I9: each code lowers the claims of the trustworthiness vector that the document's table names", () => {
    for (const { code, claims } of documentedFindings()) {
      if (claims === "by the kind of the event") continue;
      expect({ code, claims: claimsOfFinding({ code, item: "" }).join(", ") }).toEqual({ code, claims });
    }
    const ofEvent = (kind: string) => claimsOfFinding({ code: "event-mismatch", item: `${kind} a name` }).join();
    expect(["library", "closure", "file", "policy", "constructor"].map(ofEvent)).toEqual([
      ...["executables", "executables", "file-system", "configuration", "configuration"],
    ]);
  });

  it("I9: two tokens are affirmed with an event each, and a key on a token that no claim names is contraindicated", async () => {
    const first = launchEvent("token", secondToken.name, measureToken(secondToken));
    const events = servingEvents().toSpliced(referenceEvents().length, 0, first);
    const shims = [shim, { ...shim, id: 1, token: secondToken.name }];
    const both = await judge({ scene: { events, asserted: { tokens: [secondToken, token], shims } } });
    expect(codesOf(both)).toEqual([]);
    expect(explain(both)).toMatch(/token payments .*\n.*token signing /);
    const alone = events.filter(({ name }) => name !== token.name);
    const result = await judge({
      scene: { events: alone, asserted: { tokens: [secondToken], shims: shims.slice(1) } },
    });
    expect(codesOf(result)).toEqual(["contraindicated token"]);
  });

  it("I7: a served key that could leave its token is contraindicated under every policy", async () => {
    const setting = servingKey({ ...servedKey.attributes, extractable: true, neverExtractable: false });
    expect(codesOf(await judge(setting))).toEqual(["contraindicated key-attributes", "warning key-attributes"]);
    expect(codesOf(await judge({ ...setting, policy: { keyAttributes: {} } }))).toContain(
      "contraindicated key-attributes",
    );
    const once = await judge({ ...setting, policy: { keyAttributes: { neverExtractable: true } } });
    expect(codesOf(once)).toEqual(["contraindicated key-attributes", "contraindicated key-attributes"]);
  });

  it("I9: a software TPM is affirmed only by a policy that names the class, and the result says which class it is", async () => {
    const named = await judge({ assurance: "software-tpm", policy: { minAssurance: "software-tpm" } });
    expect([named.tier, named.assurance]).toEqual(["affirming", "software-tpm"]);
  });

  it.each(["software-tpm", "provider-ek", "hardware-ek"] as const)(
    "I9: firmware PCRs of class %s go without reference values only by a policy that says so",
    async (assurance) => {
      const setting: Setting = { assurance, reference: { pcrs: withoutPcrs("0", "2", "7") } };
      const minAssurance = "software-tpm";
      expect((await judge({ ...setting, policy: { minAssurance } })).tier).toBe("contraindicated");
      expect((await judge({ ...setting, policy: { minAssurance, firmware: "warn" } })).tier).toBe("warning");
      expect((await judge({ ...setting, policy: { minAssurance, firmware: "waived" } })).tier).toBe("affirming");
    },
  );

  it("I9: a list of libraries and profiles that names what is measured is met, closure and all", async () => {
    const library = pinnedLibrary();
    const another = { name: "/opt/vendor.so", sha256: "11".repeat(32), closure: "as-released" as const };
    for (const libraries of [[another, library], [{ ...library, closure: "as-released" as const }]]) {
      const result = await judge({ policy: { libraries, profiles: ["11".repeat(32), pinnedProfile()] } });
      expect(codesOf(result)).toEqual([]);
    }
  });

  it("I9: a policy's list only narrows: a library that it names is still compared with the release", async () => {
    const evil = launchEvent("library", "/usr/lib/libsofthsm2.so", other);
    const libraries = [{ ...pinnedLibrary(), sha256: "00".repeat(32), closure: "as-released" as const }];
    const result = await judge({ scene: { events: servingEvents().toSpliced(4, 1, evil) }, policy: { libraries } });
    expect(codesOf(result)).toEqual(["contraindicated event-mismatch"]);
  });

  it("a restart is no finding where the policy accepts it", async () => {
    expect((await judge({ previous, policy: { reboot: "accept" } })).tier).toBe("affirming");
  });

  it("I9: the age that is allowed is allowed, to the second", async () => {
    expect((await judge({ age: 300 })).tier).toBe("affirming");
    expect((await judge({ age: 0 })).tier).toBe("affirming");
    expect((await judge({ age: 11, policy: { freshness: { maxAgeSeconds: 10 } } })).tier).toBe("contraindicated");
  });

  it("a refused launch is contraindicated with its own reasons and the TPM's answers", async () => {
    const result = await judge(refusedLaunch);
    expect(codesOf(result)).toEqual(
      ["event-mismatch", "launch-state", "launch-library-mismatch", "launch-tpm-answer"].map(
        (code) => `contraindicated ${code}`,
      ),
    );
  });
  it("I10: what an agent calls its reasons is at most one code of ours, and its texts have an end", async () => {
    const codes = ["a-code-9", "ERR_LOGIN", "\u0000".repeat(2000), "x".repeat(65), "", "Ünd"];
    const text = `a${"\u{1f512}".repeat(1000)}`;
    const reasons = codes.map((code) => ({ code, item: text, expected: text, got: text }));
    const { findings } = await judge({
      ...refusedLaunch,
      scene: { ...refusedLaunch.scene, asserted: { ...refusedLaunch.scene?.asserted, reasons } },
    });
    const found = findings.filter(({ code }) => code === "launch-a-code-9" || code === "launch-other");
    expect(found.map(({ code }) => code)).toEqual([
      "launch-a-code-9",
      ...Array.from({ length: 5 }, () => "launch-other"),
    ]);
    expect(found[1]?.item).toMatch(/^ERR_LOGIN: a/);
    for (const { item, expected, got } of found)
      for (const each of [item, expected, got]) {
        expect(each.length).toBeLessThanOrEqual(4096);
      }
  });

  it("I10: a text of a reason has at most 4096 characters, and is cut between two of them", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", minLength: 4000, maxLength: 4200, size: "max" }), (text) => {
        const { item } = reason("code", text, "", "");
        expect(item.length).toBeLessThanOrEqual(4096);
        expect(item.isWellFormed()).toBe(true);
        if (text.length <= 4096) expect(item).toBe(text);
        else expect(text.startsWith(item.slice(0, -1))).toBe(true);
      }),
    );
    const pairs = "\u{1f512}".repeat(3000);
    for (const text of [pairs, `a${pairs}`])
      for (const found of [
        reason("a", text, text, text),
        warning("a", text, text, text),
        contraindicated("a", text, text, text),
      ])
        expect(
          [found.item, found.expected, found.got].every((each) => each.isWellFormed() && each.length <= 4096),
        ).toBe(true);
  });

  it("I10: hundreds of caps are one finding that says how many, and the first of them", async () => {
    const events = Array.from({ length: 240 }, (_, at) => launchEvent("cap", `${at} ${"x".repeat(4000)}`, other));
    const { findings } = await judge({ scene: { events: [...servingEvents(), ...events], launch: "capping" } });
    const cap = findings.find(({ code }) => code === "cap");
    expect(cap?.got).toMatch(/^241, the first: serving, 0 x/);
    expect(cap?.got.length).toBeLessThanOrEqual(4096);
  });
});

interface DocumentedFinding {
  readonly code: string;
  readonly tiers: readonly string[];
  readonly claims: string;
}

function documentedFindings(): readonly DocumentedFinding[] {
  const document = readFileSync(new URL("../../attest/APPRAISAL.md", import.meta.url), "utf8");
  const section = document.split("\n## ").find((part) => part.startsWith("4. Findings")) ?? "";
  return [...section.matchAll(/^\| `([a-z*-]+)` \| ([a-z, ]+) \| [^|]+ \| ([^|]+) \|$/gm)].map(
    ([, code = "", tiers = "", claims = ""]) => ({ code, tiers: tiers.split(", "), claims: claims.trim() }),
  );
}

/** Reasons that the agent gives have codes of their own: one row stands for them. */
function documented(code: string): string {
  return code.startsWith("launch-") && !["launch-state", "launch-tpm-answer", "launch-other"].includes(code)
    ? "launch-*"
    : code;
}
