import { IronclawError, sha256Hex, toHex, utf8 } from "../../policy/index.ts";
import {
  type AppraisalPolicy,
  appraise,
  authenticReasons,
  type Challenge,
  type Continuity,
  type Enrolment,
  type Evidence,
  EvidenceRefused,
  parseEvidence,
  type Reason,
  type ReferenceValues,
  reasonFrom,
  type VerifiedEvidence,
  verifyEvidence,
  violationsOf,
} from "../index.ts";
import type { Fingerprint, Outcome } from "./machine-state.ts";
import type { RememberedLogs } from "./remembered-logs.ts";

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
 * Verifies and appraises one report, and is the only code of the service that reads logs and claims. The answer depends on order and judgement alone;
 * what is remembered of earlier logs makes it sooner.
 * @throws what is no verdict on the evidence: a fault of ours
 */
export async function judge(
  order: JudgeOrder,
  { references, policy }: Judgement,
  logs: RememberedLogs,
): Promise<Outcome> {
  let evidence: Evidence | null = null;
  try {
    evidence = parseEvidence(order.evidence);
    const { challenge, enrolment, previous } = order;
    const verified = await verifyEvidence(evidence, challenge, enrolment, previous, logs.of(enrolment));
    logs.remember(enrolment, verified);
    const times = { now: order.now, challenged: order.challenged };
    return {
      kind: "judged",
      result: appraise(verified, references, policy, times),
      continuity: verified.continuity,
      fingerprint: fingerprintOf(verified),
      violations: violationsOf(verified.claims.asserted).count,
    };
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    const reasons = error instanceof EvidenceRefused ? error.reasons : [reasonFrom(error, error.message)];
    return { kind: "refused", reasons, authentic: evidence !== null && (await isAuthentic(evidence, order)) };
  }
}

async function isAuthentic(evidence: Evidence, { challenge, enrolment }: JudgeOrder): Promise<boolean> {
  return (await authenticReasons(evidence, challenge, enrolment)).length === 0;
}

/**
 * Why a report is not the enrolled key's for this challenge; empty when it is. Reads the envelope, the quote and the registers, which are small,
 * and hashes the rest: cheap enough to be done where the requests are answered.
 */
export async function unauthenticReasons(
  bytes: Uint8Array,
  { challenge, enrolment }: Pick<JudgeOrder, "challenge" | "enrolment">,
): Promise<readonly Reason[]> {
  try {
    return await authenticReasons(parseEvidence(bytes), challenge, enrolment);
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    return [reasonFrom(error, error.message)];
  }
}

function fingerprintOf({ claims }: VerifiedEvidence): Fingerprint {
  const hex = (digest: Uint8Array | null) => (digest === null ? null : toHex(digest));
  const { policy, profiles, libraries, closure } = claims.measured;
  return {
    release: claims.asserted.image.id,
    ...{ policy: hex(policy), profile: digestOf(profiles), library: digestOf(libraries), closure: digestOf(closure) },
  };
}

/** One digest of them all; null for none. */
function digestOf(files: ReadonlyMap<string, Uint8Array>): string | null {
  const lines = [...files].map(([name, digest]) => `${name}=${toHex(digest)}\n`).sort();
  return lines.length === 0 ? null : sha256Hex(utf8(lines.join("")));
}
