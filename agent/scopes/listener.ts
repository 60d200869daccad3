import { lstatSync, rmSync, unlinkSync } from "node:fs";
import { connect } from "node:net";
import { AgentError } from "../errors.ts";
import type { Connector, Native, NativeStream } from "../native/index.ts";

/** Longest path of a Unix socket on Linux (sun_path without its NUL). */
const MAX_SOCKET_PATH = 107;

export interface ListenerOptions {
  readonly native: Pick<Native, "listen" | "accept" | "closeFd">;
  readonly socketPath: string;
  /** A listening descriptor that the agent was started with. */
  readonly inherited?: number | undefined;
}

export interface Listener {
  /** Nobody is accepted any more. The file of a socket that was made here is removed; an inherited one stays its owner's. */
  close(): void;
}

/**
 * Listens at a path, or on the inherited descriptor in its place.
 * @throws AgentError `ERR_ENVIRONMENT` when the socket cannot be made, or the inherited descriptor is no Unix socket that listens
 */
export async function openListener(
  { native, socketPath, inherited }: ListenerOptions,
  onConnection: (stream: NativeStream, connector: Connector) => void,
): Promise<Listener> {
  if (inherited !== undefined) return orRefused("inherited socket", () => native.accept(inherited, onConnection));
  await removeStaleSocket(socketPath);
  const fd = orRefused(`socket path ${socketPath}`, () => native.listen(socketPath));
  const listener = native.accept(fd, onConnection);
  return {
    close: () => {
      listener.close();
      rmSync(socketPath, { force: true }); // whoever stops the machine may have emptied its directory already
    },
  };
}

function orRefused<T>(what: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    throw new AgentError("ERR_ENVIRONMENT", `${what}: cannot listen`, { cause });
  }
}

/** Removes what a killed agent left behind: a socket that nobody listens on, and nothing else. */
async function removeStaleSocket(path: string): Promise<void> {
  if (Buffer.byteLength(path) > MAX_SOCKET_PATH) {
    throw new AgentError("ERR_ENVIRONMENT", "socket path", { expected: `at most ${MAX_SOCKET_PATH} bytes`, got: path });
  }
  const status = lstatSync(path, { throwIfNoEntry: false });
  if (status === undefined) return;
  if (!status.isSocket()) {
    throw new AgentError("ERR_ENVIRONMENT", `socket path ${path}`, {
      expected: "a socket or nothing",
      got: "another file, refusing to replace it",
    });
  }
  if (await answers(path)) {
    throw new AgentError("ERR_ENVIRONMENT", `socket path ${path}`, {
      expected: "a stale socket",
      got: "one that is served",
    });
  }
  unlinkSync(path);
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", () => resolve(false));
  });
}
