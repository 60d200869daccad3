import type { DecisionStep } from "../../policy/index.ts";
import { CKR } from "./ckr.ts";

/**
 * Where an operation ended: at a step of the policy's decision, in a session that is over, for want of a place (`busy`) or of a record
 * (`audit`), or at the token.
 */
export type RefusalStep = DecisionStep | "session" | "busy" | "audit" | "token";

/** `rv` is what PKCS #11 has for it; a door may tell its caller more than that, but never the policy's own reason. */
export interface Refused {
  readonly kind: "refused";
  readonly rv: bigint;
  readonly step: RefusalStep;
  /** The pending request that approvers see. */
  readonly approval?: string;
}

export function refused(name: keyof typeof CKR, step: RefusalStep): Refused {
  return { kind: "refused", rv: CKR[name], step };
}
