import { AgentError } from "../errors.ts";
import { type ConnectedProcess, type Peer, type PeerIdentity, verifySamePeer } from "../identity.ts";
import type { SocketChannel } from "./channel.ts";

/**
 * How long a look at a peer counts, in milliseconds. A look asks the spawner and costs about as much as a signature: four a second are not
 * seen in the rate of any caller. It is how long a program that the caller exec'd may go on in its name.
 */
export const LOOK_COUNTS_MS = 250;
/** The same for what begins a session: how often one connection can have its program hashed. */
const LOOK_BEGINS_MS = 50;

/** Who is at the other end of a connection. */
export interface Caller {
  /** As it was when it connected; null when it could not be identified. Where it stops being that, the connection ends. */
  readonly peer: Peer | null;
  /**
   * To be asked before each operation: the peer, looked at {@link LOOK_COUNTS_MS} ago at most. Null: it runs another program by now, has
   * moved to another unit, has ended, or cannot be identified. Then the connection is over and, but for an end, recorded.
   */
  fresh(): Peer | null | Promise<Peer | null>;
  /** The same for what begins a session: looked at 50 ms ago at most. */
  look(): Peer | null | Promise<Peer | null>;
}

export interface CallerSources {
  readonly channel: SocketChannel;
  readonly connected: Omit<ConnectedProcess, "pidfd">;
  readonly identify: PeerIdentity;
  readonly mayCall: NonNullable<ConnectedProcess["mayCall"]>;
  readonly closeFd: (fd: number) => void;
  /** Milliseconds of a clock that does not go backwards. */
  readonly now: () => number;
}

/** Looks for the first time. Never rejects: a peer that cannot be identified is served as a stranger, refused and recorded, not cut off. */
export async function openCaller(sources: CallerSources): Promise<Caller> {
  const { channel, now } = sources;
  let looked = now();
  const peer = await identifyNow(sources).catch(() => null);
  let looking: Promise<Peer | null> | null = null;
  const lookAgain = async (): Promise<Peer | null> => {
    if (peer === null) return null;
    const at = now();
    try {
      verifySamePeer(peer, await identifyNow(sources));
      looked = at;
      return channel.destroyed ? null : peer;
    } catch (cause) {
      channel.refuse(changed(cause));
      return null;
    } finally {
      looking = null;
    }
  };
  // One at a time: whoever asks meanwhile gets its answer.
  const lookedWithin = (milliseconds: number): Peer | null | Promise<Peer | null> => {
    if (channel.destroyed) return null;
    if (now() - looked <= milliseconds) return peer;
    looking ??= lookAgain();
    return looking;
  };
  return { peer, fresh: () => lookedWithin(LOOK_COUNTS_MS), look: () => lookedWithin(LOOK_BEGINS_MS) };
}

/** With a descriptor of its own: the connection's is closed whenever the connection ends, and its number may then be another file's. */
async function identifyNow({ channel, connected, identify, mayCall, closeFd }: CallerSources): Promise<Peer> {
  const pidfd = channel.pidfd();
  if (pidfd === null) throw new AgentError("ERR_FOREIGN_SENDER", "peer process", { expected: "alive", got: "ended" });
  try {
    return await identify({ ...connected, pidfd, mayCall });
  } finally {
    closeFd(pidfd);
  }
}

function changed(cause: unknown): AgentError {
  if (cause instanceof AgentError && cause.code === "ERR_FOREIGN_SENDER") return cause;
  return new AgentError("ERR_FOREIGN_SENDER", "peer", { expected: "the one identified before", got: "unknown", cause });
}
