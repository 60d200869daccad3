import type { Operation } from "../../policy/index.ts";
import type { RefusalStep } from "./refused.ts";

/** What metrics are made of. Called on the way of every operation: nothing here waits. */
export interface Meter {
  decided(scope: string, outcome: "allow" | RefusalStep): void;
  /** From the decision to the token's answer. */
  answered(scope: string, operation: Operation, milliseconds: number): void;
}

export const NO_METER: Meter = { decided: () => undefined, answered: () => undefined };
