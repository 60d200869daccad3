/** The native door: RPC.md. */
export { type RpcChannel, serveRpc } from "./connection.ts";
export type { RequestMemory } from "./frames.ts";
