/** The native door: RPC.md. */
export { openRpcDoor } from "./connection.ts";
