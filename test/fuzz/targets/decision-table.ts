import { parseDecisionTable, runDecisionTable, untestedRules } from "../../../policy/decision-table.ts";
import { findingsOf } from "../../../policy/located-findings.ts";
import { parsePolicy } from "../../../policy/policy.ts";
import { documentBytes, policyDocument } from "../../support/policy-document.ts";
import { expectTrue } from "../property.ts";

const document = policyDocument();
document.scopes.push({
  ...{ name: "vault", caller: "release-signer", key: "vault", audit: "written" },
  mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }],
});
const policy = parsePolicy(documentBytes(document));

/** Whatever a table asks is decided, one case passes or does not, and an error has its place. */
export function run(bytes: Uint8Array): void {
  try {
    const table = parseDecisionTable(bytes);
    const results = runDecisionTable(policy, table);
    expectTrue(results.length === table.cases.length, "decision-table: a case without a decision");
    for (const { passed, expected, got } of results)
      expectTrue(
        passed === (got.allow ? expected === "allow" : isAt(expected, got.step)),
        "decision-table: a wrong verdict",
      );
    expectTrue(untestedRules(policy, results).length < 20, "decision-table: more rules than there are");
  } catch (error) {
    findingsOf(bytes, error);
    throw error;
  }
}

function isAt(expected: "allow" | { readonly deny: string }, step: string): boolean {
  return expected !== "allow" && expected.deny === step;
}
