import { type DecisionRequest, decide, type Policy } from "../../policy/index.ts";
import { AMPLE } from "../support/decision.ts";
import { SIGNER_EXE, SIGNER_UID } from "../support/policy-document.ts";
import { ownTimeOfEach } from "./repeat.ts";

const DECISIONS = 1000;
export const MECHANISMS = [{ type: "CKM_ECDSA", digest: "sha256" }];
/** Of every scope whose decisions are timed. */
export const LIMITS = { caller: "release-signer", audit: "written", rate: { perMinute: 600, burst: 60 } };

/** Microseconds of one decision that allows a signature. */
export function decisionTime(policy: Policy, scope: string, key: string, iterations: number): Promise<number> {
  const request: DecisionRequest = {
    ...{ ...AMPLE, scope, key, operation: "sign", mechanism: "CKM_ECDSA", parameters: { kind: "none" } },
    ...{ caller: { uid: SIGNER_UID, exe: SIGNER_EXE, unit: null } },
    input: { kind: "data", bytes: new Uint8Array(32) },
  };
  return lookUpTime(iterations, () => {
    const decision = decide(policy, request);
    if (!decision.allow) throw new Error(decision.reason);
  });
}

/** Microseconds of each. */
export function lookUpTime(iterations: number, act: () => void): Promise<number> {
  return ownTimeOfEach(DECISIONS, 10 * iterations, act);
}
