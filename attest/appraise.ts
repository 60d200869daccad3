import { toHex } from "../policy/index.ts";
import type { AppraisalPolicy, AppraisalPolicyDocument } from "./appraisal-policy.ts";
import { appraiseSeparators, expectedPcr } from "./appraise-boot.ts";
import { appraiseLater, appraiseLogOrder, unreferencedEvents } from "./appraise-events.ts";
import { appraisePins } from "./appraise-pins.ts";
import { compareWithReleases } from "./appraise-references.ts";
import { appraiseExceptions, appraiseLacks, appraiseShims } from "./appraise-sandbox.ts";
import { appraiseShim } from "./appraise-shim.ts";
import type { AttestationResult, Tier } from "./attestation-result.ts";
import { type AssuranceClass, assuranceClasses } from "./enrolment.ts";
import { bounded, contraindicated, type Finding, type ReferenceValues, warning } from "./finding.ts";
import { notProvenFor } from "./not-proven.ts";
import { cutText, type Reason } from "./reason.ts";
import { trustVector } from "./trust-vector.ts";
import type { VerifiedEvidence } from "./verify.ts";

export interface AppraisalTimes {
  /** When the report is judged; dates of releases are compared with it too. */
  readonly now: Date;
  /** When the challenge was made: the report cannot be older. */
  readonly challenged: Date;
}

/**
 * Judge verified evidence: compares every quoted PCR and every measured event with the release that the report matches best, and the rest with the
 * policy. All findings are listed; the tier is that of the worst. A value without a reference is never silently good.
 *
 * Does not establish that the releases are ones to trust (see `verifyRelease`), nor what happened after the quote; `notProven` of the result says the
 * rest.
 *
 * @param references signed releases; of two that match equally well the later one counts
 */
export function appraise(
  verified: VerifiedEvidence,
  references: readonly ReferenceValues[],
  policy: AppraisalPolicy,
  times: AppraisalTimes,
): AttestationResult {
  const { document } = policy;
  const { launch } = verified.claims.measured;
  const compared = compareWithReleases(verified, references, document, times.now);
  const findings = bounded([
    ...appraiseExceptions(verified),
    ...compared.findings,
    ...appraiseAssurance(verified, document),
    ...appraiseFreshness(document, times),
    ...appraiseSeparators(verified),
    ...appraisePins(verified, document),
    ...appraiseLogOrder(verified),
    ...appraiseLater(verified, document),
    ...appraiseLaunch(verified),
    ...appraiseLacks(verified),
    ...appraiseShims(verified),
    ...appraiseShim(verified, document),
    ...verified.doubts.flatMap((doubt) => appraiseDoubt(doubt, document)),
  ]);
  return {
    version: 2,
    tier: worstTier(findings),
    findings,
    machine: verified.machine,
    assurance: verified.assurance,
    launch,
    release: compared.reference?.name ?? null,
    policy: { name: document.name, sha256: policy.sha256 },
    evidence: verified.sha256,
    vector: trustVector(verified.assurance, launch === "serving", findings),
    pcrs: [...verified.pcrs].map(([pcr, value]) => ({
      pcr,
      expected: expectedPcr(verified, compared.reference, pcr),
      got: toHex(value),
    })),
    events: [...compared.events, ...unreferencedEvents(verified)],
    notProven: notProvenFor(verified.assurance),
    at: times.now.toISOString(),
  };
}

function worstTier(findings: readonly Finding[]): Tier {
  if (findings.some(({ tier }) => tier === "contraindicated")) return "contraindicated";
  return findings.length > 0 ? "warning" : "affirming";
}

function appraiseAssurance(
  { assurance }: VerifiedEvidence,
  { minAssurance }: AppraisalPolicyDocument,
): readonly Finding[] {
  const rank = (value: AssuranceClass) => assuranceClasses.indexOf(value);
  if (rank(assurance) >= rank(minAssurance)) return [];
  return [contraindicated("assurance", "assurance class", `${minAssurance} or better`, assurance)];
}

/** A time that is none compares false, and so refuses, as does a challenge from the future. */
function appraiseFreshness(
  { freshness: { maxAgeSeconds } }: AppraisalPolicyDocument,
  { now, challenged }: AppraisalTimes,
): readonly Finding[] {
  const age = (now.getTime() - challenged.getTime()) / 1000;
  if (age >= 0 && age <= maxAgeSeconds) return [];
  return [contraindicated("stale", "age of the challenge", `0 to ${maxAgeSeconds} s`, `${age} s`)];
}

/** The agent's own words, so anything may be in them: what is no code of this form is all one code, and stands before the item. */
function launchFinding({ code, item, expected, got }: Reason): Finding {
  if (/^[a-z0-9-]{1,64}$/.test(code)) return contraindicated(`launch-${code}`, item, expected, got);
  return contraindicated("launch-other", `${cutText(code, 64)}: ${item}`, expected, got);
}

/** A launch that ended refused is reported as such, with the agent's reasons and the TPM's own answers. */
function appraiseLaunch({ claims }: VerifiedEvidence): readonly Finding[] {
  const { launch } = claims.measured;
  if (launch === "serving") return [];
  return [
    contraindicated("launch-state", "launch", "serving", launch),
    ...claims.asserted.reasons.map(launchFinding),
    ...claims.asserted.unseal.map(({ command, rc, text }) =>
      contraindicated("launch-tpm-answer", command, "success", `${rc} ${text}`),
    ),
  ];
}

/** What verifying left open. A restart is the policy's to weigh; the others are always a warning. */
function appraiseDoubt({ code, item, expected, got }: Reason, { reboot }: AppraisalPolicyDocument): readonly Finding[] {
  if (code === "rebooted" && reboot === "accept") return [];
  const weigh = code === "rebooted" && reboot === "refuse" ? contraindicated : warning;
  return [weigh(code, item, expected, got)];
}
