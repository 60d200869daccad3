// npm run fuzz -- [--minutes N] [--seed N] [--only NAME,...] [--json]
import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { listTargets, readCorpus, root, type Target } from "./catalogue.ts";
import type { Finding } from "./loop.ts";
import { fuzzTarget, type Report } from "./supervise.ts";

const usage = "usage: npm run fuzz -- [--minutes N] [--seed N] [--only NAME,...] [--json]";

interface Options {
  readonly minutes: number;
  readonly seed: number;
  readonly targets: readonly Target[];
  readonly json: boolean;
}

function readOptions(args: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...args],
    options: {
      minutes: { type: "string" },
      seed: { type: "string" },
      only: { type: "string" },
      json: { type: "boolean" },
    },
  });
  const minutes = Number(values.minutes ?? "1");
  const seed = Number(values.seed ?? "1");
  if (!(minutes > 0)) throw new TypeError(`--minutes: expected a number above 0, got ${values.minutes}`);
  if (!Number.isSafeInteger(seed)) throw new TypeError(`--seed: expected an integer, got ${values.seed}`);
  const all = listTargets();
  const only = values.only?.split(",") ?? all.map(({ name }) => name);
  const targets = only.map((name) => {
    const target = all.find((candidate) => candidate.name === name);
    if (target === undefined)
      throw new TypeError(`--only: no target ${name}; there are ${all.map((each) => each.name).join(", ")}`);
    return target;
  });
  return { minutes, seed, targets, json: values.json ?? false };
}

/** Writes the input and what it did; returns where the input is. */
function keepFinding(target: Target, finding: Finding): string {
  const directory = join(import.meta.dirname, "findings", target.name);
  const name = createHash("sha256").update(finding.input).digest("hex").slice(0, 16);
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, name), finding.input);
  writeFileSync(join(directory, `${name}.txt`), `${finding.what}\n\n${finding.detail}\n`);
  return relative(root, join(directory, name));
}

function line(target: Target, report: Report): string {
  const perSecond = Math.round((1000 * report.runs) / report.milliseconds);
  const found = report.findings.length === 0 ? "no finding" : `${report.findings.length} FINDINGS`;
  return `${target.name.padEnd(20)} ${report.runs} runs, ${perSecond} a second, ${report.coverage} places, ${found}`;
}

async function main(args: readonly string[]): Promise<number> {
  const { minutes, seed, targets, json } = readOptions(args);
  const budget = { runs: Number.POSITIVE_INFINITY, milliseconds: minutes * 60_000 };
  const documents: unknown[] = [];
  let crashes = 0;
  for (const target of targets) {
    const report = await fuzzTarget(target, { seed, budget, corpus: readCorpus(target.name), timeLimit: 5000 });
    const kept = report.findings.map((finding) => ({
      what: finding.what,
      input: keepFinding(target, finding),
      detail: finding.detail,
    }));
    crashes += kept.length;
    documents.push({ name: target.name, runs: report.runs, coverage: report.coverage, crashes: kept });
    if (json) continue;
    console.log(line(target, report));
    for (const { what, input, detail } of kept)
      console.log(`  ${what}\n  input: ${input}\n${detail.replaceAll(/^/gm, "    ")}`);
  }
  if (json) console.log(JSON.stringify({ targets: documents }));
  return crashes > 0 ? 1 : 0;
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  if (!(error instanceof TypeError)) throw error;
  console.error(`${error.message}\n${usage}`);
  process.exitCode = 2;
}
