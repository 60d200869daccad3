import { sha256Hex } from "../../policy/index.ts";
import { type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import type { Lab, LabKey } from "./bench.ts";

export const WEAK_SCOPE = "deliberately-weak";

/**
 * DELIBERATELY WEAK. It exists to be broken in the lab and is an example of nothing. The policy language has no word for "anybody" and none for "any data",
 * so this is what comes closest: a tool that lies on every machine, in whatever unit, for both keys, with raw RSA, without rate, budget or approvals.
 */
export function deliberatelyWeakPolicy(lab: Lab, uid = lab.uids.service): PolicyDocument {
  const document = labDocument(lab, ["ec", "rsa"]);
  document["owner"] = "nobody: the break-and-harden lab's deliberately weak policy";
  document.callers = { "whoever-has-the-tool": { uid, exe: [lab.stock.exe, lab.signer.exe], unit: null } };
  document.scopes = [
    {
      ...{ name: WEAK_SCOPE, caller: "whoever-has-the-tool", keys: ["ec", "rsa"], audit: "written" },
      mechanisms: [
        { type: "CKM_ECDSA", digest: "sha256" },
        { type: "CKM_RSA_PKCS", digest: "sha256" },
        { type: "CKM_RSA_X_509", accepts: ["raw-rsa"] },
      ],
    },
  ];
  return document;
}

/** What the hardening steps begin with and add to: the release signer alone, one key, digests of SHA-256. */
export function hardenedPolicy(lab: Lab, limits: Record<string, unknown> = {}): PolicyDocument {
  const document = labDocument(lab, ["ec"]);
  document.callers = { "release-signer": { uid: lab.uids.service, exe: [lab.signer.exe], unit: null } };
  const mechanisms = [{ type: "CKM_ECDSA", digest: "sha256" }];
  document.scopes = [{ name: "release", caller: "release-signer", key: "ec", mechanisms, audit: "durable", ...limits }];
  return document;
}

/** A document with these keys of the lab's token, and no caller or scope yet. */
export function labDocument({ keys }: Lab, names: readonly LabKey[]): PolicyDocument {
  const document = policyDocument();
  const entry = (name: LabKey) => {
    const spki = `sha256:${sha256Hex(keys.get(name)?.spki ?? new Uint8Array())}`;
    return [name, { spki, does: name === "kek" ? "unwrap" : "sign" }];
  };
  return Object.assign(document, { keys: Object.fromEntries(names.map(entry)), callers: {}, scopes: [] });
}
