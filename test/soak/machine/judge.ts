/** What a workload may see go wrong: a reason of RPC.md, `lost` or `unreachable`; `report`: a report that did not get through. */
export type Word =
  | "lost"
  | "unreachable"
  | "not-allowed"
  | "token-error"
  | "bad-ciphertext"
  | "budget"
  | "audit"
  | "busy"
  | "report";

/** A fault from before it is done until everything works again, by `monotonic`. */
export interface Window {
  readonly kind: string;
  readonly may: readonly Word[];
  readonly from: number;
  to: number;
}

export interface Failure {
  readonly who: string;
  readonly what: string;
  readonly began: number;
  readonly ended: number;
}

const MAX_VIOLATIONS = 50;

/** What must not be. A failure is one unless a fault that was under way may have it. */
export class Judge {
  readonly #windows: Window[] = [];
  readonly #violations: string[] = [];
  #more = 0;

  /** What went wrong, the first ones in full. */
  get violations(): readonly string[] {
    return this.#more === 0 ? this.#violations : [...this.#violations, `and ${this.#more} more`];
  }

  violated(what: string): void {
    if (this.#violations.length < MAX_VIOLATIONS) this.#violations.push(what);
    else this.#more += 1;
  }

  open(kind: string, may: readonly Word[], from: number): Window {
    const window = { kind, may, from, to: Number.POSITIVE_INFINITY };
    this.#windows.push(window);
    return window;
  }

  failed({ who, what, began, ended }: Failure): void {
    const under = this.#windows.filter(({ from, to }) => from <= ended && began <= to);
    if (under.some(({ may }) => may.some((word) => word === what))) return;
    const kinds = under.map(({ kind }) => kind);
    this.violated(`${who}: ${what} ${kinds.length === 0 ? "with no fault under way" : `during ${kinds.join(", ")}`}`);
  }
}
