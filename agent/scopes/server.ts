import { failuresOf, findScope, type Policy } from "../../policy/index.ts";
import type { AuditLog } from "../audit.ts";
import type { FailureBudgets } from "../broker/failure-budget.ts";
import { brokerKey, type PublicKeySource, verifyKeyUses } from "../broker/key.ts";
import { recordStranger, type ScopeState, strangerReason } from "../broker/operation.ts";
import { RefusalLog } from "../broker/refusals.ts";
import type { Token } from "../broker/token.ts";
import { AgentError } from "../errors.ts";
import type { Peer, PeerIdentity } from "../identity.ts";
import type { Connector, Native, NativeStream } from "../native/index.ts";
import { openP11kitDoor } from "../p11kit/connection.ts";
import { ReceiveMemory } from "../p11kit/frame.ts";
import { openProcesses } from "../processes.ts";
import { openCaller } from "./caller.ts";
import { SocketChannel } from "./channel.ts";
import { type Door, type Doors, doorFor, type OpenDoor } from "./door.ts";
import { openListener } from "./listener.ts";

const MAX_CONNECTIONS = 256;
/** Of peers that are refused, at once: they cannot keep the scope's caller out. */
const MAX_STRANGERS = 32;
/** Bytes of unfinished requests, of all connections together. */
const MAX_RECEIVING = 16 << 20;

export interface ServeScopeOptions {
  readonly policy: Policy;
  /** Name of the scope. */
  readonly scope: string;
  /** Where the socket is made, in place of a stale one. Not looked at when a socket was inherited. */
  readonly socketPath: string;
  /** A listening descriptor that the agent was started with; it is taken over. */
  readonly inherited?: number;
  readonly native: Native;
  readonly token: Token;
  readonly audit: AuditLog;
  readonly identify: PeerIdentity;
  /** Default: the PKCS #11 door alone. */
  readonly doors?: Doors<OpenDoor>;
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
  const visitors = new Visitors(options, state);
  const listener = await openListener(options, (stream, connector) => visitors.accept(stream, connector));
  return {
    close: async () => {
      listener.close();
      visitors.destroy();
      await state.refusals.flush();
    },
  };
}

/** The connections of one scope. */
class Visitors {
  readonly #options: ServeScopeOptions;
  readonly #state: ScopeState;
  readonly #doors: Doors<Door>;
  readonly #memory = new ReceiveMemory(MAX_RECEIVING);
  readonly #processes = openProcesses();
  readonly #channels = new Set<SocketChannel>();
  readonly #strangers = new Set<SocketChannel>();

  constructor(options: ServeScopeOptions, state: ScopeState) {
    const { p11kit, rpc } = options.doors ?? { p11kit: openP11kitDoor };
    this.#options = options;
    this.#state = state;
    this.#doors = rpc === undefined ? { p11kit: p11kit(state) } : { p11kit: p11kit(state), rpc: rpc(state) };
  }

  accept(stream: NativeStream, connector: Connector): void {
    if (this.#channels.size >= MAX_CONNECTIONS) {
      stream.close();
      return;
    }
    const accepted = this.#processes.now();
    let peer: Peer | null = null;
    const channel: SocketChannel = new SocketChannel(stream, {
      foreign: (error) => void recordStranger(this.#state, peer, "connect", error.message),
      closed: () => {
        this.#channels.delete(channel);
        this.#strangers.delete(channel);
      },
    });
    this.#channels.add(channel);
    const identified = (found: Peer | null): void => {
      peer = found;
    };
    void this.#admit(channel, { ...connector, accepted }, identified).catch(() => channel.destroy());
  }

  destroy(): void {
    for (const channel of this.#channels) channel.destroy();
  }

  async #admit(
    channel: SocketChannel,
    connected: Connector & { readonly accepted: number },
    identified: (peer: Peer | null) => void,
  ): Promise<void> {
    const { identify, native, now } = this.#options;
    const caller = await openCaller({ channel, connected, identify, now, closeFd: (fd) => native.closeFd(fd) });
    identified(caller.peer);
    const reason = strangerReason(this.#state, caller.peer);
    if (reason !== null && this.#strangers.size >= MAX_STRANGERS) {
      channel.destroy();
      return recordStranger(this.#state, caller.peer, "connect", reason);
    }
    if (reason !== null && this.#channels.has(channel)) this.#strangers.add(channel);
    const first = await channel.peek();
    if (first === null) return channel.end();
    const door = doorFor(this.#doors, first);
    if (door !== null) return door({ channel, caller, memory: this.#memory });
    channel.destroy();
    if (reason !== null) await recordStranger(this.#state, caller.peer, "connect", reason);
  }
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
