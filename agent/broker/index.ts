// What the rest of the agent uses of the broker.
export { type ApprovalGate, type ApprovalRequest, NO_APPROVALS } from "./approval-gate.ts";
export { FailureBudgets } from "./failure-budget.ts";
export type { PublicKeySource } from "./key.ts";
export { KeyRing } from "./key-ring.ts";
export { type Frozen, LivePolicy } from "./live-policy.ts";
export { METER_OUTCOMES, type Meter, type MeterOutcome, NO_METER } from "./meter.ts";
export { RefusalLog } from "./refusals.ts";
export type { RefusalStep } from "./refused.ts";
export type { Broker } from "./scope-state.ts";
export type { Asked, DecryptMechanism, SignMechanism, Token, UnwrapKeyRequest } from "./token.ts";
export { Usage } from "./usage.ts";
