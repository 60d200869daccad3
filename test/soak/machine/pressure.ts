import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { Fault } from "./faults.ts";
import { REBOOT, REBOOTS } from "./reboots.ts";

/** More than the agent has open. */
const DESCRIPTORS = 2;
const MEMORY_MS = 5000;

/**
 * A TPM command opens a connection to swtpm, where it opens nothing for a device. One that failed leaves a context that takes no more
 * (seal/node-tpm2-tss/README.md): the agent opens another.
 */
export const descriptors: Fault = {
  may: ["lost", "unreachable", "not-allowed", "report"],
  strike: async (machine, dice) => {
    const pid = machine.desk.machine.agentPid();
    const before = /^Max open files +(\S+) /m.exec(readFileSync(`/proc/${pid}/limits`, "latin1"))?.[1] ?? "";
    limit(pid, "nofile", `${numberOfFree(pid, DESCRIPTORS)}`);
    try {
      await delay(1000 + 2000 * dice);
    } finally {
      limit(pid, "nofile", before);
    }
  },
};

/** What it has, it may use: it has to collect garbage, where it would have taken more. */
export const memory: Fault = {
  may: REBOOT,
  strike: async (machine) => {
    const pid = machine.desk.machine.agentPid();
    const kilobytes = Number(/^VmData:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1]);
    limit(pid, "data", `${1024 * kilobytes}`);
    const ended = await Promise.race([machine.desk.machine.ended().then(() => true), delay(MEMORY_MS, false)]);
    if (ended) return machine.rebootsItself(REBOOTS.gone);
    limit(pid, "data", "unlimited");
  },
};

/** The soft limit of a running process (prlimit(2)). */
function limit(pid: number, what: "nofile" | "data", soft: string): void {
  execFileSync("prlimit", ["--pid", `${pid}`, `--${what}=${soft}:`]);
}

/** The first number that a process cannot have, if it is to open so many files more: the lowest free ones are given first. */
function numberOfFree(pid: number, more: number): number {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let [number, free] = [0, 0];
  for (; free < more; number++) if (!open.has(number)) free += 1;
  return number;
}
