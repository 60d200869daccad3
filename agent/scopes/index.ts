/** A scope's socket: who connects, and by which door. */
export type { Caller } from "./caller.ts";
export type { Channel } from "./channel.ts";
export { type ConnectionFacts, Connections, type OpenConnection } from "./connections.ts";
export type { Door, Doors, OpenDoor, Visit } from "./door.ts";
export { type ScopeServer, type ServeScopeOptions, serveScope } from "./one-scope.ts";
