import type { Peer } from "../identity.ts";
import type { Frame, RequestMemory } from "./frames.ts";

/** What this door needs of a connection. */
export interface RpcChannel {
  readonly chunks: AsyncIterable<Uint8Array>;
  write(bytes: Uint8Array): Promise<void>;
  end(): void;
  destroy(): void;
}

/** One connection of which nothing was read. */
export interface Visit {
  readonly channel: RpcChannel;
  readonly caller: {
    readonly peer: Peer | null;
    /** Null: it is not what it was when it connected. Looked at a moment ago, or now. */
    fresh(): Promise<Peer | null>;
    look(): Promise<Peer | null>;
  };
  /** Shared by all connections of the scope. */
  readonly memory: RequestMemory;
}

/** What answers the requests of one connection. */
export interface Requests {
  /** HELLO, or its refusal. */
  greet(): Promise<void>;
  /** Resolves when the next request may be read. Rejects for what breaks the protocol, or when the peer is gone. */
  take(frame: Frame): Promise<void>;
  /** Resolves when everything is answered. */
  settled(): Promise<void>;
}
