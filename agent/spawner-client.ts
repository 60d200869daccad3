import { AgentError } from "./errors.ts";
import {
  encodeCapAndReboot,
  encodeOpenState,
  encodePeerExe,
  encodePrepareShim,
  encodeShimStatus,
  encodeStartShim,
  encodeStartWorkloads,
  encodeStopShim,
  MAX_SPAWNER_MESSAGE,
  type PeerExe,
  parseOpenStateReply,
  parsePeerExeReply,
  parsePrepareShimReply,
  parseShimStatusReply,
  parseStartShimReply,
  parseStartWorkloadsReply,
  parseStopShimReply,
  type ShimDigest,
  type ShimFile,
  type ShimStatus,
  type StartShim,
  type StateVolume,
} from "./spawner-messages.ts";
import { createPatientTurns } from "./turns.ts";

export type {
  Endpoint,
  PeerExe,
  ShimDigest,
  ShimFile,
  ShimStatus,
  StartShim,
  StateVolume,
} from "./spawner-messages.ts";

/** What the client needs from the native addon: one packet there and one back, with descriptors. */
export interface SpawnerTransport {
  call(
    fd: number,
    request: Uint8Array,
    sendFds: readonly number[],
    maxReply: number,
    /** Default: a minute. */
    timeoutMs?: number,
  ): Promise<{ readonly bytes: Uint8Array; readonly fds: readonly number[] }>;
  closeFd(fd: number): void;
}

/** A started shim. Both descriptors are the caller's to close. */
export interface StartedShim {
  readonly pid: number;
  readonly fds: {
    /** Stream socket of the shim's requests. */
    readonly request: number;
    /** Write end of the pipe from which the shim reads the PIN. */
    readonly pin: number;
  };
}

/**
 * The privileged acts that the agent can ask for (SPAWNER.md). Every method rejects with AgentError `ERR_SPAWNER` when the
 * spawner refuses or its answer cannot be read, and from the first answer on that does not come in time. A request out of its phase or order makes the spawner cap and reboot.
 */
export interface Spawner {
  /** Fill a private root. The digests are of the bytes as copied; whether they are the pinned ones is for the caller to say. */
  prepareShim(id: number, files: readonly ShimFile[]): Promise<readonly ShimDigest[]>;
  startShim(request: StartShim): Promise<StartedShim>;
  /**
   * In as many requests as the program has slices; whatever else is asked for meanwhile goes first, and other looks in between.
   * @param pidfd stays the caller's
   */
  peerExe(pidfd: number): Promise<PeerExe>;
  shimStatus(id: number): Promise<ShimStatus>;
  /**
   * SIGKILL to everything in the shim and to its relay; resolves when they are gone. A shim that is not running is no error. The
   * id is used up, also that of a shim that was only prepared. Rejects when the kernel has not ended them after two seconds: ask again.
   */
  stopShim(id: number): Promise<void>;
  /** Resolves or never comes back: the machine is about to restart. */
  capAndReboot(reason: string): Promise<void>;
  startWorkloads(): Promise<number>;
  /**
   * Open and mount the state volume; takes seconds to minutes when it has to be formatted. Rejects with AgentError
   * `ERR_STATE_VOLUME`, whose `state` says what is wrong with it.
   * @param keyFd read end of the pipe that somebody else writes the key into; stays the caller's. No writing end may be left
   */
  openState(how: { readonly format: boolean }, keyFd: number): Promise<StateVolume>;
}

/** Every sector of a new state volume is written: seconds, or minutes on an emulated machine that is busy. */
const FORMAT_TIMEOUT_MS = 600_000;

/** @param fd the agent's end of the spawner's socket, 3 in a started agent */
export function openSpawner(transport: SpawnerTransport, fd: number): Spawner {
  // One request at a time: the protocol has no ids, so that a second one must wait for the first one's reply. What ends a shim or the
  // machine does not wait for looks, of which each request is a slice.
  const turns = createPatientTurns();
  /** A reply that did not come in time may come yet, and would be taken for that of a later request: there is none. */
  let late: AgentError | null = null;
  const roundTrip = <T>(
    request: Uint8Array,
    sendFds: readonly number[],
    parse: (reply: Reply) => T,
    { isPatient = false, timeoutMs }: { readonly isPatient?: boolean; readonly timeoutMs?: number } = {},
  ): Promise<T> => {
    if (request.length > MAX_SPAWNER_MESSAGE) throw new TypeError(`spawner request: ${request.length} bytes`);
    return turns(async () => {
      if (late !== null) throw late;
      const reply = await transport.call(fd, request, sendFds, MAX_SPAWNER_MESSAGE, timeoutMs).catch((cause) => {
        if (isTimeout(cause)) late = tooLate(cause);
        throw late ?? cause;
      });
      return closingOnError(transport, reply, parse);
    }, isPatient);
  };
  const lookOn = (pidfd: number, look: number): Promise<PeerExe | number> =>
    roundTrip(encodePeerExe(look), [pidfd], (reply) => withoutFds(reply, parsePeerExeReply(reply.bytes)), {
      isPatient: true,
    });
  return {
    prepareShim: async (id, files) =>
      roundTrip(encodePrepareShim(id, files), [], (reply) =>
        withoutFds(reply, parsePrepareShimReply(reply.bytes, files.length)),
      ),
    startShim: async (request) => roundTrip(encodeStartShim(request), [], startedShim),
    peerExe: async (pidfd) => {
      let look = await lookOn(pidfd, 0);
      while (typeof look === "number") look = await lookOn(pidfd, look);
      return look;
    },
    shimStatus: async (id) =>
      roundTrip(encodeShimStatus(id), [], (reply) => withoutFds(reply, parseShimStatusReply(reply.bytes))),
    stopShim: async (id) =>
      roundTrip(encodeStopShim(id), [], (reply) => withoutFds(reply, parseStopShimReply(reply.bytes))),
    capAndReboot: async (reason) => {
      // There is no reply: the end of the socket is the expected answer.
      const request = encodeCapAndReboot(reason);
      await turns(async () => transport.call(fd, request, [], MAX_SPAWNER_MESSAGE), false).catch(() => undefined);
    },
    startWorkloads: async () =>
      roundTrip(encodeStartWorkloads(), [], (reply) => withoutFds(reply, parseStartWorkloadsReply(reply.bytes))),
    openState: async ({ format }, keyFd) =>
      roundTrip(encodeOpenState(format), [keyFd], (reply) => withoutFds(reply, parseOpenStateReply(reply.bytes)), {
        timeoutMs: FORMAT_TIMEOUT_MS,
      }),
  };
}

function isTimeout(error: unknown): boolean {
  const cause = error instanceof AgentError ? error.cause : error;
  return cause instanceof Error && "code" in cause && cause.code === "ETIMEDOUT";
}

function tooLate(cause: unknown): AgentError {
  const hint = "the connection to the spawner is not used any more; restart the machine";
  return new AgentError("ERR_SPAWNER", "spawner reply", { expected: "in time", got: "none", hint, cause });
}

interface Reply {
  readonly bytes: Uint8Array;
  readonly fds: readonly number[];
}

/** Descriptors of a reply that is not accepted would otherwise stay open for ever. */
function closingOnError<T>(transport: SpawnerTransport, reply: Reply, parse: (reply: Reply) => T): T {
  try {
    return parse(reply);
  } catch (error) {
    for (const fd of reply.fds) transport.closeFd(fd);
    throw error;
  }
}

function startedShim(reply: Reply): StartedShim {
  const pid = parseStartShimReply(reply.bytes);
  const [request, pin] = reply.fds;
  if (request === undefined || pin === undefined || reply.fds.length !== 2) {
    throw new AgentError("ERR_SPAWNER", "start-shim: descriptors", {
      expected: "2",
      got: `${reply.fds.length}`,
    });
  }
  return { pid, fds: { request, pin } };
}

function withoutFds<T>(reply: Reply, value: T): T {
  if (reply.fds.length !== 0)
    throw new AgentError("ERR_SPAWNER", "spawner reply: descriptors", {
      expected: "0",
      got: `${reply.fds.length}`,
    });
  return value;
}
