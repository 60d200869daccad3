import type { Reason } from "./protocol.ts";

/**
 * What went wrong apart from a refusal.
 *
 * - `ERR_CLIENT_UNREACHABLE`: nobody serves the socket (see `cause`). Nothing was sent
 * - `ERR_CLIENT_CONNECTION_LOST`: the connection broke before the answer came. What was asked **may have been carried out**: a signature may
 *   exist, and rate and budget may be spent. It is not repeated; whether to ask again is the caller's decision
 * - `ERR_CLIENT_PROTOCOL`: the agent sent bytes that agent/RPC.md does not allow; the connection was closed. What was under way may have been
 *   carried out, as above
 * - `ERR_CLIENT_CLOSED`: the client or the session was closed before. Nothing was sent
 */
export type ClientErrorCode =
  | "ERR_CLIENT_UNREACHABLE"
  | "ERR_CLIENT_CONNECTION_LOST"
  | "ERR_CLIENT_PROTOCOL"
  | "ERR_CLIENT_CLOSED";

/** Whatever goes wrong between this process and the agent. A caller's mistake is a `TypeError`. */
export class ClientError extends Error {
  override readonly name = "ClientError";
  readonly code: ClientErrorCode;

  constructor(code: ClientErrorCode, message: string, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
  }
}

/** A reason that this client's version of the protocol does not know is `unknown`: a refusal all the same. */
export type RefusalReason = Reason | "unknown";

/** The agent's no. It says what the caller can do about it; the policy's own reason stands in the machine's audit log. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly code = "ERR_REFUSED";
  readonly reason: RefusalReason;
  /** Milliseconds after which it may be allowed again, with `rate`; otherwise null. */
  readonly retryAfter: number | null;
  /** What the approvers know the request by, with `approval-needed`; otherwise null. */
  readonly approval: string | null;

  constructor(
    reason: RefusalReason,
    { retryAfter = null, approval = null }: { retryAfter?: number | null; approval?: string | null } = {},
  ) {
    super(`refused by the agent: ${reason}`);
    this.reason = reason;
    this.retryAfter = retryAfter;
    this.approval = approval;
  }
}

export function protocolError(what: string): ClientError {
  return new ClientError("ERR_CLIENT_PROTOCOL", `agent's reply: ${what}`);
}
