import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, relative } from "node:path";
import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { root } from "./catalogue.ts";
import { instrument } from "./instrument.ts";
import type { Announce, Outcome, Subject } from "./subject.ts";

/** What a target file exports. */
export interface TargetModule {
  /** Parses the bytes: returns or resolves, or throws one of the project's errors. Anything else is a finding. */
  readonly run: (bytes: Uint8Array) => void | Promise<void>;
  /** For a package of its own: which errors are its typed ones. */
  readonly isTyped?: (error: unknown) => boolean;
  readonly maxLength?: number;
  /** Bytes that one run may keep: most inputs are some hundred bytes long. */
  readonly maxMemory?: number;
}

const defaultLength = 4096;
const defaultMemory = 96 << 20;

/** Bundles and instruments a target file, and runs it in this process. */
export async function openJavaScript(path: string, announce: Announce): Promise<Subject> {
  if (!existsSync(path)) throw new TypeError(`fuzz target ${path}: no such file`);
  const specifier = (to: string) => JSON.stringify(`./${relative(root, to)}`);
  const source = `export * from ${specifier(path)};
export { IronclawError } from "./policy/errors.ts";`;
  const { code, counters: size, dictionary } = await instrument(source, root);
  const counters = new Uint32Array(size);
  const module = { exports: {} as TargetModule & { readonly IronclawError: new () => Error } };
  // The bundle is the project's own source: there is no other way to run text with counters in it.
  new Function("require", "module", "__cov", code)(createRequire(`${dirname(path)}/`), module, counters);
  const {
    run,
    isTyped = () => false,
    maxLength = defaultLength,
    maxMemory = defaultMemory,
    IronclawError,
  } = module.exports;

  // Most inputs end in an error, and half the time would go into their stacks: only that of a finding is wanted.
  Error.stackTraceLimit = 0;
  let before = usedMemory();
  // A target may change what it is given: each call has a copy of its own.
  const thrownBy = async (input: Uint8Array): Promise<unknown> => {
    try {
      await run(input.slice());
    } catch (error) {
      return error ?? new Error("thrown: nothing");
    }
    return null;
  };
  const outcomeOf = async (input: Uint8Array): Promise<Outcome> => {
    const error = await thrownBy(input);
    if (error === null) return { kind: "accepted" };
    if (error instanceof IronclawError || isTyped(error)) return { kind: "refused" };
    Error.stackTraceLimit = 20;
    const again = await thrownBy(input);
    Error.stackTraceLimit = 0;
    return { kind: "finding", ...described(again ?? error) };
  };
  const runOne = async (input: Uint8Array): Promise<Outcome> => {
    counters.fill(0);
    announce(input);
    const outcome = await outcomeOf(input);
    const after = usedMemory();
    const grown = after - before;
    before = after;
    if (grown <= maxMemory) return outcome;
    collectGarbage();
    before = usedMemory();
    const detail = `one run took ${grown} bytes, ${maxMemory} are allowed`;
    return { kind: "finding", what: "memory limit", detail };
  };
  return {
    dictionary,
    maxLength,
    batch: 1,
    async run(inputs, report) {
      for (const input of inputs) report({ input, outcome: await runOne(input), counters });
    },
  };
}

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

function usedMemory(): number {
  const { used_heap_size, external_memory } = getHeapStatistics();
  return used_heap_size + external_memory;
}

function described(error: unknown): { readonly what: string; readonly detail: string } {
  if (!(error instanceof Error)) return { what: `thrown: ${typeof error}`, detail: String(error) };
  // Numbers and quoted texts of the input would make every instance of one bug look new.
  const what = `${error.name}: ${error.message}`.replace(/"[^"]*"|\d+/g, "#").slice(0, 200);
  return { what, detail: error.stack ?? error.message };
}
