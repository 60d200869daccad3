/** The client of the native door (agent/RPC.md), for workloads: Node alone, no add-on, no dependency. */
export { type Address, type CallOptions, type Client, connect } from "./client.ts";
export { ClientError, type ClientErrorCode, type RefusalReason, RefusedError } from "./errors.ts";
export type { Key, KeyMechanism } from "./messages.ts";
export type { Does, Form, Mechanism, Reason } from "./protocol.ts";
export type { DecryptInput, Session, SignInput, UnwrapInput } from "./session.ts";
