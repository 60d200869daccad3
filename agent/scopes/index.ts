/** A scope's socket: who connects, and by which door. */
export { type ScopeServer, type ServeScopeOptions, serveScope } from "./server.ts";
