// One scope: its socket, and each connection from accept through identity and place to its door.

import { MAX_CONNECTIONS } from "../../policy/index.ts";
import { mayCall, recordStranger, strangerReason } from "../broker/operation.ts";
import { type Broker, openScope, type ScopeState, scopeOf } from "../broker/scope-state.ts";
import type { Peer, PeerIdentity } from "../identity.ts";
import { failureOf } from "../journal.ts";
import type { Connector, Native, NativeStream } from "../native/index.ts";
import { openP11kitDoor } from "../p11kit/connection.ts";
import { ReceiveMemory } from "../p11kit/frame.ts";
import { openProcesses } from "../processes.ts";
import { openRpcDoor } from "../rpc/index.ts";
import { openCaller } from "./caller.ts";
import { SocketChannel } from "./channel.ts";
import { Connections, type OpenConnection } from "./connections.ts";
import { type DoorName, type Doors, doorFor, type OpenDoor, type Visit } from "./door.ts";
import { openListener } from "./listener.ts";
import { LOOP_TURNS } from "./loop-turns.ts";
import { OPEN_CONNECTIONS, type OpenConnections } from "./open-connections.ts";
import { type Excess, Places } from "./places.ts";

const BOTH_DOORS: Doors<OpenDoor> = { p11kit: openP11kitDoor, rpc: openRpcDoor };
/** How long a peer that is refused may stay, in milliseconds: enough to hear it. */
const STRANGER_MS = 30_000;
/** Bytes of unfinished requests, of all connections together. */
const MAX_RECEIVING = 16 << 20;

export interface ServeScopeOptions {
  readonly broker: Broker;
  /** Name of the scope. */
  readonly scope: string;
  /** Where the socket is made, in place of a stale one. Not looked at when a socket was inherited. */
  readonly socketPath: string;
  /** A listening descriptor that the agent was started with; it is taken over. */
  readonly inherited?: number | undefined;
  readonly native: Native;
  readonly identify: PeerIdentity;
  /** Default: both. */
  readonly doors?: Doors<OpenDoor>;
  /** Default: those of the process. */
  readonly open?: OpenConnections;
  /** Where an operator sees its connections; default: nowhere. */
  readonly connections?: Connections;
  /** How long a refused peer may stay, in milliseconds. */
  readonly strangerMs?: number;
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
  readonly #doors: Doors<OpenDoor>;
  readonly #connections: Connections;
  readonly #memory = new ReceiveMemory(MAX_RECEIVING);
  readonly #processes = openProcesses();
  readonly #places = new Places();
  /** Of strangers. */
  readonly #leaving = new Map<SocketChannel, NodeJS.Timeout>();

  constructor(options: ServeScopeOptions, state: ScopeState) {
    this.#options = options;
    this.#state = state;
    this.#doors = options.doors ?? BOTH_DOORS;
    this.#connections = options.connections ?? new Connections();
  }

  accept(stream: NativeStream, connector: Connector): void {
    const { uid } = connector;
    const excess = this.#places.arrival(uid);
    const place = excess === null ? (this.#options.open ?? OPEN_CONNECTIONS).open(uid) : null;
    if (place === null) {
      stream.close();
      void this.#record(null, excess ?? `no connection left for uid ${uid}`);
      return;
    }
    const accepted = this.#processes.now();
    let peer: Peer | null = null;
    const channel: SocketChannel = new SocketChannel(stream, {
      foreign: (error) => void this.#record(peer, error.message),
      closed: () => {
        this.#places.leave(channel);
        this.#connections.closed(connection);
        clearTimeout(this.#leaving.get(channel));
        this.#leaving.delete(channel);
        place[Symbol.dispose]();
      },
    });
    const connection = this.#connections.accept(this.#state.name, connector, channel);
    this.#places.arrive(channel, uid);
    try {
      channel.start();
    } catch (error) {
      // Nobody calls this but the kernel's event: what is thrown from here ends the agent.
      channel.destroy();
      void this.#record(null, `a connection of uid ${uid} is not served: ${failureOf(error)}`);
      return;
    }
    const identified = (found: Peer | null): void => {
      peer = found;
    };
    void this.#admit(channel, connection, { ...connector, accepted }, identified).catch(() => channel.destroy());
  }

  destroy(): void {
    for (const channel of this.#places.all) channel.destroy();
  }

  #record(peer: Peer | null, reason: string): Promise<void> {
    return recordStranger(this.#state, peer, "connect", reason);
  }

  async #admit(
    channel: SocketChannel,
    connection: OpenConnection,
    connected: Connector & { readonly accepted: number },
    identified: (peer: Peer | null) => void,
  ): Promise<void> {
    const { identify, native } = this.#options;
    const { now } = this.#state;
    const caller = await openCaller({
      ...{ channel, connected, identify, now, closeFd: (fd) => native.closeFd(fd) },
      mayCall: (uid, unit) => mayCall(this.#state, uid, unit),
    });
    identified(caller.peer);
    const reason = strangerReason(this.#state, caller.peer);
    connection.identified(caller.peer, reason !== null);
    const excess = this.#place(channel, reason);
    if (excess !== null) {
      channel.destroy();
      return this.#record(caller.peer, reason ?? excess);
    }
    const first = await channel.peek();
    if (first === null) return channel.end();
    const door = doorFor(this.#doors, first);
    if (door !== null) return this.#serve(connection, door, { channel, caller, memory: this.#memory });
    channel.destroy();
    if (reason !== null) await this.#record(caller.peer, reason);
  }

  #serve(connection: OpenConnection, name: DoorName, visit: Omit<Visit, "turn">): Promise<void> {
    const open = this.#doors[name] ?? this.#doors.p11kit;
    connection.greeted(name);
    const door = open({ ...this.#state, meter: connection.meter(this.#state.meter) });
    return door({ ...visit, turn: connection.turns(LOOP_TURNS.of(this.#state.name)) });
  }

  /** @param reason why the peer is refused; null for the scope's caller */
  #place(channel: SocketChannel, reason: string | null): Excess {
    if (reason === null) return this.#places.admit(channel, scopeOf(this.#state)?.connections ?? MAX_CONNECTIONS);
    const excess = this.#places.tolerate(channel);
    if (excess === null && !channel.destroyed) {
      const timer = setTimeout(() => channel.destroy(), this.#options.strangerMs ?? STRANGER_MS);
      this.#leaving.set(channel, timer.unref());
    }
    return excess;
  }
}
