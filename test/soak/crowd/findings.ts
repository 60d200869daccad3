/** Of a run, or of a part of one. */
export class Findings {
  operations = 0;
  /** What was done to the agent that no good client does: connections dropped, calls half sent, answers not read. */
  faults = 0;
  readonly violations: string[] = [];
  /** Signatures that were given, by scope. */
  readonly signed: Record<string, number> = {};
  #more = 0;

  /** The first ones in full. */
  violated(what: string): void {
    if (this.violations.length < MAX_VIOLATIONS) this.violations.push(what);
    else this.#more += 1;
  }

  signedIn(scope: string): void {
    this.operations += 1;
    this.signed[scope] = (this.signed[scope] ?? 0) + 1;
  }

  get told(): Told {
    const more = this.#more === 0 ? [] : [`and ${this.#more} more`];
    const { operations, faults, signed } = this;
    return { operations, faults, signed, violations: [...this.violations, ...more] };
  }
}

const MAX_VIOLATIONS = 50;

export interface Told {
  readonly operations: number;
  readonly faults: number;
  readonly signed: Readonly<Record<string, number>>;
  readonly violations: readonly string[];
}

/** Of parts that ran side by side, in scopes of their own. */
export function together(parts: readonly Told[]): Told {
  const sum = (count: (part: Told) => number) => parts.reduce((all, part) => all + count(part), 0);
  return {
    operations: sum(({ operations }) => operations),
    faults: sum(({ faults }) => faults),
    signed: Object.assign({}, ...parts.map(({ signed }) => signed)),
    violations: parts.flatMap(({ violations }) => violations),
  };
}
