// What the rest of the agent uses of the broker.
export type { PublicKeySource } from "./key.ts";
export { type ScopeServer, type ServeScopeOptions, serveScope } from "./server.ts";
export type { Signer, TokenMechanism } from "./signing.ts";
