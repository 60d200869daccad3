import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { utf8 } from "../../policy/index.ts";
import { listTargets, readCorpus, root } from "./catalogue.ts";
import { fuzzTarget } from "./supervise.ts";

const targets = listTargets();
/**
 * Mutated inputs of each target. A count, not a time: the same source has the same inputs wherever it runs. With starting a process for
 * each target and the long inputs, all of them together take about half a minute on two cores that have nothing else to do.
 */
const runs = 1500;
const noTimeLimit = Number.POSITIVE_INFINITY;
const maxFiles = 40;
const maxBytes = 100 * 1024;

/** Parsers that are reached through others, each with a target that does so. */
const through: Readonly<Record<string, string>> = {
  parseCanonicalJson: "release",
  parseClockInfo: "tpms-attest",
  parseDuration: "policy",
  parseEarClaims: "ear",
  parseEarHeader: "ear",
  parseEarJson: "ear",
  splitJws: "ear",
};

/**
 * The parsers of a source file, by this rule: exported functions, asynchronous or not, that are named `parse`, `decode` or `split`
 * something, whatever they take; and those named `read` something that take bytes first.
 */
function parsersIn(source: string): readonly string[] {
  const exported =
    /^export (?:async )?function (?:((?:parse|decode|split)[A-Z]\w*)|(read[A-Z]\w*)\(\s*\w+: Uint8Array\b)/gm;
  return [...source.matchAll(exported)].map(([, any, bytes]) => any ?? bytes ?? "");
}

function parsersOf(folder: string): readonly string[] {
  const files = readdirSync(join(root, folder), { recursive: true, encoding: "utf8" });
  return files
    .filter((file) => file.endsWith(".ts"))
    .flatMap((file) => parsersIn(readFileSync(join(root, folder, file), "utf8")));
}

const targetTexts = new Map(targets.map(({ name, path }) => [name, readFileSync(path, "utf8")]));

function isCalled(parser: string): boolean {
  const call = new RegExp(`\\b${parser}\\(`);
  return [...targetTexts.values()].some((text) => call.test(text));
}

const withoutTarget = (parsers: readonly string[]) =>
  parsers.filter((parser) => !isCalled(parser) && !targetTexts.has(through[parser] ?? ""));

/** One mebibyte of the same again and again: lists of the most elements, and texts of the greatest length. */
function repeated(bytes: Uint8Array): Uint8Array {
  const large = new Uint8Array(1 << 20);
  for (let at = 0; at < large.length && bytes.length > 0; at += bytes.length) {
    large.set(bytes.subarray(0, large.length - at), at);
  }
  return large;
}

const shown = (input: Uint8Array) => Buffer.from(input.subarray(0, 4096)).toString("hex");

/** A process for each target, and several at once: one alone would leave cores idle. */
describe.concurrent("every parser of bytes", () => {
  test.each(targets)(
    "I10: $name: its corpus, past findings, mutations of them and a mebibyte of anything end in a value or a typed error, soon",
    async (target) => {
      const corpus = readCorpus(target.name);
      const large = [utf8("["), utf8("a"), utf8('"\\n"'), utf8("/a "), new Uint8Array(8), ...corpus].map(repeated);
      const budget = { runs, milliseconds: noTimeLimit };
      const options = { seed: 1, budget, corpus, once: large, timeLimit: 20_000 };
      const { findings, accepted, runs: done } = await fuzzTarget(target, options);
      expect(findings.map(({ what, detail, input }) => ({ what, detail, input: shown(input) }))).toEqual([]);
      // A corpus that the parser does not take any more tests nothing: write it anew with `node test/fuzz/seeds.ts`.
      expect(accepted).toBeGreaterThan(0);
      expect(done).toBe(1 + corpus.length + budget.runs + large.length);
    },
  );
});

describe("the targets", () => {
  test.each(["policy", "attest"])("I10: each exported parser of %s has a target that calls it", (folder) => {
    expect(withoutTarget(parsersOf(folder))).toEqual([]);
    expect(parsersOf(folder).length).toBeGreaterThan(8);
  });

  test("I10: a parser without a target is found out, asynchronous, splitting or reading bytes too", () => {
    const planted = `
export function parsePlanted(text: string): number {
export async function decodePlanted(
  bytes: Uint8Array,
export function splitPlanted(text: string): string[] {
export function readPlanted(bytes: Uint8Array): number {
export async function readPlantedFile(path: string): Promise<void> {
export function readPlantedName(text: unknown): string | null {
export function parsed(text: string): number {
function parseHidden(bytes: Uint8Array): number {`;
    const found = ["parsePlanted", "decodePlanted", "splitPlanted", "readPlanted"];
    expect(parsersIn(planted)).toEqual(found);
    expect(withoutTarget([...found, "parsePe"])).toEqual(found);
  });

  test("I10: what is reached through another parser is a parser, and has no target of its own", () => {
    const known = [...parsersOf("policy"), ...parsersOf("attest")];
    for (const [parser, target] of Object.entries(through)) {
      expect(known).toContain(parser);
      expect(isCalled(parser), parser).toBe(false);
      expect(targetTexts.has(target), target).toBe(true);
    }
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
