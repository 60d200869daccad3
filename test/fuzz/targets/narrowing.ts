import { comparePolicies, describeChange } from "../../../policy/narrowing.ts";
import { parsePolicy } from "../../../policy/policy.ts";
import { documentBytes, policyDocument } from "../../support/policy-document.ts";

const base = parsePolicy(documentBytes(policyDocument()));

/** Any policy can be compared with any other; with itself nothing differs, and no change is its own inverse. */
export function run(bytes: Uint8Array): void {
  const policy = parsePolicy(bytes);
  if (comparePolicies(policy, policy).length > 0) throw new Error("a policy differs from itself");
  const there = comparePolicies(base, policy);
  const back = new Set(comparePolicies(policy, base).map(({ kind, field }) => `${kind} ${field}`));
  for (const change of there) {
    if (describeChange(change, policy).length === 0) throw new Error("a change without words");
    const isSet = change.from === "none" || change.to === "none";
    if (change.kind === "narrows" && !isSet && back.has(`narrows ${change.field}`))
      throw new Error(`${change.field} narrows in both directions`);
  }
}
