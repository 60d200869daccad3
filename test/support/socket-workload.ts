import { type ChildProcessWithoutNullStreams, execFileSync, spawn, spawnSync } from "node:child_process";
import { appendFileSync, copyFileSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { createPeerIdentity, type PeerIdentity } from "../../agent/identity.ts";
import { openProcesses } from "../../agent/processes.ts";
import { sha256, sha256Hex } from "../../policy/index.ts";
import { native } from "./shim-fixture.ts";

export const isRoot = process.getuid?.() === 0;
/** Whom the workloads run as; the superuser cannot be a caller. */
export const WORKLOAD_UID = isRoot ? 2001 : (process.getuid?.() ?? 2001);

export interface Workload {
  /** Absolute path of the program. */
  readonly path: string;
  readonly exe: `sha256:${string}`;
  /** The same program with another digest. */
  readonly other: string;
}

/** Compiles passed-socket.c, or another program of this folder, into a directory that everybody can read. */
export function buildWorkload(directory: string, name: "passed-socket" | "reused-pid" = "passed-socket"): Workload {
  const source = resolve(import.meta.dirname, `${name}.c`);
  const path = join(directory, name);
  const other = `${path}-other`;
  execFileSync("gcc", ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-o", path, source]);
  copyFileSync(path, other);
  appendFileSync(other, "other");
  return { path, exe: `sha256:${sha256Hex(readFileSync(path))}`, other };
}

/** Runs one act of it under the workloads' uid, or as the superuser. */
export function startAct(
  program: string,
  args: readonly string[],
  as: "workload" | "root" = "workload",
): ChildProcessWithoutNullStreams {
  const user = as === "workload" && isRoot ? { uid: WORKLOAD_UID, gid: WORKLOAD_UID } : {};
  return spawn(program, args, user);
}

/** A user and a PID namespace that whoever makes them owns, without any privilege outside. */
const NAMESPACES = ["--user", "--map-root-user", "--pid", "--fork"];

/** The same, in a PID namespace that its user owns. Null where the kernel gives no user namespaces to everybody. */
export function startActInNamespace(program: string, args: readonly string[]): ChildProcessWithoutNullStreams | null {
  const user = isRoot ? { uid: WORKLOAD_UID, gid: WORKLOAD_UID } : {};
  if (spawnSync("unshare", [...NAMESPACES, "true"], user).status !== 0) return null;
  return spawn("unshare", [...NAMESPACES, program, ...args], user);
}

/** Milliseconds after which an act hangs: somebody is served who should not be, or the other way round. */
const LONGEST = 10_000;

/** All that an act printed, once it and its children have closed their output. Rejects when they do not. */
export function finished(child: ChildProcessWithoutNullStreams): Promise<Uint8Array> {
  const pieces: Buffer[] = [];
  child.stdout.on("data", (piece: Buffer) => pieces.push(piece));
  return new Promise((done, failed) => {
    const hanging = setTimeout(() => {
      child.kill("SIGKILL");
      failed(new Error(`the act hangs, after ${Buffer.concat(pieces).length} bytes`));
    }, LONGEST);
    child.on("close", () => {
      clearTimeout(hanging);
      done(Uint8Array.from(Buffer.concat(pieces)));
    });
  });
}

/**
 * The agent's identity, with the kernel's own answers; only the digest is computed here and not by the spawner.
 * @param numbered waited for between the pidfd's number and what is read by it
 */
export function realIdentity(numbered: () => Promise<void> = async () => {}): PeerIdentity {
  const addon = native();
  return createPeerIdentity({
    executableOf: async (pidfd) => {
      const pid = Number(/^Pid:\t(-?\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd}`, "utf8"))?.[1]);
      await numbered();
      return { pid, sha256: sha256(readFileSync(`/proc/${pid}/exe`)) };
    },
    isAlive: (pidfd) => addon.isAlive(pidfd),
    processes: openProcesses(),
  });
}
