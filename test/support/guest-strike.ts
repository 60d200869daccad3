// Runs in the guest, as root, under the image's own Node: lets the agent go on, waits until a process holds a value that the TPM has just
// released, and ends one. Order on standard input, result on standard output, both one JSON document; the console is told before the act.
import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants as fileFlags,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { constants, setPriority } from "node:os";
import { type MaskedNeedle, openNeedle, searchMemory } from "./guest-memory.ts";

export interface StrikeOrder {
  readonly needle: MaskedNeedle;
  /** Whose memory it must be in. */
  readonly holder: "unsealer" | "shim";
  readonly victim: "unsealer" | "agent" | "shim";
  /** The agent's process, which was stopped. */
  readonly agent: number;
}

export interface StrikeResult {
  /** Processes that were killed. */
  readonly struck: number;
}

/** The shim's ends of its socket, and of the pipe that the PIN comes through (SPAWNER.md). */
const REQUEST_FD = 3;
const PIN_FD = 4;
/** What a shim has mapped once it has loaded its library. */
const LIBRARY = "libsofthsm2.so";
/** read(2), by its number and first argument, as /proc/PID/syscall has it. */
const WAITS_FOR_REQUESTS = `0 0x${REQUEST_FD.toString(16)} `;
const PIPE_BYTES = 1 << 16;
/** Milliseconds; an emulated machine is slow. */
const PATIENCE = 300_000;

const commandOf = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/comm`, "latin1").trim();
  } catch {
    return ""; // it has ended
  }
};

/** Below the agent or the spawner, started after the agent. */
function processesNamed(name: string, after: number): readonly number[] {
  const pids = readdirSync("/proc").map(Number);
  return pids.filter((pid) => pid > after && commandOf(pid) === name).sort((a, b) => a - b);
}

const pause = (milliseconds: number) => void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

/**
 * The shims, once they have loaded their library: until then they may not be held up. An unsealer that is there meanwhile, which waits for its
 * word, is stopped. None when it ends before that, or the time is over.
 */
function awaitLoaded(unsealer: number, agent: number, end: number): readonly number[] {
  const isLoaded = (pid: number) =>
    ifThere(() => readFileSync(`/proc/${pid}/syscall`, "latin1").startsWith(WAITS_FOR_REQUESTS)) === true &&
    ifThere(() => readFileSync(`/proc/${pid}/maps`, "latin1").includes(LIBRARY)) === true;
  for (; performance.now() < end && commandOf(unsealer) !== ""; pause(2)) {
    const shims = processesNamed("shim", agent);
    if (shims.length > 0) ifThere(() => process.kill(unsealer, "SIGSTOP"));
    if (shims.length > 0 && shims.every(isLoaded)) return shims;
  }
  return [];
}

/** Stops it, and has its pipe take nothing more: whoever brings the PIN has to wait with it in hand. */
function blockPipe(shim: number): void {
  process.kill(shim, "SIGSTOP");
  const pipe = openSync(`/proc/${shim}/fd/${PIN_FD}`, fileFlags.O_WRONLY | fileFlags.O_NONBLOCK);
  try {
    for (const size of [4096, 1]) {
      for (let filled = 0; filled < PIPE_BYTES; filled += size) writeSync(pipe, Buffer.alloc(size));
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EAGAIN") throw error;
  } finally {
    closeSync(pipe);
  }
}

/**
 * Waits until one of these holds the value in what it can write to, and leaves them all stopped then: they stand still while they are looked
 * at, and run for a moment in between. Null when they have ended.
 */
function awaitHolder(pids: readonly number[], needle: MaskedNeedle): number | null {
  const wanted = [openNeedle(needle)];
  const holds = (pid: number) => (searchMemory(pid, wanted, /^rw/).counts[needle.name]?.utf8 ?? 0) > 0;
  for (let left = pids; left.length > 0; left = left.filter((pid) => commandOf(pid) !== "")) {
    for (const pid of left) ifThere(() => process.kill(pid, "SIGSTOP"));
    const holder = left.find((pid) => ifThere(() => holds(pid)) === true);
    if (holder !== undefined) return holder;
    for (const pid of left) ifThere(() => process.kill(pid, "SIGCONT"));
    pause(1);
  }
  return null;
}

/** What is asked of a process that may have ended. */
function ifThere<T>(act: () => T): T | undefined {
  try {
    return act();
  } catch (error) {
    if (["ENOENT", "ESRCH", "EIO"].includes((error as NodeJS.ErrnoException).code ?? "")) return undefined;
    throw error;
  }
}

/**
 * All on one processor, where this program comes first: they run only while it pauses, however the host shares out the machine's processors.
 */
function putBehindThis(pids: readonly number[]): void {
  for (const pid of [process.pid, ...pids]) execFileSync("/usr/bin/taskset", ["-p", "1", String(pid)]);
  setPriority(process.pid, constants.priority.PRIORITY_HIGHEST);
  for (const pid of pids) setPriority(pid, constants.priority.PRIORITY_LOW);
}

const tell = (what: string) => writeFileSync("/dev/console", `strike: ${what}\n`);

function strike({ needle, holder, victim, agent }: StrikeOrder): StrikeResult {
  const seen = new Set<number>();
  tell(`waiting for the ${holder}`);
  process.kill(agent, "SIGCONT");
  for (const end = performance.now() + PATIENCE; performance.now() < end; pause(5)) {
    const unsealer = processesNamed("unsealer", agent).find((pid) => !seen.has(pid));
    if (unsealer === undefined) continue;
    seen.add(unsealer);
    // the key of the state volume is brought before there are shims, by another run of it
    const shims = awaitLoaded(unsealer, agent, end);
    if (holder === "unsealer") for (const shim of shims) blockPipe(shim);
    else putBehindThis(shims);
    ifThere(() => process.kill(unsealer, "SIGCONT"));
    const held = shims.length === 0 ? null : awaitHolder(holder === "unsealer" ? [unsealer] : shims, needle);
    if (held === null) continue;
    tell(`the ${commandOf(held)} holds it`);
    process.kill(victim === "agent" ? agent : held, "SIGKILL");
    for (const pid of [unsealer, ...shims]) ifThere(() => process.kill(pid, "SIGCONT"));
    return { struck: 1 };
  }
  tell("nobody held it");
  return { struck: 0 };
}

const order: StrikeOrder = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(`${JSON.stringify(strike(order))}\n`);
