import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import { readFileSync, realpathSync } from "node:fs";
import { encodeSshKeyLine, sha256Hex, toBase64 } from "../../../policy/index.ts";
import type { PolicyDraft } from "../../support/launch-documents.ts";
import type { BenchToken, TokenKey } from "../../support/launch-token.ts";
import type { TestSshKey } from "../../support/ssh-keys.ts";
import { encryptOaep } from "../../support/wrapping.ts";
import { planWorkloads, RESTORED, type Workload } from "./workloads.ts";

/** What the HSM holds besides a bench's two keys for signing. */
export const SOAK_KEYS: readonly TokenKey[] = [
  { label: "vault", id: "0a", kind: "decrypt" },
  { label: "kek", id: "0b", kind: "unwrap" },
];
const CALLER = "soak";
/** Whom the workloads run as. */
export const CALLER_UID = 2001;
const APPROVER = "operator";
/** SoftHSM knows OAEP with SHA-1 only. A fault that ends a decryption counts as one that failed. */
const OAEP = { mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1" }], failures: { perHour: 3600, burst: 256 } };
const ECDSA = { mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }] };

/** What the workloads have to know: SubjectPublicKeyInfo by the policy's name of the key, and the wrapped key, both base64. */
export interface SoakKeys {
  readonly publicKeys: Readonly<Record<string, string>>;
  readonly blob: string;
}

/** Writes the workloads' scopes into a policy. */
export function writeScopes(draft: PolicyDraft, token: BenchToken, approver: TestSshKey): SoakKeys {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const wrapped = encryptOaep(publicKeyOf(token, "kek"), privateKey.export({ format: "der", type: "pkcs8" }));
  const restored = toBase64(Uint8Array.from(publicKey.export({ format: "der", type: "spki" })));
  const exe = `sha256:${sha256Hex(new Uint8Array(readFileSync(realpathSync(process.execPath))))}` as const;
  const scopes = [...planWorkloads().map((workload) => scopeOf(workload, wrapped, restored)), restoredScope()];
  // the document's own schema judges it when it is signed
  Object.assign(draft, {
    keys: { ...draft.keys, vault: doing(draft, "vault", "decrypt"), kek: doing(draft, "kek", "unwrap") },
    callers: { ...draft.callers, [CALLER]: { uid: CALLER_UID, exe: [exe], unit: null } },
    approvers: {
      [APPROVER]: { key: encodeSshKeyLine({ key: approver.key, verifyRequired: false, comment: "" }), notFor: [] },
    },
    scopes: [...draft.scopes, ...scopes],
  });
  const own = Object.entries(token.keys).map(([name, spki]) => [name, toBase64(spki)]);
  return { publicKeys: { ...Object.fromEntries(own), restored }, blob: toBase64(wrapped) };
}

const doing = (draft: PolicyDraft, key: string, does: "decrypt" | "unwrap") => ({ ...draft.keys[key], does });

function publicKeyOf(token: BenchToken, name: string): KeyObject {
  return createPublicKey({ key: Buffer.from(token.keys[name] ?? []), format: "der", type: "spki" });
}

function scopeOf({ scope, act, door }: Workload, wrapped: Uint8Array, restored: string): Record<string, unknown> {
  const common = { name: scope, caller: CALLER, audit: "written" };
  switch (act) {
    case "sign-ec":
      return { ...common, ...ECDSA, key: "release-ec" };
    case "sign-rsa":
      return { ...common, key: "document-rsa", mechanisms: [RSA[door]] };
    case "decrypt":
      return { ...common, ...OAEP, key: "vault" };
    case "unwrap":
      return { ...common, ...OAEP, key: "kek", audit: "durable", unwraps: [arrival(wrapped, restored)] };
    case "approved":
      return { ...common, ...ECDSA, key: "release-ec", audit: "durable", approvals: APPROVALS };
  }
}

const RSA = {
  native: { type: "CKM_RSA_PKCS_PSS", digest: "sha256" },
  p11kit: { type: "CKM_SHA256_RSA_PKCS" },
} as const;
const APPROVALS = { required: 1, of: [APPROVER], for: "operation", window: "PT2M" };

function arrival(wrapped: Uint8Array, publicKey: string): Record<string, unknown> {
  return {
    ...{ key: "restored", publicKey, does: "sign", where: "session", label: "restored", mechanisms: ["CKM_ECDSA"] },
    blob: `sha256:${sha256Hex(wrapped)}`,
  };
}

function restoredScope(): Record<string, unknown> {
  return { ...ECDSA, name: RESTORED, caller: CALLER, audit: "written", from: "unwrap", key: "restored" };
}
