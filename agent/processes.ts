import { readFileSync } from "node:fs";
import { uptime } from "node:os";
import { AgentError } from "./errors.ts";

/**
 * What /proc says of a number. It is of one process only while a pidfd of that process shows it alive, so a caller looks at the pidfd
 * afterwards.
 */
export interface Processes {
  /** The unit: last component of the cgroup v2 path. Null when there is none, or none that can be a unit's name. */
  unitOf(pid: number): string | null;
  /** When it started, in seconds since the machine did, to a hundredth (CLOCK_BOOTTIME). An exec does not change it. */
  startOf(pid: number): number;
  /** Whether it is in the agent's own PID namespace, and in none inside that: a process never changes it. */
  sharesNamespace(pid: number): boolean;
  /** Seconds since the machine started, on the same clock. */
  now(): number;
}

/** Ticks of /proc/PID/stat in a second: USER_HZ, which is 100 on every architecture that this agent runs on. */
const TICKS = 100;
const START_FIELD = 22;
/** What systemd lets a unit be called, and no cgroup of another name is one: systemd.unit(5). */
const UNIT = /^[A-Za-z0-9:_.\\@-]{1,255}$/;

/** @param directory where /proc is mounted */
export function openProcesses(directory = "/proc"): Processes {
  const read = (pid: number | "self", file: string): string => {
    try {
      return readFileSync(`${directory}/${pid}/${file}`, "latin1");
    } catch (cause) {
      throw new AgentError("ERR_ENVIRONMENT", `process ${file}: cannot be read`, { cause });
    }
  };
  const own = parseNamespaces(read("self", "status"));
  return {
    unitOf: (pid) => parseUnit(read(pid, "cgroup")),
    startOf: (pid) => parseStart(read(pid, "stat")),
    sharesNamespace: (pid) => parseNamespaces(read(pid, "status")) === own,
    now: () => uptime(),
  };
}

/**
 * The unit in a /proc/PID/cgroup (cgroups(7)). A path holds no line feed: the kernel makes no such cgroup.
 * Does not establish who made the cgroup: where one was delegated, its owner names those below it.
 */
export function parseUnit(cgroups: string): string | null {
  const line = cgroups.split("\n").find((text) => text.startsWith("0::"));
  const name = line?.slice(line.lastIndexOf("/") + 1) ?? "";
  return UNIT.test(name) ? name : null;
}

/**
 * Start time in a /proc/PID/stat (proc_pid_stat(5)). The program's name, field 2, may hold blanks and brackets: what is after the last
 * bracket counts.
 * @throws AgentError ERR_ENVIRONMENT
 */
export function parseStart(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(")") + 1).split(" ");
  const ticks = fields[START_FIELD - 2];
  if (!stat.includes(")") || ticks === undefined || !/^\d{1,15}$/.test(ticks)) {
    throw new AgentError("ERR_ENVIRONMENT", "process stat start time", { expected: "ticks", got: "something else" });
  }
  return Number(ticks) / TICKS;
}

/**
 * How many PID namespaces a process is in, counted from the one whose /proc it is: the numbers at NSpid in a /proc/PID/status
 * (proc_pid_status(5)). A program's name can hold no line feed there.
 * @throws AgentError ERR_ENVIRONMENT
 */
export function parseNamespaces(status: string): number {
  const numbers = /^NSpid:((?:\t\d{1,10}){1,33})$/m.exec(status)?.[1];
  if (numbers === undefined) {
    throw new AgentError("ERR_ENVIRONMENT", "process status NSpid", { expected: "numbers", got: "something else" });
  }
  return numbers.split("\t").length - 1;
}
