import { type AppraisalPolicyDocument, fixedKeyAttributes } from "./appraisal-policy.ts";
import type { Claims, KeyClaim } from "./claims.ts";
import { contraindicated, type Finding, warning } from "./finding.ts";
import type { VerifiedEvidence } from "./verify.ts";

/** Escapes that the shim must have tried on itself; a shorter list is a probe that was cut down. */
export const requiredProbes: readonly string[] = ["execve", "ptrace", "io_uring_setup", "bpf", "mount", "unshare"];

/** What a token says of a key's past. A key without them was once outside, or could leave, and is served where the machine's policy accepts that. */
const history: readonly string[] = ["alwaysSensitive", "neverExtractable", "local"];

/**
 * Judge what is known about the sandbox of a serving launch: the escape probe, what the kernel saw of it, the tokens and the keys. The probe's own words count only together with the kernel's.
 */
export function appraiseShim(
  { claims }: VerifiedEvidence,
  { keyAttributes }: AppraisalPolicyDocument,
): readonly Finding[] {
  if (claims.measured.launch !== "serving") return [];
  return [
    ...probeFindings(claims),
    ...tokenFindings(claims),
    ...claims.asserted.keys.flatMap((key) => keyFindings(key, keyAttributes)),
  ];
}

function probeFindings({ asserted, selfReported }: Claims): readonly Finding[] {
  const findings: Finding[] = [];
  for (const name of requiredProbes) {
    const tried = [...selfReported.probe.keys()].some((attempt) => attempt === name || attempt.startsWith(`${name} `));
    if (!tried) findings.push(contraindicated("probe-missing", `probe ${name}`, "tried", "not tried"));
  }
  for (const [attempt, errno] of selfReported.probe) {
    if (errno === 0) findings.push(contraindicated("probe-succeeded", `probe ${attempt}`, "denied", "succeeded"));
  }
  if (asserted.probeWitnessed.size === 0) {
    findings.push(contraindicated("probe-unwitnessed", "kernel notifications", "some of the probe's attempts", "none"));
  }
  return findings;
}

function tokenFindings({ asserted }: Claims): readonly Finding[] {
  const names = new Set(asserted.tokens.map(({ name }) => name));
  if (names.size === 0 || asserted.keys.length === 0) {
    const got = names.size === 0 ? "no token" : "no keys";
    return [contraindicated("token", "tokens and keys", "at least one key of a named token", got)];
  }
  return asserted.keys
    .filter(({ token }) => !names.has(token))
    .map(({ name, token }) => contraindicated("token", `key ${name}`, "a token that is named", token));
}

function keyFindings({ name, attributes }: KeyClaim, wanted: Readonly<Record<string, boolean>>): readonly Finding[] {
  const required = Object.entries({ ...wanted, ...fixedKeyAttributes });
  const reported = (attribute: string) => (Object.hasOwn(attributes, attribute) ? attributes[attribute] : undefined);
  const findings = required
    .filter(([attribute, value]) => reported(attribute) !== value)
    .map(([attribute, value]) =>
      contraindicated("key-attributes", `key ${name} ${attribute}`, `${value}`, `${reported(attribute) ?? "unknown"}`),
    );
  const unknown = history.filter((attribute) => !Object.hasOwn(wanted, attribute) && reported(attribute) !== true);
  return [
    ...findings,
    ...unknown.map((attribute) =>
      warning("key-attributes", `key ${name} ${attribute}`, "true", `${reported(attribute) ?? "unknown"}`),
    ),
  ];
}
