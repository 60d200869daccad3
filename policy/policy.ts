import { z } from "zod";
import { PolicyError } from "./errors.ts";
import { parseJson } from "./json.ts";
import { MECHANISMS, type MechanismType, mechanismRow } from "./mechanisms.ts";
import { CREDENTIAL_NAME } from "./sealing-policy.ts";

export const POLICY_MAX_BYTES = 1 << 20;
const POLICY_MAX_DEPTH = 16;

const hex64 = z.string().regex(/^[0-9a-f]{64}$/, "expected 64 lower-case hexadecimal digits");
const sha256Tag = z.templateLiteral(["sha256:", hex64]);
const name = z
  .string()
  .regex(/^[a-z0-9][a-z0-9-]{0,47}$/, "expected a name of a-z, 0-9 and '-', at most 48 characters");
const path = z
  .string()
  .max(1024)
  .refine(isNormalisedPath, "expected an absolute path without empty, '.' or '..' components");
const digests = z.record(path, hex64);
const credential = z
  .string()
  .regex(CREDENTIAL_NAME, "expected a credential's name of a-z, 0-9 and '-', at most 32 characters");
const mechanismType = z.enum(MECHANISMS.map((row) => row.type) as [MechanismType, ...MechanismType[]]);

const mechanismRule = z.strictObject({
  type: mechanismType,
  digest: z.enum(["sha256", "sha384", "sha512"]).optional(),
});
const scope = z.strictObject({
  name,
  caller: name,
  key: name,
  mechanisms: z.array(mechanismRule).min(1).max(16),
  rate: z.strictObject({ perMinute: z.int().min(1).max(600_000), burst: z.int().min(1).max(60_000) }).optional(),
  audit: z.enum(["written", "durable"]),
});
const policySchema = z.strictObject({
  version: z.literal(1),
  serial: z.int().min(1),
  owner: z.string().min(1).max(128),
  reviewBy: z.iso.date(),
  module: z.strictObject({
    path,
    sha256: hex64,
    closure: digests,
    config: digests,
    environment: z.record(z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/), printable(4096)),
  }),
  profile: z.strictObject({ name: z.literal("local"), sha256: hex64 }),
  devices: z
    .array(z.string().regex(/^[0-9a-f]{4}:[0-9a-f]{4}$/, "expected vvvv:dddd in lower-case hexadecimal"))
    .max(64),
  writable: z.array(path).max(16),
  connect: z.tuple([]),
  spares: z.int().min(0).max(4),
  token: z.strictObject({ label: printable(32).min(1), serial: printable(16).min(1) }),
  credentials: z
    .strictObject({ pin: credential, files: z.record(path, credential) })
    .default({ pin: "hsm-pin", files: {} }),
  keys: z.record(name, z.strictObject({ spki: sha256Tag, does: z.enum(["sign", "decrypt", "unwrap"]) })),
  callers: z.record(
    name,
    z.strictObject({ uid: z.int().min(1).max(0xfffffffe), exe: z.array(sha256Tag).min(1).max(16) }),
  ),
  scopes: z.array(scope).min(1).max(64),
});

/** A policy document whose fields and references hold. See POLICY.md. */
export type Policy = DeepReadonly<z.infer<typeof policySchema>>;
export type Scope = Policy["scopes"][number];
export type MechanismRule = Scope["mechanisms"][number];

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;

/**
 * Reads a policy document. Says nothing about who wrote it: the launch measures its bytes, and a release predicts that measurement.
 * @throws PolicyError `ERR_POLICY_MALFORMED` (not strict JSON) or `ERR_POLICY_INVALID` (all findings in the message)
 */
export function parsePolicy(bytes: Uint8Array): Policy {
  const json = parseJson(bytes, "policy", { maxBytes: POLICY_MAX_BYTES, maxDepth: POLICY_MAX_DEPTH });
  const result = policySchema.safeParse(json);
  if (!result.success)
    throw invalid(result.error.issues.map((issue) => `${where(issue.path)}: ${issue.message.toLowerCase()}`));
  const findings = brokenReferences(result.data);
  if (findings.length > 0) throw invalid(findings);
  return result.data;
}

/** The scope of that name; null when the policy has none. */
export function findScope(policy: Policy, scopeName: string): Scope | null {
  return policy.scopes.find((candidate) => candidate.name === scopeName) ?? null;
}

function brokenReferences(policy: Policy): string[] {
  const { module } = policy;
  return [
    ...doubles(policy.scopes.map((entry) => entry.name)).map((double) => `scopes: duplicate name ${double}`),
    ...doubles(Object.values(policy.keys).map((key) => key.spki)).map(
      (double) => `keys: two entries with the spki ${double}`,
    ),
    ...policy.scopes.flatMap((entry) => scopeFindings(policy, entry)),
    ...(policy.devices.every((device, index) => index === 0 || (policy.devices[index - 1] ?? "") <= device)
      ? []
      : ["devices: not sorted"]),
    ...(Object.hasOwn(module.closure, module.path) || Object.hasOwn(module.config, module.path)
      ? [`module: ${module.path} is listed twice`]
      : []),
    ...Object.keys(policy.credentials.files)
      .filter((file) => !policy.writable.some((directory) => file.startsWith(`${directory}/`)))
      .map((file) => `credentials: ${file} is in no writable directory`),
    ...Object.keys(module.config)
      .filter((file) => Object.hasOwn(module.closure, file))
      .map((file) => `module: ${file} is listed twice`),
  ];
}

function scopeFindings(policy: Policy, entry: Scope): string[] {
  const findings: string[] = [];
  const label = `scope ${entry.name}`;
  if (!Object.hasOwn(policy.callers, entry.caller)) findings.push(`${label}: unknown caller ${entry.caller}`);
  const key = Object.hasOwn(policy.keys, entry.key) ? policy.keys[entry.key] : undefined;
  if (key === undefined) findings.push(`${label}: unknown key ${entry.key}`);
  const types = entry.mechanisms.map((rule) => rule.type);
  for (const double of doubles(types)) findings.push(`${label}: duplicate mechanism ${double}`);
  if (new Set(types.map((type) => mechanismRow(type).keyType)).size > 1)
    findings.push(`${label}: mechanisms of two key types`);
  for (const rule of entry.mechanisms) {
    const row = mechanismRow(rule.type);
    if (key !== undefined && !row.operations.includes(key.does)) {
      findings.push(
        `${label}: key ${entry.key} does ${key.does}, and ${rule.type} is for ${row.operations.join(" or ")}`,
      );
    }
    if (row.hashes === null && rule.digest === undefined) findings.push(`${label}: ${rule.type} needs a digest`);
    if (row.hashes !== null && rule.digest !== undefined && rule.digest !== row.hashes) {
      findings.push(`${label}: ${rule.type} hashes with ${row.hashes}, not ${rule.digest}`);
    }
  }
  return findings;
}

function doubles(values: readonly string[]): string[] {
  const seen = new Set<string>();
  const found = new Set<string>();
  for (const value of values) (seen.has(value) ? found : seen).add(value);
  return [...found];
}

function invalid(findings: readonly string[]): PolicyError {
  return new PolicyError(
    "ERR_POLICY_INVALID",
    `policy: ${findings.length} finding${findings.length === 1 ? "" : "s"}: ${findings.join("; ")}`,
  );
}

function where(location: readonly PropertyKey[]): string {
  return location.length === 0 ? "document" : location.map(String).join(".");
}

function printable(max: number): z.ZodString {
  return z
    .string()
    .max(max)
    .regex(/^\P{Cc}*$/u, "expected no control characters");
}

function isNormalisedPath(text: string): boolean {
  const parts = text.split("/");
  // A NUL byte would end the path early in every system call.
  if (parts[0] !== "" || parts.length < 2 || text.includes("\0")) return false;
  return parts.slice(1).every((part) => part !== "" && part !== "." && part !== "..");
}
