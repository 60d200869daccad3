import { toHex } from "../policy/index.ts";
import { AgentError } from "./errors.ts";

/** Who connected, as the kernel and the spawner said at that moment. */
export interface Peer {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /** Digest of the executable file's content. */
  readonly exe: `sha256:${string}`;
  /** Last component of its cgroup; null where it has none. */
  readonly unit: string | null;
}

/** Identifies the process at the other end of a connected Unix socket. Rejects when it cannot; such a peer is nobody's caller. */
export type PeerIdentity = (fd: number) => Promise<Peer>;

export interface PeerSources {
  /** SO_PEERCRED and a pidfd of the process that called connect(). The pidfd is the caller's to close. */
  readonly peerCredentials: (fd: number) => {
    readonly pid: number;
    readonly uid: number;
    readonly gid: number;
    readonly pidfd: number;
  };
  /** The spawner's answer for a pidfd: it may read every process's executable, the agent may not. */
  readonly executableOf: (pidfd: number) => Promise<{ readonly pid: number; readonly sha256: Uint8Array }>;
  readonly closeFd: (fd: number) => void;
}

/**
 * The identity that a decision uses. The pidfd names one process for ever, so a number that was reused cannot lend its new owner's executable.
 * Does not establish that the process has not exec'd or handed on the socket since, nor anything about a script that an interpreter runs.
 */
export function createPeerIdentity(sources: PeerSources): PeerIdentity {
  return async (fd) => {
    const { pid, uid, gid, pidfd } = sources.peerCredentials(fd);
    try {
      const executable = await sources.executableOf(pidfd);
      if (executable.pid !== pid) {
        throw new AgentError("ERR_SPAWNER", "peer executable: pid", { expected: `${pid}`, got: `${executable.pid}` });
      }
      return { pid, uid, gid, exe: `sha256:${toHex(executable.sha256)}`, unit: null };
    } finally {
      sources.closeFd(pidfd);
    }
  };
}
