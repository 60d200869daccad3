import type { DecisionRequest } from "../../policy/index.ts";

/** The part of a decision's request that does not come from the caller, where nothing stands in the way. */
export const AMPLE = {
  ...{ now: Date.parse("2026-11-26T12:00:00Z"), frozen: false, approvedBy: [] },
  ...{ tokens: 1, keyTokens: 1, operationsLeft: 1, failures: 1 },
} satisfies Partial<DecisionRequest>;
