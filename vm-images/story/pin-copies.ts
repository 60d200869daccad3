import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { ImageError } from "../errors.ts";
import { scanFiles, totalCount } from "../pin-scan.ts";
import { SCOPED_UID } from "./demo-policy.ts";
import type { RunningMachine } from "./running.ts";

/** How many plain copies of the PIN were found, in UTF-8 and UTF-16, and what the same search found of a planted canary. */
export interface PinCopies {
  /** In a dump of the whole guest memory, taken after login. */
  readonly memory: number;
  /** On the cabinet, the boot disks, in the TPM's log, the console and the firmware's variables. */
  readonly filesAndLogs: number;
  /** Of a value of the same length that a workload holds in memory: the search must find it, or its zeros mean nothing. */
  readonly canary: number;
}

/** Look for the PIN everywhere outside this process: in all of the guest's memory and in every file of the run. */
export async function countPinCopies(machine: RunningMachine, pin: Uint8Array, directory: string): Promise<PinCopies> {
  const canary = randomBytes(pin.length).toString("base64url").slice(0, pin.length);
  const workload = await machine.workload(SCOPED_UID);
  const dump = join(directory, "memory.dump");
  try {
    await workload.request("hold", { value: canary });
    await machine.vm.dumpMemory(dump);
    const needle = Buffer.from(pin).toString("latin1");
    const copies: PinCopies = {
      memory: totalCount(await scanFiles([dump], needle)),
      filesAndLogs: totalCount(await scanFiles(machine.files, needle)),
      canary: totalCount(await scanFiles([dump], canary)),
    };
    if (copies.canary === 0) {
      throw new ImageError("ERR_VM_CONTROL", "pin scan: canary", {
        expected: "at least 1 copy in the dump",
        got: "0",
        hint: "the search is broken: its zeros mean nothing",
      });
    }
    return copies;
  } finally {
    workload.close();
    await rm(dump, { force: true });
  }
}
