import { z } from "zod";
import { PolicyError } from "./errors.ts";
import { parseJson } from "./json.ts";
import { mechanismRow } from "./mechanisms.ts";
import { failureFindings, failureLimits, mechanismRule, ruleFindings } from "./scope-rules.ts";
import { CREDENTIAL_NAME } from "./sealing-policy.ts";

export const POLICY_MAX_BYTES = 1 << 20;
const POLICY_MAX_DEPTH = 16;
/** A shim has no room for more (SHIM.md), nor has the TPM for their log-in records. */
const MAX_TOKENS = 8;

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
const scope = z.strictObject({
  name,
  caller: name,
  key: name,
  mechanisms: z.array(mechanismRule).min(1).max(16),
  rate: z.strictObject({ perMinute: z.int().min(1).max(600_000), burst: z.int().min(1).max(60_000) }).optional(),
  failures: failureLimits.optional(),
  audit: z.enum(["written", "durable"]),
});
const tokenFields = { label: printable(32).min(1), serial: printable(16).min(1) };
const files = z.record(path, credential);
const commonFields = {
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
  keys: z.record(
    name,
    z.strictObject({ spki: sha256Tag, does: z.enum(["sign", "decrypt", "unwrap"]), token: name.optional() }),
  ),
  callers: z.record(
    name,
    z.strictObject({ uid: z.int().min(1).max(0xfffffffe), exe: z.array(sha256Tag).min(1).max(16) }),
  ),
  scopes: z.array(scope).min(1).max(64),
};
const documentSchema = z.strictObject({
  ...commonFields,
  tokens: z
    .record(name, z.strictObject({ ...tokenFields, pin: credential }))
    .refine((tokens) => inRange(Object.keys(tokens).length, 1, MAX_TOKENS), `expected 1 to ${MAX_TOKENS} tokens`),
  credentials: z.strictObject({ files }).default({ files: {} }),
});
/** The short form of a document with one token. */
const shortSchema = z
  .strictObject({
    ...commonFields,
    token: z.strictObject(tokenFields),
    credentials: z.strictObject({ pin: credential, files }).default({ pin: "hsm-pin", files: {} }),
  })
  .transform(
    ({ token, credentials: { pin, files }, ...rest }): z.infer<typeof documentSchema> => ({
      ...rest,
      tokens: { token: { ...token, pin } },
      credentials: { files },
    }),
  );

/** A policy document as it is written, without the short form for one token. See POLICY.md. */
export type PolicyDocument = DeepReadonly<z.input<typeof documentSchema>>;
/** A policy whose fields and references hold: whatever the form of the document, every key names its token. Itself a document. */
export interface Policy extends Omit<DeepReadonly<z.infer<typeof documentSchema>>, "keys"> {
  readonly keys: Readonly<Record<string, PolicyKey>>;
}
export type PolicyKey = PolicyDocument["keys"][string] & { readonly token: string };
export type PolicyToken = Policy["tokens"][string];
export type Scope = Policy["scopes"][number];
export type MechanismRule = Scope["mechanisms"][number];

type DeepReadonly<T> = T extends object ? { readonly [K in keyof T]: DeepReadonly<T[K]> } : T;

/**
 * Reads a policy document. Says nothing about who wrote it: the launch measures its bytes, and a release predicts that measurement.
 * @throws PolicyError `ERR_POLICY_MALFORMED` (not strict JSON) or `ERR_POLICY_INVALID` (all findings in the message)
 */
export function parsePolicy(bytes: Uint8Array): Policy {
  const json = parseJson(bytes, "policy", { maxBytes: POLICY_MAX_BYTES, maxDepth: POLICY_MAX_DEPTH });
  const isShort = typeof json === "object" && json !== null && Object.hasOwn(json, "token");
  const result = (isShort ? shortSchema : documentSchema).safeParse(json);
  if (!result.success)
    throw invalid(result.error.issues.map((issue) => `${where(issue.path)}: ${issue.message.toLowerCase()}`));
  const policy = withKeyTokens(result.data);
  const findings = [...tokenFindings(result.data), ...brokenReferences(policy)];
  if (findings.length > 0) throw invalid(findings);
  return policy;
}

/** The policy's tokens with their names, in the order in which they are logged in to and reported. */
export function sortedTokens(policy: Policy): readonly (PolicyToken & { readonly name: string })[] {
  return Object.entries(policy.tokens)
    .map(([name, token]) => ({ name, ...token }))
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** The token that must hold this key; null for a key that the policy does not name. */
export function tokenOf(policy: Policy, key: string): PolicyToken | null {
  const name = Object.hasOwn(policy.keys, key) ? policy.keys[key]?.token : undefined;
  return name === undefined ? null : (policy.tokens[name] ?? null);
}

/** Of the only token, when there is one; a key without a token among several is a finding. */
function withKeyTokens(document: z.infer<typeof documentSchema>): Policy {
  const only = Object.keys(document.tokens)[0] ?? "";
  const keys = Object.entries(document.keys).map(([name, key]) => [name, { ...key, token: key.token ?? only }]);
  return { ...document, keys: Object.fromEntries(keys) };
}

function tokenFindings({ tokens, keys }: PolicyDocument): string[] {
  const several = Object.keys(tokens).length > 1;
  return [
    ...doubles(Object.values(tokens).map(({ label, serial }) => `${label}/${serial}`)).map(
      (double) => `tokens: two entries with the label and serial ${double}`,
    ),
    ...doubles(Object.values(tokens).map(({ pin }) => pin)).map(
      (double) => `tokens: two entries with the credential ${double}`,
    ),
    ...Object.entries(keys).flatMap(([name, { token }]) => {
      if (token === undefined) return several ? [`keys.${name}: no token of several named`] : [];
      return Object.hasOwn(tokens, token) ? [] : [`keys.${name}: unknown token ${token}`];
    }),
  ];
}

/** The scope of that name; null when the policy has none. */
export function findScope(policy: Policy, scopeName: string): Scope | null {
  return policy.scopes.find((candidate) => candidate.name === scopeName) ?? null;
}

function brokenReferences(policy: Policy): string[] {
  const { module } = policy;
  return [
    ...doubles(policy.scopes.map((entry) => entry.name)).map((double) => `scopes: duplicate name ${double}`),
    ...spkiFindings(Object.values(policy.keys)),
    ...policy.scopes.flatMap((entry) => scopeFindings(policy, entry)),
    ...failureFindings(policy),
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

/** One key may lie on two tokens; it is one key all the same, and does one thing. */
function spkiFindings(keys: readonly PolicyKey[]): string[] {
  const uses = new Set(keys.map(({ spki, does }) => `${spki} ${does}`));
  return [
    ...doubles(keys.map(({ spki, token }) => `${spki} on token ${token}`)).map(
      (double) => `keys: two entries with the spki ${double}`,
    ),
    ...doubles([...uses].map((use) => use.split(" ")[0] ?? "")).map((double) => `keys: two uses of the spki ${double}`),
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
  // The launch would succeed, and the agent end at the scope's socket.
  if (key?.does === "unwrap") findings.push(`${label}: key ${entry.key} does unwrap, which no scope serves yet`);
  if (key !== undefined) findings.push(...entry.mechanisms.flatMap((rule) => ruleFindings(entry, key, rule)));
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

function inRange(value: number, min: number, max: number): boolean {
  return value >= min && value <= max;
}

function isNormalisedPath(text: string): boolean {
  const parts = text.split("/");
  // A NUL byte would end the path early in every system call.
  if (parts[0] !== "" || parts.length < 2 || text.includes("\0")) return false;
  return parts.slice(1).every((part) => part !== "" && part !== "." && part !== "..");
}
