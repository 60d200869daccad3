/** Why an input is a finding, or that it is none: the target took it or refused it with a typed error. */
export type Outcome =
  | { readonly kind: "accepted" }
  | { readonly kind: "refused" }
  | { readonly kind: "finding"; readonly what: string; readonly detail: string };

export interface Run {
  readonly input: Uint8Array;
  readonly outcome: Outcome;
  /** How often each place was passed. Valid until the next run. */
  readonly counters: Uint32Array;
}

/** A parser under test: takes inputs one after another and says what each did. */
export interface Subject {
  readonly dictionary: readonly Uint8Array[];
  readonly maxLength: number;
  /** How many inputs it is best given at once. */
  readonly batch: number;
  run(inputs: readonly Uint8Array[], report: (run: Run) => void): Promise<void>;
}

/** Told before each run, so that whoever watches knows the input that hangs or eats all memory. */
export type Announce = (input: Uint8Array) => void;
