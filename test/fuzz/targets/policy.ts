import { utf8 } from "../../../policy/bytes.ts";
import { FindingsError } from "../../../policy/findings.ts";
import { findingsOf, type LocatedFinding, locateFindings } from "../../../policy/located-findings.ts";
import { moduleOf, type Policy, parsePolicy, sortedModules, sortedTokens } from "../../../policy/policy.ts";
import { MAX_EXCEPTIONS, policyExceptions } from "../../../policy/policy-exceptions.ts";
import { explainModule, explainRules } from "../../../policy/policy-explain.ts";
import { lintPolicy } from "../../../policy/policy-lint.ts";
import { acceptedBy, policyRisks } from "../../../policy/policy-risks.ts";
import { expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const policy = readOrPlace(bytes);
  const warnings = lintPolicy(policy, 1_800_000_000_000);
  const placed = locateFindings(bytes, warnings);
  expectTrue(placed.length === warnings.length && placed.every(isPlaced), "policy: a warning without a place");
  const text = JSON.stringify(policy);
  expectTrue(JSON.stringify(parsePolicy(utf8(text))) === text, "policy: read again it is another one");
  const modules = new Set(sortedTokens(policy).map(({ name }) => moduleOf(policy, name).name));
  expectTrue(modules.size === sortedModules(policy).length, "policy: a module without a token");
  const words = sortedModules(policy).flatMap((module) => explainModule(policy, module));
  expectTrue(words.length >= modules.size && explainRules(policy).length === 3, "policy: a module without words");
  const risks = policyRisks(policy).length - policy.sandbox.lacks.length;
  expectTrue(
    risks > 0 || policy.scopes.every((scope) => acceptedBy(policy, scope).length === 0),
    "policy: a risk unsaid",
  );
  expectTrue(policyExceptions(policy).length <= MAX_EXCEPTIONS, "policy: more exceptions than a report has room for");
}

/** What is refused has a place in the text, unless the text as such cannot be read. */
function readOrPlace(bytes: Uint8Array): Policy {
  try {
    return parsePolicy(bytes);
  } catch (error) {
    const findings = findingsOf(bytes, error) ?? [];
    expectTrue(findings.length > 0, "policy: refused without a finding");
    expectTrue(!(error instanceof FindingsError) || findings.every(isPlaced), "policy: a finding without a place");
    throw error;
  }
}

function isPlaced({ position }: LocatedFinding): boolean {
  return position !== null && position.line >= 1 && position.column >= 1;
}
