/**
 * How many requests with a large body may be on their way at a time, from the head of the request to its answer: what they hold in memory is
 * bounded before a byte of it is read. One peer has at most half of them, so that whoever sends slowly does not hold all.
 */
export class Slots {
  readonly #cap: number;
  #taken = 0;
  readonly #perPeer = new Map<string, number>();

  constructor(cap: number) {
    this.#cap = cap;
  }

  /** Gives the slot back when it is called, and does nothing the second time. `null`: none is free for this peer. */
  take(peer: string): (() => void) | null {
    const own = this.#perPeer.get(peer) ?? 0;
    if (this.#taken >= this.#cap || own >= Math.ceil(this.#cap / 2)) return null;
    this.#taken += 1;
    this.#perPeer.set(peer, own + 1);
    let held = true;
    return () => {
      if (held) this.#giveBack(peer);
      held = false;
    };
  }

  #giveBack(peer: string): void {
    this.#taken -= 1;
    const left = (this.#perPeer.get(peer) ?? 1) - 1;
    if (left > 0) this.#perPeer.set(peer, left);
    else this.#perPeer.delete(peer);
  }
}
