import type { AppraisalPolicyDocument } from "./appraisal-policy.ts";
import { contraindicated, type Finding, type ReferenceValues, warning } from "./finding.ts";
import type { VerifiedEvidence } from "./verify.ts";

/** Judge what the release says of itself, and what the report claims to be of it. */
export function appraiseRelease(
  { claims }: VerifiedEvidence,
  { image, notBefore, notAfter }: ReferenceValues,
  { variants }: AppraisalPolicyDocument,
  now: Date,
): readonly Finding[] {
  const findings: Finding[] = [];
  const claimed = claims.asserted.image;
  if (!variants.includes(image.variant)) {
    findings.push(
      contraindicated("image-variant", "release image.variant", variants.join(", ") || "none", image.variant),
    );
  }
  if (claimed.variant !== image.variant) {
    findings.push(contraindicated("image-variant", "claimed image.variant", image.variant, claimed.variant));
  }
  if (claimed.id !== image.id) findings.push(contraindicated("image-id", "claimed image.id", image.id, claimed.id));
  // Never better than a warning, whatever the policy accepts: nothing of that system's root was measured.
  if (image.variant === "installed")
    findings.push(
      warning("installed-system", "release image.variant", "an image that is measured as a whole", "installed"),
    );
  const debug = image.variant === "dev" ? "enabled" : "disabled";
  if (claims.debugEnabled !== (image.variant === "dev")) {
    findings.push(contraindicated("debug-status", "dbgstat", debug, claims.debugEnabled ? "enabled" : "disabled"));
  }
  // A date that does not parse compares false, and so refuses.
  if (!(now.getTime() >= Date.parse(notBefore) && now.getTime() <= Date.parse(notAfter))) {
    findings.push(contraindicated("release-dates", "now", `${notBefore} to ${notAfter}`, now.toISOString()));
  }
  return findings;
}
