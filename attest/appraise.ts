import { AGENT_PCR, EXTENDED_PCRS, toHex } from "../policy/index.ts";
import type { AppraisalPolicy } from "./appraisal-policy.ts";
import { appraiseEvents, type EventComparison } from "./appraise-events.ts";
import { appraiseShim } from "./appraise-shim.ts";
import type { LaunchStateName } from "./claims.ts";
import { type AssuranceClass, assuranceClasses } from "./enrolment.ts";
import { contraindicated, type Finding, type ReferenceValues, warning } from "./finding.ts";
import { pcrsWithoutOneSeparator } from "./firmware-log.ts";
import type { VerifiedEvidence } from "./verify.ts";

export type Tier = "affirming" | "warning" | "contraindicated";

export interface PcrComparison {
  readonly pcr: number;
  /** `null`: the release has no value for it. The agent PCR is compared event by event instead. */
  readonly expected: string | null;
  readonly got: string;
}

/** The judgement on one report, with everything a person needs to see why. */
export interface AttestationResult {
  readonly tier: Tier;
  readonly findings: readonly Finding[];
  /** The enrolled name. */
  readonly machine: string;
  readonly release: string;
  readonly assurance: AssuranceClass;
  readonly launch: LaunchStateName;
  readonly pcrs: readonly PcrComparison[];
  readonly events: readonly EventComparison[];
  readonly at: string;
}

/** Boot PCRs that a release must pin: firmware's boot decision, initrd, unified kernel image, command line. */
const releasePcrs: readonly number[] = [4, 9, 11, 12];
/** What class hardware-ek adds: firmware code, option ROMs, secure boot state. */
const firmwarePcrs: readonly number[] = [0, 2, 7];

/**
 * Judge verified evidence: compares every quoted PCR and every measured event with the release, and the rest with the
 * policy. All findings are listed; the tier is that of the worst. A value without a reference is never silently good.
 *
 * Does not establish that the release is one to trust (see `verifyRelease`), nor what happened after the quote.
 */
export function appraise(
  verified: VerifiedEvidence,
  reference: ReferenceValues,
  policy: AppraisalPolicy,
  now: Date,
): AttestationResult {
  const agent = appraiseEvents(verified, reference, policy);
  const findings = [
    ...appraiseRelease(verified, reference, policy, now),
    ...appraiseAssurance(verified, reference, policy),
    ...appraisePcrs(verified, reference, policy),
    ...agent.findings,
    ...appraiseLaunch(verified),
    ...appraiseShim(verified),
    ...verified.doubts.map((doubt) => warning(doubt.code, doubt.item, doubt.expected, doubt.got)),
  ];
  return {
    tier: worstTier(findings),
    findings,
    machine: verified.machine,
    release: reference.name,
    assurance: verified.assurance,
    launch: verified.claims.measured.launch,
    pcrs: [...verified.pcrs].map(([pcr, value]) => ({
      pcr,
      expected: expectedPcr(verified, reference, pcr),
      got: toHex(value),
    })),
    events: agent.events,
    at: now.toISOString(),
  };
}

function worstTier(findings: readonly Finding[]): Tier {
  if (findings.some(({ tier }) => tier === "contraindicated")) return "contraindicated";
  return findings.length > 0 ? "warning" : "affirming";
}

function appraiseRelease(
  { claims }: VerifiedEvidence,
  { image, notBefore, notAfter }: ReferenceValues,
  { acceptVariants }: AppraisalPolicy,
  now: Date,
): readonly Finding[] {
  const findings: Finding[] = [];
  const claimed = claims.asserted.image;
  if (!acceptVariants.includes(image.variant)) {
    findings.push(
      contraindicated("image-variant", "release image.variant", acceptVariants.join(", ") || "none", image.variant),
    );
  }
  if (claimed.variant !== image.variant) {
    findings.push(contraindicated("image-variant", "claimed image.variant", image.variant, claimed.variant));
  }
  if (claimed.id !== image.id) findings.push(contraindicated("image-id", "claimed image.id", image.id, claimed.id));
  if (claims.debugEnabled !== (image.variant === "dev")) {
    findings.push(
      contraindicated(
        "debug-status",
        "dbgstat",
        image.variant === "dev" ? "enabled" : "disabled",
        `${claims.debugEnabled}`,
      ),
    );
  }
  // A date that does not parse compares false, and so refuses.
  if (!(now.getTime() >= Date.parse(notBefore) && now.getTime() <= Date.parse(notAfter))) {
    findings.push(contraindicated("release-dates", "now", `${notBefore} to ${notAfter}`, now.toISOString()));
  }
  return findings;
}

function appraiseAssurance(
  { assurance, challenge }: VerifiedEvidence,
  { pcrs }: ReferenceValues,
  policy: AppraisalPolicy,
): readonly Finding[] {
  const rank = (value: AssuranceClass) => assuranceClasses.indexOf(value);
  if (rank(assurance) < rank(policy.minAssurance)) {
    return [contraindicated("assurance", "assurance class", `${policy.minAssurance} or better`, assurance)];
  }
  if (assurance !== "hardware-ek" || policy.waiveFirmwarePins === true) return [];
  const unpinned = firmwarePcrs.filter((pcr) => pcrs[challenge.bank][`${pcr}`] === undefined);
  if (unpinned.length === 0) return [];
  return [
    contraindicated("firmware-unpinned", `PCRs ${unpinned.join(", ")}`, "reference values or a written waiver", "none"),
  ];
}

function appraisePcrs(
  verified: VerifiedEvidence,
  reference: ReferenceValues,
  { waiveFirmwarePins }: AppraisalPolicy,
): readonly Finding[] {
  const pinned = Object.keys(reference.pcrs[verified.challenge.bank]).map(Number);
  const missing = [...new Set([...releasePcrs, AGENT_PCR, ...pinned])].filter((pcr) => !verified.pcrs.has(pcr));
  const compared = [...verified.pcrs].filter(([pcr]) => pcr !== AGENT_PCR);
  const unpinned = compared
    .map(([pcr]) => pcr)
    .filter((pcr) => !releasePcrs.includes(pcr) && expectedPcr(verified, reference, pcr) === null);
  const unseparated = pcrsWithoutOneSeparator(verified.firmwareLog, verified.challenge.bank).filter((pcr) =>
    verified.pcrs.has(pcr),
  );
  const list = (pcrs: readonly number[]) => `PCRs ${pcrs.join(", ")}`;
  const findings = [
    ...missing.map((pcr) => contraindicated("pcr-not-quoted", `PCR ${pcr}`, "quoted", "not asked for")),
    ...compared.flatMap(([pcr, value]) => comparePcr(verified, reference, pcr, value)),
  ];
  if (unpinned.length > 0 && waiveFirmwarePins !== true) {
    findings.push(warning("firmware-unpinned", list(unpinned), "reference values", "replayed from the log only"));
  }
  if (unseparated.length > 0) {
    findings.push(warning("firmware-separator", list(unseparated), "one separator each", "none or several"));
  }
  return findings;
}

function comparePcr(
  verified: VerifiedEvidence,
  reference: ReferenceValues,
  pcr: number,
  value: Uint8Array,
): readonly Finding[] {
  const expected = expectedPcr(verified, reference, pcr);
  const got = toHex(value);
  const item = `PCR ${pcr} (${verified.challenge.bank})`;
  const pinned = releasePcrs.includes(pcr);
  // Firmware that leaves a bank alone would match a release made on such a machine, and everybody can have zeros.
  if (EXTENDED_PCRS.includes(pcr) && value.every((byte) => byte === 0))
    return [contraindicated("pcr-unextended", item, "an extended PCR", "zeros")];
  if (expected === null) return pinned ? [contraindicated("pcr-no-reference", item, "a reference value", "none")] : [];
  return expected === got ? [] : [contraindicated("pcr-mismatch", item, expected, got)];
}

function expectedPcr({ challenge }: VerifiedEvidence, { pcrs }: ReferenceValues, pcr: number): string | null {
  return pcr === AGENT_PCR ? null : (pcrs[challenge.bank][`${pcr}`] ?? null);
}

/** A launch that ended refused is reported as such, with the agent's reasons and the TPM's own answers. */
function appraiseLaunch({ claims }: VerifiedEvidence): readonly Finding[] {
  const { launch } = claims.measured;
  if (launch === "serving") return [];
  return [
    contraindicated("launch-state", "launch", "serving", launch),
    ...claims.asserted.reasons.map((found) =>
      contraindicated(`launch-${found.code}`, found.item, found.expected, found.got),
    ),
    ...claims.asserted.unseal.map(({ command, rc, text }) =>
      contraindicated("launch-tpm-answer", command, "success", `${rc} ${text}`),
    ),
  ];
}
