import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { MAX_CONNECTIONS } from "../../policy/index.ts";
import { recordStranger, strangerReason } from "../broker/operation.ts";
import { type Broker, openScope, scopeOf } from "../broker/scope-state.ts";
import { AgentError } from "../errors.ts";
import type { Peer, PeerIdentity } from "../identity.ts";
import { serveConnection } from "../p11kit/connection.ts";
import { ReceiveMemory } from "../p11kit/frame.ts";

/** Of peers that are refused, at once: they cannot keep the scope's caller out. */
const MAX_STRANGERS = 32;
/** Bytes of unfinished requests, of all connections together. */
const MAX_RECEIVING = 16 << 20;
/** Longest path of a Unix socket on Linux (sun_path without its NUL). */
const MAX_SOCKET_PATH = 107;

export interface ServeScopeOptions {
  readonly broker: Broker;
  /** Name of the scope. */
  readonly scope: string;
  readonly socketPath: string;
  readonly identify: PeerIdentity;
}

export interface ScopeServer {
  /** Closes the socket and its connections. An operation at the token goes on to its end; its result is dropped. */
  close(): Promise<void>;
}

/**
 * Listens for one scope. Everybody may connect (mode 0666): who is served is decided by identity, and refusals are recorded.
 * @throws AgentError `ERR_LAUNCH` when policy and key do not fit, `ERR_ENVIRONMENT` when the socket cannot be made
 */
export async function serveScope(options: ServeScopeOptions): Promise<ScopeServer> {
  const state = openScope(options.broker, options.scope);
  const memory = new ReceiveMemory(MAX_RECEIVING);
  const sockets = new Set<Socket>();
  const strangers = new Set<Socket>();
  const admit = async (socket: Socket): Promise<void> => {
    const peer = await identifyPeer(socket, options.identify);
    const reason = strangerReason(state, peer);
    if (reason !== null && strangers.size >= MAX_STRANGERS) {
      socket.destroy();
      await recordStranger(state, peer, "connect", reason);
      return;
    }
    if (reason !== null && sockets.has(socket)) strangers.add(socket);
    await serveConnection(socket, state, peer, memory);
  };
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    // An error is always followed by `close`; the connection's own loop ends with it.
    socket.on("error", () => {});
    socket.on("close", () => {
      sockets.delete(socket);
      strangers.delete(socket);
    });
    void admit(socket);
  });
  server.maxConnections = scopeOf(state)?.connections ?? MAX_CONNECTIONS;
  await removeStaleSocket(options.socketPath);
  await listen(server, options.socketPath);
  return {
    close: async () => {
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      });
      await state.refusals.flush();
    },
  };
}

/** A peer that cannot be identified is served as a stranger: refused and recorded, not cut off. */
async function identifyPeer(socket: Socket, identify: PeerIdentity): Promise<Peer | null> {
  try {
    return await identify(descriptorOf(socket));
  } catch {
    return null;
  }
}

/** Node has no public way to a socket's descriptor, which SO_PEERCRED needs; the handle has carried it since Node 0.10. */
function descriptorOf(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { readonly _handle: { readonly fd?: unknown } | null };
  if (typeof handle?.fd !== "number" || handle.fd < 0)
    throw new AgentError("ERR_NATIVE", "socket descriptor: not available");
  return handle.fd;
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

function listen(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const fail = (cause: Error): void =>
      reject(new AgentError("ERR_ENVIRONMENT", `socket path ${path}: cannot listen`, { cause }));
    server.once("error", fail);
    server.listen(path, () => {
      server.off("error", fail);
      // What cannot be accepted, for want of descriptors, is lost; the scope is not.
      server.on("error", () => {});
      chmodSync(path, 0o666);
      resolve();
    });
  });
}
