import { execFileSync } from "node:child_process";
import { closeSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { Fault } from "./faults.ts";
import type { SoakMachine } from "./machine.ts";
import { until } from "./waiting.ts";

/** What an agent takes for the time of day. */
export interface Clock {
  /** A command that runs the agent's with this clock. */
  readonly through: readonly string[];
  /** Ahead, or behind, by so many seconds. */
  shift(seconds: number): void;
}

export function makeClock(directory: string): Clock {
  const [library, file] = [join(directory, "clock.so"), join(directory, "clock")];
  const flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-shared", "-fPIC"];
  execFileSync("gcc", [...flags, "-o", library, join(import.meta.dirname, "clock.c"), "-ldl"]);
  writeFileSync(file, new Uint8Array(8));
  return {
    through: ["/usr/bin/env", `LD_PRELOAD=${library}`, `SOAK_CLOCK=${file}`],
    shift: (seconds) => {
      const nanoseconds = new BigInt64Array([BigInt(seconds) * 1_000_000_000n]);
      const fd = openSync(file, "r+"); // mapped: it must stay the same file
      writeSync(fd, new Uint8Array(nanoseconds.buffer));
      closeSync(fd);
    },
  };
}

const JUMPS = [-86_400, -3600, -120, 120, 3600, 86_400] as const;

export const clockJump: Fault = {
  may: [],
  strike: async (machine, dice) => {
    const seconds = JUMPS[Math.floor(dice * JUMPS.length)] ?? 120;
    machine.clock.shift(seconds);
    try {
      await until("records with the time that was set", async () => {
        const off = (await lastTime(machine)) - Date.now();
        return Math.abs(off - 1000 * seconds) < 60_000;
      });
      await delay(1000 + 2000 * dice);
    } finally {
      machine.clock.shift(0);
    }
  },
};

/** Of the last record. */
function lastTime(machine: SoakMachine): Promise<number> {
  return machine.ask(async (control) => {
    const { head } = (await control.audit(1, 1)) as { head: { seq: number } };
    const { records } = (await control.audit(head.seq, 1)) as { records: readonly { time: string }[] };
    return Date.parse(records[0]?.time ?? "");
  });
}
