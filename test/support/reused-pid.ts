import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { on, once } from "node:events";
import { join, resolve } from "node:path";
import { isRoot, type Workload } from "./socket-workload.ts";

/** A process connects, ends, and the kernel gives its number to the next one: see reused-pid.c. */
export interface Reuse {
  readonly when: "asked" | "accepted" | "looked" | "never";
  readonly door: "p11kit" | "native";
  /** What each of the two runs: the caller's program, or a copy with another digest. */
  readonly connector: "allowed" | "other";
  readonly next: "allowed" | "other";
}

export interface Outcome {
  /** Bytes that came back. */
  readonly answered: number;
  /** Signatures that the token was asked for. */
  readonly signed: number;
  readonly records: readonly string[];
  /** 0: the number was reused as asked. */
  readonly status: number | null;
}

/** An agent and its callers in a PID namespace of their own. */
export interface NumberedAgent {
  run(reuse: Reuse): Promise<Outcome>;
  close(): Promise<void>;
}

/** Whoever is not root has a user namespace as well, and his own uid in it. */
const NAMESPACES = [
  ...(isRoot ? [] : ["--user", "--map-current-user", "--keep-caps"]),
  "--pid",
  "--fork",
  "--mount-proc",
];
/** The namespace's first process cannot be stopped: it is a shell, and stays one. */
const FIRST = '"$@"; exit $?';

/**
 * @param kernel `old`: without SO_PEERPIDFD, as before Linux 6.5
 * @returns null where this kernel gives nobody but root such a namespace
 */
export function startNumberedAgent(workload: Workload, kernel: "own" | "old" = "own"): NumberedAgent | null {
  if (spawnSync("unshare", [...NAMESPACES, "true"]).status !== 0) return null;
  const below = kernel === "old" ? [buildOld(`${workload.path}-old`)] : [];
  const agent = [process.execPath, join(import.meta.dirname, "reused-pid-agent.ts")];
  const command = [...NAMESPACES, "--kill-child", "sh", "-c", FIRST, "sh", ...below, ...agent];
  const child = spawn("unshare", [...command, workload.path, workload.exe, workload.other], {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
  });
  const answers = on(child, "message", { close: ["exit"] });
  return {
    run: async (reuse) => {
      child.send(reuse);
      const answer = await answers.next();
      if (answer.done === true) throw new Error("the agent ended");
      // Another process of this tree says what it is.
      return answer.value[0] as Outcome;
    },
    close: () => end(child),
  };
}

function buildOld(output: string): string {
  const source = resolve(import.meta.dirname, "without-peerpidfd.c");
  execFileSync("gcc", ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-o", output, source]);
  return output;
}

async function end(child: ChildProcess): Promise<void> {
  const exited = once(child, "exit");
  child.disconnect();
  await exited;
}
