import { createECDH, createPublicKey } from "node:crypto";
import type { PublicKeySource } from "../../../agent/broker/index.ts";
import { type Policy, parsePolicy, sha256Hex, toBase64 } from "../../../policy/index.ts";
import { documentBytes, type PolicyDocument, policyDocument, sshKeyLine } from "../../support/policy-document.ts";
import { madeRsa } from "../keys.ts";

const P256 = "3059301306072a8648ce3d020106082a8648ce3d030107034200";

/** The public key of the private key `secret`. */
function p256(secret: number): Uint8Array {
  const point = createECDH("prime256v1");
  point.setPrivateKey(secret.toString(16).padStart(64, "0"), "hex");
  return Uint8Array.fromHex(`${P256}${point.getPublicKey("hex")}`);
}

const rsa = (byte: number) => Uint8Array.from(createPublicKey(madeRsa(byte)).export({ format: "der", type: "spki" }));

/** First byte of the moduli of both RSA keys, or of the lower one. */
export const LOWEST_MODULUS = 0xb5;
const spkis = { first: p256(1), second: p256(2), other: p256(3), vault: rsa(0xb5), intake: rsa(0xc3) };

export const PUBLIC_KEYS: ReadonlyMap<string, PublicKeySource> = new Map(
  Object.entries(spkis).map(([name, spki], index) => [name, { spki, id: Uint8Array.of(index + 1), label: name }]),
);

/** Limits of the scopes, which the log counts. */
export const LIMITS = {
  operations: 40,
  rate: { perMinute: 60, burst: 24 },
  failures: { perHour: 60, burst: 2 },
  lifetimeMs: 60_000,
  inFlight: 4,
} as const;

/** Every key that anybody can name. */
export const KEY_NAMES = [...PUBLIC_KEYS.keys(), "restored", "nobody"] as const;
export const SCOPE_NAMES = ["signing", "other", "vault", "intake", "restored"] as const;
export type ScopeName = (typeof SCOPE_NAMES)[number];

function document(): PolicyDocument {
  const made = policyDocument();
  const does: Record<string, string> = { vault: "decrypt", intake: "unwrap" };
  made.keys = Object.fromEntries(
    Object.entries(spkis).map(([key, spki]) => [key, { spki: `sha256:${sha256Hex(spki)}`, does: does[key] ?? "sign" }]),
  );
  made["approvers"] = { alice: { key: sshKeyLine("A"), notFor: [] } };
  const common = { caller: "release-signer", audit: "written" };
  const ecdsa = [{ type: "CKM_ECDSA", digest: "sha256" }, { type: "CKM_ECDSA_SHA256" }];
  const oaep = [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }];
  const arrival = {
    ...{ key: "restored", publicKey: toBase64(p256(4)), does: "sign", where: "session", label: "restored" },
    ...{ mechanisms: ["CKM_ECDSA"], blob: null },
  };
  const { rate, operations, failures, inFlight } = LIMITS;
  made.scopes = [
    {
      ...{ ...common, name: "signing", keys: ["first", "second"], mechanisms: ecdsa, rate, budget: { operations } },
      ...{ lifetime: "PT1M", inFlight },
    },
    { ...common, name: "other", key: "other", mechanisms: ecdsa },
    { ...common, name: "vault", key: "vault", mechanisms: oaep, failures },
    {
      ...{ ...common, name: "intake", key: "intake", mechanisms: oaep, unwraps: [arrival], failures },
      ...{ audit: "durable", approvals: { required: 1, of: ["alice"], for: "operation", window: "PT1H" } },
    },
    { ...common, name: "restored", from: "intake", key: "restored", mechanisms: ecdsa.slice(0, 1) },
  ];
  return made;
}

export const POLICY: Policy = parsePolicy(documentBytes(document()));

const NARROWINGS: readonly ((made: PolicyDocument) => void)[] = [
  (made) => void Object.assign(made.scopes[0] ?? {}, { keys: ["first"] }),
  (made) => void made.scopes.splice(1, 1),
  (made) => void Object.assign(made.callers["release-signer"] ?? {}, { exe: [`sha256:${"6e".repeat(32)}`] }),
];

/** Each narrower than the one before: without a key of a scope, without a scope, without the caller's program. */
export const NARROWER: readonly Policy[] = NARROWINGS.map((_, last) => {
  const made = document();
  for (const narrow of NARROWINGS.slice(0, last + 1)) narrow(made);
  return parsePolicy(documentBytes({ ...made, serial: 8 + last }));
});
