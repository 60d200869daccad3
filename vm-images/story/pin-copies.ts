import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { ImageError } from "../errors.ts";
import { type ScanCounts, scanFiles, totalCount } from "../pin-scan.ts";
import { SCOPED_UID } from "./demo-policy.ts";
import type { RunningMachine } from "./running.ts";

/** How many plain copies of the PIN, or of half of it, were found in UTF-8 and UTF-16, and what the search found of a canary. */
export interface PinCopies {
  /** In a dump of the whole guest memory, taken after login: kernel, shim and library included. */
  readonly memory: number;
  /** On the cabinet, the boot disks, in the TPM's log, the console and the firmware's variables. */
  readonly filesAndLogs: number;
  /** Of a value of the same length that a workload holds in each encoding: all must be found, or the zeros mean nothing. */
  readonly canary: number;
}

/** Look for the PIN everywhere outside this process: in all of the guest's memory and in every file of the run. */
export async function countPinCopies(machine: RunningMachine, pin: Uint8Array, directory: string): Promise<PinCopies> {
  const canary = randomBytes(pin.length).toString("base64url").slice(0, pin.length);
  const workload = await machine.workload(SCOPED_UID);
  const dump = join(directory, "memory.dump");
  try {
    for (const value of inEachEncoding(canary)) await workload.request("hold", { value });
    await machine.vm.dumpMemory(dump);
    const needle = Buffer.from(pin).toString("latin1");
    return {
      memory: await countHalves([dump], needle),
      filesAndLogs: await countHalves(machine.files, needle),
      canary: requireCanary(await scanFiles([dump], canary)),
    };
  } finally {
    workload.close();
    await rm(dump, { force: true });
  }
}

/**
 * Texts that V8 holds as the value in UTF-8, and, because of characters beyond Latin 1, in UTF-16: little-endian, and, with
 * the bytes of each character swapped, big-endian.
 */
function inEachEncoding(value: string): readonly string[] {
  return [value, `${value}\u2603`, Buffer.from(value, "utf16le").swap16().toString("utf16le")];
}

/**
 * Copies found by either half. Neighbouring pages of a process lie anywhere in the machine's memory, so a copy across two
 * of them is not found as a whole; nor is one that has been overwritten in part.
 */
export async function countHalves(files: readonly string[], needle: string): Promise<number> {
  const middle = needle.length >> 1;
  const first = totalCount(await scanFiles(files, needle.slice(0, middle)));
  return Math.max(first, totalCount(await scanFiles(files, needle.slice(middle))));
}

function requireCanary(results: readonly ScanCounts[]): number {
  const missed = (["utf8", "utf16le", "utf16be"] as const).filter((encoding) =>
    results.every((result) => result[encoding] === 0),
  );
  if (missed.length === 0) return totalCount(results);
  throw new ImageError("ERR_VM_CONTROL", "pin scan: canary", {
    expected: "at least 1 copy in the dump in every encoding",
    got: `none in ${missed.join(", ")}`,
    hint: "the search is broken: its zeros mean nothing",
  });
}
