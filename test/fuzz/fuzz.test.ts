import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { utf8 } from "../../policy/index.ts";
import { listTargets, readCorpus, root } from "./catalogue.ts";
import { fuzzTarget } from "./supervise.ts";

const targets = listTargets();
const runs = 1000;
const maxFiles = 40;
const maxBytes = 100 * 1024;

/** Parsers that are reached through others, each with a target that does so. */
const through: Readonly<Record<string, string>> = {
  parseCanonicalJson: "release",
  parseEarClaims: "ear",
  parseEarHeader: "ear",
  parseEarJson: "ear",
};

/** Names of the exported functions that read bytes or text from outside. */
function parsersOf(folder: string): readonly string[] {
  const files = readdirSync(join(root, folder), { recursive: true, encoding: "utf8" });
  const sources = files
    .filter((file) => file.endsWith(".ts"))
    .map((file) => readFileSync(join(root, folder, file), "utf8"));
  return sources.flatMap((text) =>
    [...text.matchAll(/^export function ((?:parse|decode)\w+)/gm)].map(([, name]) => name ?? ""),
  );
}

/** One mebibyte of the same again and again: lists of the most elements, and texts of the greatest length. */
function repeated(bytes: Uint8Array): Uint8Array {
  const large = new Uint8Array(1 << 20);
  for (let at = 0; at < large.length && bytes.length > 0; at += bytes.length) {
    large.set(bytes.subarray(0, large.length - at), at);
  }
  return large;
}

describe("every parser of bytes", () => {
  test.each(targets)(
    "I10: $name: its corpus, past findings and mutations of them end in a value or a typed error",
    async (target) => {
      const corpus = readCorpus(target.name);
      const budget = { runs, milliseconds: 60_000 };
      const { findings, accepted } = await fuzzTarget(target, { seed: 1, budget, corpus, timeLimit: 20_000 });
      expect(
        findings.map(({ what, detail, input }) => ({ what, detail, input: Buffer.from(input).toString("hex") })),
      ).toEqual([]);
      // A corpus that the parser does not take any more tests nothing: write it anew with `node test/fuzz/seeds.ts`.
      expect(accepted).toBeGreaterThan(0);
    },
  );

  test.each(targets)("I10: $name: a mebibyte of anything ends in a value or a typed error, soon", async (target) => {
    const large = [utf8("["), utf8("a"), utf8('"\\n"'), utf8("/a "), new Uint8Array(8), ...readCorpus(target.name)].map(
      repeated,
    );
    const budget = { runs: 0, milliseconds: 0 };
    const { findings } = await fuzzTarget(target, { seed: 1, budget, corpus: large, timeLimit: 10_000 });
    expect(findings.map(({ what, detail }) => ({ what, detail }))).toEqual([]);
  });

  test.each(["policy", "attest"])("I10: each exported parser of %s has a target that calls it", (folder) => {
    const texts = new Map(targets.map(({ name, path }) => [name, readFileSync(path, "utf8")]));
    const called = (parser: string) => [...texts.values()].some((text) => text.includes(`${parser}(`));
    const missing = parsersOf(folder).filter((parser) => !called(parser) && !texts.has(through[parser] ?? ""));
    expect(missing).toEqual([]);
    expect(parsersOf(folder).length).toBeGreaterThan(8);
  });

  test("corpora are small and each belongs to a target", () => {
    for (const kind of ["corpus", "regressions"]) {
      const directory = join(import.meta.dirname, kind);
      if (!existsSync(directory)) continue;
      for (const name of readdirSync(directory)) {
        const files = readdirSync(join(directory, name));
        const bytes = files.reduce((sum, file) => sum + statSync(join(directory, name, file)).size, 0);
        expect(targets.map((target) => target.name)).toContain(name);
        expect(files.length, name).toBeLessThanOrEqual(maxFiles);
        expect(bytes, name).toBeLessThanOrEqual(maxBytes);
      }
    }
  });
});
