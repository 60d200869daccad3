import { IronclawError, sha256Hex, toHex, utf8 } from "../../policy/index.ts";
import {
  type AppraisalPolicy,
  appraise,
  type Challenge,
  type Continuity,
  type Enrolment,
  EvidenceRefused,
  parseEvidence,
  type Reason,
  type ReferenceValues,
  reasonFrom,
  type VerifiedEvidence,
  verifyEvidence,
} from "../index.ts";
import type { Fingerprint, Outcome } from "./machine-state.ts";

/** What reports are judged by; replaced as a whole at a reload. */
export interface Judgement {
  readonly references: readonly ReferenceValues[];
  readonly policy: AppraisalPolicy;
}

/** One report to judge. Plain values: it goes to a worker. */
export interface JudgeOrder {
  readonly evidence: Uint8Array;
  readonly challenge: Challenge;
  readonly challenged: Date;
  readonly now: Date;
  readonly enrolment: Enrolment;
  readonly previous: Continuity | null;
}

/**
 * Verifies and appraises one report. Pure, and the only code of the service that looks inside evidence.
 * @throws what is no verdict on the evidence: a fault of ours
 */
export async function judge(order: JudgeOrder, { references, policy }: Judgement): Promise<Outcome> {
  try {
    const evidence = parseEvidence(order.evidence);
    const verified = await verifyEvidence(evidence, order.challenge, order.enrolment, order.previous);
    const times = { now: order.now, challenged: order.challenged };
    return {
      kind: "judged",
      result: appraise(verified, references, policy, times),
      continuity: verified.continuity,
      fingerprint: fingerprintOf(verified),
      violations: sum(verified.claims.asserted.violations.values()),
    };
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    const reasons = error instanceof EvidenceRefused ? error.reasons : [reasonFrom(error, error.message)];
    return { kind: "refused", reasons, authentic: error instanceof EvidenceRefused && isAuthentic(reasons) };
  }
}

/** Reasons that leave open who made the report: another key, no signature, or one over another nonce or other sections. */
const unauthentic: ReadonlySet<string> = new Set(["ak-not-enrolled", "ak-unsuitable", "signature", "extra-data"]);

/**
 * Whether the enrolled key signed this report over its nonce, so that the refusal says something about the machine. A quote or key
 * that does not parse gives no such reason, and is nobody's.
 */
function isAuthentic(reasons: readonly Reason[]): boolean {
  return reasons.every(({ code, item }) => !unauthentic.has(code) && !/^(?:quote|ak|signature):/.test(item));
}

function fingerprintOf({ claims }: VerifiedEvidence): Fingerprint {
  const hex = (digest: Uint8Array | null) => (digest === null ? null : toHex(digest));
  const { policy, profile, library, closure } = claims.measured;
  const files = [...closure].map(([path, digest]) => `${path}=${toHex(digest)}\n`).sort();
  return {
    release: claims.asserted.image.id,
    ...{ policy: hex(policy), profile: hex(profile), library: hex(library) },
    closure: files.length === 0 ? null : sha256Hex(utf8(files.join(""))),
  };
}

function sum(counts: Iterable<number>): number {
  return [...counts].reduce((total, count) => total + count, 0);
}
