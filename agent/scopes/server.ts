import { chmodSync, lstatSync, unlinkSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { failuresOf, findScope, type Policy } from "../../policy/index.ts";
import type { AuditLog } from "../audit/log.ts";
import type { FailureBudgets } from "../broker/failure-budget.ts";
import { brokerKey, type PublicKeySource, verifyKeyUses } from "../broker/key.ts";
import { recordStranger, type ScopeState, strangerReason } from "../broker/operation.ts";
import { RefusalLog } from "../broker/refusals.ts";
import type { Token } from "../broker/token.ts";
import { AgentError } from "../errors.ts";
import type { Peer, PeerIdentity } from "../identity.ts";
import { serveConnection } from "../p11kit/connection.ts";
import { ReceiveMemory } from "../p11kit/frame.ts";
import { scopeObjects } from "../p11kit/objects.ts";

const MAX_CONNECTIONS = 256;
/** Of peers that are refused, at once: they cannot keep the scope's caller out. */
const MAX_STRANGERS = 32;
/** Bytes of unfinished requests, of all connections together. */
const MAX_RECEIVING = 16 << 20;
/** Longest path of a Unix socket on Linux (sun_path without its NUL). */
const MAX_SOCKET_PATH = 107;

export interface ServeScopeOptions {
  readonly policy: Policy;
  /** Name of the scope. */
  readonly scope: string;
  readonly socketPath: string;
  readonly token: Token;
  readonly audit: AuditLog;
  readonly identify: PeerIdentity;
  /** By key name; the scope's key must be among them, with the SPKI that the policy names. */
  readonly publicKeys: ReadonlyMap<string, PublicKeySource>;
  /** Those of all scopes of the policy together: a key that two scopes serve has one budget. */
  readonly failures: FailureBudgets;
  /** Milliseconds of a clock that does not go backwards, for the rate limit. */
  readonly now: () => number;
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
  const state = scopeState(options);
  const objects = scopeObjects(state.key, state.policy.keys[state.scope.key]?.does ?? "unwrap");
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
    await serveConnection(socket, state, objects, peer, memory);
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
  server.maxConnections = MAX_CONNECTIONS;
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

function scopeState(options: ServeScopeOptions): ScopeState {
  const { policy, token, audit, now } = options;
  const scope = findScope(policy, options.scope);
  if (scope === null)
    throw new AgentError("ERR_LAUNCH", "scope", { expected: "a scope of the policy", got: options.scope });
  const listed = policy.keys[scope.key];
  const source = options.publicKeys.get(scope.key);
  if (listed === undefined || source === undefined) {
    throw new AgentError("ERR_LAUNCH", `scope ${scope.name} key`, {
      expected: `public key of ${scope.key}`,
      got: "none",
    });
  }
  if (listed.does === "unwrap") {
    throw new AgentError("ERR_LAUNCH", `scope ${scope.name} key`, {
      expected: "a key that does sign or decrypt",
      got: listed.does,
    });
  }
  const key = brokerKey(scope.key, source, listed.spki);
  verifyKeyUses(policy, options.publicKeys);
  const failures = options.failures.of(key.identity, failuresOf(scope));
  const refusals = new RefusalLog(audit, scope.audit, now);
  return { policy, scope, key, token, audit, refusals, failures, now, bucket: null };
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
