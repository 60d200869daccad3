import { utf8 } from "../../../policy/bytes.ts";
import { moduleOf, parsePolicy, sortedModules, sortedTokens } from "../../../policy/policy.ts";
import { MAX_EXCEPTIONS, policyExceptions } from "../../../policy/policy-exceptions.ts";
import { explainModule, explainRules } from "../../../policy/policy-explain.ts";
import { acceptedBy, policyRisks } from "../../../policy/policy-risks.ts";
import { expectTrue } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const policy = parsePolicy(bytes);
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
