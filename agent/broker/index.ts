// What the rest of the agent uses of the broker.
export { FailureBudgets } from "./failure-budget.ts";
export type { PublicKeySource } from "./key.ts";
export type { DecryptMechanism, SignMechanism, Token } from "./token.ts";
