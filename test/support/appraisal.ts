import {
  type AppraisalPolicyDocument,
  type AssuranceClass,
  type AttestationResult,
  appraise,
  type Continuity,
  defaultAppraisalPolicy,
  makeAppraisalPolicy,
  type ReferenceValues,
  verifyEvidence,
} from "../../attest/index.ts";
import { inTime, makeEvidence, makeReference, type Scene } from "./evidence-maker.ts";

/** What a test changes about an honest machine and a verifier that knows its release. */
export interface Setting {
  readonly scene?: Partial<Scene>;
  readonly assurance?: AssuranceClass;
  /** Changes the one release that is given. */
  readonly reference?: Partial<ReferenceValues>;
  /** Given instead of that one. */
  readonly references?: readonly ReferenceValues[];
  readonly policy?: Partial<AppraisalPolicyDocument>;
  readonly previous?: Continuity;
  readonly now?: Date;
  /** Age of the challenge in seconds. */
  readonly age?: number;
}

/** Makes the report, verifies it and judges it, all with the real parts. */
export async function judge(setting: Setting): Promise<AttestationResult> {
  const { scene, assurance, reference, references, policy, previous, now = inTime, age = 1 } = setting;
  const { evidence, challenge, enrolment } = await makeEvidence(scene);
  const enrolled = { ...enrolment, assurance: assurance ?? enrolment.assurance };
  const verified = await verifyEvidence(evidence, challenge, enrolled, previous ?? null);
  return appraise(
    verified,
    references ?? [{ ...makeReference(), ...reference }],
    makeAppraisalPolicy({ ...defaultAppraisalPolicy.document, ...policy }),
    { now, challenged: new Date(now.getTime() - 1000 * age) },
  );
}

/** Reference values of the honest machine without some PCRs. */
export function withoutPcrs(...pcrs: readonly string[]): ReferenceValues["pcrs"] {
  const { sha256: first, sha384: second } = makeReference().pcrs;
  const drop = (values: Readonly<Record<string, string>>) =>
    Object.fromEntries(Object.entries(values).filter(([index]) => !pcrs.includes(index)));
  return { sha256: drop(first), sha384: drop(second) };
}

export const codesOf = ({ findings }: AttestationResult): readonly string[] =>
  findings.map(({ tier, code }) => `${tier} ${code}`);
