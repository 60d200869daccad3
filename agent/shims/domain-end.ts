import { type Reason, reason } from "../../attest/index.ts";
import { AgentError } from "../errors.ts";

/** Why a token is no longer served. `lost`: no shim is left that is logged in to it. */
export interface DomainEnd {
  readonly token: string;
  readonly kind: "violation" | "lost" | "failed";
  readonly reasons: readonly Reason[];
}

export function stopped({ token, reasons }: DomainEnd): AgentError {
  const [first] = reasons;
  return new AgentError("ERR_TOKEN_STOPPED", `token ${token}`, {
    expected: "a token that is served",
    got: first === undefined ? "stopped" : `${first.code} ${first.got}`,
  });
}

export function violated(token: string, shim: number, total: number): DomainEnd {
  return {
    ...{ token, kind: "violation" },
    reasons: [reason("sandbox-violation", token, "no attempts at what is denied", `shim ${shim}: ${total}`)],
  };
}

/** Whatever policy says of violations: nobody could see one any more. */
export function blinded(token: string, shim: number): DomainEnd {
  const reasons = [reason("notifier-blind", token, "a notifier that receives attempts", `none for shim ${shim}`)];
  return { token, kind: "failed", reasons };
}

export function lost(token: string, why: string): DomainEnd {
  return { token, kind: "lost", reasons: [reason("login-lost", token, "a shim that is logged in", why)] };
}

export function failed(token: string, error: unknown): DomainEnd {
  const got = error instanceof Error ? error.message : "unknown failure";
  return { token, kind: "failed", reasons: [reason("incident-not-measured", token, "an event in the agent PCR", got)] };
}
