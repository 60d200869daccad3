import { expect, test } from "vitest";
import { parsePolicy, policyRisks } from "../../policy/index.ts";
import { documentBytes, policyDocument } from "../support/policy-document.ts";

const RAW = { type: "CKM_RSA_X_509", accepts: ["raw-rsa"] };
const MEANING = "whoever may use the key can sign and decrypt everything with it";

function risksOf(mechanisms: readonly object[]): readonly string[] {
  const document = policyDocument();
  const [scope] = document.scopes;
  document.scopes = [{ ...scope, key: undefined, keys: ["release-ec", "release-rsa"], mechanisms }];
  return policyRisks(parsePolicy(documentBytes(document)));
}

test("I7: an accepted mechanism is told with the scope's keys, and where these are of two types, with those of its own type only", () => {
  const ecdsa = { type: "CKM_ECDSA", digest: "sha256" };
  expect(risksOf([RAW])).toEqual([
    `scope release-signing: raw-rsa, by CKM_RSA_X_509 with release-ec, release-rsa: ${MEANING}`,
  ]);
  expect(risksOf([ecdsa, RAW])).toEqual([
    `scope release-signing: raw-rsa, by CKM_RSA_X_509 with whichever of release-ec, release-rsa is an RSA key: ${MEANING}`,
  ]);
});
