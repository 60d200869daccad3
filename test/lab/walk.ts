import { parseArgs } from "node:util";
import type { Lab } from "./bench.ts";
import { readSections, type Section } from "./document.ts";
import { formatStep, type Palette } from "./print.ts";
import { holds, type Step, type StepResult } from "./step.ts";
import { STEPS } from "./steps/index.ts";

const USAGE = `usage: npm run lab -- [--step N] [--list] [--pause] [--json]

Breaks a deliberately weak policy, then hardens it, one thing at a time, and tries the same attack again.
Everything is real but the machine: sockets, clients, the sandboxed library, a software token, a software TPM.

  --step N   this step alone
  --list     the steps
  --pause    waits for Enter after each step, on a terminal
  --json     an array of results instead of text

Exit code: 0 when every step went as it should, 1 when one did not, 2 for options that mean nothing.`;

interface Order {
  readonly steps: readonly Step[];
  readonly list: boolean;
  readonly pause: boolean;
  readonly json: boolean;
  readonly help: boolean;
}

/** Null for arguments that mean nothing. */
function parseOrder(args: readonly string[]): Order | null {
  const flag = { type: "boolean", default: false } as const;
  try {
    const { values } = parseArgs({
      args: [...args],
      options: { step: { type: "string" }, list: flag, pause: flag, json: flag, help: flag },
    });
    const { step, list, pause, json, help } = values;
    const steps = STEPS.filter(({ number }) => step === undefined || `${number}` === step);
    return steps.length === 0 ? null : { steps, list, pause, json, help };
  } catch {
    return null;
  }
}

function sectionOf({ number }: Step, sections: readonly Section[]): Section {
  const section = sections.find((candidate) => candidate.number === number);
  if (section === undefined) throw new Error(`lab.md has no section ${number}`);
  return section;
}

/** Where the walkthrough is seen, and what it walks through. */
export interface Viewer {
  readonly print: (text: string) => void;
  readonly complain: (text: string) => void;
  readonly palette: Palette;
  /** Resolves when the person wants the next step; null where nobody can say so. */
  readonly wait: (() => Promise<void>) | null;
  readonly open: () => Promise<Lab>;
}

/** @returns the exit code */
export async function runLab(args: readonly string[], viewer: Viewer): Promise<number> {
  const order = parseOrder(args);
  if (order === null) {
    viewer.complain(USAGE);
    return 2;
  }
  if (order.help) viewer.print(USAGE);
  else if (order.list)
    viewer.print(order.steps.map(({ number, part, title }) => `${number}\t${part}\t${title}`).join("\n"));
  else return (await walk(order, viewer)) ? 0 : 1;
  return 0;
}

/** Prints each step as soon as it is over, or all of them as JSON. */
async function walk({ steps, pause, json }: Order, { print, palette, wait, open }: Viewer): Promise<boolean> {
  const sections = readSections();
  const results: (Omit<Step, "run"> & StepResult & { readonly holds: boolean })[] = [];
  const lab = await open();
  try {
    for (const step of steps) {
      const result = await step.run(lab);
      const section = sectionOf(step, sections);
      const { run: _, ...said } = step;
      results.push(Object.assign({}, said, { unseen: section.unseen, holds: holds(result) }, result));
      if (!json) print(formatStep(step, section, result, palette));
      if (pause && !json && step !== steps.at(-1)) await wait?.();
    }
  } finally {
    await lab.close();
  }
  if (json) print(JSON.stringify(results));
  return results.every((result) => result.holds);
}
