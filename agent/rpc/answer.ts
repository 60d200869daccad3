import { ByteWriter, type Rate, scopeKeyRate, utf8 } from "../../policy/index.ts";
import { CKR } from "../broker/ckr.ts";
import type { RefusalStep, Refused } from "../broker/refused.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import { REASONS, type Reason } from "../client/protocol.ts";
import { encodeReply } from "./frames.ts";

/** `payload` is wiped when its reply is encoded: it may be a plaintext. */
export type Answer =
  | { readonly kind: "done"; readonly payload: Uint8Array }
  | { readonly kind: "refused"; readonly reason: Reason; readonly payload: Uint8Array };

/** What a caller may know of where its request ended (RPC.md, reasons). */
const REASON_OF: Readonly<Record<RefusalStep, Reason>> = {
  session: "expired",
  caller: "not-allowed",
  frozen: "frozen",
  valid: "outside-validity",
  key: "not-allowed",
  operation: "not-allowed",
  mechanism: "not-allowed",
  parameters: "malformed-input",
  approvals: "approval-needed",
  rate: "rate",
  budget: "budget",
  busy: "busy",
  audit: "audit",
  token: "token-error",
};

export function done(payload: Uint8Array = new Uint8Array()): Answer {
  return { kind: "done", payload };
}

export function refusal(reason: Reason, payload: Uint8Array = new Uint8Array()): Answer {
  return { kind: "refused", reason, payload };
}

/** @param key the name that was asked for */
export function refusedAnswer(state: ScopeState, key: string, { step, rv, approval }: Refused): Answer {
  switch (step) {
    case "rate":
      return refusal("rate", new ByteWriter().u32(retryAfter(state, key)).finish());
    case "approvals":
      return refusal("approval-needed", approvalId(approval ?? ""));
    case "token":
      return refusal(rv === CKR.DEVICE_ERROR ? "token-error" : "bad-ciphertext");
    default:
      return refusal(REASON_OF[step]);
  }
}

/** The reply's bytes; the answer's own are wiped. */
export function encodeAnswer(id: number, answer: Answer): Uint8Array {
  const bytes = encodeReply(id, answer.kind === "done" ? 0 : REASONS[answer.reason], answer.payload);
  answer.payload.fill(0);
  return bytes;
}

/** Milliseconds until both buckets, the scope's and the key's, hold a whole token again. At least 1, and other callers may be faster. */
function retryAfter(state: ScopeState, name: string): number {
  const scope = scopeOf(state);
  const key = scope === null ? null : state.keys.find(scope, name);
  if (scope === null || key === null) return 1;
  const keyRate = scopeKeyRate(state.live.current, scope, name);
  const { tokens, keyTokens } = state.usage.left(scope, key.identity, keyRate);
  return Math.max(1, waitFor(scope.rate, tokens), waitFor(keyRate, keyTokens));
}

function waitFor(rate: Rate | undefined, tokens: number): number {
  return rate === undefined ? 0 : Math.ceil(((1 - tokens) * 60_000) / rate.perMinute);
}

function approvalId(id: string): Uint8Array {
  return new ByteWriter().u8(id.length).bytes(utf8(id)).finish();
}
