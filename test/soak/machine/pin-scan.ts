import { closeSync, existsSync, lstatSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { join } from "node:path";
import { utf8 } from "../../../policy/index.ts";
import {
  type Counts,
  countInStream,
  type Needle,
  openNeedle,
  scanProcess,
  startCounts,
} from "../../support/guest-memory.ts";
import { LAUNCH_PIN } from "../../support/launch-token.ts";
import { maskedNeedle, pinNeedles, total } from "../../support/pin-needles.ts";
import { commandOf, descendantsOf } from "../../support/process-tree.ts";
import type { SoakMachine } from "./machine.ts";

/** Who may have the PIN: the shims, and what is the HSM and the TPM here. */
const HOLDERS: readonly string[] = ["shim", "pkcs11proxyd", "swtpm"];
const CANARY = "canary";

/**
 * Copies of the PIN, or of half of it, in processes that the soak has started and in files of machine and verifier.
 * @param canary what a process is known to hold; that it is not found is a finding too
 */
export function pinFindings({ desk }: SoakMachine, canary: string): readonly string[] {
  const needles = [...pinNeedles(utf8(LAUNCH_PIN)), maskedNeedle(CANARY, utf8(canary))].map(openNeedle);
  const processes = descendantsOf(process.pid)
    .filter((pid) => !HOLDERS.includes(commandOf(pid)) && hasMemory(pid))
    .map((pid) => ({ place: `process ${commandOf(pid)} (${pid})`, counts: scanProcess(pid, needles).counts }));
  const files = [...filesBelow(desk.machine.directory), ...filesBelow(desk.verifier.folder)].map((path) => ({
    ...{ place: path, counts: countInFile(path, needles) },
  }));
  const canaries = processes.reduce((sum, { counts }) => sum + countOf(counts, CANARY), 0);
  return [
    ...[...processes, ...files].flatMap(({ place, counts }) => {
      const copies = ["pin", "first half", "second half"].map((name) => countOf(counts, name));
      return copies.every((count) => count === 0) ? [] : [`PIN in ${place}: whole and halves ${copies.join(", ")}`];
    }),
    ...(canaries === 0 ? ["the search for the PIN does not find what the workloads hold"] : []),
  ];
}

const countOf = (counts: Counts, name: string): number => {
  const found = counts[name];
  return found === undefined ? 0 : total(found);
};

function hasMemory(pid: number): boolean {
  return existsSync(`/proc/${pid}/maps`) && readFileSync(`/proc/${pid}/maps`, "latin1") !== "";
}

function* filesBelow(path: string): Generator<string> {
  const entry = lstatSync(path, { throwIfNoEntry: false });
  if (entry?.isDirectory()) for (const name of readdirSync(path)) yield* filesBelow(join(path, name));
  else if (entry?.isFile()) yield path;
}

function countInFile(path: string, needles: readonly Needle[]): Counts {
  const counts = startCounts(needles);
  const file = openSync(path, "r");
  countInStream(needles, counts, (into) => readSync(file, into, 0, into.length, null));
  closeSync(file);
  return counts;
}
