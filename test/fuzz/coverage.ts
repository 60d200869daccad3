/** What a run can reach that no run reached before: a place, or a place passed an order of magnitude more often. */
export class Coverage {
  #seen = new Uint16Array(0);
  #reached = 0;

  /** Places reached so far. */
  get reached(): number {
    return this.#reached;
  }

  /** Whether this run reached anything new. */
  learn(counters: Uint32Array): boolean {
    if (counters.length > this.#seen.length) {
      const wider = new Uint16Array(2 * counters.length);
      wider.set(this.#seen);
      this.#seen = wider;
    }
    let isNew = false;
    for (let index = 0; index < counters.length; index++) {
      const times = counters[index] ?? 0;
      if (times === 0) continue;
      const before = this.#seen[index] ?? 0;
      const after = before | bucket(times);
      if (after === before) continue;
      if (before === 0) this.#reached++;
      this.#seen[index] = after;
      isNew = true;
    }
    return isNew;
  }
}

/** Exact up to 8, so that a loop over a magic number leads on byte by byte; powers of two above. */
function bucket(times: number): number {
  if (times <= 8) return 1 << (times - 1);
  return 1 << Math.min(15, 5 + Math.floor(Math.log2(times)));
}
