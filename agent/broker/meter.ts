import type { Operation } from "../../policy/index.ts";
import type { RefusalStep } from "./refused.ts";

export type MeterOutcome = "allow" | RefusalStep;

const OUTCOMES = {
  ...{ allow: true, session: true, caller: true, frozen: true, valid: true, key: true, operation: true },
  ...{ mechanism: true, parameters: true, approvals: true, rate: true, budget: true },
  ...{ busy: true, audit: true, token: true },
} as const satisfies Readonly<Record<MeterOutcome, true>>;
/** All that there are: what a meter may begin with. */
export const METER_OUTCOMES = Object.keys(OUTCOMES) as readonly MeterOutcome[]; // the keys of a literal are exactly these

/** What metrics are made of. Called on the way of every operation: nothing here waits. */
export interface Meter {
  /** Each operation once, as `allow` when its record is written; once more under what it met afterwards, if it gave no result. */
  decided(scope: string, outcome: MeterOutcome): void;
  /** From the decision to the token's answer. */
  answered(scope: string, operation: Operation, milliseconds: number): void;
}

export const NO_METER: Meter = { decided: () => undefined, answered: () => undefined };
