import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { Readable } from "node:stream";
import { text } from "node:stream/consumers";
import { bundleProgram } from "../../vm-images/bundle.ts";
import type { StoreName } from "./stores.ts";

/** A call of the program on a file of the store. */
export interface Call {
  readonly name: string;
  readonly path: string;
  /** Of a rename: what `path` was before. */
  readonly from?: string;
  /** No name was made: there was one, mostly. */
  refused?: boolean;
}

/** What a program did under one order. */
export interface StoreRun {
  readonly order: string;
  readonly directory: string;
  /** Calls since the order, and in between what was acknowledged. */
  readonly events: readonly (Call | Acknowledged)[];
  /** Null for one that was killed. */
  readonly ended: { readonly code: string | null; readonly text?: string } | null;
}

export interface Acknowledged {
  readonly what: string;
  readonly kept: "durable" | "written";
}

export const isCall = (event: Call | Acknowledged): event is Call => "name" in event;

export interface StoreBench extends Disposable {
  readonly root: string;
  /** One program for all of the orders; one that is killed does not come to those behind it. */
  run(store: StoreName, orders: readonly string[]): Promise<readonly StoreRun[]>;
}

const CHILD = resolve(import.meta.dirname, "store-child.ts");
const SOURCE = resolve(import.meta.dirname, "native/fail-calls.c");
const FLAGS = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"];

export async function openStoreBench(): Promise<StoreBench> {
  const root = mkdtempSync(join(tmpdir(), "ironclaw-faults-"));
  const library = join(root, "fail-calls.so");
  execFileSync("gcc", [...FLAGS, "-o", library, SOURCE, "-ldl"], { stdio: "pipe" });
  // Bundled it starts in a third of the time, and it is started hundreds of times.
  const program = join(root, "store-child.cjs");
  writeFileSync(program, await bundleProgram(CHILD));
  let runs = 0;
  return {
    root,
    run: async (store, orders) => {
      const place = join(root, `run-${runs++}`);
      const child = spawn(process.execPath, [program, store, place, ...orders], {
        env: { ...process.env, LD_PRELOAD: library, FAULT_ROOT: place, NODE_OPTIONS: "" },
        stdio: ["ignore", "ignore", "pipe", "pipe"],
      });
      // child_process types fd 3 as either direction; "pipe" gives a stream for both
      const told = text(child.stdio[3] as Readable);
      const complaints = text(child.stdio[2] as Readable);
      const [code, signal] = await once(child, "close");
      if (code !== 0 && signal !== "SIGKILL") throw new Error(`${store}: exit ${code}: ${await complaints}`);
      return parseRuns(place, orders, await told);
    },
    [Symbol.dispose]: () => rmSync(root, { recursive: true, force: true }),
  };
}

function refuse(event: Call | Acknowledged | undefined): void {
  if (event !== undefined && isCall(event)) event.refused = true;
}

/** Each order is followed by its run, and that by the order to do nothing more. */
function parseRuns(place: string, orders: readonly string[], told: string): readonly StoreRun[] {
  const parts = told.split(/^order /m).slice(1);
  return orders.flatMap((order, number) => {
    const [first, ...lines] = (parts[2 * number] ?? "").split("\n").slice(0, -1);
    if (first !== order) return [];
    const events: (Call | Acknowledged)[] = [];
    let ended: StoreRun["ended"] = null;
    let from: string | undefined;
    for (const line of lines) {
      const [word = "", rest = ""] = [line.split(" ", 1)[0], line.slice(line.indexOf(" ") + 1)];
      if (word === "acknowledged") events.push(JSON.parse(rest));
      else if (word === "ended") ended = JSON.parse(rest);
      else if (word === "from") from = rest;
      else if (word === "refused") refuse(events.at(-1));
      else {
        events.push({ name: word, path: rest, ...(from === undefined ? {} : { from }) });
        from = undefined;
      }
    }
    return [{ order, directory: join(place, `${number}`), events, ended }];
  });
}
