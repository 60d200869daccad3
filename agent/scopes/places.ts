import type { SocketChannel } from "./channel.ts";

/** Of peers that are refused, at once. */
const MAX_STRANGERS = 32;
/** Of one user's that are being identified, at once: as many as a scope's callers may have. */
const MAX_ARRIVING = 256;

/** Why a connection is not taken; null: it is. */
export type Excess = string | null;

/**
 * The connections of one scope, each in one place: being identified, the caller's, a stranger's. What strangers and other users hold takes
 * nothing from the caller.
 */
export class Places {
  /** Each with its user, as the kernel says at accept; and how many each user has. */
  readonly #arriving = new Map<SocketChannel, number>();
  readonly #ofUser = new Map<number, number>();
  readonly #callers = new Set<SocketChannel>();
  readonly #strangers = new Set<SocketChannel>();

  get all(): readonly SocketChannel[] {
    return [...this.#arriving.keys(), ...this.#callers, ...this.#strangers];
  }

  /** Whether another connection of this user may be identified. */
  arrival(uid: number): Excess {
    const own = this.#ofUser.get(uid) ?? 0;
    return own < MAX_ARRIVING ? null : `uid ${uid} has ${own} connections that are not yet identified`;
  }

  arrive(channel: SocketChannel, uid: number): void {
    this.#arriving.set(channel, uid);
    this.#ofUser.set(uid, (this.#ofUser.get(uid) ?? 0) + 1);
  }

  /** It is the scope's caller, who may have so many. */
  admit(channel: SocketChannel, most: number): Excess {
    return this.#move(channel, this.#callers, most, "connections");
  }

  /** It is refused, and hears so. */
  tolerate(channel: SocketChannel): Excess {
    return this.#move(channel, this.#strangers, MAX_STRANGERS, "refused peers");
  }

  leave(channel: SocketChannel): void {
    this.#identified(channel);
    this.#callers.delete(channel);
    this.#strangers.delete(channel);
  }

  #move(channel: SocketChannel, place: Set<SocketChannel>, most: number, what: string): Excess {
    // It ended while somebody looked at it.
    if (!this.#identified(channel)) return null;
    if (place.size >= most) return `the scope has ${place.size} ${what}`;
    place.add(channel);
    return null;
  }

  /** False for one that was, or has left. */
  #identified(channel: SocketChannel): boolean {
    const uid = this.#arriving.get(channel);
    if (uid === undefined) return false;
    this.#arriving.delete(channel);
    const left = (this.#ofUser.get(uid) ?? 1) - 1;
    if (left === 0) this.#ofUser.delete(uid);
    else this.#ofUser.set(uid, left);
    return true;
  }
}
