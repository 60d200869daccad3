import type { Meter, MeterOutcome } from "../broker/meter.ts";
import type { Peer } from "../identity.ts";
import type { Connector } from "../native/index.ts";
import type { DoorName } from "./door.ts";
import type { Turn } from "./loop-turns.ts";

/** What became of a peer: it is being identified, is the scope's caller, or is refused and hears so. */
export type Standing = "identifying" | "caller" | "refused";

/** One connection, as whoever operates the machine sees it. */
export interface ConnectionFacts {
  /** Counts up from 1 in a boot, over all scopes. */
  readonly id: number;
  readonly scope: string;
  /** Null until its first byte has come. */
  readonly door: DoorName | null;
  readonly standing: Standing;
  /** As the kernel said when it connected. */
  readonly uid: number;
  readonly pid: number;
  /** Null while it is not identified, and for a process of no unit. */
  readonly unit: string | null;
  /** Milliseconds since it was accepted, and since its last request began. */
  readonly age: number;
  readonly idle: number;
  /** Operations that were allowed, and refusals. */
  readonly operations: number;
  readonly refused: number;
  /** What its last operation met: `allow` while the token is asked, null once it was answered and before the first one. */
  readonly met: MeterOutcome | null;
}

/** Ends what it names, at once. */
interface Destroyable {
  destroy(): void;
}

/** What is known of one open connection. It is told by those who serve it, and asked by an operator. */
export class OpenConnection {
  readonly id: number;
  readonly #scope: string;
  readonly #connector: Connector;
  readonly #channel: Destroyable;
  readonly #now: () => number;
  readonly #since: number;
  #door: DoorName | null = null;
  #standing: Standing = "identifying";
  #peer: Peer | null = null;
  #used: number;
  #operations = 0;
  #refused = 0;
  #met: MeterOutcome | null = null;

  constructor(id: number, scope: string, connector: Connector, channel: Destroyable, now: () => number) {
    [this.id, this.#scope, this.#connector, this.#channel, this.#now] = [id, scope, connector, channel, now];
    this.#since = now();
    this.#used = this.#since;
  }

  get peer(): Peer | null {
    return this.#peer;
  }

  get facts(): ConnectionFacts {
    const { uid, pid } = this.#connector;
    const now = this.#now();
    return {
      ...{ id: this.id, scope: this.#scope, door: this.#door, standing: this.#standing, uid, pid },
      ...{ unit: this.#peer?.unit ?? null, age: now - this.#since, idle: now - this.#used },
      ...{ operations: this.#operations, refused: this.#refused, met: this.#met },
    };
  }

  identified(peer: Peer | null, isRefused: boolean): void {
    this.#peer = peer;
    this.#standing = isRefused ? "refused" : "caller";
  }

  greeted(door: DoorName): void {
    this.#door = door;
  }

  /** The same turns, and what begins in them is a use. */
  turns(turn: Turn): Turn {
    return () => {
      this.#used = this.#now();
      return turn();
    };
  }

  /** The same meter, and what is counted there of this connection is counted here. */
  meter(all: Meter): Meter {
    return {
      decided: (scope, outcome) => {
        all.decided(scope, outcome);
        this.#decided(outcome);
      },
      answered: (scope, operation, milliseconds) => {
        all.answered(scope, operation, milliseconds);
        this.#met = null;
      },
    };
  }

  end(): void {
    this.#channel.destroy();
  }

  #decided(outcome: MeterOutcome): void {
    this.#met = outcome;
    if (outcome === "allow") this.#operations += 1;
    // What the token refuses was an operation already.
    else if (outcome !== "token") this.#refused += 1;
  }
}

/** The open connections of all scopes. */
export class Connections {
  readonly #open = new Map<number, OpenConnection>();
  readonly #now: () => number;
  #last = 0;

  /** @param now milliseconds of a clock that does not go backwards */
  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  accept(scope: string, connector: Connector, channel: Destroyable): OpenConnection {
    this.#last += 1;
    const connection = new OpenConnection(this.#last, scope, connector, channel, this.#now);
    this.#open.set(connection.id, connection);
    return connection;
  }

  closed({ id }: OpenConnection): void {
    this.#open.delete(id);
  }

  /** In the order in which they came. */
  list(): readonly OpenConnection[] {
    return [...this.#open.values()];
  }

  find(id: number): OpenConnection | null {
    return this.#open.get(id) ?? null;
  }
}
