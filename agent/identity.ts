import { toHex } from "../policy/index.ts";
import { AgentError } from "./errors.ts";
import type { Connector } from "./native/index.ts";
import type { Processes } from "./processes.ts";

/** Who is at the other end of a connection, as the kernel and the spawner said at one moment. */
export interface Peer {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /** Digest of the executable file's content; `unknown` when nobody asked for it, since user or unit are no caller's. */
  readonly exe: `sha256:${string}` | "unknown";
  /** Last component of the process's cgroup v2 path, e.g. `signer.service`; null when that is no unit's name. */
  readonly unit: string | null;
}

/** A {@link Connector} that can be asked about: it keeps its number while the pidfd shows it alive. */
export interface ConnectedProcess extends Connector {
  readonly pidfd: number;
  /** When the connection was accepted, on the clock of {@link Processes}. */
  readonly accepted: number;
  /** Whether it may be a caller at all. When not, its executable is not looked at. Default: it may. */
  readonly mayCall?: (uid: number, unit: string | null) => boolean;
}

/** Identifies the process that connected, as it is now. Rejects when it cannot; such a peer is nobody's caller. */
export type PeerIdentity = (connected: ConnectedProcess) => Promise<Peer>;

export interface PeerSources {
  /** The spawner's answer for a pidfd: it may read every process's executable, the agent may not. */
  readonly executableOf: (
    pidfd: number,
    who: { readonly pid: number; readonly uid: number },
  ) => Promise<{ readonly pid: number; readonly sha256: Uint8Array }>;
  readonly isAlive: (pidfd: number) => boolean;
  readonly processes: Pick<Processes, "unitOf" | "startOf" | "sharesNamespace">;
}

/**
 * The identity that a decision uses. The pidfd names one process for ever. What is read by number (unit, start time) is read between two
 * looks at it: by the spawner, which answers only for a living process, and here. So a number that was reused lends nothing of its new owner.
 *
 * A peer in a PID namespace of its own is refused: whoever owns that namespace, which needs no privilege outside it, may say in SCM_CREDENTIALS
 * that any process of it has sent something, so that the kernel's word on senders would mean nothing.
 *
 * Does not establish what the program does, nor anything about a script that an interpreter runs, nor who started the process or traces it.
 * Before Linux 6.5 (`byNumber`) a process that took the number over between connect and accept is not told from the one that connected;
 * user and group are the connector's in any case, since the kernel recorded them.
 */
export function createPeerIdentity({ executableOf, isAlive, processes }: PeerSources): PeerIdentity {
  return async ({ pid, uid, gid, pidfd, byNumber, accepted, mayCall }) => {
    // Whoever may connect could otherwise have the spawner hash large files, one after the other, while callers wait.
    if (mayCall !== undefined && !mayCall(uid, processes.unitOf(pid))) {
      const unit = processes.unitOf(pid);
      if (!isAlive(pidfd)) throw foreign("process", "the one that connected", "one that has ended");
      return { pid, uid, gid, exe: "unknown", unit };
    }
    const executable = await executableOf(pidfd, { pid, uid });
    if (executable.pid !== pid) {
      throw new AgentError("ERR_SPAWNER", "peer executable: pid", { expected: `${pid}`, got: `${executable.pid}` });
    }
    const unit = processes.unitOf(pid);
    verifyNamespace(processes.sharesNamespace(pid));
    if (byNumber) verifyStart(processes.startOf(pid), accepted);
    if (!isAlive(pidfd)) throw foreign("process", "the one that connected", "one that has ended");
    return { pid, uid, gid, exe: `sha256:${toHex(executable.sha256)}`, unit };
  };
}

/**
 * Whether a process that was looked at again is still what it was.
 * @throws AgentError ERR_FOREIGN_SENDER for another program (it called exec) or another unit
 */
export function verifySamePeer(before: Peer, now: Peer): void {
  if (now.unit !== before.unit) throw foreign("unit", before.unit ?? "none", now.unit ?? "none");
  if (now.exe !== before.exe) throw foreign("executable", before.exe, now.exe);
}

function verifyNamespace(isOwn: boolean): void {
  if (!isOwn) throw foreign("PID namespace", "the agent's", "another one, whose owner can speak for its processes");
}

/** A process that started later cannot be the one that connected. Equal hundredths are: a program may connect first of all. */
function verifyStart(started: number, accepted: number): void {
  if (started > accepted) throw foreign("process", "one older than its connection", "a younger one with its number");
}

function foreign(what: string, expected: string, got: string): AgentError {
  return new AgentError("ERR_FOREIGN_SENDER", `peer ${what}`, { expected, got });
}
