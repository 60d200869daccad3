import { execFileSync } from "node:child_process";
import { appendFileSync, rmSync, statfsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Fault } from "./faults.ts";
import type { SoakMachine } from "./machine.ts";
import { POWER_CYCLE } from "./reboots.ts";
import { until } from "./waiting.ts";

/** Of a name that is none of a log's. */
const FILLER = "filler";
/** Less than the log leaves for its own records, and more than is written until it looks again. */
const SOME = 192 << 10;
const PAGE = 4096;

export interface LogVolume extends Disposable {
  /** Leaves so many bytes. */
  fill(left: number): void;
  free(): void;
}

/** A file system of its own for a log that has not begun. */
export function mountLogVolume(directory: string, mebibytes: number): LogVolume {
  execFileSync("mount", ["-t", "tmpfs", "-o", `size=${mebibytes}m,mode=0700`, "tmpfs", directory]);
  const unmount = () => execFileSync("umount", ["--lazy", directory]);
  process.once("exit", unmount); // of a soak that ends otherwise
  const filler = join(directory, FILLER);
  return {
    fill: (left) => {
      const { bavail, bsize } = statfsSync(directory);
      execFileSync("fallocate", ["--length", `${bavail * bsize - Math.max(left, SOME)}`, filler]);
      if (left === 0) fillUp(filler);
    },
    free: () => rmSync(filler, { force: true }),
    [Symbol.dispose]: () => {
      process.off("exit", unmount);
      unmount();
    },
  };
}

/** Who writes beside it takes from the same room. */
function fillUp(filler: string): void {
  try {
    for (;;) appendFileSync(filler, new Uint8Array(PAGE));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
  }
}

export const diskFull: Fault = {
  may: ["audit"],
  strike: (machine, dice) => whileFull(machine, SOME, dice),
};

/** A write that fails stops the log for this boot, if it comes before the log has looked how much room there is. */
export const diskBrim: Fault = {
  may: ["audit", ...POWER_CYCLE],
  strike: async (machine, dice) => {
    await whileFull(machine, 0, dice);
    if ((await reasons(machine)).includes("audit-stopped")) await machine.boot();
  },
};

async function whileFull(machine: SoakMachine, left: number, dice: number): Promise<void> {
  machine.log.fill(left);
  try {
    await until("a log that takes nothing more", async () =>
      (await reasons(machine)).some((code) => ["audit-full", "audit-stopped"].includes(code)),
    );
    await delay(1000 + 1000 * dice);
  } finally {
    machine.log.free();
  }
}

async function reasons(machine: SoakMachine): Promise<readonly string[]> {
  return (await machine.status()).reasons.map(({ code }) => code);
}
