// What the rest of the agent uses of the broker.
export { FailureBudgets } from "./failure-budget.ts";
export type { PublicKeySource } from "./key.ts";
export { type ScopeServer, type ServeScopeOptions, serveScope } from "./server.ts";
export type { DecryptMechanism, SignMechanism, Token } from "./token.ts";
