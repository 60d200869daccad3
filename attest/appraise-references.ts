import type { AppraisalPolicyDocument } from "./appraisal-policy.ts";
import { appraiseFirmware, appraisePcrs } from "./appraise-boot.ts";
import { appraiseExpectedEvents, measuredWithoutRelease } from "./appraise-events.ts";
import { appraiseRelease } from "./appraise-release.ts";
import type { EventComparison } from "./attestation-result.ts";
import { bounded, contraindicated, type Finding, type ReferenceValues } from "./finding.ts";
import type { VerifiedEvidence } from "./verify.ts";

/** The comparison with one release; `null` where there is none to compare with, which is a finding. */
export interface ReleaseComparison {
  readonly reference: ReferenceValues | null;
  readonly findings: readonly Finding[];
  readonly events: readonly EventComparison[];
}

/** Compare with every release that the policy accepts, and take the one with the fewest refusals; of equal ones the later. */
export function compareWithReleases(
  verified: VerifiedEvidence,
  references: readonly ReferenceValues[],
  policy: AppraisalPolicyDocument,
  now: Date,
): ReleaseComparison {
  const bestOf = (candidates: readonly ReferenceValues[]) => bestMatch(verified, candidates, policy, now);
  const accepts = ({ name }: ReferenceValues) => policy.releases === "any" || policy.releases.includes(name);
  const best = bestOf(references.filter(accepts));
  if (best !== null && refusals(best) === 0) return best;
  // The machine may run a release that was given and that the policy leaves out: the person should read its name.
  const other = bestOf(references.filter((reference) => !accepts(reference)));
  const left = other?.reference?.name;
  const runs = left !== undefined && other !== null && refusals(other) === 0 ? `${left}, which it runs` : null;
  if (best === null) {
    const given = references.map(({ name }) => name).join(", ") || "no release";
    return {
      reference: null,
      findings: [notAccepted(policy, runs ?? given)],
      events: measuredWithoutRelease(verified),
    };
  }
  return runs === null ? best : { ...best, findings: [notAccepted(policy, runs), ...best.findings] };
}

function compareWith(
  verified: VerifiedEvidence,
  reference: ReferenceValues,
  policy: AppraisalPolicyDocument,
  now: Date,
): ReleaseComparison {
  const expected = appraiseExpectedEvents(verified, reference);
  const findings = [
    ...appraiseRelease(verified, reference, policy, now),
    ...appraisePcrs(verified, reference),
    ...appraiseFirmware(verified, reference, policy),
    ...expected.findings,
  ];
  return { reference, findings: bounded(findings), events: expected.events };
}

/** One comparison at a time: a hostile log makes each of them large, and there may be a thousand releases. */
function bestMatch(
  verified: VerifiedEvidence,
  candidates: readonly ReferenceValues[],
  policy: AppraisalPolicyDocument,
  now: Date,
): ReleaseComparison | null {
  return candidates.reduce<ReleaseComparison | null>((best, reference) => {
    const each = compareWith(verified, reference, policy, now);
    return best === null || refusals(each) <= refusals(best) ? each : best;
  }, null);
}

function refusals({ findings }: ReleaseComparison): number {
  return findings.filter(({ tier }) => tier === "contraindicated").length;
}

function notAccepted({ releases }: AppraisalPolicyDocument, got: string): Finding {
  const expected = releases === "any" ? "one that the release root signed" : releases.join(", ") || "none";
  return contraindicated("release-not-accepted", "release", expected, got);
}
